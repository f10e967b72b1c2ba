"""`engineio_trio.testing` as its users see it."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from engineio_trio import (
    AckTimeout,
    CloseReason,
    ConnectRefused,
    Handshake,
    HandshakeRefused,
    Socket,
    SocketServer,
)
from engineio_trio.testing import connected, serving


def make_server() -> SocketServer:
    server = SocketServer()

    @server.authorize
    def check(handshake: Handshake) -> None:
        if handshake.remote == "203.0.113.9":
            raise HandshakeRefused(403, "not you")

    @server.on("connect")
    def hello(socket: Socket, auth: Any) -> None:
        if auth == "no":
            raise ConnectRefused("no")
        socket.join("lobby")

    @server.on("add")
    async def add(socket: Socket, a: int, b: int) -> int:
        return a + b

    @server.on("say")
    def say(socket: Socket, text: str) -> None:
        server.emit("said", text, to="lobby", skip=socket)

    return server


async def test_two_clients_of_one_server(autojump_clock: MockClock) -> None:
    server = make_server()
    async with serving(server), connected(server) as one, connected(server, transports=("websocket",)) as two:
        assert await one.call("add", 1, 2) == 3
        one.emit("say", "hello")
        event = await anext(aiter(two))
        assert (event.name, event.args) == ("said", ("hello",))
        assert one.id != two.id
        assert server.connections == 2
    assert server.connections == 0


async def test_time_is_the_tests_own(autojump_clock: MockClock) -> None:
    server = make_server()
    async with serving(server), connected(server) as client:
        with pytest.raises(AckTimeout):
            await client.call("unheard of", timeout=3_600)
        assert trio.current_time() >= 3_600
        assert client.closed is None


async def test_refusals_come_out_as_themselves(autojump_clock: MockClock) -> None:
    server = make_server()
    async with serving(server):
        with pytest.raises(HandshakeRefused, match="not you"):
            async with connected(server, remote="203.0.113.9"):
                raise AssertionError("joined")
        with pytest.raises(ConnectRefused, match="Invalid namespace"):
            async with connected(server, namespace="/nowhere"):
                raise AssertionError("joined")
        with pytest.raises(ZeroDivisionError):
            async with connected(server):
                raise ZeroDivisionError


async def test_server_ends_first(autojump_clock: MockClock) -> None:
    server = make_server()
    async with serving(server), connected(server) as client:
        await server.shutdown()
        assert await client.wait_closed() is CloseReason.TRANSPORT_CLOSE


async def test_server_that_is_not_served(autojump_clock: MockClock) -> None:
    with pytest.raises(RuntimeError, match="not serving"):
        async with connected(make_server()):
            raise AssertionError("joined")


async def test_again_after_the_end(autojump_clock: MockClock) -> None:
    server = make_server()
    for _ in range(2):
        async with serving(server), connected(server) as client:
            assert await client.call("add", 1, 1) == 2
