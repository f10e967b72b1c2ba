"""The client against node's own Socket.IO server."""

from collections.abc import AsyncIterator

import pytest

from engineio_trio import CloseReason, ConnectRefused
from engineio_trio.client import connect
from tests.client.test_connect import until, ways
from tests.wire.javascript import reference_server

pytestmark = pytest.mark.javascript


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with reference_server(pingInterval=50) as server:
        yield f"http://127.0.0.1:{server['port']}"


@ways
async def test_node_speaks_the_same(url: str, transports: tuple[str, ...]) -> None:
    async with connect(url, transports=transports, auth={"token": "t"}, namespace="/custom") as socket:
        events = aiter(socket)
        assert (await anext(events)).args == ({"token": "t"},)
        assert await socket.call("add", 1, 2) == 3
        assert await socket.call("swap", b"\x00\xff", [b"", "ü"]) == ([b"", "ü"], b"\x00\xff")
        if len(transports) == 2:
            await until(lambda: socket.transport == "websocket")
        for number in range(200):
            socket.emit("binary", number, bytes([number]) * 500)
        assert [(await anext(events)).args for _ in range(200)] == [(n, bytes([n]) * 500) for n in range(200)]
        socket.on("question")(lambda number: (number + 1, b"!"))
        socket.emit("ask", 1)
        assert (await anext(events)).args == (2, b"!")
        socket.emit("bye")
        assert await socket.wait_closed() is CloseReason.SERVER_DISCONNECT


@ways
async def test_node_refuses(url: str, transports: tuple[str, ...]) -> None:
    with pytest.raises(ConnectRefused, match="not here") as caught:
        async with connect(url, transports=transports, namespace="/refuse"):
            raise AssertionError("joined")
    assert caught.value.data == {"code": 401}
    with pytest.raises(ConnectRefused, match="Invalid namespace"):
        async with connect(url, transports=transports, namespace="/nowhere"):
            raise AssertionError("joined")
