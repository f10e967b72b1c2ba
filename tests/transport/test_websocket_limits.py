"""The limits of a WebSocket: sizes, fragments, floods and peers that do not read (rows W4 to W8)."""

import struct

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Settings, SocketServer
from tests.raw import (
    MASK,
    Ended,
    Wire,
    at_rest,
    frame,
    serving,
)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


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
        assert await wire.frame() == (CLOSE, (1008).to_bytes(2, "big")), "and nothing of it was answered"
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
