"""The downlink of one connection: reads the device's inbox after a cursor, sends, collects acknowledgements.

What waits is read by one loop, at connect as later. A live push brings its message along, which is sent at once if
there is nothing to read before it; else it is but a wake-up. Either way the inbox has it, so nothing falls between.
What is in memory (sent and not confirmed, confirmed and not yet written to the store) never exceeds the window.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import trio

from engineio_trio import CloseReason, Disconnected, LocalProtocolError
from pushd import jsonbytes
from pushd.backoff import persist
from pushd.config.sections import SENDINGS
from pushd.failpoint import failpoint
from pushd.model import Ack, Bound, Confirm, Message, ReceiptState
from pushd.node import Node
from pushd.peer import Peer

log = logging.getLogger(__name__)

_CLIENT: Final = Confirm.CLIENT  # a member of an enum takes six times as long to look up as a name (Python 3.11)
_ACKED: Final = ReceiptState.ACKED
_encode: Final = msgspec.json.Encoder().encode
TICK: Final = 30.0  # seconds after which the inbox is read although nobody said so: wake-ups are hints, and may be lost
BURST: Final = 65_536  # bytes sent before the pump waits for them to be written: far below a peer's outbox


class InFlight(msgspec.Struct):  # made for every message: a quarter of the time that a dataclass takes
    """A message that was sent: when (Trio time), how many times, and how to await each one's ack no longer."""

    message: Message
    sent: float
    forgets: list[Callable[[], None]]
    sendings: int = 1


class Pump:
    """Carries a device's inbox to its socket, for one epoch.

    Messages go out in rising `seq`. Each counts against the window until the store has its confirmation: the client's
    acknowledgement, or (`Confirm.WRITE`) the completed write.

    A device costs no task of its own: `run` waits in its caller's. In the usual case it is not even woken: a live push
    is sent by whoever brings it, and its confirmation is written with those of other devices (`Confirmations`).
    """

    def __init__(self, device: str, bound: Bound, peer: Peer, node: Node, confirm: Confirm) -> None:
        self._device = device
        self._epoch = bound.epoch
        self._peer = peer
        self._node = node
        self._confirm = confirm
        self._window = node.delivery.window
        self._resend_after = node.delivery.resend
        self._cursor = 0
        self._inflight: dict[int, InFlight] = {}
        self._confirmed: dict[int, ReceiptState] = {}
        self._unread = bound.waiting  # the inbox may have something after the cursor
        self._tick = trio.current_time() + TICK  # when to look into the inbox although nobody said so
        self._doubted = False  # what is confirmed must be written from here
        self._burst = 0
        self._work = trio.Event()  # one of these has changed
        self._running = False

    def wake(self) -> None:
        """The inbox may have something new."""
        self._unread = True
        self._work.set()

    def deliver(self, message: Message, after: int) -> None:
        """Send a message that has come into the inbox, and is marked as sent; before it, that ended with seq `after`.

        If it is not the next one to be sent, or there is no room for it, it is left to be read.
        """
        if message.seq <= self._cursor:
            return
        if not self._running:  # yet, or any more
            self.wake()
            return
        held = len(self._inflight) + len(self._confirmed)
        if after > self._cursor or held >= self._window or self._burst >= BURST:
            self.wake()
            return
        failpoint("deliver.fetched")
        self._send(message)
        if self._burst >= BURST or self._confirm is not _CLIENT:
            self._work.set()

    @property
    def held(self) -> int:
        """How many messages are in memory: at most the window."""
        return len(self._inflight) + len(self._confirmed)

    async def run(self) -> None:
        """Deliver until the connection ends. Raises StaleEpoch when the device is somebody else's."""
        self._running = True
        try:
            while True:
                await self._step()
        finally:
            self._running = False

    async def _step(self) -> None:
        """Do what is most urgent, or wait for something to do."""
        if self._confirm is Confirm.WRITE and self._inflight:
            await self._confirm_written()
        elif self._burst >= BURST:
            await self._flush()
        elif self._doubted:
            await self.finish()
        elif self._unread and self.held < self._window:
            await self._send_next(self._window - self.held)
        else:
            await self._rest()

    async def _rest(self) -> None:
        """Wait for work; send again what waits too long; look into the inbox now and then."""
        self._work = trio.Event()
        with trio.move_on_at(min(self._tick, self._next_resend())) as patience:
            await self._work.wait()
        if patience.cancelled_caught:
            if trio.current_time() >= self._tick:
                self._tick = trio.current_time() + TICK
                self._unread = True
            await self._resend()

    # Sending.

    async def _send_next(self, room: int) -> None:
        self._unread = False
        self._tick = trio.current_time() + TICK
        messages = await persist(partial(self._fetch, room))
        if len(messages) == room:
            self._unread = True  # there may be more than fitted
        failpoint("deliver.fetched")
        for message in messages:
            if message.seq <= self._cursor:
                continue  # it came to `deliver` meanwhile
            if self.held >= self._window:
                self._unread = True  # as others did
                break
            self._send(message)
            if self._burst >= BURST:
                await self._flush()

    async def _fetch(self, room: int) -> list[Message]:
        with self._node.metrics.store_call("fetch"):
            return await self._node.store.fetch(self._device, self._epoch, self._cursor, room)

    def _send(self, message: Message) -> None:
        """Send a message and count it in flight; one that cannot be sent at all is refused, so that others proceed."""
        self._cursor = message.seq
        if message.redelivered:
            self._node.metrics.redeliveries.inc()
        try:
            forgets = self._emit(message)
        except (ValueError, LocalProtocolError) as error:
            log.error("push %r (seq %d) for %r cannot be sent: %s", message.id, message.seq, self._device, error)
            self._settle(message.seq, ReceiptState.REFUSED)
            return
        self._inflight[message.seq] = InFlight(message, trio.current_time(), forgets)
        failpoint("deliver.sent")
        self._burst += len(message.data)

    def _emit(self, message: Message) -> list[Callable[[], None]]:
        """Send a message; how to forget that its acknowledgement is awaited, if one is."""
        arguments = arguments_of(message)
        if self._confirm is _CLIENT:
            return [self._peer.emit_with_ack(message.event, *arguments, on_ack=partial(self._acked, message.seq))]
        self._peer.emit(message.event, *arguments)
        return []

    async def _flush(self) -> None:
        """Wait until what was sent is written. Raises Disconnected, also if it may have been sent to nobody."""
        await self._peer.flush()
        if self._peer.closed is not None:
            raise Disconnected(self._peer.closed)
        self._burst = 0

    async def _confirm_written(self) -> None:
        sent = tuple(self._inflight)
        await self._flush()
        for seq in sent:
            self._settle(seq, ReceiptState.DELIVERED)

    # Confirming.

    def _acked(self, seq: int, *_: object) -> None:
        """The client's acknowledgement: of the first sending or of a later one, the first that comes counts."""
        if seq in self._inflight:
            self._settle(seq, _ACKED)

    def _settle(self, seq: int, state: ReceiptState) -> None:
        flight = self._inflight.pop(seq, None)
        if flight is not None and (flight.sendings > 1 or state is not _ACKED):
            for forget in flight.forgets:
                forget()  # a client that remembers ids acks one of several sendings: others would be awaited for ever
        self._confirmed[seq] = state
        if self._running and not self._doubted:
            self._node.confirmations.add(self)

    def unwritten(self) -> list[Ack]:
        """See `Confirmer.unwritten`; nothing after the end, when `finish` has the last word."""
        return self._acks() if self._running and not self._doubted else []

    def _acks(self) -> list[Ack]:
        if len(self._confirmed) == 1:
            [(seq, state)] = self._confirmed.items()
            return [Ack(self._device, self._epoch, (seq,), state)]
        by_state: dict[ReceiptState, list[int]] = {}
        for seq, state in self._confirmed.items():
            by_state.setdefault(state, []).append(seq)
        return [Ack(self._device, self._epoch, seqs, state) for state, seqs in by_state.items()]

    def written(self, ack: Ack) -> int:
        """See `Confirmer.written`."""
        known = 0
        for seq in ack.seqs:
            known += self._confirmed.pop(seq, None) is not None
        if self._unread:
            self._work.set()  # there is room
        return known

    def doubted(self) -> None:
        """See `Confirmer.doubted`."""
        self._doubted = True
        self._work.set()

    async def finish(self) -> None:
        """Write the confirmations that have come so far. Raises StaleEpoch. Bound it: the store may be away."""
        while self._confirmed:
            for ack in self._acks():
                failpoint("ack.received")
                await persist(partial(self._ack, ack))
                failpoint("ack.stored")
                self._node.metrics.receipts(ack.state, self.written(ack))
        self._doubted = False

    async def _ack(self, ack: Ack) -> None:
        with self._node.metrics.store_call("ack"):
            await self._node.store.ack(*ack)

    # Sending again.

    def _next_resend(self) -> float:
        """When to look for what has waited too long for its acknowledgement."""
        sent = min((flight.sent for flight in self._inflight.values()), default=trio.current_time())
        return sent + self._resend_after

    async def _resend(self) -> None:
        """Send again what has waited too long, lowest seq first; in the end, close."""
        now = trio.current_time()
        overdue = [flight for flight in self._inflight.values() if flight.sent + self._resend_after <= now]
        for flight in overdue:
            if flight.sendings == SENDINGS:
                log.warning("%r does not acknowledge push %r: closing", self._device, flight.message.id)
                self._peer.close(CloseReason.POLICY)
                return
            self._send_again(flight)
        if overdue:
            await self._flush()

    def _send_again(self, flight: InFlight) -> None:
        flight.message = msgspec.structs.replace(flight.message, redelivered=True)
        flight.sendings += 1
        flight.sent = trio.current_time()
        self._node.metrics.redeliveries.inc()
        flight.forgets += self._emit(flight.message)


class About(msgspec.Struct):
    """What a device is told of a message beside its data."""

    id: str
    seq: int
    redelivered: bool


def arguments_of(message: Message) -> tuple[object, msgspec.Raw]:
    """What the device's handler is called with: the data, and what is known about the message. Raises ValueError."""
    about = _encode(About(message.id, message.seq, message.redelivered))
    return jsonbytes.sendable(message.data), msgspec.Raw(about)
