"""Polling bodies of both revisions."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol import payload
from engineio_trio.protocol.engine import Packet, PacketType, encode_text

# A revision 4 text cannot hold the separator; surrogates are no text at all.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=payload.SEPARATOR))
packets = st.one_of(
    st.builds(Packet, st.sampled_from(PacketType), texts), st.builds(Packet, st.just(PacketType.MESSAGE), st.binary())
)
several = st.lists(packets, min_size=1, max_size=20)


@given(several)
def test_round_trip(packets: list[Packet]) -> None:
    body = payload.encode([encode_text(packet) for packet in packets])
    assert payload.decode(body, max_packets=20) == packets


@given(several, st.booleans())
def test_round_trip_in_revision_3(packets: list[Packet], binary: bool) -> None:
    body = payload.encode_v3(packets, binary=binary)
    read_as = payload.is_binary_v3(packets, binary=binary)
    assert payload.decode_v3(body, binary=read_as, max_packets=20) == packets


@given(st.binary(max_size=60))
def test_any_body_is_packets_or_a_protocol_error(body: bytes) -> None:
    """S3."""
    try:
        packets = payload.decode(body, max_packets=20)
    except RemoteProtocolError:
        return
    assert 1 <= len(packets) <= 20


@given(
    st.one_of(st.binary(max_size=60), st.text("0123456789:4b\U0001f600", max_size=20).map(str.encode)), st.booleans()
)
@example(b"\x00\x0a\xff", True)
@example(b"\x00" + b"\x09" * 10 + b"\xff", True)
@example(b"9999999999:4", False)
def test_any_body_is_packets_or_a_protocol_error_in_revision_3(body: bytes, binary: bool) -> None:
    try:
        packets = payload.decode_v3(body, binary=binary, max_packets=20)
    except RemoteProtocolError:
        return
    assert 1 <= len(packets) <= 20


def test_flood_of_empty_packets_is_counted_before_it_is_split() -> None:
    """S1."""
    with pytest.raises(RemoteProtocolError, match="more than 64 packets") as caught:
        payload.decode(b"\x1e" * 500_000, max_packets=64)
    assert caught.value.reason is CloseReason.POLICY


def test_surrogate_is_no_text() -> None:
    with pytest.raises(LocalProtocolError, match="not Unicode"):
        payload.encode(["4\ud800"])
    for binary in (False, True):
        with pytest.raises(LocalProtocolError, match="not Unicode"):
            payload.encode_v3([Packet(PacketType.MESSAGE, "\ud800"), Packet(PacketType.MESSAGE, b"")], binary=binary)


def test_bytes_go_as_base64_to_a_client_that_cannot_read_binary() -> None:
    bodies = [Packet(PacketType.MESSAGE, b"\x01\x02")]
    assert not payload.is_binary_v3(bodies, binary=False)
    assert payload.encode_v3(bodies, binary=False) == b"6:b4AQI="
