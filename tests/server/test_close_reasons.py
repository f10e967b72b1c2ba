"""One test for each CloseReason: what ends a connection so, what the peer sees, and that handlers hear it once."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from tests.raw import Ended, Wire, at_rest, frame, serving


async def peer_leaves(wire: Wire, server: SocketServer) -> None:
    await wire.aclose()


async def peer_sends_a_bad_packet(wire: Wire, server: SocketServer) -> None:
    await wire.say("4x")
    assert await wire.closed() == 1002


async def peer_sends_too_much(wire: Wire, server: SocketServer) -> None:
    await wire.raw.send(frame(1, b"4" * 5_000))
    assert await wire.closed() == 1009


async def peer_breaks_a_rule(wire: Wire, server: SocketServer) -> None:
    await wire.say('42["count",1,2,3]')
    assert await wire.closed() == 1008


async def peer_stays_silent(wire: Wire, server: SocketServer) -> None:
    assert await wire.text() == "2"
    await wire.raw.ends()


async def peer_does_not_read(wire: Wire, server: SocketServer) -> None:
    for _ in range(100):
        server.emit("news", "x" * 1_000)


async def peer_disconnects(wire: Wire, server: SocketServer) -> None:
    await wire.say("41")


async def server_disconnects(wire: Wire, server: SocketServer) -> None:
    next(iter(server.of("/").sockets.values())).disconnect()
    assert await wire.text() == "41"


async def server_closes(wire: Wire, server: SocketServer) -> None:
    next(iter(server.of("/").sockets.values())).close()
    assert await wire.closed() == 1000


async def server_shuts_down(wire: Wire, server: SocketServer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.shutdown)
        assert await wire.closed() == 1012


async def a_handler_puts_off(wire: Wire, server: SocketServer) -> None:
    next(iter(server.of("/").sockets.values())).close(CloseReason.UNAVAILABLE)
    assert await wire.closed() == 1013


async def a_handler_fails(wire: Wire, server: SocketServer) -> None:
    await wire.say('42["fail"]')
    assert await wire.closed() == 1011


ENDS: dict[CloseReason, Callable[[Wire, SocketServer], Awaitable[None]]] = {
    CloseReason.TRANSPORT_CLOSE: peer_leaves,
    CloseReason.PARSE_ERROR: peer_sends_a_bad_packet,
    CloseReason.TOO_BIG: peer_sends_too_much,
    CloseReason.POLICY: peer_breaks_a_rule,
    CloseReason.PING_TIMEOUT: peer_stays_silent,
    CloseReason.SLOW_CONSUMER: peer_does_not_read,
    CloseReason.CLIENT_DISCONNECT: peer_disconnects,
    CloseReason.SERVER_DISCONNECT: server_disconnects,
    CloseReason.SERVER_CLOSE: server_closes,
    CloseReason.SHUTDOWN: server_shuts_down,
    CloseReason.UNAVAILABLE: a_handler_puts_off,
    CloseReason.INTERNAL_ERROR: a_handler_fails,
}
ELSEWHERE = {CloseReason.TRANSPORT_ERROR: "below", CloseReason.CONNECT_TIMEOUT: "below"}


def test_every_reason_has_a_test() -> None:
    assert set(CloseReason) == ENDS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("reason", ENDS, ids=lambda reason: reason.name.lower())
@pytest.mark.parametrize("handler", ["plain", "async"])
async def test_close_reason(reason: CloseReason, handler: str, autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_payload=4_000, outbox_bytes=20_000))
    heard: list[CloseReason] = []
    told = trio.Event()

    def plain(socket: Socket, why: CloseReason) -> None:
        assert socket.closed is why
        heard.append(why)
        told.set()

    async def slow(socket: Socket, why: CloseReason) -> None:
        await trio.sleep(0.5)
        plain(socket, why)

    server.on("disconnect")(plain if handler == "plain" else slow)
    server.on("count")(lambda socket, one: None)

    @server.on("fail")
    def fail(socket: Socket) -> None:
        raise KeyError("a mistake")

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await ENDS[reason](wire, server)
        await told.wait()
        await wire.aclose()
        await at_rest_or_stopped(server)
        assert heard == [reason]
        assert not server.of("/").sockets


async def at_rest_or_stopped(server: SocketServer) -> None:
    """A server that was shut down has no nursery any more."""
    if server._serving:
        await at_rest(server)
    assert server.connections == 0


async def test_transport_error(autojump_clock: MockClock) -> None:
    """Two polls at once: see test_polling for what each of them is answered."""
    from tests.raw import Later, Poller

    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        first = Later(nursery, poller.get)
        await trio.testing.wait_all_tasks_blocked()
        assert (await poller.get()).status == 400
        await first.value()
        assert await ended.reason() is CloseReason.TRANSPORT_ERROR


async def test_connect_timeout(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(connect_timeout=7))
    async with serving(server) as listener:
        started = trio.current_time()
        wire = await Wire.session(listener.connect())
        assert await wire.closed() == 1008
        assert trio.current_time() - started == pytest.approx(7)
