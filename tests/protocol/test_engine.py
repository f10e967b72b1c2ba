"""Engine.IO packets and the OPEN packet's data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineio_trio.errors import LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol import engine
from engineio_trio.protocol.engine import Open, Packet, PacketType

OPEN = Open("abc", ("websocket",), 25.0, 20.0, 1_000_000)

packets = st.one_of(
    st.builds(Packet, st.sampled_from(PacketType), st.text()),
    st.builds(Packet, st.just(PacketType.MESSAGE), st.binary()),
)
revisions = st.sampled_from([3, 4])


@given(packets, revisions)
def test_text_round_trip(packet: Packet, revision: int) -> None:
    assert engine.decode_text(engine.encode_text(packet, revision), revision) == packet


@given(st.binary(), revisions)
def test_binary_round_trip(data: bytes, revision: int) -> None:
    packet = Packet(PacketType.MESSAGE, data)
    assert engine.decode_binary(engine.encode_binary(packet, revision), revision) == packet


@given(st.one_of(st.text(), st.text("b4=+/AB*", max_size=12)), revisions)
def test_any_text_is_a_packet_or_a_protocol_error(text: str, revision: int) -> None:
    """W10, S2."""
    try:
        packet = engine.decode_text(text, revision)
    except RemoteProtocolError:
        return
    assert len(engine.encode_text(packet, revision)) == len(text)


@given(st.binary(max_size=20))
def test_any_bytes_are_a_packet_or_a_protocol_error_in_revision_3(data: bytes) -> None:
    try:
        packet = engine.decode_binary(data, revision=3)
    except RemoteProtocolError:
        assert data[:1] != b"\x04"
    else:
        assert engine.encode_binary(packet, revision=3) == data


def test_binary_message_is_plain_bytes_whatever_buffer_it_came_in() -> None:
    assert type(engine.decode_binary(bytearray(b"\x04a")).data) is bytes
    assert type(engine.decode_binary(bytearray(b"\x04a"), revision=3).data) is bytes


def test_text_cannot_be_encoded_as_binary() -> None:
    with pytest.raises(LocalProtocolError, match="MESSAGE with str"):
        engine.encode_binary(Packet(PacketType.MESSAGE, "text"))


def test_error_names_the_first_character() -> None:
    with pytest.raises(RemoteProtocolError, match="'x'"):
        engine.decode_text("xyz")
    with pytest.raises(RemoteProtocolError, match="empty"):
        engine.decode_text("")


def test_open_says_milliseconds() -> None:
    assert OPEN.packet() == Packet(
        PacketType.OPEN,
        '{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}',
    )


@given(
    st.builds(
        Open,
        st.text(),
        st.lists(st.text()).map(tuple),
        st.integers(1, 10**6).map(lambda milliseconds: milliseconds / 1000),
        st.integers(1, 10**6).map(lambda milliseconds: milliseconds / 1000),
        st.integers(1, 10**9),
    )
)
def test_open_round_trip(open_: Open) -> None:
    data = open_.packet().data
    assert isinstance(data, str)
    assert Open.parse(data) == open_


def test_open_of_other_servers() -> None:
    """Revision 3 and some servers do not say maxPayload; members that we do not know are skipped."""
    opened = Open.parse('{"sid":"s","pingInterval":300,"pingTimeout":200,"new":[{}]}')
    assert opened == Open("s", (), 0.3, 0.2, 1_000_000)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"sid":1,"pingInterval":1,"pingTimeout":1}',
        '{"sid":"s","pingInterval":"1","pingTimeout":1}',
        '{"sid":"s","pingInterval":0,"pingTimeout":1}',
        '{"sid":"s","pingInterval":1,"pingTimeout":-1}',
        '{"sid":"s","pingInterval":1,"pingTimeout":1,"maxPayload":0}',
        '{"sid":"s","pingInterval":1,"pingTimeout":1,"maxPayload":1.5}',
        '{"sid":"\ud800","pingInterval":1,"pingTimeout":1}',
        '{"x":' + "[" * 5000,
    ],
)
def test_open_that_is_no_handshake(data: str) -> None:
    with pytest.raises(RemoteProtocolError, match="not a handshake"):
        Open.parse(data)


@given(st.text())
def test_any_text_is_a_handshake_or_a_protocol_error(data: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Open.parse(data)
