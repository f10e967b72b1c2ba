"""The one task per connection that runs `async def` handlers: in order, from a bounded queue.

An event whose handler answers later has a place in the queue until then, but nothing of it is run here.

A full queue stops the reading of that connection, which is the peer's own brake; a handler that waits (for `call()`,
for a database) never stops the reader, so the answer it waits for can arrive.
"""

from collections import deque
from collections.abc import Awaitable, Callable

import trio

Job = Callable[[], Awaitable[None]]


class HandlerQueue:
    """Jobs of one connection, run one after the other in a task that is started by the first of them.

    It runs in `nursery`; without one, jobs wait until `open`. One that fails is the last: `failed` is told.
    """

    __slots__ = (
        "_busy", "_failed", "_held", "_idle", "_jobs", "_limit", "_nursery", "_over", "_room", "_running", "_wake",
    )  # fmt: skip

    def __init__(self, limit: int, nursery: trio.Nursery | None, failed: Callable[[Exception], None]) -> None:
        self._limit = limit
        self._jobs: deque[Job] = deque()
        self._nursery = nursery
        self._failed = failed
        self._over = False  # one has failed
        self._running = False
        self._held = 0  # places
        self._busy = False
        self._idle: trio.Event | None = None  # while somebody waits for that
        self._wake: trio.Event | None = None  # while the task waits for jobs
        self._room: trio.lowlevel.ParkingLot | None = None

    def open(self, nursery: trio.Nursery) -> None:
        """Run the jobs in this nursery from now on."""
        self._nursery = nursery
        if self._jobs:
            self._start()

    def put(self, job: Job) -> None:
        """Queue a job; never waits. The reader asks `full` afterwards, and waits for `room` if so."""
        if self._over:
            return
        self._jobs.append(job)
        if self._wake is not None:
            self._wake.set()
        elif not self._running and self._nursery is not None:
            self._start()

    def hold(self) -> None:
        """Something is dealt with elsewhere: it has a place here until `let_go`."""
        self._held += 1

    def let_go(self) -> None:
        """Its place is free."""
        self._held -= 1
        if self._room:
            self._room.unpark_all()

    @property
    def full(self) -> bool:
        """No more should be read for now."""
        return len(self._jobs) + self._held >= self._limit

    async def room(self) -> None:
        """Return when the queue is not full."""
        while self.full:
            if self._room is None:
                self._room = trio.lowlevel.ParkingLot()
            await self._room.park()

    @property
    def busy(self) -> bool:
        """A job is running or waiting."""
        return self._busy or bool(self._jobs)

    async def idle(self) -> None:
        """Return when every job has been run."""
        while self.busy:
            self._idle = trio.Event()
            await self._idle.wait()

    def _start(self) -> None:
        assert self._nursery is not None
        self._running = True
        self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        while True:
            await self._run_jobs()
            if self._idle is not None:
                self._idle.set()
            if self._over:
                return
            self._wake = trio.Event()
            await self._wake.wait()
            self._wake = None

    async def _run_jobs(self) -> None:
        """Run what is there; forget the rest when one fails."""
        while self._jobs:
            self._busy = True
            job = self._jobs.popleft()
            if self._room is not None:
                self._room.unpark_all()
            try:
                await job()
            except Exception as error:  # noqa: BLE001 - raised by the connection's own task
                self._over = True
                self._jobs.clear()
                self._failed(error)
            self._busy = False


NO_HANDLERS = HandlerQueue(1, None, lambda _: None)  # while a connection has had no job; nothing is ever put into it
