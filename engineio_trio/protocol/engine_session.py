"""The Engine.IO session as a state machine: a table of (state, packet) and one deadline. Time comes in as `now`."""
import enum
from engineio_trio.protocol.engine import Packet

class State(enum.Enum):
    OPEN = "open"            # one transport, polling or websocket
    PROBING = "probing"      # polling carries the session; a WebSocket has been probed
    CLOSED = "closed"

class Door(enum.Enum):
    """Which way a packet came in."""
    CURRENT = "current"      # the transport that carries the session
    PROBE = "probe"          # the WebSocket that wants to take over

class Action(enum.Enum):     # what the shell has to do for a packet; the answer of receive()
    NOTHING = ...            # a pong in time, a noop
    DELIVER = ...            # packet.data is a message for the application
    ANSWER_PROBE = ...       # send "3probe" on the probe, "6" on a waiting poll
    UPGRADE = ...            # the probe is now the current transport: discard polling, flush, go on
    ANSWER_PING = ...        # revision 3 only: send "3"(+data)
    CLOSE = ...              # the peer said "1"

class Due(enum.Enum):        # answer of on_deadline()
    NOTHING = ...; SEND_PING = ...; TIMED_OUT = ...

class EngineSession:
    """server side of a session. TRANSITIONS: dict[(State, Door), dict[PacketType, (Action, State)]]; missing = RemoteProtocolError.

    revision 4: server pings at ping_interval after the last pong, first after one interval; only a pong clears the wait; unasked
    pong -> NOTHING. A client PING -> error (revision 3: client pings, server answers, deadline ping_interval+ping_timeout).
    Probe: PING with data "probe" on Door.PROBE -> ANSWER_PROBE; UPGRADE on Door.PROBE in PROBING -> UPGRADE; anything else there is
    an error that costs the probe only (the shell closes that WebSocket; call probe_failed()).
    """
    deadline: float
    state: State
    def __init__(self, *, ping_interval: float, ping_timeout: float, now: float, revision: int = 4, upgradable: bool) -> None: ...
    def receive(self, packet: Packet, door: Door, now: float) -> Action: ...
    def on_deadline(self, now: float) -> Due: ...
    def probe_failed(self) -> None: ...
    def close(self) -> None: ...

class ClientEngineSession:    # the other side, small: deadline = ping_interval+ping_timeout after the last ping; receive(packet, now) -> Action
    ...
