"""Socket.IO on a client's connection: packets in, handlers called, events kept for whoever iterates."""

import logging
import math
from collections import deque
from functools import partial
from typing import Any

import trio

from engineio_trio.errors import CloseReason, ConnectRefused, RemoteProtocolError
from engineio_trio.protocol.codec import Decoder
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.socket import Ack, Connect, ConnectError, Disconnect, Event, SocketPacket
from engineio_trio.protocol.socket_session import CLIENT_TRANSITIONS, NamespaceState, SocketSession, Step
from engineio_trio.server.connection import Connection
from engineio_trio.server.namespace import Handler, Kind
from engineio_trio.server.rooms import Rooms
from engineio_trio.server.socket import Socket

logger = logging.getLogger("engineio_trio")

ATTACHMENT_PATIENCE = 10.0  # seconds for the attachments that a packet announced


class ClientApplication:
    """The Socket.IO side of a client's connection: an Application (see `server.connection`), and its peer's Owner.

    `peer` sends and counts acknowledgements exactly as a server's socket does; it is in no room.
    """

    def __init__(self, connection: Connection, namespace: str) -> None:
        settings = connection.settings
        self.connection = connection
        self.session = SocketSession(
            max_namespaces=1, max_pending_acks=settings.max_pending_acks, table=CLIENT_TRANSITIONS
        )
        self.deadline = math.inf
        self.peer = Socket(self, namespace, Rooms())
        self.sid = ""
        self.refusal: ConnectRefused | None = None
        self.handlers: dict[str, Handler] = {}
        self.waiting: deque[Event] = deque()  # for the iteration
        self.iterated = False
        self.changed = trio.lowlevel.ParkingLot()  # woken by an event, by one taken, by the end
        self._decoder = Decoder(
            max_attachments=settings.max_attachments, max_bytes=settings.max_payload, max_depth=settings.max_depth
        )

    async def join(self, auth: dict[str, Any] | None) -> None:
        """Ask for the namespace and wait for the verdict, or for the end of the connection."""
        namespace = self.peer.namespace
        self.connection.send(Encoded.socket(Connect(namespace, auth)))
        self.session.asked(namespace)
        while self.session.state(namespace) is NamespaceState.CONNECTING and self.peer.closed is None:
            await self.changed.park()

    def leave(self) -> None:
        """Say DISCONNECT if there is someone to hear it, and end the connection."""
        namespace = self.peer.namespace
        if self.session.state(namespace) is NamespaceState.CONNECTED and self.connection.reason is None:
            self.connection.send(Encoded.socket(Disconnect(namespace)))
            self.session.left(namespace)
            self.left(self.peer, CloseReason.CLIENT_DISCONNECT)
        self.connection.close(CloseReason.CLIENT_DISCONNECT)

    # What the connection asks of its application.

    def opened(self) -> None:
        """Nothing: `join` begins."""

    def message(self, data: str | bytes) -> None:
        """An Engine.IO message: part of a Socket.IO packet. Raises RemoteProtocolError."""
        packet = self._decoder.feed(data)
        if packet is not None:
            self._dispatch(packet)
        self.deadline = trio.current_time() + ATTACHMENT_PATIENCE if self._decoder.waiting else math.inf

    @property
    def full(self) -> bool:
        """Nothing more should be read for now: handlers are behind, or the iteration is."""
        return self.connection.handlers.full or (self.iterated and self._crowded)

    @property
    def _crowded(self) -> bool:
        return len(self.waiting) >= self.connection.settings.handler_queue

    async def room(self) -> None:
        """Return when handlers and the iteration have caught up."""
        while self.full:
            if self.connection.handlers.full:
                await self.connection.handlers.room()
            else:
                await self.changed.park()

    def on_deadline(self, now: float) -> None:
        """Announced attachments did not come."""
        self.connection.close(CloseReason.POLICY)

    def ending(self) -> None:
        """The connection is closing: whoever waits for an answer is released."""
        assert self.connection.reason is not None
        self.left(self.peer, self.connection.reason)

    async def closed(self, reason: CloseReason) -> None:
        """The connection has ended."""
        self.left(self.peer, reason)

    def left(self, socket: Socket, reason: CloseReason) -> None:
        """The socket has left its namespace: the first reason stands."""
        if socket.closed is None:
            socket.ended(reason)
        self.changed.unpark_all()

    # Packets.

    def _dispatch(self, packet: SocketPacket) -> None:
        step = self.session.receive(packet)
        if step is Step.EVENT:
            assert isinstance(packet, Event)
            self._event(packet)
        elif step is Step.ACK:
            assert isinstance(packet, Ack)
            self.peer.acknowledged(packet)
        elif step is Step.JOINED:
            assert isinstance(packet, Connect)
            self.sid = str((packet.data or {}).get("sid", ""))
            self.peer.accepted()
            self.changed.unpark_all()
        elif step is Step.REFUSED:
            assert isinstance(packet, ConnectError)
            self.refusal = _refusal(packet.data)
            self.changed.unpark_all()
        elif step is Step.LEAVE:
            self.left(self.peer, CloseReason.SERVER_DISCONNECT)
            self.connection.close(CloseReason.SERVER_DISCONNECT)

    def _event(self, packet: Event) -> None:
        handler = self.handlers.get(packet.name)
        if handler is not None:
            self.run(handler, packet)
            return
        if not self.iterated and self._crowded:
            lost = self.waiting.popleft()
            logger.warning("event %r is dropped: it has no handler, and nobody iterates over the socket", lost.name)
        self.waiting.append(packet)
        self.changed.unpark_all()

    def run(self, handler: Handler, packet: Event) -> None:
        """Call a handler, or queue it if it is async; what it returns is the acknowledgement."""
        try:
            handler.check(packet.name, packet.args)
        except RemoteProtocolError as error:
            logger.warning("the handler's parameters do not fit, so the connection ends: %s", error)
            raise
        if handler.kind is Kind.QUEUED:
            self.connection.queue(partial(self._run_queued, handler, packet))
            return
        result = handler.function(*packet.args)
        if packet.id is not None:
            self.peer.acknowledge(packet.id, result)

    async def _run_queued(self, handler: Handler, packet: Event) -> None:
        result = await handler.function(*packet.args)
        if packet.id is not None:
            self.peer.acknowledge(packet.id, result)


def _refusal(data: dict[str, Any] | str) -> ConnectRefused:
    if isinstance(data, str):
        return ConnectRefused(data)
    return ConnectRefused(str(data.get("message", "")), data.get("data"))
