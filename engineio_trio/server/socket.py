"""A socket: one peer in one namespace, as handlers see it."""

import contextlib
import enum
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import msgspec
import trio

from engineio_trio.errors import AckTimeout, CloseReason, Disconnected, LocalProtocolError
from engineio_trio.handshake import Handshake
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.socket import Ack, Disconnect
from engineio_trio.protocol.socket_session import SocketSession
from engineio_trio.server.connection import Connection
from engineio_trio.server.rooms import Rooms

CALL_TIMEOUT = 20.0


class Stage(enum.Enum):
    """Where a socket is in its life."""

    CONNECTING = "connecting"  # its connect handler has not said yes; what it emits is held back
    CONNECTED = "connected"
    CLOSED = "closed"


_CONNECTING: Final = Stage.CONNECTING  # a member of an enum takes six times as long to look up as a name (Python 3.11)
_CONNECTED: Final = Stage.CONNECTED
_CLOSED: Final = Stage.CLOSED


class Leaving(enum.Enum):
    """What was asked of a socket while it was connecting."""

    NOT = "not"
    NAMESPACE = "namespace"
    CLOSING = "closing"


class Owner(Protocol):
    """The Socket.IO side of the connection that a socket belongs to."""

    connection: Connection
    session: SocketSession

    def left(self, socket: "Socket", reason: CloseReason) -> None:
        """The socket has left its namespace while the connection lives on."""


class Awaited(msgspec.Struct, frozen=True):  # one for each event that asks: see `Event`
    """What to run when an acknowledgement comes, or when it never will."""

    on_ack: Callable[..., None]
    on_gone: Callable[[], None] | None


class Socket:
    """One peer in one namespace. Made by the server; handlers receive it as their first argument.

    `id` is public (128 bits, random, not the session's secret), `data` is yours to fill.
    """

    __slots__ = (
        "__weakref__", "_awaited", "_early", "_early_size", "_leaving", "_owner", "_rooms", "_stage", "closed", "data",
        "id", "namespace",
    )  # fmt: skip

    def __init__(self, owner: Owner, namespace: str, rooms: "Rooms[Socket]") -> None:
        self.id = secrets.token_urlsafe(16)
        self.namespace = namespace
        self.data: dict[str, Any] = {}
        self.closed: CloseReason | None = None
        self._owner = owner
        self._rooms = rooms
        self._stage = Stage.CONNECTING
        self._leaving = Leaving.NOT
        self._early: list[Encoded] = []
        self._early_size = 0
        self._awaited: dict[int, Awaited] = {}
        rooms.join(self, self.id)

    def __repr__(self) -> str:
        return f"<Socket {self.id} in {self.namespace} {self._stage.value}>"

    @property
    def handshake(self) -> Handshake:
        """The request that opened the session."""
        return self._owner.connection.handshake

    @property
    def seen(self) -> float:
        """Trio time at which the peer was last heard, by any packet."""
        return self._owner.connection.seen

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms that the socket is in; one of them bears its id."""
        return self._rooms.of(self)

    def join(self, room: str) -> None:
        """Enter a room of this namespace; no-op when closed."""
        if self._stage is not _CLOSED:
            self._rooms.join(self, room)

    def leave(self, room: str) -> None:
        """Leave a room."""
        self._rooms.leave(self, room)

    def emit(self, event: str, *args: Any) -> None:
        """Send an event; queued or written at once, never waits. After the socket has closed it goes nowhere.

        `args` are JSON values in which bytes may stand anywhere. Raises LocalProtocolError for a reserved event name
        or for what cannot be encoded. Events arrive in the order of the calls.
        """
        self.send(Encoded.event(event, args, self.namespace))

    def emit_with_ack(
        self, event: str, *args: Any, on_ack: Callable[..., None], on_gone: Callable[[], None] | None = None
    ) -> Callable[[], None]:
        """Send an event that asks for an acknowledgement, without waiting for it.

        `on_ack(*values)` runs inside the reader when the peer acknowledges, so it must not block; `on_gone()` when the
        socket closes first. The answer is a function that awaits it no longer: then neither runs. Raises
        LocalProtocolError when `max_pending_acks` are awaited already, and in a connect handler, as `call` does.
        """
        if self._stage is _CLOSED:
            if on_gone is not None:
                on_gone()
            return _nothing
        return partial(self._forget, self._ask(event, args, Awaited(on_ack, on_gone)))

    async def call(self, event: str, *args: Any, timeout: float = CALL_TIMEOUT) -> Any:
        """Send an event and wait up to `timeout` seconds for the acknowledgement: None, one value, or a tuple of them.

        Raises AckTimeout, or Disconnected as soon as the socket closes. If cancelled, the event stays sent. Raises
        LocalProtocolError in a connect handler: what that emits is sent after it has returned, so nobody would answer.
        """
        if self.closed is not None:
            raise Disconnected(self.closed)
        answered = trio.Event()
        answer: tuple[Any, ...] | None = None

        def on_ack(*values: Any) -> None:
            nonlocal answer
            answer = values
            answered.set()

        ack = self._ask(event, args, Awaited(on_ack, answered.set))
        try:
            with trio.fail_after(timeout):
                await answered.wait()
        except trio.TooSlowError:
            raise AckTimeout(f"no acknowledgement of {event!r} within {timeout} s") from None
        finally:
            self._forget(ack)
        if answer is None:
            assert self.closed is not None, "released without an answer"
            raise Disconnected(self.closed)
        return None if not answer else answer[0] if len(answer) == 1 else answer

    def _ask(self, event: str, args: tuple[Any, ...], awaited: Awaited) -> int:
        """Send an event with a fresh acknowledgement id, which is the answer; what cannot be sent is not awaited."""
        if self._stage is _CONNECTING:
            raise LocalProtocolError(
                f"{event!r}: nobody can be asked while the connect handler runs; emit works, or ask later"
            )
        ack = self._owner.session.next_ack(self.namespace)
        self._awaited[ack] = awaited
        try:
            encoded = Encoded.event(event, args, self.namespace, ack)
        except LocalProtocolError:
            self._forget(ack)
            raise
        self._owner.connection.send(encoded)
        return ack

    def _forget(self, ack: int) -> None:
        if self._awaited.pop(ack, None) is not None:
            self._owner.session.forget_ack(self.namespace, ack)

    async def flush(self) -> None:
        """Return when all that was emitted so far has been written. Raises Disconnected if it cannot be."""
        await self._owner.connection.flush()

    def disconnect(self, *, close: bool = False) -> None:
        """Leave the namespace by the server's will: the peer gets DISCONNECT, and a stock client does not come back.

        With `close` the whole connection ends too, after what is queued has been written (within `close_timeout`).
        While its connect handler runs, a socket can only be marked: it leaves as soon as it has been let in.
        """
        if self._stage is _CONNECTING:
            self._leaving = Leaving.CLOSING if close else Leaving.NAMESPACE
            return
        if self._stage is _CONNECTED:
            self.send(Encoded.socket(Disconnect(self.namespace)))
            self._owner.session.left(self.namespace)
            self._owner.left(self, CloseReason.SERVER_DISCONNECT)
        if close:
            self._owner.connection.close(CloseReason.SERVER_CLOSE)

    def close(self, reason: CloseReason = CloseReason.SERVER_CLOSE) -> None:
        """Close the transport, after what is queued has been written; without DISCONNECT, so a stock client comes back.

        `reason` chooses the WebSocket close code, and is what disconnect handlers of the connection's sockets get.
        """
        self._owner.connection.close(reason)

    # What follows is for the server, not for handlers.

    def send(self, encoded: Encoded) -> None:
        """Queue what has been encoded already: the way of broadcasts."""
        if self._stage is _CONNECTED:
            self._owner.connection.send(encoded)
        elif self._stage is _CONNECTING:
            self._early.append(encoded)
            self._early_size += encoded.size
            if self._early_size > self._owner.connection.settings.outbox_bytes:
                self._owner.connection.close(CloseReason.SLOW_CONSUMER)

    def acknowledge(self, ack: int, result: Any) -> None:
        """Answer the peer's event with a handler's result: a tuple gives several values, None gives none."""
        values = result if isinstance(result, tuple) else () if result is None else (result,)
        self.send(Encoded.ack(ack, values, self.namespace))

    def acknowledged(self, packet: Ack) -> None:
        """The peer has acknowledged an event of ours."""
        awaited = self._awaited.pop(packet.id, None)
        if awaited is not None:
            awaited.on_ack(*packet.args)

    def accepted(self) -> None:
        """The CONNECT reply is on its way: what the connect handler emitted follows it."""
        self._stage = Stage.CONNECTED
        for encoded in self._early:
            self._owner.connection.send(encoded)
        self._early = []
        if self._leaving is not Leaving.NOT:
            self.disconnect(close=self._leaving is Leaving.CLOSING)

    def ended(self, reason: CloseReason) -> None:
        """Nothing more is sent, all rooms are left, and whoever waits for an acknowledgement is released."""
        self._stage = Stage.CLOSED
        self.closed = reason
        self._early = []
        self._rooms.leave_all(self)
        awaited, self._awaited = self._awaited, {}
        with contextlib.ExitStack() as every:  # each of them is told, even if another one fails
            for one in awaited.values():
                if one.on_gone is not None:
                    every.callback(one.on_gone)


def _nothing() -> None:
    """There is nothing to forget."""
