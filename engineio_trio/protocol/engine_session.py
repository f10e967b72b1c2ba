"""The Engine.IO session as a state machine: a table of (state, door, packet) and one deadline.

Engine.IO protocol v4, "Heartbeat" and "Upgrade"; revision 3, whose heartbeat goes the other way, is one other row.
No clock: time comes in as `now`, in seconds of any clock that only rises (the one of `trio.current_time`).
"""

import enum
import math

from engineio_trio.errors import RemoteProtocolError
from engineio_trio.protocol.engine import Open, Packet, PacketType


class State(enum.Enum):
    """Where a session is."""

    OPEN = "open"  # one transport, polling or WebSocket
    PROBING = "probing"  # polling carries the session; a WebSocket has been probed
    CLOSED = "closed"


class Door(enum.Enum):
    """Which way a packet came in."""

    CURRENT = "current"  # the transport that carries the session
    PROBE = "probe"  # the WebSocket that wants to take over


class Action(enum.Enum):
    """What the caller has to do for a packet: the answer of `receive`."""

    NOTHING = "nothing"  # a pong, or a noop
    DELIVER = "deliver"  # packet.data is a message for the application
    ANSWER_PROBE = "answer probe"  # send "3probe" on the probe, and "6" on a waiting poll
    UPGRADE = "upgrade"  # server: the probe is the current transport now. Client: let polling rest, then send "5"
    ANSWER_PING = "answer ping"  # send "3" and the ping's data
    CLOSE = "close"  # the peer said "1"


class Due(enum.Enum):
    """What the passing of time asks for: the answer of `on_deadline`."""

    NOTHING = "nothing"
    SEND_PING = "send ping"
    TIMED_OUT = "timed out"


Row = dict[PacketType, tuple[Action, State]]
Table = dict[tuple[State, Door], Row]


def _session(state: State, heartbeat: Row) -> Row:
    """What may come in on the current transport while the session is in `state`."""
    return heartbeat | {
        PacketType.MESSAGE: (Action.DELIVER, state),
        PacketType.NOOP: (Action.NOTHING, state),
        PacketType.CLOSE: (Action.CLOSE, State.CLOSED),
    }


def _table(answer: PacketType, action: Action) -> Table:
    """The server's table; `answer` is the heartbeat packet that a client may send. A missing cell is the error."""
    return {
        (State.OPEN, Door.CURRENT): _session(State.OPEN, {answer: (action, State.OPEN)}),
        (State.OPEN, Door.PROBE): {PacketType.PING: (Action.ANSWER_PROBE, State.PROBING)},
        (State.PROBING, Door.CURRENT): _session(State.PROBING, {answer: (action, State.PROBING)}),
        (State.PROBING, Door.PROBE): {PacketType.UPGRADE: (Action.UPGRADE, State.OPEN)},
        (State.CLOSED, Door.CURRENT): {},
        (State.CLOSED, Door.PROBE): {},
    }


TRANSITIONS: dict[int, Table] = {
    4: _table(PacketType.PONG, Action.NOTHING),
    3: _table(PacketType.PING, Action.ANSWER_PING),
}

CLIENT_TRANSITIONS: Table = {
    (State.OPEN, Door.CURRENT): _session(State.OPEN, {PacketType.PING: (Action.ANSWER_PING, State.OPEN)}),
    (State.OPEN, Door.PROBE): {PacketType.PONG: (Action.UPGRADE, State.PROBING)},
    (State.PROBING, Door.CURRENT): _session(State.PROBING, {PacketType.PING: (Action.ANSWER_PING, State.PROBING)}),
    (State.PROBING, Door.PROBE): {},
    (State.CLOSED, Door.CURRENT): {},
    (State.CLOSED, Door.PROBE): {},
}


_HEARTBEAT = frozenset({PacketType.PING, PacketType.PONG})


def _not_allowed(packet: Packet, where: str) -> RemoteProtocolError:
    data = f" with {packet.data!r:.40}" if packet.type in _HEARTBEAT else ""  # never an application's message
    return RemoteProtocolError(f"{packet.type.name}{data} is not allowed {where}")


class EngineSession:
    """The server's side of one session.

    `deadline` is when `on_deadline` has to be called next (infinity once closed), `state` is where the session is,
    `awaiting_pong` is whether a ping has not been answered.
    Times are in seconds. In revision 4 the server pings `ping_interval` after the last pong, first after one interval,
    and only a pong within `ping_timeout` keeps the session; in revision 3 the client pings, and has the sum of both.
    `upgradable` is true for a session that began on polling: it may move to a WebSocket, once.
    """

    __slots__ = (
        "_ping_interval", "_ping_timeout", "_revision", "_unread", "_upgradable", "awaiting_pong", "deadline", "state",
    )  # fmt: skip

    def __init__(
        self, *, ping_interval: float, ping_timeout: float, now: float, revision: int = 4, upgradable: bool
    ) -> None:
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._revision = revision
        self._upgradable = upgradable
        self.awaiting_pong = False
        self._unread = 0.0  # seconds since the last ping in which nothing was read
        self.state = State.OPEN
        self.deadline = now + ping_interval + (ping_timeout if revision == 3 else 0)

    def receive(self, packet: Packet, door: Door, now: float) -> Action:
        """What to do for this packet of the peer.

        Raises RemoteProtocolError that names state and packet. On Door.CURRENT it ends the session. On Door.PROBE it
        costs that WebSocket only: close it and call `probe_failed`. There is one probe at a time: the caller refuses
        a second WebSocket while the first is there.
        """
        cell = TRANSITIONS[self._revision][self.state, door].get(packet.type)
        if cell is None or (cell[0] is Action.ANSWER_PROBE and not self._may_probe(packet)):
            raise _not_allowed(packet, f"on the {door.value} transport of a session that is {self.state.value}")
        action, state = cell
        if action is Action.UPGRADE:
            self._upgradable = False
        elif door is Door.CURRENT and packet.type in _HEARTBEAT:
            self._heard(now)
        self._enter(state)
        return action

    def on_deadline(self, now: float) -> Due:
        """What is due at `now`; NOTHING before `deadline`. After TIMED_OUT the session is closed."""
        if now < self.deadline:
            return Due.NOTHING
        if self._revision == 3 or self.awaiting_pong:
            self._enter(State.CLOSED)
            return Due.TIMED_OUT
        self.awaiting_pong = True
        self._unread = 0.0
        self.deadline = now + self._ping_timeout
        return Due.SEND_PING

    def not_read(self, seconds: float) -> None:
        """Nothing was read for so long, by this side's own choice: that no pong came is nobody's fault.

        When to send the next ping does not change: the peer counts, too.
        """
        if self.awaiting_pong or self._revision == 3:
            self.deadline += seconds
            self._unread += seconds

    def probe_failed(self) -> None:
        """The WebSocket that wanted to take over is gone: the session goes on as it was, and may be probed again."""
        if self.state is State.PROBING:
            self._enter(State.OPEN)

    def close(self) -> None:
        """This side closes the session. Anything received from now on is an error."""
        self._enter(State.CLOSED)

    def _may_probe(self, packet: Packet) -> bool:
        return self._upgradable and packet.data == "probe"

    def _heard(self, now: float) -> None:
        """The peer's half of the heartbeat came. An unasked pong changes nothing."""
        if self._revision == 3:
            self.deadline = now + self._ping_interval + self._ping_timeout
        elif self.awaiting_pong:
            self.awaiting_pong = False
            self.deadline = now + max(self._ping_interval - self._unread, 0)

    def _enter(self, state: State) -> None:
        self.state = state
        if state is State.CLOSED:
            self.deadline = math.inf


class ClientEngineSession:
    """The client's side of one session of revision 4, after `open_` was received at `now`.

    `deadline` is when the server is taken for dead: ping interval and timeout after its last ping, for nothing but a
    ping shows that its heart beats. `state` is where the session is.
    """

    awaiting_pong = False  # it is the server that pings

    __slots__ = ("_patience", "deadline", "state")

    def __init__(self, open_: Open, now: float) -> None:
        self._patience = open_.ping_interval + open_.ping_timeout
        self.state = State.OPEN
        self.deadline = now + self._patience

    def receive(self, packet: Packet, door: Door, now: float) -> Action:
        """What to do for this packet of the server: DELIVER, ANSWER_PING, CLOSE, NOTHING; UPGRADE on Door.PROBE.

        After UPGRADE say `upgraded` or `probe_failed`. Raises RemoteProtocolError that names state and
        packet. On Door.CURRENT it ends the session; on Door.PROBE it costs that WebSocket only.
        """
        cell = CLIENT_TRANSITIONS[self.state, door].get(packet.type)
        if cell is None or (cell[0] is Action.UPGRADE and packet.data != "probe"):
            raise _not_allowed(packet, f"from the server on the {door.value} transport in state {self.state.value}")
        action, self.state = cell
        if action is Action.ANSWER_PING:
            self.deadline = now + self._patience
        elif action is Action.CLOSE:
            self.deadline = math.inf
        return action

    def on_deadline(self, now: float) -> Due:
        """TIMED_OUT once `deadline` is reached; the session is closed then."""
        if now < self.deadline:
            return Due.NOTHING
        self.close()
        return Due.TIMED_OUT

    def not_read(self, seconds: float) -> None:
        """Nothing was read for so long, by this side's own choice: that no ping came is nobody's fault."""
        self.deadline += seconds

    def upgraded(self) -> None:
        """UPGRADE has been sent on the probe: it carries the session from now on."""
        self._end_probe()

    def probe_failed(self) -> None:
        """The WebSocket that wanted to take over is gone: the session goes on as it was."""
        self._end_probe()

    def _end_probe(self) -> None:
        if self.state is State.PROBING:
            self.state = State.OPEN

    def close(self) -> None:
        """This side closes the session."""
        self.state, self.deadline = State.CLOSED, math.inf
