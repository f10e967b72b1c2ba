"""The client and time, over memory with a clock that jumps: dead servers, dead clients, deadlines, goodbyes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engineio_trio import CloseReason, Disconnected, Settings, Socket, SocketServer
from engineio_trio.testing import connected, serving
from tests.client.wire import Wire

INTERVAL, TIMEOUT = 25.0, 20.0
ways = pytest.mark.parametrize("way", ["polling", "websocket"])


class Watched(SocketServer):
    """A server that tells why its sockets went, and when."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        self.gone: list[tuple[CloseReason, float]] = []
        self.on("disconnect")(self._bye)

    def _bye(self, socket: Socket, reason: CloseReason) -> None:
        self.gone.append((reason, trio.current_time()))


@pytest.fixture
async def server() -> AsyncIterator[Watched]:
    server = Watched()
    async with serving(server):
        yield server


@ways
async def test_heartbeat_is_answered(autojump_clock: MockClock, server: Watched, way: str) -> None:
    async with connected(server, transports=(way,)) as socket:
        await trio.sleep(10 * INTERVAL)
        assert socket.closed is None
        assert not server.gone


@ways
async def test_client_notices_a_dead_server(autojump_clock: MockClock, server: Watched, way: str) -> None:
    """W9 from the other side: the whole wire goes silent without a word."""
    wire = Wire(server)
    async with wire.connected(way) as socket:
        wire.silent, began = True, trio.current_time()
        with pytest.raises(Disconnected) as caught:
            await socket.call("nothing", timeout=1_000)
        assert caught.value.reason is socket.closed is CloseReason.PING_TIMEOUT
        assert trio.current_time() - began == pytest.approx(INTERVAL + TIMEOUT)


@ways
async def test_server_notices_a_dead_client(autojump_clock: MockClock, server: Watched, way: str) -> None:
    """W9: gone after ping interval and timeout."""
    wire = Wire(server)
    async with wire.connected(way):
        wire.silent, began = True, trio.current_time()
        await trio.sleep(100)
        [(reason, when)] = server.gone
        assert reason is CloseReason.PING_TIMEOUT
        assert when - began == pytest.approx(INTERVAL + TIMEOUT)


@ways
async def test_connect_timeout(autojump_clock: MockClock, server: Watched, way: str) -> None:
    wire = Wire(server)
    wire.silent, began = True, trio.current_time()
    with pytest.raises(Disconnected) as caught:
        async with wire.connected(way, timeout=7):
            raise AssertionError("joined")
    assert caught.value.reason is CloseReason.CONNECT_TIMEOUT
    assert trio.current_time() - began == pytest.approx(7)


async def test_connect_handler_that_never_decides(autojump_clock: MockClock, server: Watched) -> None:
    @server.on("connect")
    async def ponder(socket: Socket, auth: Any) -> None:
        await trio.sleep_forever()

    with pytest.raises(Disconnected, match="connect timeout"):
        async with connected(server, timeout=3):
            raise AssertionError("joined")


@ways
async def test_goodbye_is_bounded(autojump_clock: MockClock, server: Watched, way: str) -> None:
    """A server that is silent holds nobody up for longer than close_timeout."""
    wire = Wire(server)
    async with wire.connected(way):
        wire.silent, began = True, trio.current_time()
    assert trio.current_time() - began == pytest.approx(2.0)


@ways
@pytest.mark.parametrize("who", ["client", "server", "kick"])
async def test_goodbye_takes_no_time(autojump_clock: MockClock, server: Watched, way: str, who: str) -> None:
    @server.on("kick")
    def kick(socket: Socket) -> None:
        socket.disconnect(close=True)

    async with connected(server, transports=(way,)) as socket:
        began = trio.current_time()
        if who == "client":
            socket.disconnect()
        elif who == "kick":
            socket.emit("kick")
        else:
            for peer in tuple(server.of("/").sockets.values()):
                peer.disconnect(close=True)
        await socket.wait_closed()
        with trio.fail_after(30):
            while server.connections:  # noqa: ASYNC110
                await trio.sleep(0.001)
    assert trio.current_time() - began < 0.1


async def test_probe_that_nobody_answers_leaves_polling(autojump_clock: MockClock, server: Watched) -> None:
    """H25: an upgrade that is never finished costs its WebSocket only."""
    wire = Wire(server)
    async with wire.connected() as socket:
        await trio.sleep(60)
        assert socket.transport == "websocket"

    wire = Wire(server, cut_websocket_at=1)
    async with wire.connected() as socket:
        await trio.sleep(60)
        assert socket.transport == "polling"
        assert socket.closed is None


@ways
@pytest.mark.parametrize("seconds", [1, 22, 30, 38])
async def test_slow_handler_is_no_dead_peer(autojump_clock: MockClock, way: str, seconds: float) -> None:
    """The server reads nothing while its handlers are behind: the pong that waits there is not a missing one."""
    server = Watched(Settings(handler_queue=2))

    @server.on("slow")
    async def slow(socket: Socket, seconds: float) -> None:
        await trio.sleep(seconds)

    async with serving(server), Wire(server, longest=1.0).connected(way) as socket:
        await trio.sleep(INTERVAL - 1 - trio.current_time())
        for pause in (seconds, 0, 0, 0, 0, 0):
            socket.emit("slow", pause)
        await trio.sleep(200)
        assert socket.closed is None
        assert not server.gone
