"""The Socket.IO side of one connection as a state machine: which namespaces are joined, which acks are awaited.

The server's table and the client's; the books are the same.

Socket.IO protocol v5, "Exchange protocol". Acknowledgement ids count up over the whole connection and are never used
again, so a late answer cannot be taken for another's.
"""

import dataclasses
import enum
from typing import Final

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol.socket import MAX_ACK_ID, Ack, Connect, ConnectError, Disconnect, Event, SocketPacket


class NamespaceState(enum.Enum):
    """How far a peer is with one namespace."""

    ABSENT = "absent"
    CONNECTING = "connecting"  # the connect handler runs; the client awaits its verdict
    CONNECTED = "connected"
    LEFT = "left"  # this side has disconnected it; what the peer sent before it knew is still on its way


class Step(enum.Enum):
    """What the caller has to do for a packet: the answer of `receive`."""

    ASK = "ask"  # run the connect handler, then accepted() or refused()
    EVENT = "event"
    ACK = "ack"  # an awaited one; it is awaited no more
    LEAVE = "leave"  # the peer disconnects the namespace
    JOINED = "joined"  # the server has let this client in
    REFUSED = "refused"  # the server has not
    IGNORE = "ignore"


_EVENT: Final = Step.EVENT  # a member of an enum takes 160 ns to look up (Python 3.11), a name 25
_ACK: Final = Step.ACK

Row = dict[type[SocketPacket], tuple[Step, NamespaceState]]
Table = dict[NamespaceState, Row]

# A missing cell is the error.
TRANSITIONS: Table = {
    NamespaceState.ABSENT: {
        Connect: (Step.ASK, NamespaceState.CONNECTING),
    },
    NamespaceState.CONNECTING: {},
    NamespaceState.CONNECTED: {
        Event: (Step.EVENT, NamespaceState.CONNECTED),
        Ack: (Step.ACK, NamespaceState.CONNECTED),
        Disconnect: (Step.LEAVE, NamespaceState.ABSENT),
    },
    NamespaceState.LEFT: {
        Connect: (Step.ASK, NamespaceState.CONNECTING),
        Event: (Step.IGNORE, NamespaceState.LEFT),
        Ack: (Step.IGNORE, NamespaceState.LEFT),
        Disconnect: (Step.IGNORE, NamespaceState.ABSENT),
    },
}

CLIENT_TRANSITIONS: Table = {
    NamespaceState.ABSENT: {},
    NamespaceState.CONNECTING: {
        Connect: (Step.JOINED, NamespaceState.CONNECTED),
        ConnectError: (Step.REFUSED, NamespaceState.ABSENT),
    },
    NamespaceState.CONNECTED: TRANSITIONS[NamespaceState.CONNECTED],
    NamespaceState.LEFT: {
        Event: (Step.IGNORE, NamespaceState.LEFT),
        Ack: (Step.IGNORE, NamespaceState.LEFT),
        Disconnect: (Step.IGNORE, NamespaceState.ABSENT),
    },
}

_CONNECTED: Final = NamespaceState.CONNECTED
_BUSY = frozenset({NamespaceState.CONNECTING, NamespaceState.CONNECTED})


@dataclasses.dataclass(slots=True)
class _Namespace:
    state: NamespaceState
    row: Row  # of the table, for this state: an enum is slow to look up, and this is asked for every packet
    awaited: set[int] = dataclasses.field(default_factory=set)

    def take(self, id: int) -> bool:
        """Whether this acknowledgement was awaited; it is not any more."""
        if id not in self.awaited:
            return False
        self.awaited.remove(id)
        return True


class SocketSession:
    """The namespaces of one connection, by the server's table or by the client's.

    At most `max_namespaces` are connecting or connected at a time, and at most `max_pending_acks` acknowledgements are
    awaited in each.
    """

    __slots__ = (
        "_absent", "_joined_any", "_last_ack", "_max_namespaces", "_max_pending_acks", "_namespaces", "_table",
    )  # fmt: skip

    def __init__(self, *, max_namespaces: int, max_pending_acks: int, table: Table = TRANSITIONS) -> None:
        self._table = table
        self._absent = table[NamespaceState.ABSENT]
        self._max_namespaces = max_namespaces
        self._max_pending_acks = max_pending_acks
        self._namespaces: dict[str, _Namespace] = {}  # those that are not ABSENT
        self._last_ack = -1
        self._joined_any = False

    def receive(self, packet: SocketPacket) -> Step:
        """What to do for this packet of the peer.

        Raises RemoteProtocolError that names state and packet; for more than `max_namespaces` its reason is POLICY.
        """
        entry = self._namespaces.get(packet.namespace)
        cell = (self._absent if entry is None else entry.row).get(type(packet))
        if cell is None:
            kind, state = type(packet).__name__, self.state(packet.namespace)
            raise RemoteProtocolError(
                f"{kind} is not allowed for namespace {packet.namespace!r}, which is {state.value}"
            )
        step, next_state = cell
        if step is _EVENT:
            return step  # which changes nothing
        if step is _ACK:
            assert entry is not None
            assert isinstance(packet, Ack)
            return step if entry.take(packet.id) else Step.IGNORE
        if step is Step.ASK and self._busy() >= self._max_namespaces:
            raise RemoteProtocolError(f"more than {self._max_namespaces} namespaces", CloseReason.POLICY)
        self._enter(packet.namespace, next_state)
        return step

    def asked(self, namespace: str) -> None:
        """A client: it asks for the namespace, and awaits Step.JOINED or Step.REFUSED."""
        if self.state(namespace) is not NamespaceState.ABSENT:
            raise LocalProtocolError(f"namespace {namespace!r} is {self.state(namespace).value} already")
        self._enter(namespace, NamespaceState.CONNECTING)

    def accepted(self, namespace: str) -> None:
        """The connect handler let the client in."""
        self._expect(namespace, NamespaceState.CONNECTING)
        self._enter(namespace, NamespaceState.CONNECTED)
        self._joined_any = True

    def refused(self, namespace: str) -> None:
        """The connect handler did not let the client in. It may ask again."""
        self._expect(namespace, NamespaceState.CONNECTING)
        self._enter(namespace, NamespaceState.ABSENT)

    def left(self, namespace: str) -> None:
        """This side disconnects the namespace. Acknowledgements that were awaited there are so no more."""
        self._expect(namespace, NamespaceState.CONNECTED)
        self._enter(namespace, NamespaceState.LEFT)
        gone = [name for name, entry in self._namespaces.items() if entry.state is NamespaceState.LEFT]
        if len(gone) > self._max_namespaces:  # so that a peer which comes and goes does not fill the memory
            del self._namespaces[gone[0]]

    def state(self, namespace: str) -> NamespaceState:
        """How far the peer is with this namespace."""
        entry = self._namespaces.get(namespace)
        return NamespaceState.ABSENT if entry is None else entry.state

    def next_ack(self, namespace: str) -> int:
        """A fresh id for an event to `namespace`, awaited from now on.

        Raises LocalProtocolError when the namespace is not connected, or `max_pending_acks` are awaited already.
        """
        awaited = self._expect(namespace, _CONNECTED).awaited
        if len(awaited) >= self._max_pending_acks:
            raise LocalProtocolError(f"{len(awaited)} acknowledgements are awaited already: give them a timeout")
        if self._last_ack >= MAX_ACK_ID:
            raise LocalProtocolError("this connection has used up its acknowledgement ids")
        self._last_ack += 1
        awaited.add(self._last_ack)
        return self._last_ack

    def forget_ack(self, namespace: str, id: int) -> None:
        """Nobody waits for this acknowledgement any more (a timeout): if it comes, it is ignored."""
        entry = self._namespaces.get(namespace)
        if entry is not None:
            entry.awaited.discard(id)

    @property
    def joined_any(self) -> bool:
        """Whether the client has ever been let into a namespace, which ends the connect timeout."""
        return self._joined_any

    def _busy(self) -> int:
        return sum(entry.state in _BUSY for entry in self._namespaces.values())

    def _enter(self, namespace: str, state: NamespaceState) -> None:
        entry = self._namespaces.get(namespace)
        if entry is not None and entry.state is state:
            return
        self._namespaces.pop(namespace, None)  # with the acks that it awaited
        if state is not NamespaceState.ABSENT:
            self._namespaces[namespace] = _Namespace(state, self._table[state])

    def _expect(self, namespace: str, state: NamespaceState) -> _Namespace:
        entry = self._namespaces.get(namespace)
        if entry is None or entry.state is not state:
            raise LocalProtocolError(f"namespace {namespace!r} is {self.state(namespace).value}, not {state.value}")
        return entry
