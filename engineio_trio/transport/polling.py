"""A session over HTTP long-polling: GETs drain what is queued, POSTs feed what the client says.

At most one GET and one POST are in flight (protocol v4, "HTTP long-polling"): a second one ends the session. On plain
sockets no task meets another one: a POST hands its packets to the lane, and who sends answers the GET that is held.
Where that does not go (handlers are behind, the stream has no doors, the session is being closed), the tasks of the
session meet those of the HTTP connections at two rendezvous.
"""

import enum
import math
from collections.abc import Sequence
from typing import Protocol

import trio

from engineio_trio.errors import CloseReason
from engineio_trio.protocol import payload
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Packet, PacketType
from engineio_trio.transport.answer import Response
from engineio_trio.transport.base import Lane, TransportEnded, TransportReplaced

NOOP = Encoded.engine(Packet(PacketType.NOOP))
CLOSE = Encoded.engine(Packet(PacketType.CLOSE))
PROBING_PATIENCE = 0.1  # seconds that a poll is held while a probe is under way, as engine.io does


class Phase(enum.Enum):
    """Who carries the session: this transport, this one while a WebSocket is probed, or no longer this one."""

    CARRYING = "carrying"
    PROBING = "probing"
    CLOSING = "closing"  # nobody reads what is posted any more; what is queued, and the goodbye, still go out
    REPLACED = "replaced"
    ENDED = "ended"


class Offer(enum.Enum):
    """How far the batch that the session wants to send has come."""

    NONE = "none"
    WAITING = "waiting"  # for a GET
    TAKEN = "taken"  # a GET is writing it


class Overlap(Exception):
    """A second GET, or a second POST, came while one was in flight."""


class SessionOver(Exception):
    """The session ended before the request could be served."""


class Poll(Protocol):
    """One GET, as far as this transport needs it: see `http.HttpConnection`, whose methods these are."""

    @property
    def answered(self) -> bool:
        """An answer has gone out."""

    async def respond(self, response: Response) -> None:
        """Answer it. Raises PeerGone."""

    def respond_nowait(self, response: Response) -> int | None:
        """Answer it from another task: how many bytes are left over for `finish`; None if it must be by `respond`."""

    async def finish(self) -> None:
        """Write what is left over. Raises PeerGone."""

    async def wait(self, deadline: float) -> None:
        """Wait for `wake` or the deadline; once it is answered, for longer. Raises PeerGone."""

    def wake(self) -> None:
        """Have `wait` return."""


class PollingTransport:
    """The meeting place of a session and its polls.

    `revision` (3 or 4) and `base64` (revision 3 only: the client cannot take binary) choose the form of the bodies.
    """

    def __init__(self, *, revision: int = 4, base64: bool = False) -> None:
        self._revision = revision
        self._base64 = base64
        self._phase = Phase.CARRYING
        self._reason = CloseReason.TRANSPORT_CLOSE
        self._lane: Lane | None = None
        self._receiving = False  # and nothing that was received is still to be dealt with
        self._lot = trio.lowlevel.ParkingLot()  # woken by every change of what follows
        self._offer = Offer.NONE
        self._batch: Sequence[Encoded] = ()
        self._held: Poll | None = None  # a GET that can be answered
        self._answering: Poll | None = None  # one whose answer is being written
        self._posted: Sequence[Packet] | None = None
        self._posting = False

    # What the session sees.

    async def receive(self, nursery: trio.Nursery | None = None) -> Sequence[Packet]:
        self._posting = self._posting and self._posted is not None  # what was taken has been dealt with
        self._lot.unpark_all()
        self._receiving = True
        try:
            self._ask()
            while self._posted is None:
                self._raise_if_over()
                await self._lot.park()
        finally:
            self._receiving = False
        packets, self._posted = self._posted, None
        if self._phase is Phase.REPLACED:
            self._release_post()
        return packets

    async def send(self, batch: Sequence[Encoded]) -> None:
        while self._offer is Offer.TAKEN and self._phase is not Phase.ENDED:  # the rest of one before it
            await self._lot.park()
        self._raise_if_over()
        if not batch:
            return
        self._batch, self._offer = batch, Offer.WAITING
        self._wake_all()
        try:
            while self._offer is not Offer.NONE:
                await self._lot.park()
                if self._offer is Offer.WAITING or self._ended():
                    self._raise_if_over()
        finally:
            self._offer = Offer.NONE

    def open_lane(self, lane: Lane) -> None:
        self._lane = lane

    def interrupt(self) -> bool:
        return False

    @property
    def asked(self) -> bool:
        under_way = self._held is not None or self._offer is not Offer.NONE
        return under_way or self._phase not in (Phase.CARRYING, Phase.PROBING)

    def soon(self) -> bool:
        if self._held is not None:  # the next one costs a whole request: all that is said in this turn goes with this
            self._held.wake()
        return True

    def send_nowait(self, batch: Sequence[Encoded]) -> int | None:
        held = self._held
        if held is None or self._offer is not Offer.NONE or self._phase in (Phase.REPLACED, Phase.ENDED):
            return None
        left = held.respond_nowait(self._render(batch))
        if left is not None:
            self._held = None
            if left:
                self._offer, self._answering = Offer.TAKEN, held
        return left

    async def goodbye(self, reason: CloseReason, nursery: trio.Nursery) -> None:
        """CLOSE for the waiting poll, or for the next one to come."""
        await self.send((CLOSE,))

    def probing(self, under_way: bool) -> None:
        """A WebSocket is being probed (or no longer): polls are answered soon, so that the client can pause."""
        if self._phase in (Phase.CARRYING, Phase.PROBING):
            self._phase = Phase.PROBING if under_way else Phase.CARRYING
            self._wake_all()

    def replace(self) -> None:
        """Another transport carries the session from now on; a waiting poll is answered with NOOP."""
        self._phase = Phase.REPLACED
        if self._posted is None:
            self._release_post()
        self._wake_all()

    def _release_post(self) -> None:
        """The session has taken what was posted and will not come back for more: the POST need not wait for it."""
        self._posting = False
        self._lot.unpark_all()

    def closing(self) -> None:
        """The session reads no more: what is posted is dropped, and the peer's own goodbye ends ours."""
        if self._phase in (Phase.CARRYING, Phase.PROBING):
            self._phase = Phase.CLOSING
            self._posting, self._posted = False, None
            self._wake_all()

    def end(self, reason: CloseReason) -> None:
        """The session is over; a waiting poll is told so."""
        if self._phase is not Phase.ENDED:
            self._phase, self._reason = Phase.ENDED, reason
            self._wake_all()

    def _wake_all(self) -> None:
        self._lot.unpark_all()
        if self._held is not None:
            self._held.wake()

    def _ended(self) -> bool:
        return self._phase is Phase.ENDED

    def _raise_if_over(self) -> None:
        if self._phase is Phase.REPLACED:
            raise TransportReplaced
        if self._phase is Phase.ENDED:
            raise TransportEnded(self._reason)

    # What the HTTP side sees.

    @property
    def vital(self) -> bool:
        """The session cannot outlive a poll that fails now: it is carried here, or its last batch here was in it."""
        return self._phase is not Phase.REPLACED or self._offer is Offer.TAKEN

    async def poll(self, poll: Poll) -> None:
        """Serve one GET: wait until there is something to say, and answer it.

        Raises Overlap, or SessionOver when there is no session to speak for any more. If answering fails or is
        cancelled the batch is lost: the caller ends the session then, if this transport is `vital`.
        """
        while self._answering:  # through a proxy the next GET may come before we know that this one is out
            await self._lot.park()
        if self._held is not None:
            raise Overlap
        if self._phase is Phase.ENDED:
            raise SessionOver
        self._held = poll
        try:
            await self._answer(poll)
        finally:
            if self._held is poll:
                self._held = None

    def _ask(self) -> None:
        """Have the session say what it has kept until now."""
        if self._held is not None and self._lane is not None and self._offer is Offer.NONE:
            self._lane.write_through()

    async def _answer(self, poll: Poll) -> None:
        batch: Sequence[Encoded] | None = None
        deadline = math.inf
        self._ask()
        while not poll.answered and (batch := self._next_batch(trio.current_time() >= deadline)) is None:
            probing = self._phase is Phase.PROBING
            deadline = min(deadline, trio.current_time() + PROBING_PATIENCE) if probing else math.inf
            await poll.wait(deadline)
            if self._held is poll:
                self._ask()
        if batch is None and self._answering is not poll:
            return  # it was answered at once
        self._answering = poll
        try:
            await (poll.finish() if batch is None else poll.respond(self._render(batch)))
            self._offer = Offer.NONE if self._offer is Offer.TAKEN else self._offer
        finally:
            self._answering = None
            self._lot.unpark_all()

    def _next_batch(self, late: bool) -> Sequence[Encoded] | None:
        """What to answer a poll now, if anything; `late`: it has been held for as long as a probe allows."""
        if self._offer is Offer.WAITING:
            self._offer = Offer.TAKEN
            return self._batch
        match self._phase:
            case Phase.PROBING if late:
                return (NOOP,)
            case Phase.REPLACED:
                return (NOOP,)
            case Phase.ENDED:
                return (NOOP,) if self._reason is CloseReason.TRANSPORT_CLOSE else (CLOSE,)
        return None

    def _render(self, batch: Sequence[Encoded]) -> Response:
        if self._revision == 4:
            return Response(200, payload.encode([encoded.polling for encoded in batch]))
        packets = [packet for encoded in batch for packet in encoded.packets]
        body = payload.encode_v3(packets, binary=not self._base64)
        if payload.is_binary_v3(packets, binary=not self._base64):
            return Response(200, body, "application/octet-stream")
        return Response(200, body)

    async def post(self, packets: Sequence[Packet]) -> None:
        """Serve one POST: returns when the session has dealt with the packets, which is the sender's back-pressure.

        Raises Overlap, or SessionOver when the session ended before, or because of, these packets (a CLOSE among them
        is no error).
        """
        if self._posting:
            raise Overlap
        if self._phase in (Phase.REPLACED, Phase.ENDED):
            raise SessionOver
        if self._phase is Phase.CLOSING:
            if any(packet.type is PacketType.CLOSE for packet in packets):
                self.end(CloseReason.TRANSPORT_CLOSE)
            return
        if self._receiving and self._lane is not None:
            packets = packets[self._lane.take(packets) :]
            if not packets:
                return
        self._posting, self._posted = True, packets
        self._lot.unpark_all()
        try:
            while self._posting and not self._ended():
                await self._lot.park()
        finally:
            self._posting, self._posted = False, None
        if self._ended() and self._reason is not CloseReason.TRANSPORT_CLOSE:
            raise SessionOver
