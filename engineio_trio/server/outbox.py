"""What waits to be written to one peer: a queue bounded in bytes, filled without waiting, drained by one task."""

from collections.abc import Sequence
from typing import Protocol

import trio

from engineio_trio.protocol.encoded import Encoded
from engineio_trio.transport.base import Transport, TransportReplaced


class OutboxFull(Exception):
    """The peer does not read as fast as it is written to: it is a slow consumer, and its connection ends."""


class Sending(Protocol):
    """A connection, as far as its writer needs it."""

    @property
    def transport(self) -> Transport:
        """What carries it now."""


class Outbox:
    """Messages in order, at most `limit` bytes of them (one larger message alone is let through).

    `pending` is the bytes that have not been written yet. An idle one holds nothing.
    """

    __slots__ = (
        "_abandoned", "_closed", "_done", "_flushed", "_in_hand", "_limit", "_owed", "_put", "_queue", "_wake",
        "pending",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: list[Encoded] = []
        self.pending = 0  # of what is queued and of what the writer has in hand
        self._put = 0  # messages ever put
        self._done = 0  # messages ever written
        self._in_hand = False  # the writer has taken a batch and not written it yet
        self._owed: Sequence[Encoded] | None = None  # a batch that went out in part; its rest is the transport's
        self._closed = False
        self._abandoned = False
        self._wake: trio.Event | None = None  # while the writer waits
        self._flushed: trio.lowlevel.ParkingLot | None = None

    @property
    def is_idle(self) -> bool:
        """Nothing is on its way to the peer, and something may be put."""
        return not (self.pending or self._closed)

    @property
    def waiting(self) -> bool:
        """Something waits for a writer."""
        return bool(self._queue) or self.owes

    @property
    def owes(self) -> bool:
        """A batch went out in part: nothing follows it until the writer has seen to it, though its rest be out."""
        return self._owed is not None

    def put(self, encoded: Encoded) -> None:
        """Queue a message; never waits. Raises OutboxFull, and then the message is not queued. No-op when closed."""
        if self._closed:
            return
        pending = self.pending + encoded.size
        if pending > self._limit and self.pending:
            raise OutboxFull
        self._queue.append(encoded)
        self.pending = pending
        self._put += 1

    def take_nowait(self) -> Sequence[Encoded]:
        """All that is queued, for a write at once; empty when the writer is at work. Say what became of it."""
        if self._in_hand or self._owed is not None:
            return ()
        batch, self._queue = self._queue, []
        return batch

    def leave(self, batch: Sequence[Encoded], left: int | None) -> None:
        """So many bytes of the batch could not be written at once; None: it was not even begun. The writer is to.

        A batch that was not begun goes before what was put since, and the rest of one that was is the transport's.
        """
        if left is None:
            self.keep(batch)
        else:
            self._owed = batch
        self._wake_writer()

    def keep(self, batch: Sequence[Encoded]) -> None:
        """The batch was not begun, and nobody is to write it yet."""
        self._queue[:0] = batch

    def _wake_writer(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def close(self) -> None:
        """Take nothing more. What is queued can still be drained; then `take` answers an empty batch."""
        self._closed = True
        self._wake_writer()

    def abandon(self) -> None:
        """Nobody will drain this any more: forget what is queued and release those who wait for it."""
        self.close()
        self._abandoned = True
        self._queue.clear()
        self._release()

    def _release(self) -> None:
        if self._flushed is not None:
            self._flushed.unpark_all()

    async def take(self) -> Sequence[Encoded] | None:
        """All that is queued, waiting for the first; None when closed and drained. Say `written` afterwards.

        Empty when only the rest of a batch that was written at once is to be seen to.
        """
        while not self.waiting:
            if self._closed:
                return None
            self._wake = trio.Event()
            await self._wake.wait()
        self._in_hand = True
        batch, self._queue = self._queue, []
        return batch

    async def drain(self, connection: Sending) -> None:
        """The writer's work: send what is put, to the end. Raises TransportEnded."""
        while (batch := await self.take()) is not None:
            while True:
                try:
                    await connection.transport.send(batch)
                    break
                except TransportReplaced:
                    continue
            self.written(batch)

    def written(self, batch: Sequence[Encoded]) -> None:
        """The batch has been handed to the operating system."""
        self._in_hand = False
        if self._owed is not None:
            batch, self._owed = [*self._owed, *batch], None
        for encoded in batch:
            self.pending -= encoded.size
        self._done += len(batch)
        if self._flushed is not None:
            self._release()

    async def flush(self) -> bool:
        """Return when all that was put before this call is written: True; False if it was abandoned."""
        goal = self._put
        while self._done < goal:
            if self._abandoned:
                return False
            if self._flushed is None:
                self._flushed = trio.lowlevel.ParkingLot()
            await self._flushed.park()
        return True
