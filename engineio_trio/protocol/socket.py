"""Socket.IO packets as values (protocol v5), and the rules for the names in them.

Attachments are no packets of their own here: bytes stand where they belong in `args`. How a packet travels is
`codec`'s part.
"""

import dataclasses
import re
from typing import Any

import msgspec

# socket.io keeps these for its own events: a peer that could send one would forge a connect or a disconnect.
RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)

MAX_ACK_ID = 2**53 - 1  # the largest whole number that JavaScript keeps exactly
MAX_NAMESPACE = 128  # bytes

# A control character would be a separator in a polling body (U+001E), or forge a line in a log; a surrogate is no text.
_NAMESPACE = re.compile(r"/[^,?\x00-\x1f\x7f\ud800-\udfff]*")
_QUERY = re.compile(r"[^,\x00-\x1f\x7f\ud800-\udfff]*")


@dataclasses.dataclass(frozen=True, slots=True)
class Connect:
    """Asks for a namespace with an auth object as `data`, or grants it with `{"sid": ...}`.

    `query` is what follows a `?` in the name on the wire (`/admin?token=1`), as clients of Socket.IO 2 send their
    credentials; it is never a part of `namespace`.
    """

    namespace: str = "/"
    data: dict[str, Any] | None = None
    query: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Disconnect:
    """Leaves a namespace; the connection stays."""

    namespace: str = "/"


class Event(msgspec.Struct, frozen=True):  # a frozen dataclass takes eight times as long to make
    """A named event and its arguments. With an `id` it asks for an Ack of that id."""

    name: str
    args: tuple[Any, ...] = ()
    namespace: str = "/"
    id: int | None = None


class Ack(msgspec.Struct, frozen=True):
    """The answer to the Event of the same id and namespace."""

    id: int
    args: tuple[Any, ...] = ()
    namespace: str = "/"


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectError:
    """Refuses a namespace: `data` is `{"message": ...}`, perhaps with a `"data"`; in Socket.IO 2 it is a string."""

    namespace: str
    data: dict[str, Any] | str


SocketPacket = Connect | Disconnect | Event | Ack | ConnectError


def namespace_fault(namespace: str) -> str | None:
    """What is wrong with a namespace's name, or None: it begins with `/`, has no `,`, `?`, or control character."""
    if not _NAMESPACE.fullmatch(namespace):
        return f"{namespace[:40]!r} is no namespace: it begins with '/' and has no ',', '?' or control character"
    return f"a namespace longer than {MAX_NAMESPACE} bytes" if is_long_namespace(namespace) else None


def is_long_namespace(namespace: str) -> bool:
    """Whether the name has more than MAX_NAMESPACE bytes (a surrogate, which is a fault of its own, counts one)."""
    return len(namespace) > MAX_NAMESPACE or len(namespace.encode(errors="replace")) > MAX_NAMESPACE


def query_fault(query: str) -> str | None:
    """What is wrong with a Connect's query, or None: it has no `,` (write `%2C`) or control character."""
    return None if _QUERY.fullmatch(query) else f"{query[:40]!r} is no query: it has no ',' or control character"


def event_name_fault(name: object) -> str | None:
    """What is wrong with an event's name, or None: it is a string, and none of RESERVED_EVENTS.

    The reference parser takes numbers too, but no client sends them.
    """
    if not isinstance(name, str):
        return f"an event's name is a string, not {type(name).__name__}"
    if name in RESERVED_EVENTS:
        return f"the event name {name!r} is reserved"
    return None
