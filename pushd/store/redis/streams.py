"""The streams, as their readers see them: one after another over all buckets.

An entry's id says how far a reader has come in each bucket: the server's own id with one bucket; with more, one for
each, joined by dots, empty where there is none yet.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from pushd.limits import Seldom
from pushd.model import Entry, Stream
from pushd.store.redis.context import Context, side_by_side
from pushd.store.redis.entries import check_id, fields_of, flat, no_id, order
from pushd.store.redis.keys import Bucket
from pushd.store.redis.news import News
from pushd.store.redis.replies import Reply
from pushd.store.redis.scripts import Script

log = logging.getLogger(__name__)

TRIM: Final = Script("trim")
TAKEN: Final = (Stream.PUSH, Stream.RECONCILE)  # read by pushd itself: an entry goes when it is done, never by trimming
AT_ONCE: Final = 1_000  # entries trimmed in one call
QUIET: Final = 60.0  # seconds between two lines of the log about a stream that is held back


class Streams:
    """The part of `Store` that reads and writes streams. Its helpers live in `nursery`."""

    def __init__(self, context: Context, nursery: trio.Nursery) -> None:
        self._context = context
        self._news = {
            stream: News(context, stream, partial(self._newest_position, stream), nursery) for stream in Stream
        }
        self._held = Seldom(QUIET)

    async def append(self, stream: Stream, fields: Mapping[str, str]) -> str:
        """See `Store.append`. An entry about a device goes to the device's bucket."""
        keys = self._context.keys
        bucket = keys.of(fields["device"]) if "device" in fields else keys.buckets[0]
        key = bucket.streams[stream]
        id: str = (await self._context.client.execute(key, "XADD", key, "*", *flat(fields))).decode()
        if len(keys.buckets) == 1 or stream in TAKEN:
            return bucket.entry(id)
        return self._written([id if each is bucket else "" for each in keys.buckets])

    async def read(self, stream: Stream, after: str, limit: int, wait: float) -> list[Entry]:
        """See `Store.read_stream`."""
        position = self._position(after)
        if position is None:
            position = await self._newest_position(stream)
        news = self._news[stream]
        entries = await self._read(stream, position, limit)
        if entries or wait <= 0:
            return entries
        with trio.move_on_after(wait), news.wanted():
            while True:
                event = news.event
                if entries := await self._read(stream, position, limit):
                    return entries
                await event.wait()
        return []

    async def newest(self, stream: Stream) -> str:
        """See `Store.newest`."""
        return self._written(await self._newest_position(stream))

    async def _newest_position(self, stream: Stream) -> list[str]:
        """The id of the newest entry in each bucket, "" where there is none."""
        found = [""] * len(self._context.keys.buckets)

        async def one(bucket: Bucket) -> None:
            key = bucket.streams[stream]
            rows = await self._context.client.execute(key, "XREVRANGE", key, "+", "-", "COUNT", 1)
            if rows:
                found[bucket.number] = rows[0][0].decode()

        await self._each(one)
        return found

    async def _read(self, stream: Stream, position: Sequence[str], limit: int) -> list[Entry]:
        rows: list[tuple[tuple[int, int], int, str, Reply]] = []

        async def one(bucket: Bucket) -> None:
            key, last = bucket.streams[stream], position[bucket.number]
            start = f"({last}" if last else "-"
            for id, fields in await self._context.client.execute(key, "XRANGE", key, start, "+", "COUNT", limit):
                text = id.decode()
                rows.append((order(text), bucket.number, text, fields))

        await self._each(one)
        if len(position) > 1:
            rows.sort(key=lambda row: row[:2])
        where, entries = list(position), []
        for _, number, id, fields in rows[:limit]:
            where[number] = id
            entries.append(Entry(self._written(where), fields_of(fields)))
        return entries

    async def lengths(self) -> dict[str, int]:
        """How many entries each stream has."""
        found = dict.fromkeys((stream.value for stream in Stream), 0)

        async def one(bucket: Bucket) -> None:
            commands = [("XLEN", bucket.streams[stream]) for stream in Stream]
            replies = await self._context.client.pipeline(bucket.alive, commands)
            for stream, length in zip(Stream, replies, strict=True):
                found[stream.value] += length

        await self._each(one)
        return found

    async def trim(self, bucket: Bucket) -> None:
        """Shorten the streams of a bucket: to the entries to keep, but not beyond what consumer groups have read."""
        keep = self._context.limits.stream_max
        for stream in Stream:
            if stream in TAKEN:
                continue
            key = bucket.streams[stream]
            left, held = 1, 0
            while left > 0 and not held:
                _, left, held = await self._context.runner.run(TRIM, (key,), keep, AT_ONCE)
            if held:
                self._complain(key, left)

    def _complain(self, key: str, left: int) -> None:
        self._context.tally.held_back += 1
        if self._held.count(trio.current_time()):
            text = "%s has %d entries too many: a consumer group has not read them, or has not acknowledged them"
            log.warning(text, key, left)

    async def _each(self, call: Callable[[Bucket], Awaitable[None]]) -> None:
        await side_by_side([partial(call, bucket) for bucket in self._context.keys.buckets])

    @staticmethod
    def _written(position: Sequence[str]) -> str:
        """A position as an id."""
        return ".".join(position) if any(position) else ""

    def _position(self, after: str) -> list[str] | None:
        """An id as a position; None for "$". Raises BadRequest."""
        count = len(self._context.keys.buckets)
        if after == "$":
            return None
        if not after:
            return [""] * count
        parts = after.split(".")
        if len(parts) != count:
            raise no_id(after)
        return [check_id(part) if part or count == 1 else "" for part in parts]
