"""Waking those who wait for a stream: one reader of the server for all of them, as long as somebody waits."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from pushd.backoff import Backoff
from pushd.errors import StoreUnavailable
from pushd.model import Stream
from pushd.store.redis.context import Context

BLOCK: Final = 5.0  # seconds that one blocking read waits
POLL: Final = 0.1  # seconds between two looks where no one call can wait for all buckets
BURST: Final = 0.02  # seconds between two wake-ups, so that a busy stream does not make its readers spin


class News:
    """For one stream. `newest` answers the id of the newest entry of each bucket, "" where there is none."""

    def __init__(
        self, context: Context, stream: Stream, newest: Callable[[], Awaitable[Sequence[str]]], nursery: trio.Nursery
    ) -> None:
        self.event = trio.Event()  # set, and replaced, when there may be something new
        self._context = context
        self._keys = [bucket.streams[stream] for bucket in context.keys.buckets]
        self._newest = newest
        self._nursery = nursery
        self._waiters = 0
        self._scope = trio.CancelScope()

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Somebody looks at the stream, and waits for `event`, until the block ends.

        Take the event first, then look, then wait: what comes after the look sets it. It is also set when the store
        goes away: then the next look says so.
        """
        self._waiters += 1
        if self._waiters == 1:
            self._scope = trio.CancelScope()
            self._nursery.start_soon(self._run, self._scope, name="news")
        try:
            yield
        finally:
            self._waiters -= 1
            if self._waiters == 0:
                self._scope.cancel()

    async def _run(self, scope: trio.CancelScope) -> None:
        backoff = Backoff()
        with scope:
            while True:
                try:
                    await self._watch()
                except StoreUnavailable:
                    self._announce()
                    await backoff.sleep()

    async def _watch(self) -> None:
        while True:
            position = await self._newest()
            self._announce()
            await (self._block(position) if self._context.together else self._poll(position))
            await trio.sleep(BURST)

    async def _block(self, position: Sequence[str]) -> None:
        ids = [last or "0" for last in position]
        where = (*self._keys, *ids)
        head = ("XREAD", "COUNT", 1, "BLOCK", round(BLOCK * 1_000), "STREAMS")
        while not await self._context.client.blocking(self._keys[0], *head, *where, timeout=BLOCK):
            pass

    async def _poll(self, position: Sequence[str]) -> None:
        while await self._newest() == position:  # noqa: ASYNC110 - the event is at another machine
            await trio.sleep(POLL)

    def _announce(self) -> None:
        self.event.set()
        self.event = trio.Event()
