"""pushd's state: one domain-level interface (`base`), its implementations, and the one door to them."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pushd.errors import ConfigError
from pushd.store.base import Control, Limits, Store
from pushd.store.sqlite.store import open_sqlite
from pushd.store.sqlite.transaction import Context

_SQLITE = "sqlite:///"


@asynccontextmanager
async def open_store(
    url: str, *, node: str, control: Control, limits: Limits, clock: Callable[[], float] = time.time
) -> AsyncIterator[Store]:
    """The store behind a URL, for the node called `node`, as long as the context lasts.

    `sqlite:///relative.db`, `sqlite:////absolute/path.db` or `sqlite:///:memory:` (gone at the end). When the context
    is entered, every binding that a dead process left in a SQLite file has had its `offline`. `control` is called in
    the Trio thread. `clock` gives Unix seconds; a test brings its own.

    Raises ConfigError for a URL or file that cannot be right, StoreBusy if another pushd has the file, StoreUnavailable
    if it cannot be used now. Leaving finishes what is under way, shielded from cancellation: the disk bounds it.
    """
    path = sqlite_path(url)
    async with open_sqlite(path, Context(node, control, limits), clock) as store:
        yield store


def sqlite_path(url: str) -> Path | None:
    """The file that a `sqlite:///` URL names; None for memory. Raises ConfigError for any other URL."""
    if url.startswith(("redis://", "rediss://", "redis+")):
        raise ConfigError(["store.url: this build has no Redis store yet; use sqlite:///FILE"])
    name = url.removeprefix(_SQLITE)
    if name == url:
        raise ConfigError(
            [f"store.url: {url!r} is no store; write sqlite:///relative.db or sqlite:////absolute/path.db"]
        )
    if not name or "?" in name or "#" in name:
        raise ConfigError([f"store.url: {url!r} must name a file and take no options, as in sqlite:///pushd.db"])
    return None if name == ":memory:" else Path(name)
