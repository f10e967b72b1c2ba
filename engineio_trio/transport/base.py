"""What a session sees of the thing that carries it: one small interface, two implementations."""

from collections.abc import Sequence
from typing import Protocol

import trio

from engineio_trio.errors import CloseReason, EngineIOError
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Packet


class TransportEnded(EngineIOError):
    """Nothing more comes from, or goes to, the peer by this transport; `reason` is what that means for the session."""

    def __init__(self, reason: CloseReason, detail: str = "") -> None:
        super().__init__(detail or reason.value)
        self.reason = reason


class TransportReplaced(EngineIOError):
    """The session has moved on to another transport; what was being sent here has not been sent."""


class NurseryNeeded(EngineIOError):
    """Asked again with a nursery, `receive` can go on: the transport needs a task of its own."""


class Lane(Protocol):
    """Who takes the messages of the express lane."""

    @property
    def full(self) -> bool:
        """No more should be handed over for now."""

    async def room(self) -> None:
        """Return when more can be."""

    def deliver(self, message: str | bytes) -> None:
        """Deal with a message. Must not raise."""

    def pause(self) -> None:
        """No more messages are at hand: now is the time to write what they made."""

    def take(self, packets: Sequence[Packet]) -> int:
        """Deal with packets that came together, as far as there is room for them: how many. Must not raise."""

    def write_through(self) -> None:
        """Write what has waited until the peer asked."""


class Transport(Protocol):
    """A session's way to its peer. One task receives, one task sends; both may be cancelled between packets."""

    async def receive(self, nursery: trio.Nursery | None = None) -> Sequence[Packet]:
        """The next packets of the peer, in order; none if the lane is full. Calling again says that the previous ones

        have been dealt with. A task that the transport needs runs in `nursery`; without one it raises NurseryNeeded.
        Raises TransportEnded, TransportReplaced, or RemoteProtocolError for what cannot be decoded.
        """

    async def send(self, batch: Sequence[Encoded]) -> None:
        """Write all of the batch; when it returns, the bytes are with the operating system.

        Raises TransportEnded or TransportReplaced. If it is cancelled the transport is dead.
        """

    def open_lane(self, lane: Lane) -> None:
        """Messages may go to `lane` from now on, instead of through `receive`; packets of other types never do."""

    def interrupt(self) -> bool:
        """Have `receive` look whether the lane is full; False if it does not wait where it could be told."""

    @property
    def asked(self) -> bool:
        """The peer may be written to. False: `send` would wait until it asks; the lane is told when it does."""

    def soon(self) -> bool:
        """Have the lane write what is queued a little later, together with what follows; False: do it now."""

    def send_nowait(self, batch: Sequence[Encoded]) -> int | None:
        """Write the batch at once: how many bytes are left over (`send` something, if only nothing, to write them).

        None: nothing was written, and it must go by `send`. Never while a `send` is under way.
        """

    async def goodbye(self, reason: CloseReason, nursery: trio.Nursery) -> None:
        """Tell the peer that the session is over. May wait for the peer: bound it. `nursery` is as in `receive`."""
