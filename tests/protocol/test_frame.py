"""RFC 6455 frames: what a server writes, and the guard over what a client sends.

The numbers in the names of the table are those of the Autobahn test suite's cases.
"""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason as WsCloseReason
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from engineio_trio.errors import CloseReason, RemoteProtocolError
from engineio_trio.protocol.frame import FrameError, FrameGuard, Opcode, server_frame

FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"\x12\x34\x56\x78"
MAX_PAYLOAD = 100_000
MAX_FRAGMENTS = 16


def frame(first: int, body: bytes = b"", length: bytes | None = None, key: bytes = KEY) -> bytes:
    """A client's frame: `length` replaces the header's length, with its mask bit."""
    if length is None:
        size = len(body)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65_536:
            length = b"\xfe" + size.to_bytes(2, "big")
        else:
            length = b"\xff" + size.to_bytes(8, "big")
    return bytes([first]) + length + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(body))


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(FIN | CLOSE, code.to_bytes(2, "big") + reason)


def verdict(*chunks: bytes, max_payload: int = MAX_PAYLOAD, max_fragments: int = MAX_FRAGMENTS) -> int | None:
    """The close code that the guard answers with, or None."""
    guard = FrameGuard(max_payload=max_payload, max_fragments=max_fragments)
    try:
        for chunk in chunks:
            guard.feed(chunk)
    except FrameError as error:
        return error.code
    return None


LEGAL = {
    "1.1.1 empty text": frame(FIN | TEXT),
    "1.1.2 text of 125": frame(FIN | TEXT, b"*" * 125),
    "1.1.3 text of 126": frame(FIN | TEXT, b"*" * 126),
    "1.1.4 text of 127": frame(FIN | TEXT, b"*" * 127),
    "1.1.5 text of 128": frame(FIN | TEXT, b"*" * 128),
    "1.1.6 text of 65535": frame(FIN | TEXT, b"*" * 65_535),
    "1.1.7 text of 65536": frame(FIN | TEXT, b"*" * 65_536),
    "1.2.1 empty binary": frame(FIN | BINARY),
    "1.2.7 binary of 65536": frame(FIN | BINARY, b"\xfe" * 65_536),
    "2.1 ping without a payload": frame(FIN | PING),
    "2.4 ping of 125": frame(FIN | PING, b"\xfe" * 125),
    "2.7 unasked pong": frame(FIN | PONG),
    "2.8 unasked pong with a payload": frame(FIN | PONG, b"x"),
    "2.10 ten pings": frame(FIN | PING, b"x") * 10,
    "5.3 text in two fragments": frame(TEXT, b"a") + frame(FIN | CONT, b"b"),
    "5.6 ping between fragments": frame(TEXT, b"a") + frame(FIN | PING, b"x") + frame(FIN | CONT, b"b"),
    "5.19 two pings between fragments": (frame(TEXT) + frame(CONT) + frame(FIN | PING))
    + frame(CONT)
    + frame(FIN | CONT),
    "6.1.2 three empty fragments": frame(TEXT) + frame(CONT) + frame(FIN | CONT),
    "7.1.5 close inside a fragmented message": frame(TEXT, b"a") + close(1000),
    "7.3.1 close without a body": frame(FIN | CLOSE),
    "7.3.3 close with a code": close(1000),
    "7.3.4 close with a reason": close(1000, "Hello \u20ac".encode()),
    "7.3.5 close with the longest reason": close(1000, b"*" * 123),
    "9.1 as big as is allowed": frame(FIN | TEXT, b"*" * MAX_PAYLOAD),
    "9.3 as big as is allowed, in fragments": frame(TEXT, b"*" * 50_000) + frame(FIN | CONT, b"*" * 50_000),
    "9.7 as many fragments as are allowed": frame(TEXT) + frame(CONT) * 14 + frame(FIN | CONT),
    "7.1.3 ping after close is ignored": close(1000) + frame(FIN | PING),
    "7.1.4 text after close is ignored": close(1000) + frame(FIN | TEXT, b"x"),
    "7.1.6 rubbish after close is ignored": close(1000) + b"\xff" * 300,
    **{
        f"7.7, 7.13 close {code}": close(code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999)
    },
}

ILLEGAL = {
    "2.5 ping of 126": frame(FIN | PING, b"\xfe" * 126),
    "3.1 RSV3": frame(FIN | RSV3 | TEXT, b"a"),
    "3.2 RSV2 after a good frame": frame(FIN | TEXT, b"a") + frame(FIN | RSV2 | TEXT, b"a"),
    "3.3 RSV2 and RSV3": frame(FIN | RSV2 | RSV3 | TEXT, b"a"),
    "3.4 RSV1": frame(FIN | RSV1 | TEXT, b"a"),
    "3.5 RSV1 and RSV3, binary": frame(FIN | RSV1 | RSV3 | BINARY, b"a"),
    "3.6 RSV1 and RSV2, ping": frame(FIN | RSV1 | RSV2 | PING, b"a"),
    "3.7 all RSV, close": frame(FIN | RSV1 | RSV2 | RSV3 | CLOSE),
    **{f"4.1 opcode {opcode}": frame(FIN | opcode, b"a") for opcode in range(3, 8)},
    **{f"4.2 opcode {opcode}": frame(FIN | opcode) for opcode in range(11, 16)},
    "5.1 fragmented ping": frame(PING, b"a") + frame(FIN | CONT, b"b"),
    "5.2 fragmented pong": frame(PONG, b"a") + frame(FIN | CONT, b"b"),
    "5.9 continuation of nothing": frame(FIN | CONT, b"a") + frame(FIN | TEXT, b"b"),
    "5.10 continuation of nothing, with more to come": frame(CONT, b"a"),
    "5.12 continuation after a whole message": frame(FIN | TEXT, b"a") + frame(FIN | CONT, b"b"),
    "5.18 text inside a fragmented text": frame(TEXT, b"a") + frame(FIN | TEXT, b"b"),
    "5.18 binary inside a fragmented text": frame(TEXT, b"a") + frame(BINARY, b"b"),
    "7.3.2 close with one byte": frame(FIN | CLOSE, b"a"),
    "7.3.6 close of 126": frame(FIN | CLOSE, b"\x03\xe8" + b"*" * 124),
    "7.5 fragmented close": frame(CLOSE),
    **{
        f"7.9 close {code}": close(code)
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
    "RFC 5.1 not masked": b"\x81\x05Hello",
    "RFC 5.1 ping not masked": b"\x89\x00",
    "RFC 5.2 125 in 16 bits": frame(FIN | TEXT, b"*" * 125, b"\xfe\x00\x7d"),
    "RFC 5.2 65535 in 64 bits": frame(FIN | TEXT, b"", b"\xff" + (65_535).to_bytes(8, "big")),
    "RFC 5.2 top bit of the length": frame(FIN | TEXT, b"", b"\xff" + b"\x80" + bytes(7)),
}

OTHER = {
    "9.1 bigger than is allowed": (frame(FIN | TEXT, b"*" * (MAX_PAYLOAD + 1)), 1009),
    "9.3 bigger than is allowed, in fragments": (frame(TEXT, b"*" * MAX_PAYLOAD) + frame(FIN | CONT, b"*"), 1009),
    "9.7 more fragments than are allowed": (frame(BINARY) + frame(CONT) * 16, 1008),
    "7.5.1 reason that is not UTF-8": (close(1000, b"\xce\xba\xed\xa0\x80"), 1007),
}

VERDICTS = (
    [pytest.param(data, None, id=name) for name, data in LEGAL.items()]
    + [pytest.param(data, 1002, id=name) for name, data in ILLEGAL.items()]
    + [pytest.param(data, code, id=name) for name, (data, code) in OTHER.items()]
)


@pytest.mark.parametrize(("data", "code"), VERDICTS)
def test_verdict(data: bytes, code: int | None) -> None:
    """W2, W3, W4, W5."""
    assert verdict(data) == code


@pytest.mark.parametrize(("data", "code"), [case for case in VERDICTS if len(case.values[0]) < 1000])
def test_verdict_byte_by_byte(data: bytes, code: int | None) -> None:
    assert verdict(*(data[index : index + 1] for index in range(len(data)))) == code


# Streams of frames, mostly sound, with every kind of fault in between.
bodies = st.binary(max_size=140)
frames = st.one_of(
    st.builds(
        frame, st.sampled_from([FIN | TEXT, FIN | BINARY, TEXT, CONT, FIN | CONT, FIN | PING, FIN | PONG]), bodies
    ),
    st.builds(frame, st.integers(0, 255), bodies, key=st.binary(min_size=4, max_size=4)),
    st.builds(frame, st.just(FIN | BINARY), bodies, st.binary(min_size=1, max_size=9)),
    st.builds(close, st.integers(0, 65_535), bodies.map(lambda body: body[:60])),
)
streams = st.one_of(st.lists(frames, max_size=8).map(b"".join), st.binary(max_size=60))


@given(streams, st.randoms(use_true_random=False))
def test_any_cut_gives_the_same_verdict(data: bytes, chance: random.Random) -> None:
    cuts = sorted(chance.choices(range(len(data) + 1), k=chance.randrange(8)))
    chunks = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    limits = {"max_payload": 200, "max_fragments": 3}
    assert verdict(*chunks, **limits) == verdict(data, **limits)


@given(streams)
def test_judges_as_wsproto_does(data: bytes) -> None:
    """With no limits of size, the guard refuses a frame exactly when wsproto does, save UTF-8 in messages."""
    guard = FrameGuard(max_payload=2**64, max_fragments=1000)
    peer = FrameProtocol(client=False, extensions=[])
    ours = theirs = None
    for index in range(len(data)):
        try:
            guard.feed(data[index : index + 1])
        except FrameError as error:
            ours = error.code
        if guard.closing:
            return
        try:
            peer.receive_bytes(data[index : index + 1])
            list(peer.received_frames())
        except ParseFailed as error:
            theirs = error.code
        if theirs is WsCloseReason.INVALID_FRAME_PAYLOAD_DATA and ours is None:
            return  # a message's text, which is not the guard's affair
        if ours or theirs:
            break
    else:
        return
    # wsproto looks at a few things only when the whole header, or the whole frame, is there: let it have them.
    if ours and not theirs:
        try:
            peer.receive_bytes(data[index + 1 :] + bytes(200))
            list(peer.received_frames())
        except ParseFailed:
            return
        raise AssertionError(f"the guard refuses with {ours} what wsproto takes")
    assert ours, f"wsproto refuses with {theirs} what the guard takes"


@given(st.one_of(st.text(), st.binary(), st.integers(0, 70_000).map(bytes)))
@example(bytes(125))
@example(bytes(126))
@example(bytes(65_535))
@example(bytes(65_536))
def test_server_message_is_what_wsproto_sends(message: str | bytes) -> None:
    theirs = FrameProtocol(client=False, extensions=[]).send_data(message, True)
    if isinstance(message, str):
        assert server_frame(Opcode.TEXT, message.encode()) == theirs
    else:
        assert server_frame(Opcode.BINARY, message) == theirs


@given(st.binary(max_size=125))
def test_server_control_frame_is_what_wsproto_sends(payload: bytes) -> None:
    peer = FrameProtocol(client=False, extensions=[])
    assert server_frame(Opcode.PING, payload) == peer.ping(payload)
    assert server_frame(Opcode.PONG, payload) == peer.pong(payload)
    assert server_frame(Opcode.CLOSE, b"\x03\xe9bye") == peer.close(1001, "bye")


def test_error_is_the_peers_and_carries_reason_and_code() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        FrameGuard(max_payload=10, max_fragments=1).feed(frame(FIN | TEXT, b"*" * 11))
    assert caught.value.reason is CloseReason.TOO_BIG
    assert "10 bytes" in str(caught.value)


def test_size_is_judged_before_mask_and_payload_are_there() -> None:
    """W4: a header that declares 2**62 bytes is answered at its last length byte."""
    assert verdict(b"\x82\xff" + (2**62).to_bytes(8, "big")) == 1009


def test_size_is_counted_in_bytes() -> None:
    """W4: 40 characters, 160 bytes."""
    assert verdict(frame(FIN | TEXT, ("\U0001f600" * 40).encode()), max_payload=159) == 1009


def test_flood_of_empty_fragments_is_stopped_at_once() -> None:
    """W5."""
    assert verdict(frame(TEXT) + frame(CONT) * 200_000) == 1008


def test_sizes_and_fragments_begin_anew_with_each_message() -> None:
    message = frame(BINARY, b"*" * 60) + frame(FIN | CONT, b"*" * 40)
    assert verdict(message * 20, max_payload=100, max_fragments=2) is None


def test_closing_begins_with_the_last_byte_of_the_close_frame() -> None:
    guard = FrameGuard(max_payload=10, max_fragments=1)
    data = frame(FIN | TEXT, b"a") + close(1000, b"bye")
    guard.feed(data[:-1])
    assert not guard.closing
    guard.feed(data[-1:] + b"\xff" * 10)
    assert guard.closing
    guard.feed(b"\xff" * 10)
