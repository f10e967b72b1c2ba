"""One peer: its Engine.IO session, what is queued for it, its nursery, and the one `close(reason)`.

A connection is run by one task, which is also its reader. Beside it stand a writer, and a handler task once an
`async def` handler is needed. The transport may change under it (an upgrade); the connection stays. A client's
connection is the same thing with the other state machine.
"""

import math
from collections.abc import Callable
from typing import Protocol

import trio

from engineio_trio.errors import CloseReason, Disconnected, RemoteProtocolError
from engineio_trio.handshake import Handshake
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Open, Packet, PacketType, decode_binary, decode_text
from engineio_trio.protocol.engine_session import Action, ClientEngineSession, Door, Due, EngineSession
from engineio_trio.server.handlers import HandlerQueue
from engineio_trio.server.outbox import Outbox, OutboxFull
from engineio_trio.settings import Settings
from engineio_trio.transport.base import Transport, TransportEnded, TransportReplaced
from engineio_trio.transport.polling import PollingTransport

PING = Encoded.engine(Packet(PacketType.PING))
PONG = Encoded.engine(Packet(PacketType.PONG))

# After these there is no one left to tell: what is still queued is dropped.
ABRUPT = frozenset(
    (
        CloseReason.TRANSPORT_CLOSE,
        CloseReason.TRANSPORT_ERROR,
        CloseReason.PING_TIMEOUT,
        CloseReason.SLOW_CONSUMER,
    )
)


class Application(Protocol):
    """What is spoken on top of a session: Socket.IO, or an EngineServer's handler."""

    @property
    def deadline(self) -> float:
        """Trio time at which `on_deadline` is due; `math.inf` when it is not waiting for the peer."""

    def opened(self) -> None:
        """The session is there. What is sent here goes out right after OPEN."""

    def message(self, data: str | bytes) -> None:
        """A message of the peer. RemoteProtocolError ends the connection; may queue jobs on `connection.handlers`."""

    @property
    def full(self) -> bool:
        """Handlers are behind: nothing more should be read for now."""

    async def room(self) -> None:
        """Return when handlers have caught up."""

    def on_deadline(self, now: float) -> None:
        """The deadline has passed."""

    def ending(self) -> None:
        """The connection is closing: nothing more comes from the peer. What it said before is still handled, within

        `close_timeout`, so whoever waits for an answer of it must be released now.
        """

    async def closed(self, reason: CloseReason) -> None:
        """The connection has ended. Runs shielded, and bounded by `close_timeout`."""


class Connection:
    """One Engine.IO session, alive from its handshake until `closed`.

    `sid` is the secret by which its requests are known; `engine` is the state machine of this side.
    """

    __slots__ = (
        "_begin", "_corked", "_failure", "_patience", "_reading", "application", "closed", "engine", "handlers",
        "handshake", "outbox", "reason", "revision", "seen", "settings", "sid", "transport",
    )  # fmt: skip

    def __init__(
        self,
        *,
        sid: str,
        engine: EngineSession | ClientEngineSession,
        handshake: Handshake,
        settings: Settings,
        transport: Transport,
        revision: int,
    ) -> None:
        self.sid = sid
        self.engine = engine
        self.handshake = handshake
        self.settings = settings
        self.transport = transport
        self.revision = revision
        self.outbox = Outbox(settings.outbox_bytes)
        self.handlers = HandlerQueue(settings.handler_queue)
        self.application: Application
        self.seen = trio.current_time()
        self.reason: CloseReason | None = None
        self.closed = trio.Event()
        self._begin: Callable[[], None] | None = None
        self._reading = trio.CancelScope()
        self._patience = trio.CancelScope()  # around each wait for the peer: its deadline is the heartbeat
        self._corked = False
        self._failure: Exception | None = None  # of a handler in the lane, for `run` to raise

    def open(self, application: Application) -> None:
        """A server's part: say OPEN; the application begins with `run`."""
        self.application = application
        self._begin = application.opened
        upgrades = ("websocket",) if isinstance(self.transport, PollingTransport) else ()
        settings = self.settings
        opening = Open(self.sid, upgrades, settings.ping_interval, settings.ping_timeout, settings.max_payload)
        self.send(Encoded.engine(opening.packet()))

    def send(self, encoded: Encoded) -> None:
        """Queue a message for the peer; never waits. A peer that does not read is closed as a slow consumer."""
        try:
            self.outbox.put(encoded)
        except OutboxFull:
            self.close(CloseReason.SLOW_CONSUMER)
            return
        if not self._corked:
            self._write_through()

    def _write_through(self) -> None:
        """Write at once what goes at once. Waking the writer costs three times the write itself."""
        batch = self.outbox.take_nowait()
        left = self.transport.send_nowait(batch) if batch else None
        if left is None:
            self.outbox.put_back(batch)
        elif left:
            self.outbox.owe(batch)
        else:
            self.outbox.written(batch)

    async def flush(self) -> None:
        """Return when all that was sent so far has been written. Raises Disconnected if it cannot be."""
        if not await self.outbox.flush():
            raise Disconnected(self.reason or CloseReason.TRANSPORT_CLOSE)

    def close(self, reason: CloseReason) -> None:
        """End the connection: the only way it ends. The first reason stands; the rest happens in `run`."""
        if self.reason is None:
            self.reason = reason
            self.engine.close()
            self.outbox.close()
            self._reading.cancel()

    def replace_transport(self, transport: Transport) -> None:
        """Go on over `transport` (an upgrade has been agreed); what is queued follows there, in order."""
        old, self.transport = self.transport, transport
        if isinstance(old, PollingTransport):
            old.replace()

    async def run(self) -> None:
        """Live until closed, then say goodbye and tell the application. Run it once, at the connection boundary."""
        try:
            async with trio.open_nursery() as nursery:
                self.handlers.open(nursery)
                if self._begin is not None:
                    self._begin()
                written = trio.Event()
                nursery.start_soon(self._write, written)
                with self._reading:
                    await self._read()
                if self._failure is not None:
                    raise self._failure
                if isinstance(self.transport, PollingTransport) and not self._is_abrupt():
                    self.transport.closing()
                self.application.ending()
                with trio.move_on_after(self.settings.close_timeout):
                    await self.handlers.idle()
                if not self._is_abrupt():
                    with trio.move_on_after(self.settings.close_timeout):
                        await written.wait()
                        await self._goodbye()
                nursery.cancel_scope.cancel()
        except Exception:
            self.close(CloseReason.INTERNAL_ERROR)
            self.application.ending()
            with trio.move_on_after(self.settings.close_timeout, shield=True):
                await self._goodbye()
            raise
        finally:
            await self._end()

    def _is_abrupt(self) -> bool:
        """Whether there is nobody to say goodbye to: gone, or (a bad POST) told already by its 400."""
        told = self.reason is CloseReason.PARSE_ERROR and isinstance(self.transport, PollingTransport)
        return told or self.reason in ABRUPT

    async def _end(self) -> None:
        self.close(CloseReason.SHUTDOWN)
        assert self.reason is not None
        self.outbox.abandon()
        if isinstance(self.transport, PollingTransport):
            self.transport.end(self.reason)
        try:
            with trio.move_on_after(self.settings.close_timeout, shield=True):
                await self.application.closed(self.reason)
        finally:
            self.closed.set()

    async def _goodbye(self) -> None:
        assert self.reason is not None
        try:
            await self.transport.goodbye(self.reason)
        except (TransportEnded, TransportReplaced):
            return  # it left by itself

    async def _read(self) -> None:
        while self.reason is None:
            try:
                self.transport.open_lane(self)
                await self._read_some()
            except TransportReplaced:
                continue
            except TransportEnded as end:
                self.close(end.reason)
            except RemoteProtocolError as error:
                self.close(error.reason)

    async def _read_some(self) -> None:
        packets = None
        self._patience = trio.CancelScope(deadline=min(self.engine.deadline, self.application.deadline))
        with self._patience:
            packets = await self.transport.receive()
        now = trio.current_time()
        if packets is None:
            await self._on_deadline(now)
            return
        self.seen = now
        for packet in packets:
            self._receive(packet, now)
            if self.application.full:
                await self._wait_for_room()
            if self.reason is not None:
                return

    async def _wait_for_room(self) -> None:
        """Handlers are behind, so nothing is read: pings go out all the same, and silence is nobody's fault."""
        while self.application.full:
            began = trio.current_time()
            awaiting = self.engine.awaiting_pong  # it may be waiting to be read, but the peer waits for our next ping
            deadline = began + self.settings.ping_interval if awaiting else self.engine.deadline
            with trio.CancelScope(deadline=deadline):
                await self.application.room()
            now = trio.current_time()
            self.engine.not_read(now - began)
            if self.engine.on_deadline(now) is Due.SEND_PING or (awaiting and now >= deadline):
                self.send(PING)

    # The express lane (see `transport.base.Lane`): messages, straight from the WebSocket's reader.

    @property
    def full(self) -> bool:
        """Handlers are behind."""
        return self.application.full

    async def room(self) -> None:
        """Return when they have caught up."""
        self._patience.deadline = -math.inf  # the connection's own task is to see to the heartbeat meanwhile
        await self.application.room()

    def deliver(self, message: str | bytes) -> None:
        """Deal with a message; what it makes is written at the next pause, in one go."""
        if self.reason is not None:
            return
        self._corked = True
        self.seen = now = trio.current_time()
        try:
            if isinstance(message, str):
                if message[:1] == "4":  # nearly always: what the table says for it, in every state that has a lane
                    self.application.message(message[1:])
                else:
                    self._receive(decode_text(message), now)
            else:
                self._receive(decode_binary(message, self.revision), now)
        except RemoteProtocolError as error:
            self.close(error.reason)
        except Exception as error:  # noqa: BLE001 - not swallowed: `run` raises it, at the boundary
            self._failure = error
            self.close(CloseReason.INTERNAL_ERROR)

    def pause(self) -> None:
        """Write what the messages made."""
        if self._corked:
            self._corked = False
            due = min(self.engine.deadline, self.application.deadline)
            if due < self._patience.deadline:  # a pong: the next ping may be due long before this one's timeout
                self._patience.deadline = due
            if self.outbox.queued:
                self._write_through()

    def _receive(self, packet: Packet, now: float) -> None:
        action = self.engine.receive(packet, Door.CURRENT, now)
        if action is Action.DELIVER:
            self.application.message(packet.data)
        elif action is Action.ANSWER_PING:
            self.send(PONG)  # never with the ping's data, as the reference implementation
        elif action is Action.CLOSE:
            self.close(CloseReason.TRANSPORT_CLOSE)

    async def _on_deadline(self, now: float) -> None:
        if self.application.full:
            await self._wait_for_room()
            return
        due = self.engine.on_deadline(now)
        if due is Due.SEND_PING:
            self.send(PING)
        elif due is Due.TIMED_OUT:
            self.close(CloseReason.PING_TIMEOUT)
        if now >= self.application.deadline:
            self.application.on_deadline(now)

    async def _write(self, written: trio.Event) -> None:
        while (batch := await self.outbox.take()) is not None:
            if not await self._write_batch(batch):
                break
        written.set()

    async def _write_batch(self, batch: list[Encoded]) -> bool:
        while True:
            try:
                await self.transport.send(batch)
            except TransportReplaced:
                continue
            except TransportEnded as end:
                self.close(end.reason)
                return False
            self.outbox.written(batch)
            return True
