"""The heartbeat: the server pings, only a pong shows that the peer lives, and a slow handler is no dead peer."""

import json

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from tests.raw import Ended, Later, Poller, Wire, at_rest, frame, serving, text

TIMES = Settings(ping_interval=25, ping_timeout=20)


async def test_the_first_ping_comes_after_one_interval_and_the_next_after_the_pong(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(TIMES)) as listener:
        started = trio.current_time()
        wire = await Wire.joined(listener.connect())
        assert await wire.text() == "2"
        assert trio.current_time() - started == pytest.approx(25)
        await trio.sleep(5)
        await wire.say("3")
        assert await wire.text() == "2"
        assert trio.current_time() - started == pytest.approx(25 + 5 + 25)


async def test_pings_keep_their_interval_where_the_timeout_is_longer(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(ping_interval=1, ping_timeout=20))) as listener:
        wire = await Wire.joined(listener.connect())
        for second in (1, 2, 3, 4):
            assert await wire.text() == "2"
            assert trio.current_time() == pytest.approx(second)
            await wire.say("3")


async def test_a_peer_without_a_pong_is_gone_after_the_timeout(autojump_clock: MockClock) -> None:
    server = SocketServer(TIMES)
    ended = Ended(server)
    async with serving(server) as listener:
        started = trio.current_time()
        await Wire.joined(listener.connect())
        assert await ended.reason() is CloseReason.PING_TIMEOUT
        assert trio.current_time() - started == pytest.approx(45)
        await at_rest(server)


async def test_only_a_pong_counts(autojump_clock: MockClock) -> None:
    """Events, noops and WebSocket pings show that something writes, not that what we write arrives."""
    server = SocketServer(TIMES)
    ended = Ended(server)
    server.on("a")(lambda socket: None)
    async with serving(server) as listener, trio.open_nursery() as nursery:
        started = trio.current_time()
        wire = await Wire.joined(listener.connect())

        async def talk() -> None:
            while True:
                await trio.sleep(1)
                await wire.say('42["a"]', "6")
                await wire.raw.send(b"\x89\x80\x01\x02\x03\x04")

        nursery.start_soon(talk)
        assert await ended.reason() is CloseReason.PING_TIMEOUT
        assert trio.current_time() - started == pytest.approx(45)
        nursery.cancel_scope.cancel()


async def test_an_unasked_pong_changes_nothing(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(TIMES)) as listener:
        started = trio.current_time()
        wire = await Wire.joined(listener.connect())
        await trio.sleep(20)
        await wire.say("3")
        assert await wire.text() == "2"
        assert trio.current_time() - started == pytest.approx(25)


async def test_polling_is_pinged_too(autojump_clock: MockClock) -> None:
    server = SocketServer(TIMES)
    ended = Ended(server)
    async with serving(server) as listener:
        started = trio.current_time()
        poller = await Poller.joined(listener)
        for beat in (1, 2):
            assert (await poller.get()).body == b"2"
            assert trio.current_time() - started == pytest.approx(25 * beat)
            assert (await poller.post("3")).body == b"ok"
        assert (await poller.get()).body == b"2"
        assert (await poller.get()).body == b"1"  # CLOSE
        assert await ended.reason() is CloseReason.PING_TIMEOUT
        assert trio.current_time() - started == pytest.approx(25 * 3 + 20)
        assert (await poller.get()).refusal == (400, 1)


async def test_h21_a_peer_that_never_polls_again_is_gone(autojump_clock: MockClock) -> None:
    server = SocketServer(TIMES)
    ended = Ended(server)
    async with serving(server) as listener:
        started = trio.current_time()
        await Poller.joined(listener)
        assert await ended.reason() is CloseReason.PING_TIMEOUT
        assert trio.current_time() - started == pytest.approx(45)
        await at_rest(server)


@pytest.mark.parametrize("jam", [100, 1_000])
async def test_a_slow_async_handler_is_no_dead_peer(jam: float, autojump_clock: MockClock) -> None:
    """Its queue is full, so nothing is read; pings still go out, and the pong that waits unread counts."""
    server = SocketServer(Settings(ping_interval=25, ping_timeout=20, handler_queue=2))
    ended = Ended(server)
    heard: list[int] = []

    @server.on("a")
    async def slow(socket: Socket, number: int) -> None:
        heard.append(number)
        await trio.sleep(jam)

    async with serving(server) as listener, trio.open_nursery() as nursery:
        wire = await Wire.joined(listener.connect())
        started = trio.current_time()
        await wire.say(*[f'42["a",{number}]' for number in range(8)])
        pings: list[float] = []

        async def answer() -> None:
            while True:
                assert await wire.text() == "2"
                pings.append(trio.current_time())
                await wire.say("3")

        nursery.start_soon(answer)
        await trio.sleep(jam * 9)
        assert heard == list(range(8))
        assert ended.reasons == []
        gaps = [late - early for early, late in zip([started, *pings], pings, strict=False)]
        assert max(gaps) <= 45  # a client that hears no ping for the sum of both takes us for dead
        nursery.cancel_scope.cancel()


async def test_a_dead_peer_is_found_once_the_jam_is_over(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(ping_interval=25, ping_timeout=20, handler_queue=1))
    ended = Ended(server)

    @server.on("a")
    async def slow(socket: Socket) -> None:
        await trio.sleep(200)

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        started = trio.current_time()
        await wire.say('42["a"]', '42["a"]', '42["a"]')
        assert await ended.reason() is CloseReason.PING_TIMEOUT
        assert 200 < trio.current_time() - started <= 700


async def test_attachments_that_wait_behind_a_jam_are_not_late(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(handler_queue=1))
    done = trio.Event()

    @server.on("a")
    async def slow(socket: Socket) -> None:
        await trio.sleep(30)

    @server.on("b")
    async def take(socket: Socket, *data: bytes) -> None:
        assert [(part[0], len(part)) for part in data] == [(1, 100_000), (2, 100_000), (3, 100_000)]
        done.set()

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        places = [{"_placeholder": True, "num": number} for number in range(3)]
        packet = text("453-" + json.dumps(["b", *places])) + b"".join(
            frame(2, bytes([number]) * 100_000) for number in (1, 2, 3)
        )
        await wire.raw.send(text('42["a"]') * 3 + packet)
        with trio.fail_after(200):
            while not done.is_set():
                message = await wire.text()
                if message == "2":
                    await wire.say("3")


async def test_a_call_in_a_handler_does_not_stop_the_heartbeat(autojump_clock: MockClock) -> None:
    server = SocketServer(TIMES)

    @server.on("ask")
    async def ask(socket: Socket) -> str:
        return await socket.call("question", timeout=1_000)

    async with serving(server) as listener, trio.open_nursery() as nursery:
        wire = await Wire.joined(listener.connect())
        await wire.say('427["ask"]')
        assert await wire.text() == '420["question"]'
        for _ in range(4):
            assert await wire.text() == "2"
            await wire.say("3")
        await wire.say('430["answer"]')
        assert await wire.text() == '437["answer"]'
        nursery.cancel_scope.cancel()


async def test_seen_is_when_the_peer_was_last_heard(autojump_clock: MockClock) -> None:
    server = SocketServer(TIMES)
    async with serving(server) as listener, trio.open_nursery() as nursery:
        wire = await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))
        joined = socket.seen
        assert await Later(nursery, wire.text).value() == "2"
        assert socket.seen == joined
        await wire.say("3")
        await trio.testing.wait_all_tasks_blocked()
        assert socket.seen == trio.current_time() > joined
