"""Socket.IO on one connection: packets in, handlers called; the namespaces that this peer has joined."""

import math
import urllib.parse
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec
import trio

from engineio_trio.errors import CloseReason, ConnectRefused, Disconnected, RemoteProtocolError
from engineio_trio.protocol.codec import Decoder
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.socket import Ack, Connect, ConnectError, Event, SocketPacket
from engineio_trio.protocol.socket_session import NamespaceState, SocketSession, Step
from engineio_trio.server.connection import Connection
from engineio_trio.server.handlers import HandlerQueue
from engineio_trio.server.namespace import Handler, Kind, Namespace
from engineio_trio.server.socket import Socket

MAX_QUERY_FIELDS = 64
_EVENT: Final = Step.EVENT  # a member of an enum takes six times as long to look up as a name (Python 3.11)
_ACK: Final = Step.ACK
_QUEUED: Final = Kind.QUEUED
_LATER: Final = Kind.LATER
ATTACHMENT_PATIENCE = 10.0  # seconds for the attachments that a packet announced


class Answer(msgspec.Struct):  # one for each event: see `Event`
    """Acknowledges an event, if its peer asked for that, and gives back the place that the event has in the queue."""

    socket: Socket
    ack: int | None
    handlers: HandlerQueue | None  # None: answered

    def __call__(self, *values: Any) -> None:
        """The values of the acknowledgement. Nothing is sent when the socket has closed. Raises RuntimeError again."""
        handlers, self.handlers = self.handlers, None
        if handlers is None:
            raise RuntimeError("an event can be answered once")
        handlers.let_go()
        if self.ack is not None:
            self.socket.acknowledge(self.ack, values)


class Verdict:
    """Lets a socket in, or not: what its connect handler has decided, now or later."""

    __slots__ = ("_application", "_given", "_socket")

    def __init__(self, application: "SocketApplication", socket: Socket) -> None:
        self._application = application
        self._socket = socket
        self._given = False

    def __call__(self, refusal: ConnectRefused | None = None) -> None:
        """Nothing happens when the socket has closed: see its `closed`. Raises RuntimeError again."""
        if self._given:
            raise RuntimeError("a socket is let in, or refused, once")
        self._given = True
        if self._socket.closed is None:
            self._application.decide(self._socket, refusal)


class SocketApplication:
    """The Socket.IO side of one connection: an Application (see `server.connection`) and the Owner of its sockets."""

    __slots__ = (
        "__weakref__", "_decoder", "_namespaces", "_owed", "_sockets", "connection", "deadline", "session",
    )  # fmt: skip

    def __init__(self, connection: Connection, namespaces: Mapping[str, Namespace]) -> None:
        settings = connection.settings
        self.connection = connection
        self.session = SocketSession(max_namespaces=settings.max_namespaces, max_pending_acks=settings.max_pending_acks)
        self.deadline = trio.current_time() + settings.connect_timeout
        self._namespaces = namespaces
        self._sockets: dict[str, Socket] = {}
        self._owed: dict[Socket, CloseReason] = {}  # disconnect handlers that have not run yet
        self._decoder = Decoder(
            max_attachments=settings.max_attachments, max_bytes=settings.max_payload, max_depth=settings.max_depth
        )

    def opened(self) -> None:
        """Socket.IO 2 clients (revision 3) are in `/` from the start, without asking."""
        handler = self._namespaces["/"].handlers.get("connect")
        if handler is not None and handler.kind is Kind.QUEUED:
            self.connection.expect_tasks()
        if self.connection.revision == 3:
            self._dispatch(Connect())

    def message(self, data: str | bytes) -> None:
        """An Engine.IO message: part of a Socket.IO packet. Raises RemoteProtocolError."""
        packet = self._decoder.feed(data)
        if packet is not None:
            self._dispatch(packet)
        if packet is None or self.deadline is not math.inf:
            self.deadline = self._next_deadline()

    def _next_deadline(self) -> float:
        if self._decoder.waiting:
            now = trio.current_time()
            return min(self.deadline, now + ATTACHMENT_PATIENCE)
        return math.inf if self.session.joined_any else self.deadline

    @property
    def full(self) -> bool:
        """Handlers are behind: nothing more should be read for now."""
        return self.connection.handlers.full

    async def room(self) -> None:
        """Return when handlers have caught up."""
        await self.connection.handlers.room()

    def on_deadline(self, now: float) -> None:
        """Nothing joined in time, or announced attachments that did not come."""
        self.connection.close(CloseReason.POLICY if self._decoder.waiting else CloseReason.CONNECT_TIMEOUT)

    def _dispatch(self, packet: SocketPacket) -> None:
        step = self.session.receive(packet)
        if step is _EVENT:
            assert isinstance(packet, Event)
            self._event(self._sockets[packet.namespace], packet)
        elif step is _ACK:
            assert isinstance(packet, Ack)
            self._sockets[packet.namespace].acknowledged(packet)
        elif step is Step.ASK:
            assert isinstance(packet, Connect)
            self._connect(packet)
        elif step is Step.LEAVE:
            self.left(self._sockets[packet.namespace], CloseReason.CLIENT_DISCONNECT)

    # Events.

    def _event(self, socket: Socket, packet: Event) -> None:
        namespace = self._namespaces[socket.namespace]
        handler, args = namespace.handlers.get(packet.name), packet.args
        if handler is None:
            handler, args = namespace.any_handler, (packet.name, packet.args)
            if handler is None:
                return
        else:
            handler.check(packet.name, args)
        if handler.kind is _QUEUED:
            self.connection.queue(partial(self._run, handler, socket, args, packet.id))
            return
        if handler.kind is _LATER:
            handlers = self.connection.need_handlers()
            handlers.hold()
            handler.function(socket, *args, answer=Answer(socket, packet.id, handlers))
            return
        result = handler.function(socket, *args)
        if packet.id is not None:
            socket.acknowledge(packet.id, result)

    async def _run(self, handler: Handler, socket: Socket, args: tuple[Any, ...], ack: int | None) -> None:
        try:
            result = await handler.function(socket, *args)
        except Disconnected:
            if socket.closed is None:
                raise
            return  # its own peer left while it asked something of it
        if ack is not None:
            socket.acknowledge(ack, result)

    # Coming and going.

    def _connect(self, packet: Connect) -> None:
        namespace = self._namespaces.get(packet.namespace)
        if namespace is None:
            self._refuse(packet.namespace, ConnectRefused("Invalid namespace"))
            return
        socket = self._sockets[packet.namespace] = Socket(self, namespace.name, namespace.rooms)
        handler = namespace.handlers.get("connect")
        if handler is None:
            self._accept(socket)
        elif handler.kind is Kind.QUEUED:
            self.connection.queue(partial(self._ask, handler, socket, _credentials(packet)))
        else:
            self._ask_now(handler, socket, _credentials(packet))

    async def _ask(self, handler: Handler, socket: Socket, data: Any) -> None:
        try:
            await handler.function(socket, *_auth(handler, data))
        except ConnectRefused as refusal:
            self.decide(socket, refusal)
        else:
            self.decide(socket)

    def _ask_now(self, handler: Handler, socket: Socket, data: Any) -> None:
        verdict = Verdict(self, socket)
        try:
            if handler.kind is _LATER:
                handler.function(socket, *_auth(handler, data), answer=verdict)
                return
            handler.function(socket, *_auth(handler, data))
        except ConnectRefused as refusal:
            verdict(refusal)
        else:
            verdict()

    def decide(self, socket: Socket, refusal: ConnectRefused | None = None) -> None:
        """The connect handler has let the socket in, or not."""
        if refusal is None:
            self._accept(socket)
        else:
            self._refuse(socket.namespace, refusal)

    def _accept(self, socket: Socket) -> None:
        """Also when the connection ended meanwhile: whoever has said yes to a socket is told of its end."""
        self.session.accepted(socket.namespace)
        self._namespaces[socket.namespace].sockets[socket.id] = socket
        self.deadline = self._next_deadline()
        answer = None if self.connection.revision == 3 else {"sid": socket.id}
        self.connection.send(Encoded.socket(Connect(socket.namespace, answer)))
        socket.accepted()

    def _refuse(self, namespace: str, refusal: ConnectRefused) -> None:
        self.session.refused(namespace)
        socket = self._sockets.pop(namespace, None)
        if socket is not None:
            socket.ended(CloseReason.SERVER_DISCONNECT)
        data: Any = {"message": refusal.message}
        if refusal.data is not None:
            data["data"] = refusal.data
        if self.connection.revision == 3:
            data = refusal.message if refusal.data is None else refusal.data
        self.connection.send(Encoded.socket(ConnectError(namespace, data)))

    def left(self, socket: Socket, reason: CloseReason) -> None:
        """A socket has left its namespace while the connection lives on."""
        self._end(socket, reason)
        if socket not in self._owed:
            return
        handler = self._namespaces[socket.namespace].handlers["disconnect"]
        if handler.kind is Kind.QUEUED or self.connection.handlers.busy:  # after what the peer said before it left
            self.connection.queue(partial(self._say_goodbye, socket))
        else:
            handler.function(socket, self._owed.pop(socket))

    def _end(self, socket: Socket, reason: CloseReason) -> None:
        """Forget a socket; if it was connected, its disconnect handler is owed from now on."""
        del self._sockets[socket.namespace]
        namespace = self._namespaces[socket.namespace]
        was_connected = namespace.sockets.pop(socket.id, None) is not None
        if was_connected and "disconnect" in namespace.handlers:
            self._owed[socket] = reason
        socket.ended(reason)

    async def _say_goodbye(self, socket: Socket) -> None:
        reason = self._owed.pop(socket, None)
        if reason is None:
            return
        handler = self._namespaces[socket.namespace].handlers["disconnect"]
        if handler.kind is not _QUEUED:
            handler.function(socket, reason)
            return
        with trio.move_on_after(self.connection.settings.close_timeout, shield=True):
            await handler.function(socket, reason)

    def ending(self) -> None:
        """The sockets that are connected end; one whose connect handler runs may still be accepted, and ends later."""
        assert self.connection.reason is not None
        for socket in tuple(self._sockets.values()):
            if self.session.state(socket.namespace) is NamespaceState.CONNECTED:
                self._end(socket, self.connection.reason)

    async def closed(self, reason: CloseReason) -> None:
        """The connection has ended: every socket ends with it, and each disconnect handler runs once.

        One that fails does not stop the others: what went wrong is raised together, afterwards.
        """
        errors: list[Exception] = []
        for socket in tuple(self._sockets.values()):
            try:
                self._end(socket, reason)
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
        for socket in tuple(self._owed):
            try:
                await self._say_goodbye(socket)
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
        if errors:
            raise ExceptionGroup("what the end of a connection made fail", errors)


def _credentials(packet: Connect) -> dict[str, Any] | None:
    """What the peer sent along; clients of Socket.IO 2 put it into the namespace's name: `/admin?token=1`."""
    if packet.data is not None or not packet.query:
        return packet.data
    try:
        return dict(urllib.parse.parse_qsl(packet.query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError:
        raise RemoteProtocolError(f"more than {MAX_QUERY_FIELDS} query fields", CloseReason.POLICY) from None


def _auth(handler: Handler, data: Any) -> tuple[Any, ...]:
    return (data,) if handler.most >= 1 else ()
