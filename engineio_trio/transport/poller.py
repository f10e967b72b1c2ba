"""One task that reads many sockets, so that a thousand busy connections are not a thousand busy tasks.

A task that waits for its own socket costs, for each message, a system call to ask, a turn of the scheduler and a walk
through all its frames. The poller has an epoll of its own, in which a socket stays for as long as somebody watches it,
and which Trio waits for as for any descriptor. It reads what is ready, while the tasks of the connections sleep.
"""

import select
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio

MOST = 256  # sockets that are asked for at once
TURN = 0.01  # seconds after which all other tasks have a turn, however many sockets are still to be read


class Reader(Protocol):
    """Who deals with what comes from a socket."""

    def advance(self) -> bool:
        """The socket can be read: do so once, without waiting. True: the task that watches is to look.

        An exception is raised there.
        """


class Turn(Protocol):
    """What is told when the poller reads."""

    def hold(self) -> None:
        """It begins to read sockets, one after the other."""

    def let_go(self) -> None:
        """It has read all that were ready."""


class Poller:
    """Reads for the tasks that `watch`; only inside `running`, and only where the system has an epoll."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._epoll: select.epoll | None = None
        self._watches: dict[int, tuple[Reader, trio.lowlevel.Task]] = {}
        self._failures: dict[trio.lowlevel.Task, Exception] = {}  # on their way to the tasks that they belong to

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The poller works for the length of the block, and is ended with it. Nobody may be watching then."""
        if not hasattr(select, "epoll"):
            yield
            return
        with select.epoll() as epoll:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run, epoll)
                self._epoll = epoll
                try:
                    yield
                finally:
                    self._epoll = None
                    nursery.cancel_scope.cancel()

    @property
    def is_running(self) -> bool:
        """Whether `watch` may be called."""
        return self._epoll is not None

    async def watch(self, descriptor: int, reader: Reader) -> None:
        """Have the reader advance whenever the socket can be read; return when it says so, or after `release`."""
        assert self._epoll is not None
        self._epoll.register(descriptor, select.EPOLLIN)
        task = trio.lowlevel.current_task()
        self._watches[descriptor] = (reader, task)

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._forget(descriptor)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if task in self._failures:
            raise self._failures.pop(task)

    def release(self, descriptor: int) -> bool:
        """Wake the task that watches the socket, if one does: it is to look, or the socket is being closed."""
        watched = descriptor in self._watches
        if watched:
            trio.lowlevel.reschedule(self._forget(descriptor))
        return watched

    def _forget(self, descriptor: int) -> trio.lowlevel.Task:
        if self._epoll is not None:
            self._epoll.unregister(descriptor)
        return self._watches.pop(descriptor)[1]

    async def _run(self, epoll: select.epoll) -> None:
        watches = self._watches
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            end = time.perf_counter() + TURN
            self._turn.hold()
            for descriptor, _ in epoll.poll(0, MOST):  # to the last of them, or a flood would always be first again
                watch = watches.get(descriptor)  # none if one before it in this turn has ended that connection
                if watch is None:
                    continue
                try:
                    if watch[0].advance():
                        self.release(descriptor)
                except Exception as failure:  # noqa: BLE001 - one connection's, and raised in its task
                    self._failures[watch[1]] = failure
                    self.release(descriptor)
                if time.perf_counter() > end:
                    self._turn.let_go()
                    await trio.lowlevel.checkpoint()
                    self._turn.hold()
                    end = time.perf_counter() + TURN
            self._turn.let_go()
