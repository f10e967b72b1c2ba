"""Listeners of every kind, and the ways to stop: shutdown and cancellation."""

import contextlib
import pathlib
import socket as stdlib_socket
import ssl
from functools import partial

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock

from engineio_trio import CloseReason, EngineServer, Settings, Socket, SocketServer
from tests.patience import PATIENCE
from tests.raw import Ended, Later, MemoryListener, Poller, Raw, Wire, polling, serving


async def test_started_gives_the_bound_addresses() -> None:
    server = SocketServer()
    async with trio.open_nursery() as nursery:
        ((host, port),) = await nursery.start(partial(server.serve, "127.0.0.1", 0))
        assert host == "127.0.0.1"
        wire = await Wire.joined(Raw(await trio.open_tcp_stream(host, port)))
        assert server.of("/").sockets.popitem()[1].handshake.remote == "127.0.0.1"
        await wire.aclose()
        nursery.cancel_scope.cancel()


async def test_a_port_that_is_taken() -> None:
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with taken:
        port = taken.socket.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            await SocketServer().serve("127.0.0.1", port)


async def test_a_unix_socket(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening.bind(path)
    listening.listen()
    server = SocketServer()
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(server.serve_listeners, [trio.SocketListener(listening)])
        assert addresses == [path]
        wire = await Wire.joined(Raw(await trio.open_unix_socket(path)))
        assert server.of("/").sockets.popitem()[1].handshake.remote == ""
        await wire.aclose()
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, contexts[0], host="127.0.0.1")
        ((host, port),) = await nursery.start(server.serve_listeners, listeners)

        async def connect() -> Raw:
            stream = await trio.open_tcp_stream(host, port)
            return Raw(trio.SSLStream(stream, contexts[1], server_hostname="localhost"))

        wire = await Wire.joined(await connect())
        assert server.of("/").sockets[next(iter(server.of("/").sockets))].handshake.remote == "127.0.0.1"
        raw = await connect()
        assert (await raw.request("GET", polling())).status == 200
        assert (await raw.request("GET", polling("unknown"))).refusal == (400, 1)
        await wire.raw.send(b"\x81\x80\x00\x00\x00\x00")
        assert await wire.code() == 1002
        assert await ended.reason() is CloseReason.PARSE_ERROR
        await trio.aclose_forcefully(wire.raw.stream)
        await trio.aclose_forcefully(raw.stream)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00\xff", b"\x00" * 100])
async def test_h27_garbage_on_a_tls_port(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = SocketServer(Settings(request_timeout=0.2))
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, contexts[0], host="127.0.0.1")
        ((host, port),) = await nursery.start(server.serve_listeners, listeners)
        stream = await trio.open_tcp_stream(host, port)
        await stream.send_all(garbage)
        with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(1_000):
                pass  # an alert, perhaps
        good = trio.SSLStream(await trio.open_tcp_stream(host, port), contexts[1], server_hostname="localhost")
        assert (await Raw(good).request("GET", polling())).status == 200
        await stream.aclose()
        await trio.aclose_forcefully(good)
        nursery.cancel_scope.cancel()
    assert not caplog.records


async def test_several_listeners_at_once() -> None:
    server = SocketServer()
    listeners = [MemoryListener(), MemoryListener()]
    async with trio.open_nursery() as nursery:
        assert len(await nursery.start(server.serve_listeners, listeners)) == 2
        for listener in listeners:
            await Wire.joined(listener.connect())
        assert server.connections == 2
        nursery.cancel_scope.cancel()


async def test_a_server_serves_once_at_a_time() -> None:
    server = SocketServer()
    async with serving(server):
        with pytest.raises(RuntimeError, match="serving already"):
            await server.serve("127.0.0.1", 0)
    async with serving(server) as listener:  # and again, later
        await Wire.joined(listener.connect())


async def test_shutdown_tells_every_peer_and_lets_nobody_in(autojump_clock: MockClock) -> None:
    server = SocketServer()
    reasons: list[CloseReason] = []
    server.on("disconnect")(lambda socket, reason: reasons.append(reason))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        finished = Later(nursery, server.serve_listeners, [listener])
        await trio.testing.wait_all_tasks_blocked()
        wire = await Wire.joined(listener.connect())
        waiting, between = await Poller.joined(listener), await Poller.joined(listener)
        kept = [listener.connect() for _ in range(2)]  # connections that are open already
        for raw in kept:
            await raw.request("GET", polling("unknown"))
        poll = Later(nursery, kept[0].request, "GET", polling(waiting.sid))
        await trio.testing.wait_all_tasks_blocked()
        server.emit("last")
        shutdown = Later(nursery, server.shutdown)
        assert await wire.event() == ("last",)
        assert await wire.code() == 1012
        await wire.aclose()
        assert (await poll.value()).body == b'42["last"]'
        assert (await kept[0].request("GET", polling(waiting.sid))).body == b"1"
        assert (await kept[1].request("GET", polling(between.sid))).body == b'42["last"]'
        assert (await kept[1].request("GET", polling(between.sid))).body == b"1"
        await shutdown.value()
        await finished.value()
        assert reasons == [CloseReason.SHUTDOWN] * 3
        assert server.connections == 0
    with pytest.raises(trio.ClosedResourceError):
        listener.connect()


async def test_shutdown_may_be_spread_over_some_time(autojump_clock: MockClock) -> None:
    """Clients that are closed one after the other do not all come back at once (F24)."""
    server = SocketServer()
    closed: list[float] = []
    server.on("disconnect")(lambda socket, reason: closed.append(trio.current_time()))
    async with serving(server) as listener, trio.open_nursery() as nursery:
        wires = [await Wire.joined(listener.connect()) for _ in range(4)]
        started = trio.current_time()
        shutdown = Later(nursery, partial(server.shutdown, 20, spread=8))
        for number, wire in enumerate(wires):
            assert await wire.code() == 1012
            await wire.aclose()
            assert trio.current_time() - started == pytest.approx(2 * number)
        await shutdown.value()
    assert [moment - started for moment in closed] == pytest.approx([0, 2, 4, 6])


async def test_a_shutdown_that_is_spread_too_far_ends_with_its_grace(autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener:
        for _ in range(4):
            await Wire.joined(listener.connect())
        started = trio.current_time()
        await server.shutdown(3, spread=8)
        assert trio.current_time() - started <= 3 + server.settings.close_timeout
        assert server.connections == 0


async def test_shutdown_lets_nobody_in_by_streams_that_are_open(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(close_timeout=2))
    async with serving(server) as listener, trio.open_nursery() as nursery:
        await Wire.joined(listener.connect())  # and never answers the CLOSE, which takes close_timeout
        raw = listener.connect()
        assert (await raw.request("GET", polling("unknown"))).status == 400
        shutdown = Later(nursery, server.shutdown)
        await trio.testing.wait_all_tasks_blocked()
        answer = await raw.request("GET", polling())
        assert answer.status == 503
        await shutdown.value()


@pytest.mark.parametrize("peer", ["websocket", "polling", "stuck", "idle http", "half a head"])
async def test_shutdown_returns_in_time_whatever_the_peer_does(peer: str, autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(close_timeout=100, write_timeout=1_000))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        finished = Later(nursery, server.serve_listeners, [listener])
        await trio.testing.wait_all_tasks_blocked()
        if peer == "polling":
            await Poller.joined(listener)
        elif peer == "idle http":
            await listener.connect().request("GET", polling("unknown"))
        elif peer == "half a head":
            await listener.connect().send("GET /")
        else:
            await Wire.joined(listener.connect())
        if peer == "stuck":
            listener.accepted[0].send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]
            server.emit("x" * 100)
        started = trio.current_time()
        await server.shutdown(grace=5)
        assert trio.current_time() - started <= 5
        await finished.value()
        assert server.connections == server._streams == 0


async def test_shutdown_of_a_server_that_does_not_serve() -> None:
    await SocketServer().shutdown()


async def test_two_shutdowns_at_once(autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with trio.open_nursery() as nursery:
        finished = Later(nursery, server.serve_listeners, [MemoryListener()])
        await trio.testing.wait_all_tasks_blocked()
        both = [Later(nursery, server.shutdown), Later(nursery, server.shutdown)]
        for one in both:
            await one.value()
        await finished.value()


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_cancelled_serving_leaves_nothing(kind: str, autojump_clock: MockClock) -> None:
    """Every socket is told of its end, once; then all sessions and streams are gone."""
    server = SocketServer(Settings(close_timeout=2))
    reasons: list[CloseReason] = []

    async def slow(socket: Socket, reason: CloseReason) -> None:
        await trio.sleep(1)
        reasons.append(reason)

    server.on("disconnect")(slow if kind == "async" else lambda socket, reason: reasons.append(reason))
    async with serving(server) as listener:
        for _ in range(3):
            await Wire.joined(listener.connect())
            await Poller.joined(listener)
        started = trio.current_time()
    assert trio.current_time() - started <= 3
    assert reasons == [CloseReason.SHUTDOWN] * 6
    assert server.connections == server._streams == 0
    assert not server.of("/").sockets


async def test_an_engine_server_is_stopped_the_same_way(autojump_clock: MockClock) -> None:
    ended: list[CloseReason | None] = []

    async def keep(session) -> None:  # type: ignore[no-untyped-def]
        async for _ in session:
            pass
        ended.append(session.closed)

    server = EngineServer(keep)
    async with trio.open_nursery() as nursery:
        listener = MemoryListener()
        finished = Later(nursery, server.serve_listeners, [listener])
        await trio.testing.wait_all_tasks_blocked()
        wire = await Wire.session(listener.connect(), "/engine.io/?EIO=4&transport=websocket")
        shutdown = Later(nursery, server.shutdown)
        assert await wire.closed() == 1012
        await shutdown.value()
        await finished.value()
    assert ended == [CloseReason.SHUTDOWN]


async def test_serve_stream_needs_a_server_that_serves() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(RuntimeError, match="not serving"):
        await SocketServer().serve_stream(theirs)
    await ours.aclose()
    await theirs.aclose()


async def test_a_peer_that_resets_before_it_is_served_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    server = SocketServer()
    async with trio.open_nursery() as nursery:
        ((host, port),) = await nursery.start(partial(server.serve, "127.0.0.1", 0))
        for _ in range(20):
            hasty = stdlib_socket.create_connection((host, port))
            hasty.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            hasty.send(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n")
            hasty.close()
        wire = await Wire.joined(Raw(await trio.open_tcp_stream(host, port)))
        await wire.aclose()
        nursery.cancel_scope.cancel()
    assert not caplog.records
