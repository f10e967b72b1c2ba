"""The store's interface, in the words of the domain, and what every implementation promises.

Every write is idempotent where a caller may have to repeat it (login by `conn`, enqueue by push id, uplink by entry id,
ack and logout by epoch), because a StoreUnavailable leaves its outcome unknown. Every method may raise
StoreUnavailable. No node's clock is compared with another's: `now` is the store's own. A call that is cancelled may or
may not have been carried out; it never leaves half of itself behind.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from pushd.model import (
    Ack,
    Bound,
    Counts,
    DeviceRecord,
    Entry,
    Message,
    Outcome,
    Parcel,
    Push,
    Receipt,
    ReceiptState,
    Stream,
    Throttled,
    Uplink,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a store enforces. Times in seconds.

    More than `takeovers` takeovers of one device within `takeover_window` are refused; an inbox holds `inbox_max`
    messages; a push id is remembered for `dedupe`; a device not heard of for `stale_after` is not alive; a stream
    keeps at least its last `stream_max` entries; a device that is offline, has nothing waiting and has not been touched
    for `forget_after` (and for `dedupe`) is no longer known. Who has fewer than `window` messages waiting is given a
    new one without its inbox being read.
    """

    takeovers: int = 3
    takeover_window: float = 10.0
    inbox_max: int = 1_000
    window: int = 16
    dedupe: float = 86_400.0
    stale_after: float = 90.0
    stream_max: int = 1_000_000
    forget_after: float = 2_592_000.0


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """How several nodes share a store (Redis only). Times in seconds.

    Every key begins with `prefix`; devices are spread over `partitions` buckets, a number that cannot change later;
    logins, pushes and uplinks count only when `wait_replicas` replicas have them. A node renews its lease every
    `refresh`; one that has not done so for `lease` is dead to the others.
    """

    prefix: str = "pushd"
    partitions: int = 1
    wait_replicas: int = 0
    lease: float = 15.0
    refresh: float = 5.0


@dataclasses.dataclass(slots=True)
class Tally:
    """What an operator should hear of a store, counted since the start of this node. Only consumer groups cause it."""

    lost_by_trim: int = 0  # entries of services' streams that somebody trimmed away before they were done
    poison: int = 0  # entries that were taken again and again, and never done
    held_back: int = 0  # times that a stream stayed too long because a consumer group has not read it


class Control(Protocol):
    """What a store tells the node that it serves. Synchronous, called in the Trio thread; must not block or raise."""

    def wake(self, device: str) -> None:
        """The device's inbox has something new. A hint: it may come twice, late, or for a device that has gone."""

    def deliver(self, device: str, message: Message, after: int) -> None:
        """Send a message that is in the device's inbox since just now, and is marked as sent.

        Nothing else in the inbox has a seq > `after`. A hint as `wake` is: what cannot be sent at once, or was heard
        of already, is left to the next fetch.
        """

    def holds(self, device: str) -> bool:
        """Whether this node has a connection of the device to which something can be sent."""

    def wake_all(self) -> None:
        """Any inbox may have something new: hints may have been lost."""

    def kick(self, device: str, epoch: int, reason: str, by: str) -> None:
        """Close this node's connection of the device if its epoch is `epoch` or older. May come twice, or late."""

    def cast(self, device: str, message: Message) -> bool:
        """Send a qos 0 message if this node holds the device now; True if it was put on its way."""

    def together(self) -> AbstractContextManager[None]:
        """Around `deliver` and `cast` for many devices, nothing of which waits: all is written at its end."""

    def lost_all(self) -> None:
        """This node was taken for dead, or the store has lost its memory: it holds no device any more.

        Close every connection, so that the clients come back; their old epochs change nothing.
        """


class Store(Protocol):
    """pushd's state. All times that come out are Unix seconds by the store's clock."""

    @property
    def tally(self) -> Tally:
        """What this node has come across so far. Does not wait."""

    async def admits(self, device: str) -> Throttled | None:
        """Would a login of this device be refused now? Changes nothing; the login itself decides.

        Raises StoreUnavailable if the store is known to take no writes, though it could answer.
        """

    async def login(self, device: str, conn: str, topics: Sequence[str]) -> Bound | Throttled:
        """Bind the device to this node and `conn`, in one atomic step.

        Counts a takeover if another connection holds the device (refused: `Throttled`, nothing changed); gives an epoch
        greater than any before; remembers `topics` as the device's (until its next login); writes `online` or
        `takeover` to the status stream; tells the previous holder's node to kick it. With the same `conn` again: the
        same answer, nothing written twice. Of what comes into the inbox after it was looked at, the node is told.
        """

    async def logout(self, device: str, epoch: int, reason: str) -> bool:
        """Unbind the device and write one `offline`, if `epoch` still holds it; False (and nothing) otherwise."""

    async def kick(self, device: str, reason: str, by: str) -> bool:
        """Unbind the device, whoever holds it, with one `offline`, and have its node close it; False if nobody does."""

    async def enqueue(self, push: Push, devices: Sequence[str]) -> list[Receipt]:
        """Put a qos 1 push into each device's inbox and tell their holders; one receipt each, also on its stream.

        `stored` with the device's next `seq`; `duplicate` (with the first one's seq) if the device had this push id
        within the dedupe window; `refused` with a reason if the inbox is full.
        """

    async def enqueue_each(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """As `enqueue`, of many pushes each for its device, in their order; what of it is one step is the store's."""

    async def cast(self, push: Push, devices: Sequence[str]) -> list[Receipt]:
        """Send a qos 0 push to those of the devices that are connected; `delivered` or `refused` for each."""

    async def cast_each(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """As `cast`, of many pushes each for its device, in their order."""

    async def members(self, topic: str | None, after: str, limit: int) -> list[str]:
        """Known device ids greater than `after`, in order: those of a topic, or all (None)."""

    async def fetch(self, device: str, epoch: int, after: int, limit: int) -> list[Message]:
        """The next messages of the inbox with seq > `after`, lowest first; durably marked as sent before it returns.

        A message is `redelivered` if an earlier fetch, of this connection or another, has answered with it or a
        later one (nobody reads past what it has not got). Expired ones are removed on the way, with an `expired`
        receipt. Raises StaleEpoch if `epoch` is not the holder's.
        """

    async def ack(self, device: str, epoch: int, seqs: Sequence[int], state: ReceiptState) -> None:
        """Remove messages from the inbox, with a receipt each (`acked` or `delivered`); unknown seqs are ignored.

        Raises StaleEpoch if `epoch` is not the holder's: then nothing is removed.
        """

    async def ack_each(self, acks: Sequence[Ack]) -> list[Outcome]:
        """As `ack`, of many devices; what became of each. Raises StoreUnavailable if nothing is known of any."""

    async def uplink(self, device: str, epoch: int, conn: str, entry: str, event: str, data: str) -> None:
        """Write one entry of the uplink stream (once for an `entry` id). Raises StaleEpoch.

        Those of a device come one after the other: an `entry` is known again until the next one is written, and, if it
        is `conn:number` with numbers that rise, afterwards too.
        """

    async def uplink_each(self, uplinks: Sequence[Uplink]) -> list[Outcome]:
        """As `uplink`, of many devices, one event of each; what became of each.

        Raises StoreUnavailable if nothing is known of any.
        """

    async def beat(self, alive: Sequence[tuple[str, int]]) -> list[str]:
        """These (device, epoch) of this node are alive now; the answer names those that it does not hold any more."""

    async def sweep(self) -> int:
        """End what is dead, and answer how many bindings that were; in many short transactions, others go between them.

        Bindings of dead nodes (`node lost`) and of devices not heard of (`stale`) get their one `offline`, and their
        node is told to close them; expired messages, old dedupe marks and forgotten devices go. Nobody is ended because
        the sweeper, the store or the clock was away: after a gap of more than half of `stale_after` between two sweeps
        staleness is counted from the later one, so sweep at least four times within `stale_after`.
        """

    async def reconcile(self, devices: Sequence[str]) -> list[str]:
        """Those of the devices that are not alive, in their order; stale bindings among them are ended (`offline`)."""

    async def append(self, stream: Stream, fields: Mapping[str, str]) -> str:
        """Add an entry to a stream and answer its id."""

    async def take(self, stream: Stream, limit: int) -> list[Entry]:
        """The oldest entries of a services' stream (`push`, `reconcile`) that are not done; waits for the first."""

    async def done(self, stream: Stream, ids: Sequence[str]) -> None:
        """These entries have been dealt with and go."""

    async def read_stream(self, stream: Stream, after: str, limit: int, wait: float = 0.0) -> list[Entry]:
        """Entries after an id (`""`: from the oldest kept; `"$"`: only what comes from now on), up to `limit`.

        With nothing there it waits up to `wait` seconds for the first. Raises BadRequest for an id that is none.
        """

    async def newest(self, stream: Stream) -> str:
        """The id of the newest entry of a stream (`""` if it has none): where "from now on" begins.

        A reader that starts with `"$"` and finds nothing would lose what comes between two of its calls; one that
        starts here does not.
        """

    async def device(self, device: str) -> DeviceRecord | None:
        """What is known of one device."""

    async def devices(self, after: str, limit: int, online: bool) -> list[DeviceRecord]:
        """Known devices with ids greater than `after`, in order; only those bound now if `online`."""

    async def permit(self, device: str, token: str | None) -> None:
        """Make a device a legal one, which shows this token (`""`: none; `sha256:HEX`: one with that hash); None: not.

        Only `auth.kind = "store"` looks at it. A device that is connected stays so.
        """

    async def token_of(self, device: str) -> str | None:
        """The token of a legal device, as it was given to `permit`; None if the device is not legal."""

    async def counts(self) -> Counts:
        """Totals, for statistics and metrics."""

    async def ping(self) -> None:
        """Return if the store can be written to; StoreUnavailable otherwise."""
