"""Listeners: accepting streams, one task each, and the way to stop."""

import logging
import socket
from collections.abc import Sequence
from typing import Any

import trio

from engineio_trio.errors import CloseReason
from engineio_trio.server.engine import Engine, boundary
from engineio_trio.server.neighbours import Neighbours
from engineio_trio.transport.socket import PlainStream, accept_plain

logger = logging.getLogger("engineio_trio")

STREAMS_PER_SESSION = 3  # on polling: a GET, a POST, and a WebSocket that takes over

Address = Any  # what `getsockname` gives: (host, port) for IPv4, more for IPv6, a path for a Unix socket


class Service:
    """Serving an Engine on listeners, until cancelled or asked to shut down."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._spread = 0.0  # seconds over which the end closes the connections
        self._serving = 0
        self._streams = 0

    async def serve(
        self,
        host: str | None,
        port: int,
        *,
        backlog: int | None = None,
        task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on a TCP port (0 picks one) and serve; `started` gives the bound addresses. OSError if it cannot."""
        self._check_free()
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
        await self.serve_listeners(listeners, task_status=task_status)

    async def serve_listeners(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        *,
        neighbours: Neighbours | None = None,
        task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve on open listeners (plain, TLS, Unix; none at all for `serve_stream` alone), and close them at the end.

        `neighbours` are the other processes on the same port, a worker's own: see `engineio_trio.workers`. Returns
        after `shutdown`. If it is cancelled, every connection ends at once, without a goodbye.
        """
        self._check_free()
        self._serving = 1
        engine = self._engine
        engine.stopping = False
        engine.neighbours = neighbours
        self._stopping, self._stopped = trio.Event(), trio.Event()
        try:
            async with engine.poller.running(), engine.round.running(), trio.open_nursery() as nursery:
                engine.nursery = nursery
                if neighbours is not None:
                    await nursery.start(neighbours.attend, self._adopt)
                async with trio.open_nursery() as accepting:
                    if listeners:
                        accepting.start_soon(self._accept, listeners, nursery)
                    task_status.started([_address(listener) for listener in listeners])
                    await self._stopping.wait()
                    accepting.cancel_scope.cancel()
                await self._close_all()
                if neighbours is not None:
                    await neighbours.part()
                nursery.cancel_scope.cancel()
        finally:
            self._serving = 0
            self._stopped.set()

    def _check_free(self) -> None:
        if self._serving:
            raise RuntimeError("this server is serving already: give it all its listeners in one call")

    async def serve_stream(self, stream: trio.abc.Stream, *, remote: str = "") -> None:
        """Serve one stream that was opened elsewhere (a tunnel, a test) to its end, and close it.

        `remote` is what handshakes call the peer's address. The server must be serving, if only with
        `serve_listeners([])`: long-polling sessions outlive their streams. Raises RuntimeError if it is not.
        """
        if not self._serving:
            raise RuntimeError("this server is not serving: start serve_listeners([]) first")
        await self._serve(stream, remote)

    async def _serve(self, stream: trio.abc.Stream, remote: str, early: bytes = b"") -> None:
        if self._streams >= self._engine.settings.max_connections * STREAMS_PER_SESSION:
            await trio.aclose_forcefully(stream)
            return
        self._streams += 1
        try:
            with boundary("a connection"):
                await self._engine.serve_stream(stream, remote, early)
        finally:
            self._streams -= 1
            if isinstance(stream, PlainStream):
                stream.close()
            else:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)

    async def shutdown(self, grace: float = 5.0, *, spread: float = 0.0) -> None:
        """Stop accepting, close every connection with SHUTDOWN (clients come back elsewhere), return when all are gone.

        The closing is spread evenly over `spread` seconds, so that not all clients come back in one moment. After
        `grace` seconds in all, those that are left are cut off.
        """
        if not self._serving:
            return
        if not self._stopping.is_set():
            self._spread = spread
            self._stopping.set()
        with trio.move_on_after(grace):
            await self._stopped.wait()
            return
        assert self._engine.nursery is not None
        self._engine.nursery.cancel_scope.cancel()
        await self._stopped.wait()

    async def _close_all(self) -> None:
        self._engine.stopping = True
        connections = list(self._engine.sessions.values())
        began = trio.current_time()
        for index, connection in enumerate(connections):
            if self._spread:
                await trio.sleep_until(began + self._spread * index / len(connections))
            connection.close(CloseReason.SHUTDOWN)
        for connection in connections:
            await connection.wait_closed()

    async def _accept(self, listeners: Sequence[trio.abc.Listener[Any]], nursery: trio.Nursery) -> None:
        def accepted(given: socket.socket, remote: str) -> None:
            nursery.start_soon(self._serve, PlainStream(given, self._engine.poller), remote)

        async with trio.open_nursery() as accepting:
            others = []
            for listener in listeners:
                if isinstance(listener, trio.SocketListener):
                    accepting.start_soon(accept_plain, listener, accepted)
                else:
                    others.append(listener)
            if others:
                await trio.serve_listeners(self._serve_other, others, handler_nursery=nursery)

    async def _serve_other(self, stream: trio.abc.Stream) -> None:
        await self._serve(stream, _peer(stream))

    async def _adopt(self, given: socket.socket, remote: str, early: bytes) -> None:
        await self._serve(PlainStream(given, self._engine.poller), remote, early)


def _address(listener: trio.abc.Listener[Any]) -> Address:
    if (inner := getattr(listener, "transport_listener", None)) is not None:  # TLS, of Trio or of another make
        return _address(inner)
    return listener.socket.getsockname() if isinstance(listener, trio.SocketListener) else repr(listener)


def _peer(stream: trio.abc.Stream) -> str:
    """The peer's address as text, empty when the stream has none to tell."""
    if isinstance(stream, trio.SSLStream):
        return _peer(stream.transport_stream)
    if not isinstance(stream, trio.SocketStream):
        return ""
    try:
        name = stream.socket.getpeername()
    except OSError:  # it has left already
        return ""
    return str(name[0]) if isinstance(name, tuple) else ""
