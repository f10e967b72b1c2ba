"""What can go wrong, as values: the errors that are raised and the one closed list of reasons for a close.

Local errors are yours (you misused the library, raised at once); remote errors are the peer's (they end its
connection).
"""

import enum
from collections.abc import Mapping
from typing import Any


class CloseReason(enum.Enum):
    """Why a connection, or a socket in a namespace, ended. `disconnect` handlers receive one of these.

    The value is the text shown to people; where the reference implementation has a word for it, the same word.
    """

    TRANSPORT_CLOSE = "transport close"
    TRANSPORT_ERROR = "transport error"
    PING_TIMEOUT = "ping timeout"
    PARSE_ERROR = "parse error"
    TOO_BIG = "message too big"
    POLICY = "policy violation"
    CONNECT_TIMEOUT = "connect timeout"
    SLOW_CONSUMER = "slow consumer"
    CLIENT_DISCONNECT = "client namespace disconnect"
    SERVER_DISCONNECT = "server namespace disconnect"
    SERVER_CLOSE = "forced server close"
    SHUTDOWN = "server shutting down"
    UNAVAILABLE = "temporarily unavailable"
    INTERNAL_ERROR = "internal error"

    @property
    def websocket_code(self) -> int:
        """The RFC 6455 close code that tells the peer this reason (1000 where no code says more)."""
        return _WEBSOCKET_CODES.get(self, 1000)

    @property
    def is_abrupt(self) -> bool:
        """There is no one left to tell: what is still queued is dropped."""
        return self in _ABRUPT


_ABRUPT = frozenset(
    {CloseReason.TRANSPORT_CLOSE, CloseReason.TRANSPORT_ERROR, CloseReason.PING_TIMEOUT, CloseReason.SLOW_CONSUMER}
)
_WEBSOCKET_CODES = {
    CloseReason.PARSE_ERROR: 1002,
    CloseReason.TOO_BIG: 1009,
    CloseReason.POLICY: 1008,
    CloseReason.CONNECT_TIMEOUT: 1008,
    CloseReason.SLOW_CONSUMER: 1008,
    CloseReason.SHUTDOWN: 1012,
    CloseReason.UNAVAILABLE: 1013,
    CloseReason.INTERNAL_ERROR: 1011,
}


class EngineIOError(Exception):
    """The base of every error that this library raises on its own account."""


class ProtocolError(EngineIOError):
    """Something that the protocol does not allow. Raised as one of its two children."""


class LocalProtocolError(ProtocolError):
    """This program asked for something that the protocol forbids, such as emitting a reserved event name."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol forbids. Its connection ends with `reason`."""

    def __init__(self, message: str, reason: CloseReason = CloseReason.PARSE_ERROR) -> None:
        super().__init__(message)
        self.reason = reason


class HandshakeRefused(EngineIOError):
    """Raise it in an `authorize` handler: the peer gets this HTTP status and a JSON body, and no session exists.

    `status` is an HTTP status from 400 to 599, `message` is for the client's developer, `headers` are added to the
    answer (for instance `{"Retry-After": "5"}`).
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"a refusal's status must be from 400 to 599, not {status}")
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


class ConnectRefused(EngineIOError):
    """Raise it in a `connect` handler: the client gets CONNECT_ERROR with `message` and `data`; the session stays."""

    def __init__(self, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class AckTimeout(EngineIOError):
    """`socket.call` waited `timeout` seconds and the peer did not acknowledge."""


class Disconnected(EngineIOError):
    """The socket or session is closed, so nothing can be sent, and no acknowledgement will come. `reason` says why."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason.value)
        self.reason = reason
