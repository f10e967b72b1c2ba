"""The Socket.IO side of one connection as a state machine: which namespaces are joined, which acks are awaited."""
import enum
from engineio_trio.protocol.socket import SocketPacket

class NamespaceState(enum.Enum):
    ABSENT = ...; CONNECTING = ...; CONNECTED = ...

class Step(enum.Enum):       # answer of receive()
    ASK = ...                # CONNECT: run the connect handler, then accepted()/refused()
    EVENT = ...
    ACK = ...                # only for an id that was awaited (taken); else IGNORE
    LEAVE = ...              # DISCONNECT from the client
    IGNORE = ...

class SocketSession:
    """TRANSITIONS: dict[NamespaceState, dict[packet class, (Step, NamespaceState)]]; a missing cell -> RemoteProtocolError.

    CONNECT for ABSENT -> ASK (over max_namespaces -> RemoteProtocolError POLICY); CONNECT when CONNECTING/CONNECTED -> error;
    EVENT/ACK/DISCONNECT when not CONNECTED -> error; CONNECT_ERROR from the client -> error.
    """
    def __init__(self, *, max_namespaces: int, max_pending_acks: int) -> None: ...
    def receive(self, packet: SocketPacket) -> Step: ...
    def accepted(self, namespace: str) -> None: ...
    def refused(self, namespace: str) -> None: ...
    def left(self, namespace: str) -> None: ...                # the server disconnects it
    def state(self, namespace: str) -> NamespaceState: ...
    def next_ack(self, namespace: str) -> int: ...             # a fresh id, awaited from now; LocalProtocolError over max_pending_acks
    def forget_ack(self, namespace: str, id: int) -> None: ... # timed out
    @property
    def joined_any(self) -> bool: ...                          # ever joined (ends the connect timeout)
