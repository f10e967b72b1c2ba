"""Frames that break RFC 6455, and the exact close code for each (rows W1 to W3, by Autobahn's case families)."""

import struct

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from tests.raw import (
    MASK,
    Ended,
    Wire,
    at_rest,
    closing,
    frame,
    serving,
    text,
)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


BAD_TEXTS = {
    "6.3.1 invalid in the middle": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    "6.6.1 cut short": b"\xce",
    "6.11 lone continuation": b"\x80",
    "6.14 overlong slash": b"\xc0\xaf",
    "6.15 overlong, longer": b"\xe0\x80\xaf",
    "6.21 surrogate": b"\xed\xa0\x80",
    "6.22 surrogate pair": b"\xed\xa0\x80\xed\xb0\x80",
    "6.13 beyond Unicode": b"\xf4\x90\x80\x80",
    "6.19 five bytes": b"\xf8\x88\x80\x80\x80",
    "0xFE": b"\xfe",
}


@pytest.mark.parametrize("case", BAD_TEXTS)
@pytest.mark.parametrize("pieces", ["whole", "by bytes"])
async def test_w1_text_that_is_not_utf_8(case: str, pieces: str, autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        data = b'42["a","' + BAD_TEXTS[case]
        if pieces == "whole":
            await wire.raw.send(frame(TEXT, data))
        else:
            await wire.raw.send(frame(TEXT, data[:1], final=False))
            for index in range(1, len(data)):
                await wire.raw.send(frame(0, data[index : index + 1], final=index == len(data) - 1))
        assert await wire.closed() == 1007
        assert await ended.reason() is CloseReason.PARSE_ERROR
        await at_rest(server)


async def test_w1_a_bad_byte_is_noticed_before_the_message_ends(autojump_clock: MockClock) -> None:
    async with serving(SocketServer()) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(frame(TEXT, b"42\xff", final=False))
        assert await wire.closed() == 1007


async def test_w1_a_character_may_be_cut_by_fragments() -> None:
    server = SocketServer()
    server.on("a")(lambda socket, word: socket.emit("a", word))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        data = '42["a","κόσμε 😀"]'.encode()
        await wire.raw.send(frame(TEXT, data[:1], final=False))
        for index in range(1, len(data)):
            await wire.raw.send(frame(0, data[index : index + 1], final=index == len(data) - 1))
        assert await wire.event() == ("a", "κόσμε 😀")


BAD_FRAMES = {
    "2.5 ping of 126 bytes": frame(PING, b"a" * 126),
    "3.1 RSV3": frame(TEXT, b"a", rsv=1),
    "3.2 RSV2": frame(TEXT, b"a", rsv=2),
    "3.4 RSV1": frame(TEXT, b"a", rsv=4),
    "3.6 RSV on a ping": frame(PING, b"", rsv=6),
    "3.7 RSV on a close": frame(CLOSE, b"", rsv=7),
    **{f"4.1 opcode {opcode}": frame(opcode, b"") for opcode in range(3, 8)},
    **{f"4.2 opcode {opcode}": frame(opcode, b"") for opcode in range(11, 16)},
    "5.1 ping in fragments": frame(PING, b"a", final=False),
    "5.9 orphan continuation": frame(0, b"a"),
    "5.10 orphan fragment": frame(0, b"a", final=False),
    "5.18 text inside text": frame(TEXT, b"a", final=False) + frame(TEXT, b"b"),
    "5.x binary inside text": frame(TEXT, b"a", final=False) + frame(BINARY, b"b"),
    "not masked": frame(TEXT, b"2probe", masked=False),
    "ping that is not masked": frame(PING, b"", masked=False),
    "close that is not masked": frame(CLOSE, b"", masked=False),
    "length of 5 in two bytes": struct.pack("!BBH", 0x81, 0x80 | 126, 5) + MASK + b"hello",
    "length of 300 in eight bytes": struct.pack("!BBQ", 0x81, 0x80 | 127, 300) + MASK,
    "length with the top bit": struct.pack("!BBQ", 0x81, 0x80 | 127, 1 << 63) + MASK,
}


@pytest.mark.parametrize("case", BAD_FRAMES)
async def test_w2_frames_that_rfc_6455_forbids(case: str, autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(BAD_FRAMES[case])
        assert await wire.closed() == 1002
        assert await ended.reason() is CloseReason.PARSE_ERROR
        await at_rest(server)


BAD_CLOSES = {
    "7.3.2 one byte": (frame(CLOSE, b"\x03"), 1002),
    **{
        f"7.9 code {code}": (closing(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "7.5.1 reason that is not UTF-8": (closing(1000, b"\xce\xba\xed\xa0\x80"), 1007),
    "7.3.6 124 bytes of reason": (struct.pack("!BB", 0x88, 0x80 | 126), 1002),
}


@pytest.mark.parametrize("case", BAD_CLOSES)
async def test_w3_close_frames_that_are_wrong(case: str, autojump_clock: MockClock) -> None:
    data, code = BAD_CLOSES[case]
    async with serving(SocketServer()) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(data)
        assert await wire.closed() == code


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
async def test_w3_a_close_is_answered_with_its_code(code: int, autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(closing(code, "κόσμε".encode()))
        assert await wire.code() == code
        await wire.raw.ends()
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE


async def test_w3_a_close_without_a_code(autojump_clock: MockClock) -> None:
    async with serving(SocketServer()) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(frame(CLOSE))
        assert await wire.code() == 1005
        await wire.raw.ends()


@pytest.mark.parametrize("after", [text('42["a"]'), frame(PING, b"x"), closing(1002), frame(3), b"\xff" * 100])
@pytest.mark.parametrize("writes", [1, 2])
async def test_w3_what_follows_a_close_is_ignored(
    after: bytes, writes: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = SocketServer()
    ended = Ended(server)
    server.on("a")(lambda socket: pytest.fail("it came after CLOSE"))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        if writes == 1:
            await wire.raw.send(closing(1000) + after * 3)
        else:
            await wire.raw.send(closing(1000))
            await wire.raw.send(after * 3)
        assert await wire.code() == 1000
        await wire.raw.ends()
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        await at_rest(server)
    assert not caplog.records


@pytest.mark.parametrize("answer", [frame(PING, b"x"), text("3"), closing(1000), b"", frame(3)])
async def test_a_close_of_ours_is_said_once_whatever_comes_back(
    answer: bytes, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """trio-websocket would answer a PING after CLOSE, which its own protocol layer refuses with an exception."""
    server = SocketServer()
    server.on("bye")(lambda socket: socket.disconnect(close=True))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('42["bye"]')
        assert await wire.text() == "41"
        assert await wire.code() == 1000
        started = trio.current_time()
        await wire.raw.send(answer)
        await wire.raw.ends()
        assert trio.current_time() - started <= 2 + 1  # close_timeout, and what is lingered
        await at_rest(server)
    assert not caplog.records


async def test_a_ping_after_our_close_does_not_cut_the_farewell_short(autojump_clock: MockClock) -> None:
    """The peer still has close_timeout to say CLOSE."""
    async with serving(SocketServer(Settings(close_timeout=5))) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say("4x")
        assert await wire.code() == 1002
        await wire.raw.send(frame(PING))
        with trio.move_on_after(4) as patience:
            await wire.raw.ends()
        assert patience.cancelled_caught
        started = trio.current_time()
        await wire.raw.send(closing(1002))
        await wire.raw.ends()
        assert trio.current_time() == started


async def test_a_close_with_pings_behind_unread_messages(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The PINGs are in trio-websocket's hands already when CLOSE is sent."""
    server = SocketServer(Settings(handler_queue=1))
    ended = Ended(server)

    @server.on("slow")
    async def slow(socket: Socket) -> None:
        await trio.sleep(1)
        socket.disconnect(close=True)
        await trio.sleep_forever()

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(text('42["slow"]') * 10 + frame(PING, b"x") * 3)
        assert await wire.text() == "41"
        assert await wire.closed() == 1000
        assert await ended.reason() is CloseReason.SERVER_DISCONNECT
        await at_rest(server)
    assert not caplog.records
