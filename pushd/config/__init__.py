"""The configuration: what can be set (`sections`), where values come from (`layers`), the files they name (`keys`).

`loading` joins and checks all of it; `reference` shows it as text and makes `docs/config.md`.
"""

from pushd.config.layers import FLAGS as FLAGS
from pushd.config.loading import Config as Config
from pushd.config.loading import Loaded as Loaded
from pushd.config.loading import load as load
from pushd.config.loading import read as read
