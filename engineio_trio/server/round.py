"""What is sent while something is being dealt with, and is written when that is done: a write for each peer."""

import operator
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

import trio

from engineio_trio.protocol.encoded import Encoded
from engineio_trio.transport.poller import MOST, TURN

T = TypeVar("T")
FEW = MOST  # peers that are written to at once, whoever waits: those that one turn of the poller has answers for
BATCH = 32  # peers that are written to before the clock is looked at: some 0.3 ms


class Writing(Protocol):
    """A connection, as far as a round needs it."""

    def write_through(self) -> None:
        """Write what is queued."""


class Target(Protocol):
    """A socket, as far as a broadcast needs it."""

    def send(self, encoded: Encoded) -> None:
        """Send a message, or queue it in the round that is open."""


class Round:
    """What one read makes its handlers send: each peer gets all of it in one write, at the end of the round.

    One for all connections of a server; a round is synchronous, so there is never more than one open. `number` is its
    name, and `now` when it began. A round that is held (a turn of the poller) spans several reads: writes that follow
    each other find the peers awake, and so cost less than writes between which something else is done.

    A broadcast to thousands is thousands of writes. It has a turn of the event loop's time; the peers that are left are
    written to by a task, turn by turn, while others are served. They have their messages in their outbox already, so
    what is sent to them meanwhile follows, and may take all of it along.
    """

    __slots__ = ("_held", "_known", "_late", "_running", "_touched", "_work", "is_open", "now", "number")

    def __init__(self) -> None:
        self.is_open = False
        self.now = 0.0
        self.number = 0
        self._held = False
        self._touched: list[Writing] = []
        self._late: deque[Writing] = deque()  # each once, however many broadcasts overtake each other
        self._known: set[Writing] = set()  # the same; an OrderedDict was a fifth of a broadcast's time
        self._running = False
        self._work = trio.lowlevel.ParkingLot()

    def begin(self) -> None:
        """Messages are being dealt with."""
        self.is_open, self.now = True, trio.current_time()
        self.number += 1

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is sent inside is sent in one round: in the one that is open, or in one of its own."""
        if self.is_open:
            yield
            return
        self.begin()
        try:
            yield
        finally:
            self.end()

    def broadcast(self, encoded: Encoded, targets: Sequence[Target]) -> None:
        """Send a message to each: in the round that is open, or at once to as many as a turn has the time for.

        Only the rest is a round of its own, for that costs a delivery a fifth.
        """
        if len(targets) > FEW and self._running and not self.is_open:
            targets = self._for_a_turn(targets, operator.methodcaller("send", encoded))
            self.begin()
            for target in targets:
                target.send(encoded)
            self._put_off(self._close())
        else:
            for target in targets:
                target.send(encoded)

    def hold(self) -> None:
        """The round goes on until `let_go`."""
        self._held = True

    def let_go(self) -> None:
        """Now it ends."""
        self._held = False
        if self.is_open:
            self.end()

    def touch(self, connection: Writing) -> None:
        """Something waits to be written to this one."""
        self._touched.append(connection)

    def end(self) -> None:
        """Write, unless it is held; for a turn, if inside `running`."""
        if self._held:
            return
        touched = self._close()
        if len(touched) > FEW and self._running:
            self._put_off(self._for_a_turn(touched, operator.methodcaller("write_through")))
        else:
            for connection in touched:
                connection.write_through()

    def _close(self) -> list[Writing]:
        """The round is over: who is to be written to."""
        self.is_open = False
        touched, self._touched = self._touched, []
        return touched

    def _for_a_turn(self, ones: Sequence[T], do: Callable[[T], object]) -> Sequence[T]:
        """Do it for one after the other; who is left when the turn is over.

        All are while others wait: those come first, and get what is sent now in the same write.
        """
        if self._late:
            return ones
        end = time.perf_counter() + TURN
        for first in range(0, len(ones), BATCH):
            if first and time.perf_counter() > end:
                return ones[first:]
            for one in ones[first : first + BATCH]:
                do(one)
        return ()

    def _put_off(self, connections: Sequence[Writing]) -> None:
        more = [connection for connection in connections if connection not in self._known]
        self._late += more
        self._known.update(more)
        self._work.unpark()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the length of the block, what rounds leave is written to, in its order."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run)
            self._running = True
            try:
                yield
            finally:
                self._running = False
                while self._late:  # of streams that are served elsewhere (`serve_stream`); all others have ended
                    self._write_late()
                nursery.cancel_scope.cancel()

    async def _run(self) -> None:
        while True:
            while self._late:
                self._write_late()
                await trio.lowlevel.checkpoint()
            await self._work.park()

    def _write_late(self) -> None:
        end = time.perf_counter() + TURN
        while self._late:
            for _ in range(min(BATCH, len(self._late))):
                connection = self._late.popleft()
                self._known.remove(connection)
                connection.write_through()
            if time.perf_counter() > end:
                return
