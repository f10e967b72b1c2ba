"""pushd's state: one domain-level interface (`base`), its implementations, and the one door to them."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from pushd.errors import ConfigError
from pushd.store.base import Control, Deployment, Limits, Store

REDIS = ("redis://", "rediss://", "redis+", "rediss+")
_SQLITE = "sqlite:///"


@asynccontextmanager
async def open_store(
    url: str,
    *,
    node: str,
    control: Control,
    limits: Limits,
    deployment: Deployment | None = None,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator[Store]:
    """The store behind a URL, for the node called `node`, as long as the context lasts.

    `sqlite:///relative.db`, `sqlite:////absolute/path.db` or `sqlite:///:memory:` (gone at the end): one process's own.
    When the context is entered, every binding that a dead process left in the file has had its `offline`.
    `redis://`, `redis+unix://`, `redis+sentinel://`, `redis+cluster://` (see pushd.store.redis.address): shared by the
    nodes of a `deployment`. The first sweep ends what dead nodes have left. It may be away: then every call raises
    StoreUnavailable until it comes (and ConfigError or StoreBusy end the context, should it be wrong then).

    `control` is called in the Trio thread. `clock` gives Unix seconds in place of the store's own; for tests.

    Raises ConfigError for a URL, a file or a server that cannot be right, StoreBusy if it belongs to somebody else,
    StoreUnavailable if it cannot be used now. Leaving takes bounded time, shielded from cancellation.
    """
    # Each is imported when it is needed: redis alone is a quarter of what starting pushd costs.
    if url.startswith(REDIS):
        from pushd.store.redis.store import open_redis

        opened: AbstractAsyncContextManager[Store] = open_redis(
            url, node=node, control=control, limits=limits, deployment=deployment or Deployment(), clock=clock
        )
    else:
        from pushd.store.sqlite.store import open_sqlite
        from pushd.store.sqlite.transaction import Context

        opened = open_sqlite(sqlite_path(url), Context(node, control, limits), clock or time.time)
    async with opened as store:
        yield store


def sqlite_path(url: str) -> Path | None:
    """The file that a `sqlite:///` URL names; None for memory. Raises ConfigError for any other URL."""
    name = url.removeprefix(_SQLITE)
    if name == url:
        raise ConfigError(
            [
                f"store.url: {url!r} is no store; write sqlite:///relative.db, sqlite:////absolute/path.db or redis://HOST"
            ]
        )
    if not name or "?" in name or "#" in name:
        raise ConfigError([f"store.url: {url!r} must name a file and take no options, as in sqlite:///pushd.db"])
    return None if name == ":memory:" else Path(name)
