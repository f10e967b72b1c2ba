"""The two servers that a program makes: SocketServer for Socket.IO, EngineServer for bare Engine.IO sessions."""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import trio

from engineio_trio.errors import CloseReason, Disconnected
from engineio_trio.handshake import Handshake
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Packet, PacketType
from engineio_trio.protocol.socket import namespace_fault
from engineio_trio.server.application import SocketApplication
from engineio_trio.server.connection import Connection
from engineio_trio.server.engine import Engine
from engineio_trio.server.namespace import Function, Namespace
from engineio_trio.server.serve import Service
from engineio_trio.server.socket import Socket
from engineio_trio.settings import Settings

AuthorizeFunction = TypeVar("AuthorizeFunction", bound=Callable[[Handshake], Awaitable[None] | None])


class _Server(Service):
    """What both servers share: authorisation, the sessions, the listeners."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.settings = engine.settings

    @property
    def connections(self) -> int:
        """How many sessions are open."""
        return len(self._engine.sessions)

    def authorize(self, function: AuthorizeFunction) -> AuthorizeFunction:
        """A decorator: `function(handshake)`, plain or async, is asked before a session exists, on both transports.

        It raises HandshakeRefused to refuse. Requests of a session that exists are not asked again.
        """
        if self._engine.authorize is not None:
            raise ValueError("this server has an authorize handler already")
        self._engine.authorize = function
        return function

    def together(self) -> AbstractContextManager[None]:
        """`with server.together():` around many sends, nothing of which waits: all is written at its end.

        Each peer gets what is its own in one write, as with what is sent from a plain handler. Thousands of peers are
        written to turn by turn, while others are served.
        """
        return self._engine.round.together()


class SocketServer(_Server):
    """A Socket.IO 5 server over Engine.IO 4, at `path`. `on`, `on_any` and `emit` are those of the namespace `/`."""

    def __init__(self, settings: Settings | None = None, *, path: str = "/socket.io/") -> None:
        super().__init__(Engine(path, settings or Settings(), self._application))
        self._namespaces = {"/": Namespace("/", self._engine.round)}

    def _application(self, connection: Connection) -> SocketApplication:
        return SocketApplication(connection, self._namespaces)

    def of(self, name: str) -> Namespace:
        """The namespace `name` (it begins with '/'), made when first asked for. Others do not exist for clients.

        Raises ValueError for a name that no client could ask for.
        """
        if fault := namespace_fault(name):
            raise ValueError(fault)
        return self._namespaces.setdefault(name, Namespace(name, self._engine.round))

    def on(self, event: str) -> Callable[[Function], Function]:
        """A decorator: the handler of an event in `/`; see `Namespace.on`."""
        return self._namespaces["/"].on(event)

    def on_any(self, function: Function) -> Function:
        """A decorator: the handler of the other events in `/`; see `Namespace.on_any`."""
        return self._namespaces["/"].on_any(function)

    def emit(
        self,
        event: str,
        *args: Any,
        to: str | Iterable[str] | None = None,
        skip: Socket | Iterable[Socket] | None = None,
    ) -> None:
        """Send an event to the sockets of `/`, or of its room or rooms `to`; see `Namespace.emit`."""
        self._namespaces["/"].emit(event, *args, to=to, skip=skip)


class Session:
    """An Engine.IO session as the handler of an EngineServer sees it: iterate over it, and `send`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: deque[str | bytes] = deque()
        self._limit = connection.settings.handler_queue
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def handshake(self) -> Handshake:
        """The request that opened the session."""
        return self._connection.handshake

    @property
    def closed(self) -> CloseReason | None:
        """Why the session has ended; None while it lives."""
        return self._connection.reason

    def send(self, message: str | bytes) -> None:
        """Send a message: text or binary. Queued or written at once, never waits. Raises Disconnected when closed."""
        if self._connection.reason is not None:
            raise Disconnected(self._connection.reason)
        self._connection.send(Encoded.engine(Packet(PacketType.MESSAGE, message)))

    async def flush(self) -> None:
        """Return when all that was sent so far has been written to the transport. Raises Disconnected if it cannot."""
        await self._connection.flush()

    def close(self) -> None:
        """End the session, after what is queued has been written (within `close_timeout`)."""
        self._connection.close(CloseReason.SERVER_CLOSE)

    def __aiter__(self) -> "Session":
        return self

    async def __anext__(self) -> str | bytes:
        while not self._messages:
            if self.closed is not None:
                raise StopAsyncIteration
            await self._changed.park()
        message = self._messages.popleft()
        self._changed.unpark_all()
        return message

    # What follows is for the server, not for handlers.

    def ending(self) -> None:
        """Nothing more comes: the iteration ends after what has come."""
        self._changed.unpark_all()

    def receive(self, message: str | bytes) -> None:
        """A message of the peer, for the handler to take."""
        self._messages.append(message)
        self._changed.unpark_all()

    @property
    def full(self) -> bool:
        """The handler is behind: nothing more should be read for now."""
        return len(self._messages) >= self._limit

    async def room(self) -> None:
        """Return when the handler has caught up."""
        while self.full:
            await self._changed.park()


class _SessionApplication:
    """An EngineServer's handler on one connection; see `server.connection.Application`."""

    deadline = math.inf

    def __init__(self, connection: Connection, handler: Callable[[Session], Awaitable[None]]) -> None:
        self._connection = connection
        self._handler = handler
        self._session = Session(connection)

    def opened(self) -> None:
        self._connection.queue(self._run)

    async def _run(self) -> None:
        try:
            await self._handler(self._session)
        except Disconnected:
            if self._session.closed is None:
                raise
        self._session.close()

    def message(self, data: str | bytes) -> None:
        self._session.receive(data)

    @property
    def full(self) -> bool:
        return self._session.full

    async def room(self) -> None:
        await self._session.room()

    def on_deadline(self, now: float) -> None:
        """It has none."""

    def ending(self) -> None:
        self._session.ending()

    async def closed(self, reason: CloseReason) -> None:
        """The handler has been cancelled with its connection; nothing is left to tell."""


class EngineServer(_Server):
    """A bare Engine.IO 4 server: `async def handler(session)` runs for each session.

    When the session ends, so does the handler's iteration over it; within `close_timeout` the handler is cancelled.
    """

    def __init__(
        self,
        handler: Callable[[Session], Awaitable[None]],
        settings: Settings | None = None,
        *,
        path: str = "/engine.io/",
    ) -> None:
        self._handler = handler
        super().__init__(Engine(path, settings or Settings(), self._application))

    def _application(self, connection: Connection) -> _SessionApplication:
        return _SessionApplication(connection, self._handler)
