"""A server as several processes on one port of one machine, supervised by their parent.

Each worker has sessions, rooms and handlers of its own: `emit` reaches the sockets of its process. Long-polling and
upgrades need no sticky load balancer: a request whose session another worker has is handed to it with its connection.
"""

import errno
import math
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any

import trio

from engineio_trio.server.neighbours import ANSWER_TIMEOUT, Answer, Neighbours, Post
from engineio_trio.server.serve import Service
from engineio_trio.supervisor import READY, Order, Signals, Supervisor, WorkersFailed

__all__ = ["Order", "Port", "Signals", "Worker", "WorkersFailed", "run_workers"]

UNHEARD = 16  # orders that a worker's program has not taken yet; more are dropped
BACKLOG = 65_535  # the system takes as much of it as it allows


class Port:
    """A TCP port that all workers listen on. Make it before `run_workers`; it is kept for them from then on.

    `host` and `port` are as for `SocketServer.serve`: None is every address, 0 picks a port. Raises OSError when
    somebody else listens there.
    """

    def __init__(self, host: str | None, port: int) -> None:
        self._kept: list[socket.socket] = []
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            chosen = port or (self.address[1] if self._kept else 0)
            try:
                self._kept.append(_keep(family, (address[0], chosen, *address[2:])))
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT or len(found) == 1:  # an IPv6 address without IPv6 is not missed
                    self.close()
                    raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; the first address if the host has several."""
        host, port = self._kept[0].getsockname()[:2]
        return host, port

    def listen(self) -> list[trio.SocketListener]:
        """A worker's own listeners: the system spreads new connections over those of all workers."""
        listeners = []
        for kept in self._kept:
            shared = _bound(kept.family, kept.getsockname(), shared=True)
            shared.listen(BACKLOG)
            listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(shared)))
        return listeners

    def close(self) -> None:
        """Keep it no longer."""
        for kept in self._kept:
            kept.close()


def _keep(family: int, address: tuple[Any, ...]) -> socket.socket:
    """A socket that has the address for those who share it, once it is certain that nobody listens there."""
    with _bound(family, address, shared=False) as alone:
        alone.listen(1)  # otherwise one who shares it, too, would not be noticed
        chosen = alone.getsockname()
    return _bound(family, chosen, shared=True)


def _bound(family: int, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


class Worker:
    """One of the processes, as the program in it sees itself. `number` is 1 to `count`, that of the one it replaces."""

    def __init__(self, number: int, count: int, post: Post, control: socket.socket) -> None:
        self.number = number
        self.count = count
        self.neighbours = Neighbours(number, post)
        self._control = control
        self._ready = False
        self._say, self.orders = trio.open_memory_channel[Order](UNHEARD)

    async def serve(
        self,
        server: Service,
        port: Port,
        *,
        grace: float = 5.0,
        reload: Callable[[], object] | None = None,
    ) -> None:
        """Serve on the shared port until told to stop, then `server.shutdown(grace)`. `reload()` is called at SIGHUP.

        For other listeners (TLS), or an end of another kind: give `port.listen()`, wrapped or not, with
        `neighbours=worker.neighbours` to `server.serve_listeners`, then call `ready`, and iterate over `orders`: STOP
        and RELOAD come there. (NOW, and a STOP before `ready`, cancel `main`.)
        """
        async with trio.open_nursery() as nursery:
            listening = partial(server.serve_listeners, port.listen(), neighbours=self.neighbours)
            await nursery.start(listening)
            self.ready()
            async for order in self.orders:
                if order is not Order.RELOAD:
                    break
                if reload is not None:
                    reload()
            await server.shutdown(grace)
            nursery.cancel_scope.cancel()

    def ready(self) -> None:
        """Say that clients can connect. A worker that ends before counts as one that cannot start."""
        self._ready = True
        with suppress(OSError):  # the parent is gone: `orders` says so
            self._control.send(READY)

    def on_question(self, function: Answer) -> Answer:
        """A decorator: `async function(question)` gives the answer, bytes for bytes, when another worker asks."""
        self.neighbours.answer = function
        return function

    async def ask(self, question: bytes, timeout: float = ANSWER_TIMEOUT) -> dict[int, bytes]:
        """What the other workers answer, by number; who cannot, within `timeout` seconds, is left out.

        A question may have some thousand bytes, an answer any number. It is answered while the other one's server is
        serving. To let all sockets of all workers hear something, ask the others to emit it.
        """
        return await self.neighbours.ask(question, timeout)

    async def live(self, main: "Main") -> int:
        """Run the program; its exit code."""
        code = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear_parent, nursery.cancel_scope)
            nursery.start_soon(self._hear_signal, nursery.cancel_scope)
            code = await main(self)
            nursery.cancel_scope.cancel()
        return code or 0

    async def _hear_parent(self, scope: trio.CancelScope) -> None:
        parent = trio.socket.from_stdlib_socket(self._control)
        with suppress(ConnectionError):
            while said := await parent.recv(1):
                self._heed(Order(said), scope)
        self._heed(Order.STOP, scope)  # it is gone, and nobody would ever end us

    async def _hear_signal(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                self._heed(Order.STOP, scope)

    def _heed(self, order: Order, scope: trio.CancelScope) -> None:
        """Nothing is lost by a STOP before anybody is served. Never waits, or who hears nothing would not hear NOW."""
        if order is Order.NOW or (order is Order.STOP and not self._ready):
            scope.cancel()
            return
        with suppress(trio.WouldBlock):
            self._say.send_nowait(order)


Main = Callable[[Worker], Awaitable[int | None]]


def run_workers(main: Main, count: int, *, patience: float = 10.0, begun: Callable[[], object] | None = None) -> None:
    """Run `async main(worker)` in `count` processes, until SIGTERM or SIGINT have ended all of them well.

    The processes are forks of this one, so all that the program has made is there in each; there must be no threads
    yet, and no Trio. One that ends is replaced: at once, or after a growing pause if it has not lived for 5 seconds.
    SIGHUP reaches all (`reload`). What `main` returns is the worker's exit code, if it is a number. When told to stop
    they have `patience` seconds; a second signal, or the end of that time, stops them at once.

    `begun()` is called when all are ready for the first time. Raises WorkersFailed when one cannot start before that
    (the others are stopped), when later no one is left and five starts in a row have failed, and when they did not end
    well. Raises ValueError for a number that is none.
    """
    if count < 1 or not 0 < patience < math.inf:
        raise ValueError("there must be at least one worker, and a time that it has to end")
    with closing(Post(count)) as post:

        def work(number: int, control: socket.socket) -> int:
            return trio.run(Worker(number, count, post, control).live, main)

        Supervisor(work, count, patience=patience, begun=begun or (lambda: None), buried=post.clear).run()
