"""A client's socket: a program's hold on one namespace of a server."""

from collections.abc import Callable
from typing import Any

import trio

from engineio_trio.client.application import ClientApplication
from engineio_trio.client.polling import ClientPolling
from engineio_trio.errors import CloseReason, LocalProtocolError
from engineio_trio.protocol.socket import RESERVED_EVENTS
from engineio_trio.protocol.socket import Event as EventPacket
from engineio_trio.server.namespace import Function, Handler
from engineio_trio.server.socket import CALL_TIMEOUT, Socket


class Event:
    """An event of the server that has no handler, as the iteration gives it: `name`, `args`, and `ack`."""

    __slots__ = ("_ack", "_peer", "args", "name")

    def __init__(self, packet: EventPacket, peer: Socket) -> None:
        self.name = packet.name
        self.args = packet.args
        self._ack = packet.id
        self._peer = peer

    def __repr__(self) -> str:
        return f"<Event {self.name!r} {self.args!r}>"

    @property
    def wants_ack(self) -> bool:
        """Whether the server waits for `ack`."""
        return self._ack is not None

    def ack(self, *values: Any) -> None:
        """Answer; queued, never waits. LocalProtocolError if the server did not ask, or has its answer."""
        if self._ack is None:
            raise LocalProtocolError(f"event {self.name!r} does not ask for an acknowledgement, or not any more")
        self._peer.acknowledge(self._ack, values)
        self._ack = None


class ClientSocket:
    """One namespace of a server, joined. Made by `connect`.

    Events go to the handlers that `on` registers; those without one are kept, in order, for `async for event in
    socket`, which ends when the socket has closed (`closed` says why). When `Settings.handler_queue` of them wait the
    client stops reading; before anyone has begun to iterate, the oldest are dropped instead, with a warning.
    """

    def __init__(self, application: ClientApplication) -> None:
        self.id = application.sid
        self.namespace = application.peer.namespace
        self._application = application
        self._peer = application.peer

    def __repr__(self) -> str:
        return f"<ClientSocket {self.id} in {self.namespace}>"

    @property
    def closed(self) -> CloseReason | None:
        """Why the socket has closed; None while it is open. SERVER_DISCONNECT: the server does not want us back."""
        return self._peer.closed

    @property
    def transport(self) -> str:
        """What carries the session just now: `"polling"` or `"websocket"`."""
        return "polling" if isinstance(self._application.connection.transport, ClientPolling) else "websocket"

    def on(self, event: str) -> Callable[[Function], Function]:
        """A decorator that makes `function(*args)` the handler of an event.

        A plain function runs at once, inside the reader, and must not block; an async one runs in order in the
        connection's handler task, may wait and may `call`. What it returns is the acknowledgement (a tuple gives
        several values). Events of that name that are waiting already are handled first. An error in a handler ends
        the connection, and comes out of `connect`. Raises ValueError for a reserved name, or a second handler.
        """
        if event in RESERVED_EVENTS:
            raise ValueError(f"{event!r} is reserved by Socket.IO; for the end there is wait_closed()")

        def register(function: Function) -> Function:
            if event in self._application.handlers:
                raise ValueError(f"the event {event!r} has a handler already")
            handler = Handler.of(function, given=0)
            handler.expect_no_answer()
            self._application.handlers[event] = handler
            early = [packet for packet in self._application.waiting if packet.name == event]
            for packet in early:
                self._application.waiting.remove(packet)
                self._application.run(handler, packet)
            return function

        return register

    def emit(self, event: str, *args: Any) -> None:
        """Send an event; queued or written at once, never waits. After the socket has closed it goes nowhere.

        `args` are JSON values in which bytes may stand anywhere. Raises LocalProtocolError for a reserved event name
        or for what cannot be encoded. Events arrive in the order of the calls.
        """
        self._peer.emit(event, *args)

    async def call(self, event: str, *args: Any, timeout: float = CALL_TIMEOUT) -> Any:
        """Send an event and wait up to `timeout` seconds for the acknowledgement: None, one value, or a tuple of them.

        Raises AckTimeout, or Disconnected as soon as the socket closes. If cancelled, the event stays sent.
        """
        return await self._peer.call(event, *args, timeout=timeout)

    async def flush(self) -> None:
        """Return when all that was emitted so far has been written. Raises Disconnected if it cannot be."""
        await self._peer.flush()

    def disconnect(self) -> None:
        """Leave, after what is queued has been written. Leaving the `async with` does the same, and waits for it."""
        self._application.leave()

    async def wait_closed(self) -> CloseReason:
        """Wait for the end; the answer is its reason."""
        while self._peer.closed is None:
            await self._application.changed.park()
        return self._peer.closed

    def __aiter__(self) -> "ClientSocket":
        self._application.iterated = True
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        application = self._application
        while not application.waiting:
            if self._peer.closed is not None:
                raise StopAsyncIteration
            await application.changed.park()
        event = Event(application.waiting.popleft(), self._peer)
        application.changed.unpark_all()
        return event
