"""One outgoing message, rendered at most once per kind of wire."""

import enum
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from wsproto.frame_protocol import FrameProtocol

from engineio_trio.errors import LocalProtocolError
from engineio_trio.protocol import codec, payload
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Packet, PacketType
from engineio_trio.protocol.socket import Ack, Event, SocketPacket
from tests.protocol.strategies import socket_packets


class Enough(enum.StrEnum):
    """A str that is not one of JSON's own."""

    A = "a"


BINARY_EVENT = Event("x", ("é", b"123"))


def received(wire: bytes) -> list[str | bytes]:
    """The messages that a WebSocket client reads out of these bytes."""
    client = FrameProtocol(client=True, extensions=[])
    client.receive_bytes(wire)
    frames = list(client.received_frames())
    assert all(frame.message_finished for frame in frames)
    return [frame.payload if isinstance(frame.payload, str) else bytes(frame.payload) for frame in frames]


@given(socket_packets)
def test_every_kind_of_wire_says_the_same(packet: SocketPacket) -> None:
    text, attachments = codec.encode(packet)
    encoded = Encoded.socket(packet)
    assert encoded.packets == tuple(Packet(PacketType.MESSAGE, data) for data in (text, *attachments))
    assert received(encoded.websocket) == [f"4{text}", *attachments]
    assert received(encoded.websocket_v3) == [f"4{text}", *(b"\x04" + data for data in attachments)]
    assert payload.decode(payload.encode([encoded.polling]), max_packets=11) == list(encoded.packets)
    assert encoded.size == len(f"4{text}".encode()) + sum(map(len, attachments))


def test_is_rendered_once() -> None:
    encoded = Encoded.socket(BINARY_EVENT)
    assert encoded.websocket is encoded.websocket
    assert encoded.websocket_v3 is encoded.websocket_v3
    assert encoded.polling is encoded.polling


def test_without_bytes_both_revisions_share_their_frames() -> None:
    encoded = Encoded.socket(Event("x"))
    assert encoded.websocket_v3 is encoded.websocket
    assert Encoded.socket(BINARY_EVENT).websocket_v3 != Encoded.socket(BINARY_EVENT).websocket


def test_engine_packets() -> None:
    ping = Encoded.engine(Packet(PacketType.PING))
    assert (ping.websocket, ping.polling, ping.size) == (b"\x81\x012", "2", 1)
    message = Encoded.engine(Packet(PacketType.MESSAGE, b"\x01\x02\x03"))
    assert (message.websocket, message.polling, message.size) == (b"\x82\x03\x01\x02\x03", "bAQID", 3)


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (Packet(PacketType.MESSAGE, "a\x1e4b"), "U\\+001E"),
        (Packet(PacketType.MESSAGE, "\ud800"), "not Unicode"),
        (Packet(PacketType.PING, b"probe"), "only a MESSAGE can be binary"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anyone_gets_it(packet: Packet, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        Encoded.engine(packet)


def test_reserved_event_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="reserved"):
        Encoded.socket(Event("connect"))


@given(socket_packets.filter(lambda packet: isinstance(packet, Event | Ack)))
def test_the_short_way_says_the_same(packet: Event | Ack) -> None:
    if isinstance(packet, Event):
        short = Encoded.event(packet.name, packet.args, packet.namespace, packet.id)
    else:
        short = Encoded.ack(packet.id, packet.args, packet.namespace)
    assert short.websocket == Encoded.socket(packet).websocket


NOT_PLAIN: list[Any] = [
    float("nan"), b"x", [b"x"], {"a": {"b": [b"x"]}}, {b"x": 1}, {1: 2}, {1}, Enough.A, {Enough.A: 1}, "\ud800",
    10**400, [[[[[[[[[[[[[[[[[[b"deep"]]]]]]]]]]]]]]]]]], {"_placeholder": True, "num": 0}, object(), (1, (b"x",)),
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_PLAIN, ids=repr)
def test_the_short_way_leaves_what_is_not_plain_alone(value: Any) -> None:
    """The same frames, or the same words of refusal."""
    assert outcome(lambda: Encoded.event("a", (1, value))) == outcome(lambda: Encoded.socket(Event("a", (1, value))))


@pytest.mark.parametrize(
    ("name", "namespace", "id"),
    [("connect", "/", None), (1, "/", None), ("a", "b", None), ("a", "/,", 1), ("a", "/", -1), ("a", "/", True)],
)
def test_the_short_way_refuses_what_the_long_one_refuses(name: Any, namespace: str, id: int | None) -> None:
    long = outcome(lambda: Encoded.socket(Event(name, (), namespace, id)))
    assert isinstance(long, str)
    assert outcome(lambda: Encoded.event(name, (), namespace, id)) == long


def outcome(make: Callable[[], Encoded]) -> bytes | str:
    try:
        return make().websocket
    except LocalProtocolError as refusal:
        return str(refusal)
