"""One peer: its Engine.IO session, what is queued for it, its nursery, and the one `close(reason)`.

A connection is run by one task, which is also its reader. Most never need another, so it begins alone; its nursery is
opened when something has to wait to be written (a writer), when an `async def` handler is called (a handler task), or
when the transport asks for a task. The transport may change under it (an upgrade); the connection stays. A client's
connection is the same thing with the other state machine.
"""

import contextlib
import math
from collections.abc import Sequence

import trio

from engineio_trio.errors import CloseReason, Disconnected, RemoteProtocolError
from engineio_trio.handshake import Handshake
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Packet, PacketType, decode_binary, decode_text
from engineio_trio.protocol.engine_session import Action, ClientEngineSession, Door, Due, EngineSession
from engineio_trio.server.base import Application
from engineio_trio.server.handlers import NO_HANDLERS, HandlerQueue, Job
from engineio_trio.server.outbox import Outbox, OutboxFull
from engineio_trio.server.round import Round
from engineio_trio.settings import Settings
from engineio_trio.transport.base import NurseryNeeded, Transport, TransportEnded, TransportReplaced
from engineio_trio.transport.polling import PollingTransport

PING = Encoded.engine(Packet(PacketType.PING))
PONG = Encoded.engine(Packet(PacketType.PONG))


class Connection:
    """One Engine.IO session, alive from its handshake until `closed`.

    `sid` is the secret by which its requests are known; `engine` is the state machine of this side.
    """

    __slots__ = (
        "_alone", "_closed", "_due", "_ended", "_failure", "_nursery", "_round", "_touched", "_waiting", "_written",
        "application", "engine", "handlers", "handshake", "outbox", "reason", "revision", "seen", "settings", "sid",
        "transport",
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
        round: Round | None = None,
    ) -> None:
        self.sid = sid
        self.engine = engine
        self.handshake = handshake
        self.settings = settings
        self.transport = transport
        self.revision = revision
        self.outbox = Outbox(settings.outbox_bytes)
        self.application: Application
        self.seen = trio.current_time()
        self.reason: CloseReason | None = None
        self._ended = False
        self._closed: trio.Event | None = None  # while somebody waits for the end
        self._round = round or Round()
        self._touched = 0  # by the round of this number: what is queued is written at its end, or later
        self._alone = True  # no other task is needed so far
        self._nursery: trio.Nursery | None = None
        self.handlers = NO_HANDLERS
        self._written: trio.Event | None = None  # the writer has begun; set: it has ended
        self._waiting = trio.CancelScope()  # around what the reader waits for: its deadline is the heartbeat
        self._due = math.inf  # that deadline
        self._failure: Exception | None = None  # of a handler, for `run` to raise

    # Out.

    def send(self, encoded: Encoded) -> None:
        """Queue a message for the peer; never waits. A peer that does not read is closed as a slow consumer."""
        if self.outbox.is_idle and not self._round.is_open and not self.transport.soon():
            self._send_alone(encoded)
            return
        try:
            self.outbox.put(encoded)
        except OutboxFull:
            if not self._touched:
                self.close(CloseReason.SLOW_CONSUMER)
                return
            self.write_through()  # what this round has put off is not the peer's fault
            self.send(encoded)
            return
        if not self._round.is_open:
            if not self.transport.soon():
                self.write_through()
        elif self._touched != self._round.number:
            self._touched = self._round.number
            self._round.touch(self)

    def write_through(self) -> None:
        """Write at once what goes at once. Waking a writer costs three times the write itself."""
        self._touched = 0
        batch = self.outbox.take_nowait()
        if not batch:
            return
        left = self.transport.send_nowait(batch)
        if left == 0:
            self.outbox.written(batch)
        elif left is None and not self.transport.asked:
            self.outbox.keep(batch)
        else:
            self.outbox.leave(batch, left)
            self._need_writer()

    def _send_alone(self, encoded: Encoded) -> None:
        """As queueing it and writing through, when nothing else waits: a sixth fewer instructions for a delivery."""
        left = self.transport.send_nowait((encoded,))
        if left != 0:
            self.outbox.put(encoded)
            self.outbox.leave(self.outbox.take_nowait(), left)
            self._need_writer()

    async def flush(self) -> None:
        """Return when all that was sent so far has been written. Raises Disconnected if it cannot be."""
        if self._touched:
            self.write_through()
        if not await self.outbox.flush():
            raise Disconnected(self.reason or CloseReason.TRANSPORT_CLOSE)

    def close(self, reason: CloseReason) -> None:
        """End the connection: the only way it ends. The first reason stands; the rest happens in `run`."""
        if self.reason is None:
            self.reason = reason
            self.engine.close()
            self.outbox.close()
            self._waiting.cancel()

    async def wait_closed(self) -> None:
        """Return when it has ended."""
        if not self._ended:
            if self._closed is None:
                self._closed = trio.Event()
            await self._closed.wait()

    # Tasks beside the reader.

    def expect_tasks(self) -> None:
        """There will be handlers to be run: open the nursery before the reader begins to wait, not when it waits."""
        self._alone = False

    def _need_nursery(self) -> None:
        if self._alone:
            self._alone = False  # `run` goes on with a nursery
            if not self.transport.interrupt():
                self._waiting.cancel()

    def _need_writer(self) -> None:
        if self._nursery is None:
            self._need_nursery()
        elif self._written is None:
            self._written = trio.Event()
            self._nursery.start_soon(self._write, self._written)

    def queue(self, job: Job) -> None:
        """Have the handler task run a job, after those before it; never waits. The reader waits if there are many."""
        self._need_nursery()
        self.need_handlers().put(job)

    def need_handlers(self) -> HandlerQueue:
        """`handlers`, from now on a queue of its own."""
        if self.handlers is NO_HANDLERS:
            self.handlers = HandlerQueue(self.settings.handler_queue, self._nursery, self._fail)
        return self.handlers

    def replace_transport(self, transport: Transport) -> None:
        """Go on over `transport` (an upgrade has been agreed); what is queued follows there, in order."""
        old, self.transport = self.transport, transport
        if isinstance(old, PollingTransport):
            old.replace()
            self.write_through()

    async def run(self) -> None:
        """Live until closed, then say goodbye and tell the application. Run it once, at the connection boundary."""
        try:
            self._begin()
            await self._read(None)
            if self._alone and self._is_abrupt():
                self.application.ending()
            else:
                await self._run_with_tasks()
        finally:
            await self._end()

    def _begin(self) -> None:
        try:
            self.application.opened()
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A handler failed: `run` raises it, at the boundary."""
        self._failure = self._failure or error
        self.close(CloseReason.INTERNAL_ERROR)

    def _end_by(self, error: Exception) -> None:
        """What the peer said cannot be dealt with: by its own fault, or by ours."""
        if isinstance(error, RemoteProtocolError):
            self.close(error.reason)
        else:
            self._fail(error)

    async def _run_with_tasks(self) -> None:
        """The rest of its life, in which there may be other tasks."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if self.handlers is not NO_HANDLERS:
                self.handlers.open(nursery)
            if self.outbox.owes or (self.outbox.waiting and self.transport.asked):
                self._need_writer()
            try:
                await self._read(nursery)
                await self._part(nursery)
            finally:
                self.outbox.abandon()  # a round may come by until `_end`, and nothing can be started here by then
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _part(self, nursery: trio.Nursery) -> None:
        """Let the handlers come to an end, and what is queued go out, and say goodbye."""
        if not self._is_abrupt():
            if isinstance(self.transport, PollingTransport):
                self.transport.closing()
            if self.outbox.waiting:
                self._need_writer()
        self.application.ending()
        with trio.move_on_after(self.settings.close_timeout):
            await self.handlers.idle()
        if not self._is_abrupt():
            with trio.move_on_after(self.settings.close_timeout, shield=self._failure is not None):  # it may fail again
                if self._written is not None:
                    await self._written.wait()
                assert self.reason is not None
                with contextlib.suppress(TransportEnded, TransportReplaced):  # it left by itself
                    await self.transport.goodbye(self.reason, nursery)

    def _is_abrupt(self) -> bool:
        """Whether there is nobody to say goodbye to: gone, or (a bad POST) told already by its 400."""
        told = self.reason is CloseReason.PARSE_ERROR and isinstance(self.transport, PollingTransport)
        return told or (self.reason is not None and self.reason.is_abrupt)

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
            self._ended = True
            if self._closed is not None:
                self._closed.set()

    async def _read(self, nursery: trio.Nursery | None) -> None:
        """Read until closed; without a nursery, until one is needed."""
        while self.reason is None and (self._alone or nursery is not None):
            try:
                self.transport.open_lane(self)
                await self._read_some(nursery)
            except TransportReplaced:
                continue
            except NurseryNeeded:
                self._alone = False
            except TransportEnded as end:
                self.close(end.reason)
            except Exception as error:  # noqa: BLE001 - raised by `run`
                self._end_by(error)

    async def _read_some(self, nursery: trio.Nursery | None) -> None:
        packets = None
        self._due = min(self.engine.deadline, self.application.deadline)
        self._waiting = trio.CancelScope(deadline=self._due)
        with self._waiting:
            packets = await self.transport.receive(nursery)
        now = trio.current_time()
        if packets is None:
            await self._on_deadline(now)
            return
        if packets:
            self.seen = now
        for packet in packets:
            self._receive(packet, now)
            if self.application.full:
                await self._wait_for_room()
            if self.reason is not None:
                return
        if not packets:  # the lane is full
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        """Handlers are behind, so nothing is read: pings go out all the same, and silence is nobody's fault."""
        while self.application.full and self.reason is None and (self._alone or self._nursery is not None):
            began = trio.current_time()
            awaiting = self.engine.awaiting_pong  # it may be waiting to be read, but the peer waits for our next ping
            deadline = began + self.settings.ping_interval if awaiting else self.engine.deadline
            self._waiting = trio.CancelScope(deadline=deadline)
            with self._waiting:
                await self.application.room()
            now = trio.current_time()
            self.engine.not_read(now - began)
            if self.engine.on_deadline(now) is Due.SEND_PING or (awaiting and now >= deadline):
                self.send(PING)

    # The express lane (see `transport.base.Lane`): messages, straight from who reads them.

    @property
    def full(self) -> bool:
        """Handlers are behind, or the connection's own task is to open its nursery first."""
        behind = self.handlers is not NO_HANDLERS and self.application.full  # asked of all, it is 3 % of an echo
        return behind or (self._nursery is None and not self._alone)

    async def room(self) -> None:
        """Return when they have caught up."""
        self._due = self._waiting.deadline = -math.inf  # the connection's own task is to see to the heartbeat meanwhile
        await self.application.room()

    def deliver(self, message: str | bytes) -> None:
        """Deal with a message; what it makes is written at the next pause, in one go."""
        if self.reason is not None:
            return
        if not self._round.is_open:
            self._round.begin()
        self.seen = self._round.now
        try:
            if isinstance(message, str):
                if message[:1] == "4":  # nearly always: what the table says for it, in every state that has a lane
                    self.application.message(message[1:])
                else:
                    self._receive(decode_text(message), self.seen)
            else:
                self._receive(decode_binary(message, self.revision), self.seen)
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._end_by(error)

    def take(self, packets: Sequence[Packet]) -> int:
        """Deal with packets, until there is no room for more or the connection ends: how many it were."""
        if not self._round.is_open:
            self._round.begin()
        self.seen = self._round.now
        taken = 0
        try:
            for packet in packets:
                if self.reason is not None or self.full:
                    break
                self._receive(packet, self.seen)
                taken += 1
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._end_by(error)
        self.pause()
        return taken

    def pause(self) -> None:
        """Write what the messages made."""
        if self._round.is_open:
            self._round.end()
            if self.engine.deadline < self._due or self.application.deadline < self._due:
                # a pong: the next ping may be due long before this one's timeout
                self._due = self._waiting.deadline = min(self.engine.deadline, self.application.deadline)

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
        try:
            await self.outbox.drain(self)
        except TransportEnded as end:
            self.close(end.reason)
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._fail(error)
        written.set()
