"""The domain interface over SQLite: each method is one operation of a worker, or a few bounded ones."""

import contextlib
import logging
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from pushd.model import (
    Ack,
    Bound,
    Counts,
    DeviceRecord,
    Entry,
    Message,
    Outcome,
    Parcel,
    Push,
    Receipt,
    ReceiptState,
    Stream,
    Throttled,
    Uplink,
)
from pushd.store.base import Tally
from pushd.store.sqlite import bindings, devices, messages, schema, streams
from pushd.store.sqlite.transaction import Context, Transaction
from pushd.store.sqlite.worker import Worker
from pushd.store.staleness import Staleness

STEP = 500  # rows in one transaction of a long job: bounds how long others wait behind it
SWITCH_INTERVAL = 0.0005  # seconds

log = logging.getLogger("pushd")


@contextlib.asynccontextmanager
async def open_sqlite(path: Path | None, context: Context, clock: Callable[[], float]) -> AsyncIterator["SqliteStore"]:
    """A store on a file (None: in memory) for this process alone; see `open_store`."""
    with schema.own(path) if path else contextlib.nullcontext(), _brisk_threads():
        store = SqliteStore(path, context, clock)
        try:
            await store.open()
            yield store
        finally:
            await store.aclose()


@contextlib.contextmanager
def _brisk_threads() -> Iterator[None]:
    """Let threads take turns ten times as often as usual, as long as a store is open.

    A worker gives the interpreter up at every statement. Beside a busy Trio thread it then waited a whole switch
    interval for each: measured, 300 ms for one write at the usual 5 ms, 1 ms at 0.5 ms.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(min(usual, SWITCH_INTERVAL))
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class SqliteStore:
    """`Store` on one file: a worker that writes, and one that reads beside it (in memory they are the same)."""

    def __init__(self, path: Path | None, context: Context, clock: Callable[[], float]) -> None:
        self.tally = Tally()
        self._context = context
        self._clock = clock
        self._news = {stream: trio.Event() for stream in Stream}
        self._staleness = Staleness(context.limits.stale_after, clock())
        self._forgetting = 0
        self._writer = Worker(partial(schema.connect, path), "BEGIN IMMEDIATE", context, clock, self._committed)
        self._reader = self._writer
        if path is not None:
            self._reader = Worker(partial(schema.connect_reader, path), "BEGIN", context, clock, self._committed)

    async def open(self) -> None:
        """Start the workers and end what a former process left."""
        await self._writer.open()
        if self._reader is not self._writer:
            await self._reader.open()
        while await self._writer.run(partial(bindings.end_lost, limit=STEP)):
            pass

    async def aclose(self) -> None:
        """Finish what is under way and give the file back."""
        if self._reader is not self._writer:
            await self._reader.aclose()
        await self._writer.aclose()

    def _committed(self, tx: Transaction) -> None:
        """An operation is on disk: wake those who wait for its streams, tell the node what concerns it."""
        for stream in tx.touched:
            self._news[stream].set()
            self._news[stream] = trio.Event()
        for notice in tx.notices:
            try:
                notice()
            except (
                Exception
            ):  # the edge to the node's code, in a callback of Trio's: raising here would end the process
                log.exception("the node's control raised; its connection may not know what became of its device")

    # ---- bindings ----

    async def admits(self, device: str) -> Throttled | None:
        if self._writer.failing:  # one can still read beside a locked file, but nobody can log in
            await self.ping()
        return await self._reader.run(partial(bindings.admits, device=device))

    async def login(self, device: str, conn: str, topics: Sequence[str]) -> Bound | Throttled:
        if not conn:
            raise ValueError("a connection must have an id")
        return await self._writer.run(partial(bindings.login, device=device, conn=conn, topics=topics))

    async def logout(self, device: str, epoch: int, reason: str) -> bool:
        return await self._writer.run(partial(bindings.logout, device=device, epoch=epoch, reason=reason))

    async def kick(self, device: str, reason: str, by: str) -> bool:
        return await self._writer.run(partial(bindings.kick, device=device, reason=reason, by=by))

    async def beat(self, alive: Sequence[tuple[str, int]]) -> list[str]:
        lost: list[str] = []
        for first in range(0, len(alive), STEP):
            some = alive[first : first + STEP]
            lost += await self._writer.run(partial(bindings.beat, alive=some))
        return lost

    async def reconcile(self, devices: Sequence[str]) -> list[str]:
        gone: list[str] = []
        for first in range(0, len(devices), STEP):
            some = devices[first : first + STEP]
            before = self._staleness.before(self._clock())
            gone += await self._writer.run(partial(bindings.reconcile, devices=some, before=before))
        return gone

    async def sweep(self) -> int:
        now = self._clock()
        before = self._staleness.before(now)
        ended = await self._repeat(partial(bindings.end_stale, before=before, limit=STEP))
        self._staleness.swept(now)  # only now: a sweep that the database refused did not take place
        await self._repeat(partial(messages.expire, limit=STEP))
        await self._repeat(partial(messages.drop_marks, limit=STEP))
        forget = partial(devices.forget, after=self._forgetting, limit=STEP)
        self._forgetting = await self._writer.run(forget)
        return ended

    async def _repeat(self, step: Callable[[Transaction], int]) -> int:
        """Do a step of a long job until it finds less than a whole one; answers the sum."""
        total = count = await self._writer.run(step)
        while count == STEP:
            count = await self._writer.run(step)
            total += count
        return total

    # ---- messages ----

    async def enqueue(self, push: Push, devices: Sequence[str]) -> list[Receipt]:
        return await self.enqueue_each([(push, device) for device in devices])

    async def enqueue_each(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        return await self._writer.run(partial(messages.enqueue, parcels=parcels))

    async def cast(self, push: Push, devices: Sequence[str]) -> list[Receipt]:
        return await self.cast_each([(push, device) for device in devices])

    async def cast_each(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        bound = await self._reader.run(partial(bindings.bound, devices=[device for _, device in parcels]))
        now = self._clock()
        receipts = [self._cast(push, device, here, now) for (push, device), here in zip(parcels, bound, strict=True)]
        await self._writer.run(partial(streams.receipts, written=receipts))
        return receipts

    def _cast(self, push: Push, device: str, here: bool, now: float) -> Receipt:
        message = Message(0, push.id, push.event, push.data, redelivered=False)
        if here and self._context.control.cast(device, message):
            return Receipt(push.id, device, ReceiptState.DELIVERED, 0, now)
        return Receipt(push.id, device, ReceiptState.REFUSED, 0, now, "offline")

    async def fetch(self, device: str, epoch: int, after: int, limit: int) -> list[Message]:
        return await self._writer.run(partial(messages.fetch, device=device, epoch=epoch, after=after, limit=limit))

    async def ack(self, device: str, epoch: int, seqs: Sequence[int], state: ReceiptState) -> None:
        await self._writer.run(partial(messages.ack, device=device, epoch=epoch, seqs=seqs, state=state))

    async def ack_each(self, acks: Sequence[Ack]) -> list[Outcome]:
        return await self._writer.run(partial(messages.ack_each, acks=acks))

    async def uplink(self, device: str, epoch: int, conn: str, entry: str, event: str, data: str) -> None:
        await self._writer.run(partial(messages.uplink, uplink=Uplink(device, epoch, conn, entry, event, data)))

    async def uplink_each(self, uplinks: Sequence[Uplink]) -> list[Outcome]:
        return await self._writer.run(partial(messages.uplink_each, uplinks=uplinks))

    # ---- streams ----

    async def append(self, stream: Stream, fields: Mapping[str, str]) -> str:
        return str(await self._writer.run(partial(streams.append, stream=stream, fields=fields)))

    async def take(self, stream: Stream, limit: int) -> list[Entry]:
        if stream not in streams.TAKEN:
            raise ValueError(f"the stream {stream.value} is not pushd's to take from; read_stream() reads it")
        return await self.read_stream(stream, "", limit, math.inf)

    async def done(self, stream: Stream, ids: Sequence[str]) -> None:
        numbers = [streams.number_of(entry) for entry in ids]
        await self._writer.run(partial(streams.done, stream=stream, numbers=numbers))

    async def read_stream(self, stream: Stream, after: str, limit: int, wait: float = 0.0) -> list[Entry]:
        position = await self._position(stream, after)
        deadline = trio.current_time() + wait
        while True:
            news = self._news[stream]  # before reading: what comes after the read cannot be missed
            entries = await self._reader.run(partial(streams.read, stream=stream, after=position, limit=limit))
            if entries or trio.current_time() >= deadline:
                return entries
            with trio.move_on_at(deadline):
                await news.wait()

    async def _position(self, stream: Stream, after: str) -> int:
        if after == "$":
            return await self._reader.run(partial(streams.newest, stream=stream))
        return streams.number_of(after) if after else 0

    async def newest(self, stream: Stream) -> str:
        number = await self._reader.run(partial(streams.newest, stream=stream))
        return str(number) if number else ""

    # ---- what is known ----

    async def members(self, topic: str | None, after: str, limit: int) -> list[str]:
        return await self._reader.run(partial(devices.members, topic=topic, after=after, limit=limit))

    async def device(self, device: str) -> DeviceRecord | None:
        return await self._reader.run(partial(devices.device, identity=device))

    async def devices(self, after: str, limit: int, online: bool) -> list[DeviceRecord]:
        return await self._reader.run(partial(devices.devices, after=after, limit=limit, online=online))

    async def permit(self, device: str, token: str | None) -> None:
        await self._writer.run(partial(devices.permit, identity=device, token=token))

    async def token_of(self, device: str) -> str | None:
        return await self._reader.run(partial(devices.token_of, identity=device))

    async def counts(self) -> Counts:
        return await self._reader.run(devices.counts)

    async def ping(self) -> None:
        await self._writer.run(lambda tx: tx.db.execute("UPDATE meta SET value = ? WHERE key = 'ping'", (tx.now,)))
