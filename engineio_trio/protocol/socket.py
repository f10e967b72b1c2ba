"""Socket.IO packets as values (protocol v5)."""
import dataclasses
from typing import Any

@dataclasses.dataclass(frozen=True, slots=True)
class Connect:
    namespace: str = "/"
    data: Any = None           # the auth object, or {"sid": ...}

@dataclasses.dataclass(frozen=True, slots=True)
class Disconnect:
    namespace: str = "/"

@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    name: str
    args: tuple[Any, ...] = ()
    namespace: str = "/"
    id: int | None = None      # asks for an acknowledgement

@dataclasses.dataclass(frozen=True, slots=True)
class Ack:
    id: int
    args: tuple[Any, ...] = ()
    namespace: str = "/"

@dataclasses.dataclass(frozen=True, slots=True)
class ConnectError:
    namespace: str
    data: Any                  # {"message": str, "data"?: Any}

SocketPacket = Connect | Disconnect | Event | Ack | ConnectError
RESERVED_EVENTS: frozenset[str]   # connect connect_error disconnect disconnecting newListener removeListener
