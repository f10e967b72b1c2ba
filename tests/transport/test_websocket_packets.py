"""What is inside the frames (rows W10, W11), and frames at the edges of a conversation."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Socket, SocketServer
from tests.raw import UPGRADE, Ended, Raw, Wire, at_rest, frame, mask, request, serving, text, websocket_target

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


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
