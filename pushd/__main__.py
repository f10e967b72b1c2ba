"""`python -m pushd`: the same as `pushdctl`."""

import sys

from pushd.cli import main

sys.exit(main())
