"""The services' streams, `push` and `reconcile`: read by a consumer group, in which each node is one consumer.

What a node has taken is its own until it is done. A node that dies leaves it to the others, after IDLE; an entry that
was taken again and again without being done is poison, and goes to `dead`.
"""

import logging
import random
from collections.abc import Iterable, Sequence
from typing import Final

import trio
from redis.exceptions import ResponseError

from pushd.model import Entry, Stream
from pushd.store.redis.context import Context
from pushd.store.redis.entries import check_id, fields_of, no_id
from pushd.store.redis.keys import Bucket
from pushd.store.redis.news import BLOCK, POLL
from pushd.store.redis.replies import Reply
from pushd.store.redis.scripts import MOST, Script, packed

log = logging.getLogger(__name__)

PENDING: Final = Script("pending")
DONE: Final = Script("done")
DISMISS: Final = Script("dismiss")

GROUP: Final = "pushd"
IDLE: Final = 60.0  # seconds, at most, after which what a node has taken, and not touched since, is left to the others
LEASES: Final = 4  # the same in leases: whoever is so late is dead, or as good as that
TOUCHES: Final = 4  # signs within that time that what was taken is being worked on
TRIES: Final = 5  # times that an entry is taken


class Group:
    """This node's share of one stream. One task takes; others may call `done` and `touch`."""

    def __init__(self, context: Context, stream: Stream) -> None:
        self._context = context
        self._stream = stream
        self._idle = min(IDLE, LEASES * context.lease.life)
        self._consumer = ""
        self._held: dict[str, Entry] = {}  # taken and not done
        self._unsure = True  # the server may have given us more than we know of: a reply was lost
        self._next_claim = 0.0

    @property
    def pause(self) -> float:
        """Seconds between two calls of `touch`."""
        return self._idle / TOUCHES

    async def take(self, limit: int) -> list[Entry]:
        """See `Store.take`."""
        while True:
            try:
                await self._recover(limit)
                await self._claim_if_due(limit)
                if 0 < len(self._held) < limit:
                    await self._read(limit - len(self._held), 0.0)
                while not self._held:
                    await self._read(limit, BLOCK)
                    await self._claim_if_due(limit)
                return list(self._held.values())[:limit]
            except ResponseError as error:
                if error.status_code != "NOGROUP":
                    raise
                await self._create()

    async def done(self, ids: Sequence[str]) -> None:
        """See `Store.done`."""
        for bucket, entries in self._split(ids).items():
            for start in range(0, len(entries), MOST):
                key = bucket.streams[self._stream]
                await self._context.runner.run(DONE, (key,), GROUP, packed(entries[start : start + MOST]))
        for id in ids:
            self._held.pop(id, None)

    async def touch(self) -> None:
        """What is held is being worked on: nobody else may take it. Call it every `pause` seconds."""
        for bucket, entries in self._split(self._held).items():
            key = bucket.streams[self._stream]
            await self._context.client.execute(key, "XCLAIM", key, GROUP, self._consumer, 0, *entries, "JUSTID")

    async def dismiss(self, bucket: Bucket, incarnation: str) -> bool:
        """Take a dead node off the group; False if it has something yet that nobody has claimed."""
        try:
            key = bucket.streams[self._stream]
            return bool(await self._context.runner.run(DISMISS, (key,), GROUP, incarnation))
        except ResponseError as error:
            if "NOGROUP" in str(error) or "no such key" in str(error):
                return True
            raise

    # Taking.

    async def _recover(self, limit: int) -> None:
        """After a lost reply, and for a new incarnation: ask what this consumer has."""
        if self._consumer != self._context.lease.incarnation:
            self._consumer = self._context.lease.incarnation
            self._held.clear()
            self._unsure = True
        if self._unsure:
            for bucket in self._context.keys.buckets:
                await self._pending(bucket, "own", limit)
            self._unsure = False

    async def _claim_if_due(self, limit: int) -> None:
        """Now and then, take over what dead nodes have left, and what this one was given without hearing of it."""
        if trio.current_time() < self._next_claim:
            return
        for bucket in self._context.keys.buckets:
            await self._pending(bucket, "idle", limit)
        self._next_claim = trio.current_time() + self._idle * random.uniform(0.2, 0.4)

    async def _pending(self, bucket: Bucket, whose: str, limit: int) -> None:
        keys = (bucket.streams[self._stream], bucket.streams[Stream.DEAD])
        facts = (GROUP, self._consumer, whose, round(self._idle * 1_000), limit, TRIES, self._stream.value)
        lost, poison, *entries = await self._context.runner.run(PENDING, keys, *facts)
        if lost:
            self._context.tally.lost_by_trim += lost
            log.error("%d entries of %s were trimmed away by somebody before they were done", lost, keys[0])
        if poison:
            self._context.tally.poison += poison
            log.error("%d entries of %s were taken %d times and never done: see %s", poison, keys[0], TRIES, keys[1])
        self._hold(bucket, entries)

    async def _read(self, limit: int, wait: float) -> None:
        """Take new entries, at once or (`wait` seconds) as soon as there are some."""
        buckets = self._context.keys.buckets
        if self._context.together:
            await self._read_some(buckets, limit, wait)
            return
        for bucket in buckets:
            await self._read_some((bucket,), limit, 0.0)
        if wait and not self._held:
            await trio.sleep(POLL)

    async def _read_some(self, buckets: Sequence[Bucket], limit: int, wait: float) -> None:
        names = [bucket.streams[self._stream] for bucket in buckets]
        head = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", limit)
        rest = ("STREAMS", *names, *[">"] * len(names))
        self._unsure = True
        if wait:
            block = ("BLOCK", round(wait * 1_000))
            reply = await self._context.client.blocking(names[0], *head, *block, *rest, timeout=wait)
        else:
            reply = await self._context.client.execute(names[0], *head, *rest)
        self._unsure = False
        for bucket, name in zip(buckets, names, strict=True):
            self._hold(bucket, (reply or {}).get(name.encode(), ()))

    def _hold(self, bucket: Bucket, entries: Reply) -> None:
        for id, fields in entries:
            name = bucket.entry(id.decode())
            self._held[name] = Entry(name, fields_of(fields or ()))

    async def _create(self) -> None:
        """Make the group, where it is missing: at the first start, and when the store was emptied."""
        self._held.clear()
        for bucket in self._context.keys.buckets:
            key = bucket.streams[self._stream]
            try:
                await self._context.client.execute(key, "XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
            except ResponseError as error:
                if error.status_code != "BUSYGROUP":
                    raise

    def _split(self, ids: Iterable[str]) -> dict[Bucket, list[str]]:
        """The server's ids of entries, by bucket. Raises BadRequest."""
        buckets = self._context.keys.buckets
        by_bucket: dict[Bucket, list[str]] = {}
        for id in ids:
            number, entry = (0, id) if len(buckets) == 1 else self._part(id)
            if id not in self._held:
                check_id(entry)
            by_bucket.setdefault(buckets[number], []).append(entry)
        return by_bucket

    def _part(self, id: str) -> tuple[int, str]:
        """The number of the bucket and the server's id of an entry, where there are several buckets."""
        number, _, entry = id.partition(":")
        if not number.isdecimal() or int(number) >= len(self._context.keys.buckets):
            raise no_id(id)
        return int(number), entry
