"""The values of pushd: what the streams carry and what the store answers. Frozen; no behaviour beyond checking.

What is made for every message is a Struct: a frozen dataclass takes eight times as long to make.
"""

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

DEVICE_ID = re.compile(r"[A-Za-z0-9._~@-]{1,128}")
TOPIC = re.compile(r"[A-Za-z0-9._~@/-]{1,128}")


class Stream(enum.StrEnum):
    """The queues between pushd and the services."""

    PUSH = "push"
    UPLINK = "uplink"
    STATUS = "status"
    RECEIPT = "receipt"
    RECONCILE = "reconcile"
    RECONCILED = "reconciled"
    DEAD = "dead"


class ReceiptState(enum.StrEnum):
    """What has become of a push, for one device."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    DELIVERED = "delivered"
    ACKED = "acked"
    EXPIRED = "expired"
    REFUSED = "refused"


class StatusEvent(enum.StrEnum):
    """How a device's binding changed."""

    ONLINE = "online"
    TAKEOVER = "takeover"
    OFFLINE = "offline"


class Confirm(enum.StrEnum):
    """What removes a stored push: the client's acknowledgement, or (old fleets that cannot ack) the completed write."""

    CLIENT = "client"
    WRITE = "write"


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """Who an authenticator says a device is. `expires` is Unix seconds, `confirm` overrides the deployment's."""

    device: str
    topics: tuple[str, ...] = ()
    expires: float | None = None
    confirm: Confirm | None = None


class Push(msgspec.Struct, frozen=True):
    """One message of a service. `data` is JSON text, `ttl` is seconds, `id` dedupes per device.

    `target` is `device:ID`, `topic:NAME` or `all` (the field `to` of the push stream).
    """

    target: str
    data: str
    id: str
    event: str = "push"
    ttl: float = 604_800.0
    qos: int = 1


Parcel: TypeAlias = tuple[Push, str]  # and the device that it is for


class Receipt(msgspec.Struct, frozen=True):
    """One entry of the receipt stream. `seq` is 0 when the push was not stored; `ts` is Unix seconds."""

    id: str
    device: str
    state: ReceiptState
    seq: int = 0
    ts: float = 0.0
    reason: str = ""


class Message(msgspec.Struct, frozen=True):
    """A stored push on its way to one device. `redelivered`: it may have been sent to the device before."""

    seq: int
    id: str
    event: str
    data: str
    redelivered: bool


class Ack(NamedTuple):
    """What has become of messages of one device: `acked` or `delivered`, by its holder's epoch."""

    device: str
    epoch: int
    seqs: Sequence[int]
    state: ReceiptState


class Uplink(NamedTuple):
    """One event of a device, by its holder's epoch; the store knows it again by `entry`. `data` is JSON text."""

    device: str
    epoch: int
    conn: str
    entry: str
    event: str
    data: str


class Outcome(enum.Enum):
    """What the store has made of an Ack, or of an Uplink."""

    DONE = "done"
    STALE = "stale"  # the epoch is not the holder's: nothing was changed
    UNKNOWN = "unknown"  # the part of the store that has the device is away


@dataclasses.dataclass(frozen=True, slots=True)
class Binding:
    """Who holds a device. `conn` is the connection's public id (the Socket.IO sid, never the Engine.IO one)."""

    device: str
    node: str
    conn: str
    epoch: int


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """A login that succeeded: from now on `epoch` is the only one that may act for the device.

    `waiting`: there may be messages in its inbox.
    """

    epoch: int
    previous: Binding | None
    waiting: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Throttled:
    """A login that was refused: too many takeovers. The one that holds the device stays. `retry_after` is seconds."""

    retry_after: float


class Entry(msgspec.Struct, frozen=True):
    """One entry of a stream. Ids are opaque, and rise in the order of the stream."""

    id: str
    fields: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceRecord:
    """What the store knows of a device. Times are Unix seconds (0 when never); `inbox` counts waiting messages."""

    device: str
    online: bool
    node: str
    conn: str
    epoch: int
    since: float
    seen: float
    inbox: int
    topics: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """Totals of the store. `streams` has the length of every stream by its name."""

    devices: int
    online: int
    inbox: int
    streams: Mapping[str, int]


def as_json(value: Any) -> dict[str, Any]:
    """A value of this module as a plain dict, for JSON."""
    return msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else dataclasses.asdict(value)
