"""What a raw WebSocket client sees, to the exact close code (rows W1 to W10, by Autobahn's case families)."""

import struct

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from tests.raw import MASK, UPGRADE, Raw, Wire, at_rest, closing, frame, mask, request, serving, text, websocket_target

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Ended:
    """Why the sockets of a server ended."""

    def __init__(self, server: SocketServer) -> None:
        self.reasons: list[CloseReason] = []
        self._event = trio.Event()
        server.on("disconnect")(self._heard)

    def _heard(self, socket: Socket, reason: CloseReason) -> None:
        self.reasons.append(reason)
        self._event.set()

    async def reason(self) -> CloseReason:
        """The only reason that was given."""
        await self._event.wait()
        assert len(self.reasons) == 1
        return self.reasons[0]


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


@pytest.mark.parametrize("length", [101, 1_000_000, 1 << 40, 1 << 62])
async def test_w4_a_length_that_is_too_large_is_answered_at_once(length: int, autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_payload=100))
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        started = trio.current_time()
        if length < 126:
            head = struct.pack("!BB", 0x81, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack("!BBH", 0x81, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x81, 0x80 | 127, length)
        await wire.raw.send(head)
        assert await wire.code() == 1009
        assert trio.current_time() == started
        assert await ended.reason() is CloseReason.TOO_BIG
        await wire.raw.ends()
        assert trio.current_time() - started <= 2
        await at_rest(server)


async def test_w4_fragments_are_added_up(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(max_payload=100))) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(frame(TEXT, b"4" * 60, final=False))
        await wire.raw.send(frame(0, b"4" * 41))
        assert await wire.closed() == 1009


@pytest.mark.parametrize(("characters", "code"), [(20, None), (21, 1009)])
async def test_w4_bytes_are_counted_not_characters(
    characters: int, code: int | None, autojump_clock: MockClock
) -> None:
    server = SocketServer(Settings(max_payload=90))
    server.on("a")(lambda socket, word: socket.emit("a", word))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('42["a","' + "😀" * characters + '"]')
        if code is None:
            assert await wire.event() == ("a", "😀" * characters)
        else:
            assert await wire.closed() == code


async def test_w4_the_close_is_not_reset_away_by_what_is_still_sent(autojump_clock: MockClock) -> None:
    """The rest of the message is read for a while, so that the peer gets to see why it was closed."""
    async with serving(SocketServer(Settings(max_payload=100))) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(struct.pack("!BBQ", 0x81, 0x80 | 127, 1 << 40) + MASK)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):
            await wire.raw.send(b"x" * 1_000)  # would raise if the stream were closed
            await trio.testing.wait_all_tasks_blocked()
        assert await wire.code() == 1009
        await wire.raw.aclose()


@pytest.mark.parametrize("payload", [b"", b"4"])
async def test_w5_a_message_has_a_limited_number_of_fragments(payload: bytes, autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_fragments=128))
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(frame(TEXT, b"4", final=False) + frame(0, payload, final=False) * 200_000)
        assert await wire.code() == 1008
        assert await ended.reason() is CloseReason.POLICY


async def test_w5_the_allowed_number_of_fragments_passes() -> None:
    server = SocketServer(Settings(max_fragments=128))
    server.on("a")(lambda socket: socket.emit("a"))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        fragments = [frame(TEXT, b'42["a"', final=False), *[frame(0, b"", final=False)] * 126, frame(0, b"]")]
        await wire.raw.send(b"".join(fragments))
        assert await wire.event() == ("a",)


async def test_w6_a_ping_is_answered_with_its_payload_even_inside_a_message() -> None:
    server = SocketServer()
    server.on("a")(lambda socket: socket.emit("a"))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(frame(TEXT, b'42["a"', final=False) + frame(PING, b"x" * 125) + frame(0, b"]"))
        assert await wire.frame() == (PONG, b"x" * 125)
        assert await wire.event() == ("a",)


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_w6_a_flood_of_control_frames_is_a_breach_of_policy(opcode: int, autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(frame(opcode, b"x") * 100_000)
        assert await ended.reason() is CloseReason.POLICY
        assert await wire.code() == 1008
        assert len(wire.raw.rest) < 1_000
        await at_rest(server)


async def test_w6_pings_at_a_decent_rate_are_no_flood(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(ping_interval=10_000))) as listener:
        wire = await Wire.joined(listener.connect())
        for _ in range(1_000):
            await wire.raw.send(frame(PING))
            assert await wire.frame() == (PONG, b"")
            await trio.sleep(0.2)


def stuck(listener_end: trio.StapledStream) -> None:
    """From now on the peer's window is closed: no write of the server's ends."""
    listener_end.send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]


async def test_w8_a_peer_that_never_reads_is_closed_when_its_outbox_is_full(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(outbox_bytes=10_000, write_timeout=1_000))
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        good = await Wire.joined(listener.connect())
        stuck(listener.accepted[0])
        before = trio.current_time()
        sent = 0
        while not ended.reasons:
            server.emit("news", "x" * 100)
            sent += 1
            assert sent < 300
            await trio.testing.wait_all_tasks_blocked()
        assert await ended.reason() is CloseReason.SLOW_CONSUMER
        assert trio.current_time() == before
        assert server.connections == 1
        for _ in range(sent):
            assert await good.event() == ("news", "x" * 100)  # the others are served
        await wire.aclose()


async def test_w8_a_peer_that_never_reads_is_closed_at_the_write_deadline(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(write_timeout=7))
    ended = Ended(server)
    async with serving(server) as listener:
        await Wire.joined(listener.connect())
        stuck(listener.accepted[0])
        started = trio.current_time()
        server.emit("news")
        assert await ended.reason() is CloseReason.SLOW_CONSUMER
        assert trio.current_time() - started == pytest.approx(7)
        await at_rest(server)


async def test_w8_pings_do_not_keep_a_peer_that_never_reads(autojump_clock: MockClock) -> None:
    """The answer to a PING has the same deadline as any other write."""
    server = SocketServer(Settings(write_timeout=7))
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        stuck(listener.accepted[0])
        await wire.raw.send(frame(PING))
        started = trio.current_time()
        assert await ended.reason() is CloseReason.SLOW_CONSUMER
        assert trio.current_time() - started == pytest.approx(7)


async def test_w8_a_peer_that_never_reads_cannot_hold_up_the_close(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(write_timeout=1_000, close_timeout=2))
    ended = Ended(server)
    async with serving(server) as listener:
        await Wire.joined(listener.connect())
        stuck(listener.accepted[0])
        server.emit("news")
        started = trio.current_time()
        next(iter(server.of("/").sockets.values())).close()
        assert await ended.reason() is CloseReason.SERVER_CLOSE
        assert trio.current_time() - started == pytest.approx(2)
        await at_rest(server)


async def test_a_write_that_was_cut_short_is_the_last(autojump_clock: MockClock) -> None:
    """Half a frame is out: nothing may follow it, neither a message nor CLOSE."""
    server = SocketServer(Settings(write_timeout=1_000, close_timeout=2))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        sender = listener.accepted[0].send_stream
        written: list[bytes] = []

        async def half(data: bytes) -> None:
            written.append(bytes(data))
            await trio.sleep_forever()

        sender.send_all = half  # type: ignore[method-assign]
        server.emit("news")
        await trio.testing.wait_all_tasks_blocked()
        server.emit("more")
        next(iter(server.of("/").sockets.values())).close()
        await wire.raw.ends()
        assert written == [b'\x81\x0a42["news"]']


PACKETS = {
    "empty": (text(""), 1002),
    "open": (text("0"), 1002),
    "ping": (text("2"), 1002),
    "ping probe": (text("2probe"), 1002),
    "upgrade": (text("5"), 1002),
    "unknown type": (text("7"), 1002),
    "nine": (text("9"), 1002),
    "a letter": (text("x"), 1002),
    "bad base64": (text("b***"), 1002),
    "W11 binary that nothing announced": (frame(BINARY, b"\x01"), 1002),
    "W11 base64 that nothing announced": (text("bAQ=="), 1002),
    "W11 text where binary is due": (text('451-["a",{"_placeholder":true,"num":0}]') + text('42["a"]'), 1002),
    "no Socket.IO packet": (text("4"), 1002),
    "reserved name": (text('42["disconnect","x"]'), 1002),
    "connect twice": (text("40"), 1002),
    "event of a stranger": (text('42/admin,["a"]'), 1002),
    "connect error": (text('44{"message":"x"}'), 1002),
    "long namespace": (text("40/" + "x" * 200), 1008),
    "deep JSON": (text("42" + "[" * 100 + "]" * 100), 1008),
}


@pytest.mark.parametrize("case", PACKETS)
async def test_w10_packets_that_end_the_session(case: str, autojump_clock: MockClock) -> None:
    data, code = PACKETS[case]
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.raw.send(data)
        assert await wire.closed() == code
        assert await ended.reason() is (CloseReason.PARSE_ERROR if code == 1002 else CloseReason.POLICY)


async def test_w10_what_is_ignored() -> None:
    """A pong that nobody asked for, and a noop."""
    server = SocketServer()
    server.on("a")(lambda socket: socket.emit("a"))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say("3", "6", '42["a"]')
        assert await wire.event() == ("a",)


async def test_frames_that_came_with_the_handshake_are_not_lost() -> None:
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        await raw.send(request("GET", websocket_target(), UPGRADE) + text("40"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await raw.exactly(1)
        wire = Wire(raw)
        assert (await wire.text())[0] == "0"
        assert (await wire.text()).startswith('40{"sid"')


async def test_every_cut_of_the_bytes_gives_the_same_messages() -> None:
    data = text("40") + frame(PING, b"p") + text('42["a",1]') + frame(TEXT, b'42["a"', final=False) + frame(0, b",2]")
    data += frame(TEXT, b'42["a",3]')
    for cut in range(1, len(data)):
        server = SocketServer()
        heard: list[int] = []
        done = trio.Event()

        @server.on("a")
        def hear(socket: Socket, number: int, heard: list[int] = heard, done: trio.Event = done) -> None:
            heard.append(number)
            if number == 3:
                done.set()

        async with serving(server) as listener:
            wire = await Wire.session(listener.connect())
            await wire.raw.send(data[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await wire.raw.send(data[cut:])
            await done.wait()
        assert heard == [1, 2, 3]


async def test_a_peer_that_vanishes_in_the_handshake_leaves_nothing(autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener:
        for _ in range(20):
            raw: Raw = listener.connect()
            await raw.send(request("GET", websocket_target(), UPGRADE))
            await raw.aclose()
        await at_rest(server)


def test_the_mask_of_the_tests_is_a_mask() -> None:
    assert mask(mask(b"hello")) == b"hello"
