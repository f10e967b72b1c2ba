"""Socket.IO packets <-> text and attachments; the fixtures hold the single cases."""

import dataclasses
import datetime
import enum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol.codec import Decoder, encode, encode_plain
from engineio_trio.protocol.socket import Ack, Connect, ConnectError, Disconnect, Event, SocketPacket
from tests.protocol.strategies import socket_packets


def decoder(**limits: int) -> Decoder:
    return Decoder(**{"max_attachments": 10, "max_bytes": 1000, "max_depth": 64, **limits})


def feed_all(messages: list[str | bytes], into: Decoder) -> list[SocketPacket | None]:
    return [into.feed(message) for message in messages]


@given(socket_packets)
def test_round_trip(packet: SocketPacket) -> None:
    text, attachments = encode(packet)
    assert feed_all([text, *attachments], decoder()) == [None] * len(attachments) + [packet]


PLACEHOLDER = '{"_placeholder":true,"num":0}'

# Texts that come close to packets: pieces of the grammar in any order.
pieces = st.sampled_from(
    [*'0123456-/,[]{}:\\"\ud800\x1e? ٣', "51-", "/a", "9007199254740992", '"a"', '"connect"', "null", PLACEHOLDER]
)
texts = st.text() | st.lists(pieces, max_size=10).map("".join)


@given(st.lists(texts | st.binary(max_size=10), max_size=6))
def test_any_messages_give_packets_that_can_be_sent_on_or_a_protocol_error(messages: list[str | bytes]) -> None:
    """S4, S6, S7, S8, S10: nothing but RemoteProtocolError comes out, and what is read can be written."""
    reader = decoder(max_bytes=20)
    for message in messages:
        try:
            packet = reader.feed(message)
        except RemoteProtocolError:
            assert not reader.waiting
            return
        if packet is None:
            assert reader.waiting
            continue
        text, attachments = encode(packet)
        assert feed_all([text, *attachments], decoder()) == [None] * len(attachments) + [packet]
        text.encode()


# Reading


def test_a_million_attachments_that_nobody_awaits_leave_nothing_behind() -> None:
    """S4: a packet that announces none is complete, and what follows is refused at once."""
    reader = decoder()
    assert reader.feed('50-["a"]') == Event("a")
    assert not reader.waiting
    with pytest.raises(RemoteProtocolError, match="no attachment is awaited"):
        reader.feed(b"x")


def test_attachments_are_bounded_together() -> None:
    """S5."""
    announced = '52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    reader = decoder(max_bytes=10)
    assert feed_all([announced, b"12345", b"67890"], reader)[-1] == Event("a", (b"12345", b"67890"))
    assert feed_all([announced, b"12345"], reader) == [None, None]
    with pytest.raises(RemoteProtocolError) as caught:
        reader.feed(b"678901")
    assert caught.value.reason is CloseReason.TOO_BIG
    assert not reader.waiting


def test_nothing_is_awaited_after_an_error() -> None:
    reader = decoder()
    reader.feed('51-["a",{"_placeholder":true,"num":0}]')
    with pytest.raises(RemoteProtocolError, match="attachments are awaited"):
        reader.feed('2["b"]')
    assert not reader.waiting


def test_attachment_is_plain_bytes_whatever_buffer_it_came_in() -> None:
    reader = decoder()
    reader.feed('51-["a",{"_placeholder":true,"num":0}]')
    packet = reader.feed(bytearray(b"x"))
    assert isinstance(packet, Event)
    assert type(packet.args[0]) is bytes


def test_limits_are_those_that_were_set() -> None:
    with pytest.raises(RemoteProtocolError, match="more than 1 attachments"):
        decoder(max_attachments=1).feed('52-["a"]')
    with pytest.raises(RemoteProtocolError, match="deeper than 2"):
        decoder(max_depth=2).feed('2["a",[[]]]')
    assert decoder(max_depth=2).feed('2["a",[],"[[["]') == Event("a", ([], "[[["))


def test_a_depth_limit_beyond_what_python_can_do_is_still_no_crash() -> None:
    """S10."""
    with pytest.raises(RemoteProtocolError):
        decoder(max_depth=10**6).feed("2" + "[" * 200_000)


def test_a_deep_place_for_an_attachment_is_found() -> None:
    place = "[" * 600 + '{"_placeholder":true,"num":0}' + "]" * 600
    reader = decoder(max_depth=1000)
    assert reader.feed(f'51-["a",{place}]') is None
    value: Any = reader.feed(b"x")
    for _ in range(600):
        value = value[0] if isinstance(value, list) else value.args[0]
    assert value == [b"x"]


def test_long_header_costs_one_pass() -> None:
    for text in ("2" + "1" * 1_000_000, "5" + "1" * 1_000_000, "0/" + "a" * 1_000_000, "2/" + "/" * 1_000_000):
        with pytest.raises(RemoteProtocolError):
            decoder().feed(text)


# Writing


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    data: bytes = b""


class Reading(msgspec.Struct):
    value: float


def test_bytes_of_every_kind_become_attachments() -> None:
    view = memoryview(b"abcdef")[::2]
    assert encode(Event("e", (b"1", bytearray(b"2"), {"v": (view,)}))) == (
        '53-["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1},{"v":[{"_placeholder":true,"num":2}]}]',
        (b"1", b"2", b"ace"),
    )


def test_bytes_inside_objects_become_attachments_too() -> None:
    """msgspec would write them as base64."""
    assert encode(Event("e", (Point(1, b"2"),))) == ('51-["e",{"x":1,"data":{"_placeholder":true,"num":0}}]', (b"2",))
    assert encode(Ack(1, ({b"x"},))) == ('61-1[[{"_placeholder":true,"num":0}]]', (b"x",))


def test_later_changes_of_a_buffer_do_not_change_the_attachment() -> None:
    buffer = bytearray(b"before")
    _, attachments = encode(Event("e", (buffer,)))
    buffer[:] = b"after!"
    assert attachments == (b"before",)


def test_objects_that_json_can_carry() -> None:
    day = datetime.date(2020, 1, 2)
    text, _ = encode(Event("e", (Colour.RED, Reading(1.5), day, (1, 2), {1: {2.5: 3}}, {Colour.RED: 1})))
    assert text == '2["e","red",{"value":1.5},"2020-01-02",[1,2],{"1":{"2.5":3}},{"red":1}]'


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    assert encode(Event("e", (float("nan"), float("inf"), [-float("inf")])))[0] == '2["e",null,null,[null]]'


def test_namespace_data_and_query() -> None:
    assert encode(Connect("/a", {"t": 1}, "b=1"))[0] == '0/a?b=1,{"t":1}'
    assert encode(Connect("/", None, "b=1"))[0] == "0/?b=1,"
    assert encode(Disconnect("/a"))[0] == "1/a,"
    assert encode(ConnectError("/", "no"))[0] == '4"no"'


def test_maximum_of_attachments() -> None:
    event = Event("e", (b"",) * 11)
    with pytest.raises(LocalProtocolError, match="11 attachments in one packet; 10 are allowed"):
        encode(event)
    assert len(encode(event, max_attachments=11)[1]) == 11


loop: list[Any] = []
loop.append(loop)
deep: list[Any] = []
for _ in range(100_000):
    deep = [deep]


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (Event("disconnect"), "'disconnect' is reserved"),
        (Event(3), "an event's name is a string, not int"),  # type: ignore[arg-type]
        (Event("\ud800"), "name: .*surrogates"),
        (Event("e", (1, {"a": [0, object()]})), r"args\[1\]\['a'\]\[1\]: .*object is unsupported"),
        (Event("e", ({"a": {None: 1}},)), r"args\[0\]\['a'\]: Only dicts with str-like"),
        (Event("e", ("\udfff",)), r"args\[0\]: .*surrogates"),
        (Event("e", (10**5000,)), r"args\[0\]: .*digits"),
        (Event("e", ({"a": {b"k": 1}},)), "a member's name is a string, not bytes: b'k'"),
        (Event("e", (loop,)), "contains itself"),
        (Event("e", (deep,)), "nested too deeply"),
        (Ack(1, ({1: deep},)), "nested too deeply"),
        (Event("e", (), "/", -1), "ack id .* not -1"),
        (Event("e", (), "/", True), "ack id .* not True"),
        (Ack("1"), "ack id .* not '1'"),  # type: ignore[arg-type]
        (Ack(2**53), "ack id"),
        (Event("e", (), ""), "'' is no namespace"),
        (Event("e", (), "/a?b"), "no namespace"),
        (Disconnect("/a\n"), "no namespace"),
        (Connect("/" + "n" * 128), "longer than 128 bytes"),
        (Connect("/", None, "a,b"), "no query"),
        (Connect("/", []), "is an object .* not list"),  # type: ignore[arg-type]
        (Connect("/", {"a": object()}), r"data\['a'\]: "),
        (Connect("/", {"a": b""}), "CONNECT packet cannot carry bytes"),
        (ConnectError("/", None), "object or a string, not None"),  # type: ignore[arg-type]
        (ConnectError("/", {"a": [b""]}), "CONNECT_ERROR packet cannot carry bytes"),
        (Event("e", ({"_placeholder": True}, b"")), "_placeholder"),
    ],
)
def test_error_says_what_cannot_be_sent(packet: SocketPacket, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        encode(packet)


def test_data_that_talks_about_placeholders_can_travel_with_bytes() -> None:
    packet = Event("e", ('"_placeholder":true', {"_placeholder": False, "x": '{"_placeholder":true}'}, b"1"))
    text, attachments = encode(packet)
    assert feed_all([text, *attachments], decoder())[-1] == packet


@pytest.mark.parametrize("others", [(), (b"x",)])
def test_text_that_is_json_already_travels_as_it_is(others: tuple[bytes, ...]) -> None:
    raw = msgspec.Raw(b'{"b":1, "a":[2.0]}')
    text, attachments = encode(Event("e", (raw, {"in": [raw]}, *others)))
    rest = ',{"_placeholder":true,"num":0}' if others else ""
    head = "51-" if others else "2"
    assert text == head + '["e",{"b":1, "a":[2.0]},{"in":[{"b":1, "a":[2.0]}]}' + rest + "]"
    assert attachments == others
    if not others:
        assert encode_plain(b"2", "/", None, ["e", raw, {"in": [raw]}]) == text.encode()


@pytest.mark.parametrize("id", ["0", "007", "999999999999999", "1000000000000000", str(2**53 - 1)])
def test_an_acknowledgement_of_any_id(id: str) -> None:
    assert decoder().feed(f'3{id}["a",[1]]') == Ack(int(id), ("a", [1]))


@pytest.mark.parametrize("text", ["3[]", "31", "31{}", f"3{2**53}[]", "3\u0663[]", "3-1[]", "31[", "3 1[]", "31]["])
def test_what_is_no_acknowledgement(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decoder().feed(text)
