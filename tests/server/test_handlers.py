"""Handlers: their order, their mistakes, back-pressure, and disconnect handlers that run exactly once."""

import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Disconnected, Settings, Socket, SocketServer
from tests.raw import Ended, Later, Poller, Wire, at_rest, serving


def the_socket(server: SocketServer) -> Socket:
    """The only socket of `/`."""
    (socket,) = server.of("/").sockets.values()
    return socket


async def test_plain_and_async_handlers_each_run_in_order(autojump_clock: MockClock) -> None:
    server = SocketServer()
    plain: list[int] = []
    queued: list[int] = []
    done = trio.Event()
    server.on("plain")(lambda socket, number: plain.append(number))

    @server.on("queued")
    async def slow(socket: Socket, number: int) -> None:
        await trio.sleep(1 / (number + 1))  # the later, the faster
        queued.append(number)
        if number == 9:
            done.set()

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        for number in range(10):
            await wire.say(f'42["queued",{number}]', f'42["plain",{number}]')
        await done.wait()
        assert plain == queued == list(range(10))


async def test_emits_arrive_in_the_order_of_the_calls() -> None:
    server = SocketServer()
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        socket = the_socket(server)
        for number in range(0, 30, 3):
            socket.emit("n", number)
            server.emit("n", number + 1, to=socket.id)
            socket.emit("n", number + 2)
        assert [await wire.event() for _ in range(30)] == [("n", number) for number in range(30)]


async def test_flush_returns_when_all_has_been_written(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(write_timeout=1_000))
    async with serving(server) as listener, trio.open_nursery() as nursery:
        wire = await Wire.joined(listener.connect())
        socket = the_socket(server)
        sender = listener.accepted[0].send_stream
        deliver, blocked = sender.send_all_hook, trio.Event()  # type: ignore[attr-defined]

        async def hold_back() -> None:
            await blocked.wait()
            await deliver()

        sender.send_all_hook = hold_back  # type: ignore[attr-defined]
        socket.emit("n", 1)
        flushed = Later(nursery, socket.flush)
        await trio.sleep(5)
        assert not flushed.done
        blocked.set()
        await flushed.value()
        await socket.flush()
        assert await wire.event() == ("n", 1)
        socket.disconnect(close=True)
        await wire.closed()
        await at_rest(server)
        socket.emit("n", 2)  # goes nowhere


async def test_flush_tells_of_a_connection_that_ended(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(write_timeout=5))
    async with serving(server) as listener:
        await Wire.joined(listener.connect())
        socket = the_socket(server)
        listener.accepted[0].send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]
        socket.emit("n")
        with pytest.raises(Disconnected) as caught:
            await socket.flush()
        assert caught.value.reason is CloseReason.SLOW_CONSUMER


async def test_a_full_queue_stops_the_reading(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(handler_queue=4, ping_interval=1_000))
    started: list[int] = []
    go = trio.Event()

    @server.on("a")
    async def wait(socket: Socket, number: int) -> None:
        started.append(number)
        await go.wait()

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say(*[f'42["a",{number}]' for number in range(10_000)])
        await trio.sleep(10)
        connection = next(iter(server._engine.sessions.values()))
        assert started == [0]
        assert len(connection.handlers._jobs) <= 4
        unread = len(listener.accepted[0].receive_stream._incoming._data)  # type: ignore[attr-defined]
        assert unread > 50_000  # it is the peer's to keep
        go.set()
        while len(started) < 10_000:
            await trio.testing.wait_all_tasks_blocked()
        assert started == list(range(10_000))


async def test_a_call_inside_a_handler_can_be_answered_while_the_queue_is_full(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(handler_queue=8))

    @server.on("a")
    async def ask(socket: Socket, number: int) -> int:
        return await socket.call("q", number)

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say(*[f'42{number}["a",{number}]' for number in range(5)])
        for number in range(5):
            assert await wire.text() == f'42{number}["q",{number}]'
            await wire.say(f"43{number}[{number * 10}]")
            assert await wire.text() == f"43{number}[{number * 10}]"


FAILING = ["plain event", "async event", "plain connect", "async connect", "plain disconnect", "async disconnect"]


@pytest.mark.parametrize("which", FAILING)
async def test_a_handler_that_fails_ends_its_own_connection_only(
    which: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = SocketServer()
    ended: list[CloseReason] = []
    failing = server.of("/failing")

    def plain(socket: Socket, *args: Any) -> None:
        raise KeyError("a mistake")

    async def slow(socket: Socket, *args: Any) -> None:
        await trio.sleep(0.1)
        raise KeyError("a mistake")

    kind, event = which.split()
    failing.on(event if event != "event" else "a")(plain if kind == "plain" else slow)
    server.on("disconnect")(lambda socket, reason: ended.append(reason))
    server.on("echo")(lambda socket: socket.emit("echo"))
    async with serving(server) as listener:
        good = await Wire.joined(listener.connect())
        wire = await Wire.joined(listener.connect())
        await wire.say("40/failing,")
        if event != "connect":
            assert (await wire.text()).startswith("40/failing,{")
            await wire.say('42/failing,["a"]' if event == "event" else "41/failing,")
        assert await wire.closed() == 1011
        await good.say('42["echo"]')
        assert await good.event() == ("echo",)
        assert ended == [CloseReason.INTERNAL_ERROR]
        assert server.connections == 1
        assert not failing.sockets
        assert not failing.rooms._members
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "a mistake" in caplog.text


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_socket_whose_connection_is_failing_may_be_disconnected_by_others(
    kind: str, autojump_clock: MockClock
) -> None:
    """While the goodbye waits for the peer nothing of it can be started any more, and nobody else is hurt by that."""
    server = SocketServer()
    ended: list[CloseReason] = []

    async def slow(socket: Socket, reason: CloseReason) -> None:
        ended.append(reason)

    server.on("disconnect")(slow if kind == "async" else lambda socket, reason: ended.append(reason))

    @server.on("fail")
    def fail(socket: Socket) -> None:
        raise KeyError("a mistake")

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        socket = the_socket(server)
        await wire.say('42["fail"]')
        assert await wire.code() == 1011
        socket.disconnect()
        socket.disconnect(close=True)
        assert socket.closed is CloseReason.INTERNAL_ERROR
        await wire.aclose()
        await at_rest(server)
        assert ended == [CloseReason.INTERNAL_ERROR]


async def test_a_peer_that_leaves_during_a_call_is_no_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = SocketServer()
    ended = Ended(server)

    @server.on("a")
    async def ask(socket: Socket) -> None:
        await socket.call("q")
        pytest.fail("nobody answered")

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('42["a"]')
        assert await wire.text() == '420["q"]'
        await wire.aclose()
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        await at_rest(server)
    assert not caplog.records


async def leave(wire: Wire, server: SocketServer) -> None:
    await wire.say("41")


async def vanish(wire: Wire, server: SocketServer) -> None:
    await wire.aclose()


async def disconnected(wire: Wire, server: SocketServer) -> None:
    the_socket(server).disconnect()


async def disconnected_and_closed(wire: Wire, server: SocketServer) -> None:
    the_socket(server).disconnect(close=True)


async def closed(wire: Wire, server: SocketServer) -> None:
    the_socket(server).close(CloseReason.POLICY)


async def leave_and_vanish(wire: Wire, server: SocketServer) -> None:
    await wire.say("41")
    await wire.aclose()


WAYS: list[tuple[Callable[[Wire, SocketServer], Awaitable[None]], CloseReason]] = [
    (leave, CloseReason.CLIENT_DISCONNECT),
    (vanish, CloseReason.TRANSPORT_CLOSE),
    (disconnected, CloseReason.SERVER_DISCONNECT),
    (disconnected_and_closed, CloseReason.SERVER_DISCONNECT),
    (closed, CloseReason.POLICY),
    (leave_and_vanish, CloseReason.CLIENT_DISCONNECT),
]


@pytest.mark.parametrize(("way", "reason"), WAYS)
@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_disconnect_handlers_run_exactly_once(
    way: Callable[[Wire, SocketServer], Awaitable[None]],
    reason: CloseReason,
    kind: str,
    busy: bool,
    autojump_clock: MockClock,
) -> None:
    """Also when the handler before them is still running, and when the connection ends while they are queued."""
    server = SocketServer(Settings(close_timeout=3))
    heard: list[Any] = []

    def plain(socket: Socket, why: CloseReason) -> None:
        assert socket.rooms == frozenset()
        heard.append(why)

    async def slow(socket: Socket, why: CloseReason) -> None:
        await trio.sleep(1)
        plain(socket, why)

    @server.on("work")
    async def work(socket: Socket) -> None:
        await trio.sleep(1)
        heard.append("worked")

    server.on("disconnect")(plain if kind == "plain" else slow)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        if busy:
            await wire.say('42["work"]')
            await trio.testing.wait_all_tasks_blocked()
        await way(wire, server)
        await trio.sleep(20)
        assert heard == (["worked", reason] if busy else [reason])
        assert not server.of("/").sockets
        await wire.aclose()
        await at_rest(server)
    assert heard[-1:] == [reason]
    assert heard.count(reason) == 1


async def test_one_disconnect_handler_that_fails_does_not_stop_the_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = SocketServer()
    heard: list[str] = []

    def fail(socket: Socket, reason: CloseReason) -> None:
        heard.append(socket.namespace)
        raise KeyError("a mistake")

    for name in ("/", "/a", "/b"):
        server.of(name).on("disconnect")(fail)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say("40/a,", "40/b,")
        await wire.text()
        await wire.text()
        await wire.aclose()
        await at_rest(server)
        assert sorted(heard) == ["/", "/a", "/b"]
    assert caplog.text.count("KeyError: 'a mistake'") == 3


async def test_a_disconnect_handler_is_not_waited_for_for_ever(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(close_timeout=2))

    @server.on("disconnect")
    async def stuck(socket: Socket, reason: CloseReason) -> None:
        await trio.sleep_forever()

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        started = trio.current_time()
        await wire.aclose()
        await at_rest(server, seconds=20)
        assert trio.current_time() - started <= 2 * 2 + 1


async def test_a_disconnect_handler_may_disconnect_other_sockets_of_its_connection(autojump_clock: MockClock) -> None:
    server = SocketServer()
    heard: list[str] = []
    others: dict[str, Socket] = {}

    def pull_down(socket: Socket, reason: CloseReason) -> None:
        heard.append(socket.namespace)
        for other in others.values():
            other.disconnect()

    for name in ("/", "/a", "/b"):
        server.of(name).on("connect")(lambda socket: others.setdefault(socket.namespace, socket))
        server.of(name).on("disconnect")(pull_down)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say("40/a,", "40/b,")
        await wire.text()
        await wire.text()
        await wire.aclose()
        await at_rest(server)
        assert sorted(heard) == ["/", "/a", "/b"]


async def test_a_handler_may_close_its_own_connection_and_go_on(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(close_timeout=2))
    after: list[str] = []

    @server.on("bye")
    async def bye(socket: Socket) -> None:
        socket.disconnect(close=True)
        await trio.sleep(1)
        after.append("saved")

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('42["bye"]')
        assert await wire.text() == "41"
        assert await wire.closed() == 1000
        assert after == ["saved"]


async def test_what_the_peer_said_before_it_left_is_handled(autojump_clock: MockClock) -> None:
    server = SocketServer()
    heard: list[int] = []

    @server.on("a")
    async def slow(socket: Socket, number: int) -> None:
        await trio.sleep(0.1)
        heard.append(number)

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('42["a",1]', '42["a",2]', '42["a",3]', "41")
        await wire.aclose()
        await at_rest(server)
        assert heard == [1, 2, 3]


@pytest.mark.parametrize("count", [0, 3])
async def test_a_wrong_number_of_arguments_is_the_peers_mistake(
    count: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = SocketServer()
    server.on("two")(lambda socket, one, two: None)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('42["two"' + ",1" * count + "]")
        assert await wire.closed() == 1008
    assert not caplog.records


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_nothing_keeps_a_closed_connection_in_memory(transport: str, autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener:
        if transport == "websocket":
            wire = await Wire.joined(listener.connect())
        else:
            poller = await Poller.joined(listener)
        remembered: list[weakref.ref[Any]] = [weakref.ref(the_socket(server))]
        application = next(iter(server._engine.sessions.values())).application
        remembered.append(weakref.ref(application))
        del application
        if transport == "websocket":
            await wire.aclose()
        else:
            await poller.post("1")
        await at_rest(server)
        gc.collect()
        assert [reference() for reference in remembered] == [None, None]
