"""What waits to be written to one peer: a queue bounded in bytes, filled without waiting, drained by one task."""

from collections import deque

import trio

from engineio_trio.protocol.encoded import Encoded


class OutboxFull(Exception):
    """The peer does not read as fast as it is written to: it is a slow consumer, and its connection ends."""


class Outbox:
    """Messages in order, at most `limit` bytes of them (one larger message alone is let through)."""

    __slots__ = (
        "_abandoned", "_closed", "_done", "_flushed", "_in_hand", "_limit", "_owed", "_pending", "_put", "_queue",
        "_wake",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[Encoded] = deque()
        self._pending = 0  # bytes, of what is queued and of what the writer has in hand
        self._put = 0  # messages ever put
        self._done = 0  # messages ever written
        self._in_hand = False  # the writer has taken a batch and not written it yet
        self._owed: list[Encoded] | None = None  # a batch that went out in part; its rest is the transport's
        self._closed = False
        self._abandoned = False
        self._wake = trio.Event()
        self._flushed = trio.lowlevel.ParkingLot()

    @property
    def pending(self) -> int:
        """Bytes that have not been written yet."""
        return self._pending

    @property
    def queued(self) -> bool:
        """Something waits for a writer."""
        return bool(self._queue)

    def put(self, encoded: Encoded) -> None:
        """Queue a message; never waits. Raises OutboxFull, and then the message is not queued. No-op when closed."""
        if self._closed:
            return
        if self._pending and self._pending + encoded.size > self._limit:
            raise OutboxFull
        self._queue.append(encoded)
        self._pending += encoded.size
        self._put += 1

    def wake(self) -> None:
        """Have the writer write what is queued."""
        self._wake.set()

    def take_nowait(self) -> list[Encoded]:
        """All that is queued, for a write at once; empty when the writer is at work. Say what became of it."""
        if self._in_hand or self._owed is not None:
            return []
        batch = list(self._queue)
        self._queue.clear()
        return batch

    def put_back(self, batch: list[Encoded]) -> None:
        """The batch could not be written at once: the writer writes it, before what was put since."""
        self._queue.extendleft(reversed(batch))
        self._wake.set()

    def owe(self, batch: list[Encoded]) -> None:
        """The batch went out in part: the writer sees to the rest."""
        self._owed = batch
        self._wake.set()

    def close(self) -> None:
        """Take nothing more. What is queued can still be drained; then `take` answers an empty batch."""
        self._closed = True
        self._wake.set()

    def abandon(self) -> None:
        """Nobody will drain this any more: forget what is queued and release those who wait for it."""
        self.close()
        self._abandoned = True
        self._queue.clear()
        self._flushed.unpark_all()

    async def take(self) -> list[Encoded] | None:
        """All that is queued, waiting for the first; None when closed and drained. Say `written` afterwards.

        Empty when only the rest of a batch that was written at once is to be seen to.
        """
        while not self._queue and self._owed is None:
            if self._closed:
                return None
            self._wake = trio.Event()
            await self._wake.wait()
        self._in_hand = True
        batch = list(self._queue)
        self._queue.clear()
        return batch

    def written(self, batch: list[Encoded]) -> None:
        """The batch has been handed to the operating system."""
        self._in_hand = False
        if self._owed is not None:
            batch, self._owed = self._owed + batch, None
        for encoded in batch:
            self._pending -= encoded.size
        self._done += len(batch)
        if self._flushed:
            self._flushed.unpark_all()

    async def flush(self) -> bool:
        """Return when all that was put before this call is written: True; False if it was abandoned."""
        goal = self._put
        while self._done < goal:
            if self._abandoned:
                return False
            await self._flushed.park()
        return True
