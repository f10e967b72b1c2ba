"""The Engine.IO session: every cell of its tables, and its one deadline."""

import math
from collections.abc import Callable

import pytest

from engineio_trio.errors import CloseReason, RemoteProtocolError
from engineio_trio.protocol.engine import Open, Packet, PacketType
from engineio_trio.protocol.engine_session import (
    CLIENT_TRANSITIONS,
    TRANSITIONS,
    Action,
    ClientEngineSession,
    Door,
    Due,
    EngineSession,
    State,
)

INTERVAL, TIMEOUT = 25.0, 20.0
PROBE = Packet(PacketType.PING, "probe")
PONG = Packet(PacketType.PONG)
PING = Packet(PacketType.PING)
MESSAGE = Packet(PacketType.MESSAGE, "hello")
UPGRADE = Packet(PacketType.UPGRADE)


def session(revision: int = 4, *, upgradable: bool = True, now: float = 0.0) -> EngineSession:
    return EngineSession(
        ping_interval=INTERVAL, ping_timeout=TIMEOUT, now=now, revision=revision, upgradable=upgradable
    )


def session_in(state: State, revision: int) -> EngineSession:
    made = session(revision)
    if state is State.PROBING:
        assert made.receive(PROBE, Door.PROBE, 0) is Action.ANSWER_PROBE
    elif state is State.CLOSED:
        made.close()
    assert made.state is state
    return made


# What the specification says, written apart from the code's table: (revision, state, door, packet) -> (action, state).
_OPEN = {"MESSAGE": "DELIVER", "NOOP": "NOTHING", "CLOSE": "CLOSE"}
LEGAL: dict[tuple[int, State, Door, PacketType], tuple[Action, State]] = {
    (revision, state, Door.CURRENT, PacketType[packet]): (
        Action[action],
        State.CLOSED if packet == "CLOSE" else state,
    )
    for revision, heartbeat in ((4, {"PONG": "NOTHING"}), (3, {"PING": "ANSWER_PING"}))
    for state in (State.OPEN, State.PROBING)
    for packet, action in (_OPEN | heartbeat).items()
} | {
    cell: value
    for revision in (3, 4)
    for cell, value in {
        (revision, State.OPEN, Door.PROBE, PacketType.PING): (Action.ANSWER_PROBE, State.PROBING),
        (revision, State.PROBING, Door.PROBE, PacketType.UPGRADE): (Action.UPGRADE, State.OPEN),
    }.items()
}


@pytest.mark.parametrize("revision", [3, 4])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("door", Door)
@pytest.mark.parametrize("type_", PacketType)
def test_every_cell(revision: int, state: State, door: Door, type_: PacketType) -> None:
    """W10 and every other packet in every state, legal or not."""
    made = session_in(state, revision)
    packet = PROBE if type_ is PacketType.PING and door is Door.PROBE else Packet(type_)
    legal = LEGAL.get((revision, state, door, type_))
    if legal is None:
        with pytest.raises(RemoteProtocolError, match=f"{type_.name}.*{door.value}.*{state.value}") as caught:
            made.receive(packet, door, 1.0)
        assert caught.value.reason is CloseReason.PARSE_ERROR
        assert made.state is state
    else:
        assert (made.receive(packet, door, 1.0), made.state) == legal


def test_table_has_a_row_for_every_state_and_door() -> None:
    rows = {(state, door) for state in State for door in Door}
    assert {revision: set(table) for revision, table in TRANSITIONS.items()} == {4: rows, 3: rows}


# Heartbeat


def test_server_pings_one_interval_after_the_opening_and_after_each_pong() -> None:
    made = session(now=100)
    assert made.deadline == 125
    assert made.on_deadline(124.9) is Due.NOTHING
    assert made.on_deadline(125.5) is Due.SEND_PING
    assert made.deadline == 145.5
    assert made.receive(PONG, Door.CURRENT, 130) is Action.NOTHING
    assert made.deadline == 155
    assert made.on_deadline(155) is Due.SEND_PING


def test_session_without_a_pong_times_out() -> None:
    made = session()
    assert made.on_deadline(25) is Due.SEND_PING
    assert made.on_deadline(44.9) is Due.NOTHING
    assert made.on_deadline(45) is Due.TIMED_OUT
    assert made.state is State.CLOSED
    assert made.deadline == math.inf
    assert made.on_deadline(1000) is Due.NOTHING


def test_only_a_pong_keeps_the_session() -> None:
    made = session()
    made.on_deadline(25)
    made.receive(MESSAGE, Door.CURRENT, 44)
    made.receive(Packet(PacketType.NOOP), Door.CURRENT, 44)
    assert made.on_deadline(45) is Due.TIMED_OUT


def test_unasked_pong_changes_nothing() -> None:
    made = session()
    assert made.receive(PONG, Door.CURRENT, 10) is Action.NOTHING
    assert made.deadline == 25
    made.on_deadline(25)
    made.receive(PONG, Door.CURRENT, 26)
    made.receive(PONG, Door.CURRENT, 30)
    assert made.deadline == 51


def test_pong_that_is_late_but_there_before_the_deadline_is_looked_at_counts() -> None:
    made = session()
    made.on_deadline(25)
    made.receive(PONG, Door.CURRENT, 46)
    assert made.on_deadline(46) is Due.NOTHING


def test_heartbeat_goes_on_while_probing_and_after_the_upgrade() -> None:
    made = session_in(State.PROBING, 4)
    assert made.on_deadline(25) is Due.SEND_PING
    made.receive(UPGRADE, Door.PROBE, 26)
    assert made.deadline == 45
    made.receive(PONG, Door.CURRENT, 27)
    assert made.deadline == 52


def test_client_of_revision_3_pings() -> None:
    made = session(3, now=100)
    assert made.deadline == 145
    assert made.receive(PING, Door.CURRENT, 120) is Action.ANSWER_PING
    assert made.deadline == 165
    made.receive(MESSAGE, Door.CURRENT, 150)
    assert made.on_deadline(164.9) is Due.NOTHING
    assert made.on_deadline(165) is Due.TIMED_OUT
    assert made.state is State.CLOSED


# Upgrade


@pytest.mark.parametrize("data", ["", "probe2", "PROBE", "x" * 1000])
def test_a_ping_that_is_no_probe_is_refused(data: str) -> None:
    with pytest.raises(RemoteProtocolError, match="PING with") as caught:
        session().receive(Packet(PacketType.PING, data), Door.PROBE, 0)
    assert len(str(caught.value)) < 200


def test_session_that_began_on_a_websocket_cannot_be_probed() -> None:
    with pytest.raises(RemoteProtocolError):
        session(upgradable=False).receive(PROBE, Door.PROBE, 0)


def test_session_is_upgraded_once() -> None:
    made = session_in(State.PROBING, 4)
    assert made.receive(UPGRADE, Door.PROBE, 0) is Action.UPGRADE
    with pytest.raises(RemoteProtocolError):
        made.receive(PROBE, Door.PROBE, 0)


def test_failed_probe_leaves_the_session_as_it_was_and_another_may_come() -> None:
    made = session_in(State.PROBING, 4)
    with pytest.raises(RemoteProtocolError):
        made.receive(MESSAGE, Door.PROBE, 0)
    made.probe_failed()
    assert made.state is State.OPEN
    assert made.receive(MESSAGE, Door.CURRENT, 0) is Action.DELIVER
    assert made.receive(PROBE, Door.PROBE, 0) is Action.ANSWER_PROBE


def test_probe_that_fails_after_the_close_opens_nothing() -> None:
    made = session_in(State.PROBING, 4)
    made.close()
    made.probe_failed()
    assert made.state is State.CLOSED


def test_error_does_not_repeat_the_message() -> None:
    """What an application says belongs in no log."""
    with pytest.raises(RemoteProtocolError) as caught:
        session().receive(Packet(PacketType.MESSAGE, "secret"), Door.PROBE, 0)
    assert "secret" not in str(caught.value)


def test_what_was_not_read_is_not_held_against_the_peer() -> None:
    made = session()
    made.not_read(100)
    assert made.deadline == INTERVAL
    assert made.on_deadline(INTERVAL) is Due.SEND_PING
    made.not_read(100)
    assert made.on_deadline(INTERVAL + TIMEOUT + 99) is Due.NOTHING
    assert made.on_deadline(INTERVAL + TIMEOUT + 100) is Due.TIMED_OUT
    late = session()
    late.on_deadline(INTERVAL)
    late.not_read(10)
    late.receive(PONG, Door.CURRENT, INTERVAL + 10)
    assert late.deadline == 2 * INTERVAL
    old = session(3)
    old.not_read(100)
    assert old.deadline == INTERVAL + TIMEOUT + 100


# The client's side


def client() -> ClientEngineSession:
    return ClientEngineSession(Open("s", (), INTERVAL, TIMEOUT, 1000), 0.0)


def client_in(state: State) -> ClientEngineSession:
    made = client()
    if state is State.PROBING:
        assert made.receive(Packet(PacketType.PONG, "probe"), Door.PROBE, 0) is Action.UPGRADE
    elif state is State.CLOSED:
        made.close()
    assert made.state is state
    return made


CLIENT_LEGAL = {
    (state, Door.CURRENT, PacketType[packet]): (Action[action], State.CLOSED if packet == "CLOSE" else state)
    for state in (State.OPEN, State.PROBING)
    for packet, action in (_OPEN | {"PING": "ANSWER_PING"}).items()
} | {(State.OPEN, Door.PROBE, PacketType.PONG): (Action.UPGRADE, State.PROBING)}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("door", Door)
@pytest.mark.parametrize("type_", PacketType)
def test_every_cell_of_the_client(state: State, door: Door, type_: PacketType) -> None:
    made = client_in(state)
    legal = CLIENT_LEGAL.get((state, door, type_))
    packet = Packet(type_, "probe" if door is Door.PROBE else "")
    if legal is None:
        with pytest.raises(RemoteProtocolError, match=f"{type_.name}.*{state.value}"):
            made.receive(packet, door, 1.0)
    else:
        assert (made.receive(packet, door, 1.0), made.state) == legal


def test_table_of_the_client_has_every_state_and_door() -> None:
    assert set(CLIENT_TRANSITIONS) == {(state, door) for state in State for door in Door}


def test_client_takes_only_the_answer_to_its_own_probe() -> None:
    with pytest.raises(RemoteProtocolError, match="PONG with 'prove'"):
        client().receive(Packet(PacketType.PONG, "prove"), Door.PROBE, 1.0)


@pytest.mark.parametrize("settle", [ClientEngineSession.upgraded, ClientEngineSession.probe_failed])
def test_client_is_open_again_after_its_probe(settle: Callable[[ClientEngineSession], None]) -> None:
    made = client_in(State.PROBING)
    settle(made)
    assert made.state is State.OPEN
    made.close()
    settle(made)
    assert made.state is State.CLOSED


def test_only_a_ping_keeps_the_client() -> None:
    made = client()
    assert made.deadline == 45
    made.receive(PING, Door.CURRENT, 30)
    assert made.deadline == 75
    made.receive(MESSAGE, Door.CURRENT, 74)
    assert made.on_deadline(74.9) is Due.NOTHING
    assert made.on_deadline(75) is Due.TIMED_OUT
    assert (made.state, made.deadline) == (State.CLOSED, math.inf)


def test_client_that_was_closed_waits_for_nothing() -> None:
    made = client()
    made.receive(Packet(PacketType.CLOSE), Door.CURRENT, 1)
    assert made.deadline == math.inf
    assert made.on_deadline(1000) is Due.NOTHING


def test_what_the_client_did_not_read_is_not_held_against_the_server() -> None:
    made = client()
    made.not_read(10)
    assert made.deadline == INTERVAL + TIMEOUT + 10
