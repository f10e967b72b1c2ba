"""Namespaces and acknowledgements of one connection: every cell of the table, and the books."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol.socket import MAX_ACK_ID, Ack, Connect, ConnectError, Disconnect, Event, SocketPacket
from engineio_trio.protocol.socket_session import (
    CLIENT_TRANSITIONS,
    TRANSITIONS,
    NamespaceState,
    SocketSession,
    Step,
)

ABSENT, CONNECTING, CONNECTED, LEFT = NamespaceState

PACKETS: dict[type[SocketPacket], SocketPacket] = {
    Connect: Connect("/a"),
    Disconnect: Disconnect("/a"),
    Event: Event("e", (), "/a"),
    Ack: Ack(0, (), "/a"),
    ConnectError: ConnectError("/a", {"message": "no"}),
}


def session(*, max_namespaces: int = 8, max_pending_acks: int = 1000) -> SocketSession:
    return SocketSession(max_namespaces=max_namespaces, max_pending_acks=max_pending_acks)


def session_in(state: NamespaceState) -> SocketSession:
    """With an ack of id 0 awaited, where one can be."""
    made = session()
    if state is not ABSENT:
        made.receive(Connect("/a"))
    if state in (CONNECTED, LEFT):
        made.accepted("/a")
        assert made.next_ack("/a") == 0
    if state is LEFT:
        made.left("/a")
    assert made.state("/a") is state
    return made


# Written apart from the code's table.
LEGAL = {
    (ABSENT, Connect): (Step.ASK, CONNECTING),
    (CONNECTED, Event): (Step.EVENT, CONNECTED),
    (CONNECTED, Ack): (Step.ACK, CONNECTED),
    (CONNECTED, Disconnect): (Step.LEAVE, ABSENT),
    (LEFT, Connect): (Step.ASK, CONNECTING),
    (LEFT, Event): (Step.IGNORE, LEFT),
    (LEFT, Ack): (Step.IGNORE, LEFT),
    (LEFT, Disconnect): (Step.IGNORE, ABSENT),
}


@pytest.mark.parametrize("state", NamespaceState)
@pytest.mark.parametrize("kind", PACKETS)
def test_every_cell(state: NamespaceState, kind: type[SocketPacket]) -> None:
    """S9 and every other packet in every state, legal or not."""
    made = session_in(state)
    legal = LEGAL.get((state, kind))
    if legal is None:
        with pytest.raises(RemoteProtocolError, match=f"{kind.__name__}.*'/a'.*{state.value}") as caught:
            made.receive(PACKETS[kind])
        assert caught.value.reason is CloseReason.PARSE_ERROR
        assert made.state("/a") is state
    else:
        assert (made.receive(PACKETS[kind]), made.state("/a")) == legal


def test_table_has_a_row_for_every_state() -> None:
    assert set(TRANSITIONS) == set(NamespaceState)


def test_namespaces_know_nothing_of_each_other() -> None:
    made = session_in(CONNECTED)
    with pytest.raises(RemoteProtocolError):
        made.receive(Event("e", (), "/"))
    assert made.state("/") is ABSENT
    assert made.receive(Connect("/")) is Step.ASK
    assert made.receive(Event("e", (), "/a")) is Step.EVENT


def test_refused_namespace_may_be_asked_for_again() -> None:
    made = session_in(CONNECTING)
    made.refused("/a")
    assert made.state("/a") is ABSENT
    assert not made.joined_any
    assert made.receive(Connect("/a")) is Step.ASK


def test_joined_any_stays_when_the_namespace_is_left() -> None:
    made = session()
    assert not made.joined_any
    made.receive(Connect("/a"))
    assert not made.joined_any
    made.accepted("/a")
    assert made.joined_any
    made.receive(Disconnect("/a"))
    assert made.joined_any


def test_namespaces_at_a_time_are_bounded() -> None:
    """S9: pending and joined ones count, refused and left ones do not."""
    made = session(max_namespaces=2)
    made.receive(Connect("/1"))
    made.receive(Connect("/2"))
    with pytest.raises(RemoteProtocolError, match="more than 2 namespaces") as caught:
        made.receive(Connect("/3"))
    assert caught.value.reason is CloseReason.POLICY
    made.refused("/1")
    made.receive(Connect("/3"))
    made.accepted("/3")
    made.left("/3")
    assert made.receive(Connect("/4")) is Step.ASK


def test_what_is_kept_of_left_namespaces_is_bounded() -> None:
    made = session(max_namespaces=2)
    for name in ("/1", "/2", "/3"):
        made.receive(Connect(name))
        made.accepted(name)
        made.left(name)
    assert [made.state(name) for name in ("/1", "/2", "/3")] == [ABSENT, LEFT, LEFT]


@pytest.mark.parametrize("state", NamespaceState)
@pytest.mark.parametrize(
    ("act", "wanted"), [("accepted", CONNECTING), ("refused", CONNECTING), ("left", CONNECTED), ("next_ack", CONNECTED)]
)
def test_own_mistakes_are_local_errors(state: NamespaceState, act: str, wanted: NamespaceState) -> None:
    made = session_in(state)
    if state is wanted:
        getattr(made, act)("/a")
        return
    with pytest.raises(LocalProtocolError, match=f"'/a' is {state.value}, not {wanted.value}"):
        getattr(made, act)("/a")
    assert made.state("/a") is state


# Acknowledgements


def test_ack_is_taken_once() -> None:
    """S8."""
    made = session_in(CONNECTED)
    assert made.receive(Ack(0, (), "/a")) is Step.ACK
    assert made.receive(Ack(0, (), "/a")) is Step.IGNORE


def test_ack_is_awaited_whatever_comes_before_it() -> None:
    made = session_in(CONNECTED)
    assert made.receive(Event("e", (), "/a")) is Step.EVENT
    assert made.receive(Ack(7, (), "/a")) is Step.IGNORE
    made.next_ack("/a")
    assert made.receive(Ack(1, (), "/a")) is Step.ACK
    assert made.receive(Ack(0, (), "/a")) is Step.ACK


def test_ack_that_nobody_awaits_is_ignored() -> None:
    made = session_in(CONNECTED)
    assert made.receive(Ack(1, (), "/a")) is Step.IGNORE
    assert made.receive(Ack(MAX_ACK_ID, (), "/a")) is Step.IGNORE


def test_ack_of_another_namespace_is_ignored() -> None:
    made = session_in(CONNECTED)
    made.receive(Connect("/b"))
    made.accepted("/b")
    assert made.receive(Ack(0, (), "/b")) is Step.IGNORE
    assert made.receive(Ack(0, (), "/a")) is Step.ACK


def test_forgotten_ack_is_ignored_and_frees_its_place() -> None:
    made = session(max_pending_acks=1)
    made.receive(Connect("/"))
    made.accepted("/")
    first = made.next_ack("/")
    with pytest.raises(LocalProtocolError, match="1 acknowledgements are awaited"):
        made.next_ack("/")
    made.forget_ack("/", first)
    made.forget_ack("/", first)
    made.forget_ack("/never", 5)
    second = made.next_ack("/")
    assert second != first
    assert made.receive(Ack(first)) is Step.IGNORE
    assert made.receive(Ack(second)) is Step.ACK


def test_ids_are_never_used_again_over_the_whole_connection() -> None:
    made = session()
    seen = set()
    for _ in range(3):
        for name in ("/", "/a"):
            made.receive(Connect(name))
            made.accepted(name)
            seen |= {made.next_ack(name), made.next_ack(name)}
            made.receive(Disconnect(name))
    assert len(seen) == 12


def test_ack_of_an_earlier_stay_is_ignored() -> None:
    made = session_in(CONNECTED)
    made.receive(Disconnect("/a"))
    made.receive(Connect("/a"))
    made.accepted("/a")
    assert made.receive(Ack(0, (), "/a")) is Step.IGNORE


def test_ids_end_where_javascript_cannot_count_on() -> None:
    made = session_in(CONNECTED)
    made._last_ack = MAX_ACK_ID - 1
    assert made.next_ack("/a") == MAX_ACK_ID
    with pytest.raises(LocalProtocolError, match="used up"):
        made.next_ack("/a")


class AnyConversation(RuleBasedStateMachine):
    """Any packets and any decisions: only ProtocolErrors come out, and the books stay bounded."""

    names = st.sampled_from(["/", "/a", "/b", "/c"])

    def __init__(self) -> None:
        super().__init__()
        self.session = session(max_namespaces=2, max_pending_acks=2)
        self.awaited: set[tuple[str, int]] = set()

    @rule(name=names, kind=st.sampled_from([Connect, Disconnect, Event, ConnectError]))
    def packet(self, name: str, kind: type[SocketPacket]) -> None:
        packet = {Event: Event("e", (), name), ConnectError: ConnectError(name, "no")}.get(kind) or kind(name)  # type: ignore
        try:
            step = self.session.receive(packet)
        except RemoteProtocolError:
            return
        if step is Step.LEAVE:
            self.awaited = {pair for pair in self.awaited if pair[0] != name}

    @rule(name=names, id=st.integers(0, 8))
    def ack(self, name: str, id: int) -> None:
        try:
            step = self.session.receive(Ack(id, (), name))
        except RemoteProtocolError:
            assert (name, id) not in self.awaited
        else:
            assert (step is Step.ACK) == ((name, id) in self.awaited)
            self.awaited.discard((name, id))

    @precondition(lambda self: self.awaited)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        name, id = data.draw(st.sampled_from(sorted(self.awaited)))
        assert self.session.receive(Ack(id, (), name)) is Step.ACK
        self.awaited.remove((name, id))

    @rule(name=names, act=st.sampled_from(["accepted", "refused", "left"]))
    def decide(self, name: str, act: str) -> None:
        try:
            getattr(self.session, act)(name)
        except LocalProtocolError:
            return
        if act == "left":
            self.awaited = {pair for pair in self.awaited if pair[0] != name}

    @rule(name=names)
    def ask(self, name: str) -> None:
        try:
            self.awaited.add((name, self.session.next_ack(name)))
        except LocalProtocolError:
            return

    @invariant()
    def books_are_bounded(self) -> None:
        states = [self.session.state(name) for name in ("/", "/a", "/b", "/c")]
        assert sum(state in (CONNECTING, CONNECTED) for state in states) <= 2
        assert states.count(LEFT) <= 2
        assert len(self.awaited) <= 4


TestAnyConversation = AnyConversation.TestCase


# The client's side


def client_in(state: NamespaceState) -> SocketSession:
    """With an ack of id 0 awaited, where one can be."""
    made = SocketSession(max_namespaces=1, max_pending_acks=10, table=CLIENT_TRANSITIONS)
    if state is not ABSENT:
        made.asked("/a")
    if state in (CONNECTED, LEFT):
        assert made.receive(Connect("/a", {"sid": "x"})) is Step.JOINED
        assert made.next_ack("/a") == 0
    if state is LEFT:
        made.left("/a")
    assert made.state("/a") is state
    return made


CLIENT_LEGAL = {
    (CONNECTING, Connect): (Step.JOINED, CONNECTED),
    (CONNECTING, ConnectError): (Step.REFUSED, ABSENT),
    (CONNECTED, Event): (Step.EVENT, CONNECTED),
    (CONNECTED, Ack): (Step.ACK, CONNECTED),
    (CONNECTED, Disconnect): (Step.LEAVE, ABSENT),
    (LEFT, Event): (Step.IGNORE, LEFT),
    (LEFT, Ack): (Step.IGNORE, LEFT),
    (LEFT, Disconnect): (Step.IGNORE, ABSENT),
}


@pytest.mark.parametrize("state", NamespaceState)
@pytest.mark.parametrize("kind", PACKETS)
def test_every_cell_of_the_client(state: NamespaceState, kind: type[SocketPacket]) -> None:
    made = client_in(state)
    legal = CLIENT_LEGAL.get((state, kind))
    if legal is None:
        with pytest.raises(RemoteProtocolError, match=f"{kind.__name__}.*'/a'.*{state.value}"):
            made.receive(PACKETS[kind])
    else:
        assert (made.receive(PACKETS[kind]), made.state("/a")) == legal


def test_client_asks_once() -> None:
    made = client_in(CONNECTING)
    with pytest.raises(LocalProtocolError, match="connecting already"):
        made.asked("/a")
