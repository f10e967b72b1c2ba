"""The client against our server over real sockets: both transports, the upgrade, refusals, the ways that it ends."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import trio

from engineio_trio import (
    AckTimeout,
    CloseReason,
    ConnectRefused,
    Disconnected,
    Handshake,
    HandshakeRefused,
    LocalProtocolError,
    RemoteProtocolError,
    Settings,
    Socket,
    SocketServer,
)
from engineio_trio.client import ClientSocket, connect
from tests.patience import PATIENCE

WAYS = [("websocket",), ("polling",), ("polling", "websocket")]
ways = pytest.mark.parametrize("transports", WAYS, ids="-".join)


def make_server(settings: Settings | None = None) -> SocketServer:
    server = SocketServer(settings)
    gone: list[CloseReason] = []
    server.gone = gone  # type: ignore[attr-defined]

    @server.authorize
    async def check(handshake: Handshake) -> None:
        if "forbidden" in handshake.query:
            raise HandshakeRefused(401, "who are you?")

    @server.on("connect")
    def hello(socket: Socket, auth: Any) -> None:
        if auth == {"token": "wrong"}:
            raise ConnectRefused("no", {"code": 401})
        socket.emit("welcome", auth, dict(socket.handshake.query), socket.handshake.headers.get("x-mark"))

    @server.on("echo")
    def echo(socket: Socket, *args: Any) -> tuple[Any, ...]:
        return args

    @server.on("back")
    def back(socket: Socket, event: str, *args: Any) -> None:
        socket.emit(event, *args)

    @server.on("ask")
    async def ask(socket: Socket, *args: Any) -> Any:
        return await socket.call("question", *args)

    @server.on("kick")
    def kick(socket: Socket) -> None:
        socket.emit("kicked", "another came")
        socket.disconnect(close=True)

    @server.on("disconnect")
    def bye(socket: Socket, reason: CloseReason) -> None:
        gone.append(reason)

    @server.of("/admin").on("who")
    def who(socket: Socket) -> str:
        return socket.namespace

    return server


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[SocketServer]:
    server = make_server()
    [address] = await nursery.start(partial(server.serve, host="127.0.0.1", port=0))
    server.url = f"http://127.0.0.1:{address[1]}"  # type: ignore[attr-defined]
    yield server
    await server.shutdown()


@pytest.fixture
def url(server: Any) -> str:
    return str(server.url)


async def until(true: Any) -> None:
    """Real sockets are between: ask until it is so."""
    with trio.fail_after(PATIENCE):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.005)


@ways
async def test_both_sides_say_and_ask(url: str, transports: tuple[str, ...]) -> None:
    async with connect(url, transports=transports) as socket:

        @socket.on("question")
        async def question(number: int, data: bytes) -> tuple[int, bytes]:
            return number + 1, await socket.call("echo", data[::-1])

        assert await socket.call("echo") is None
        assert await socket.call("echo", {"a": [b"\x00\xff", "ü", b""]}) == {"a": [b"\x00\xff", "ü", b""]}
        assert await socket.call("echo", 1, None) == (1, None)
        assert await socket.call("ask", 20, b"ab") == (21, b"ba")
        assert socket.transport == ("websocket" if transports == ("websocket",) else socket.transport)
        if transports == ("polling",):
            assert socket.transport == "polling"


async def test_moves_to_a_websocket_by_itself(url: str) -> None:
    async with connect(url) as socket:
        await until(lambda: socket.transport == "websocket")
        assert await socket.call("echo", b"x" * 100_000) == b"x" * 100_000


@ways
async def test_handshake_carries_what_was_given(url: str, transports: tuple[str, ...]) -> None:
    given = {"deviceId": "ä b&c", "tags": ["x", "y"]}
    async with connect(url, auth={"token": "t"}, query=given, headers={"X-Mark": "m"}, transports=transports) as socket:
        event = await anext(aiter(socket))
        auth, query, mark = event.args
        assert (event.name, auth, mark) == ("welcome", {"token": "t"}, "m")
        assert (query["deviceId"], query["tags"]) == (["ä b&c"], ["x", "y"])
        assert socket.id
        assert socket.closed is None


async def test_other_namespace(url: str) -> None:
    async with connect(url, namespace="/admin") as socket:
        assert await socket.call("who") == "/admin"


@ways
async def test_namespace_refuses(url: str, transports: tuple[str, ...]) -> None:
    with pytest.raises(ConnectRefused, match="no") as caught:
        async with connect(url, auth={"token": "wrong"}, transports=transports):
            raise AssertionError("joined")
    assert caught.value.data == {"code": 401}
    with pytest.raises(ConnectRefused, match="Invalid namespace"):
        async with connect(url, namespace="/nowhere", transports=transports):
            raise AssertionError("joined")


@ways
async def test_handshake_refused(url: str, transports: tuple[str, ...]) -> None:
    with pytest.raises(HandshakeRefused, match="who are you") as caught:
        async with connect(url, query={"forbidden": "1"}, transports=transports):
            raise AssertionError("joined")
    assert caught.value.status == 401


async def test_wrong_path(url: str) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        async with connect(url, path="/elsewhere/"):
            raise AssertionError("joined")
    assert caught.value.status == 404


@ways
async def test_kicked(url: str, server: Any, transports: tuple[str, ...]) -> None:
    """What was sent before the kick is still read; then the iteration ends and the reason is there."""
    async with connect(url, transports=transports) as socket:
        socket.emit("kick")
        names = [event.name async for event in socket]
        assert names == ["welcome", "kicked"]
        assert socket.closed is CloseReason.SERVER_DISCONNECT
        assert await socket.wait_closed() is CloseReason.SERVER_DISCONNECT
        with pytest.raises(Disconnected) as caught:
            await socket.call("echo", 1)
        assert caught.value.reason is CloseReason.SERVER_DISCONNECT
        socket.emit("echo", 1)
    assert server.gone == [CloseReason.SERVER_DISCONNECT]


@ways
async def test_leaving_says_goodbye(url: str, server: Any, transports: tuple[str, ...]) -> None:
    async with connect(url, transports=transports) as socket:
        socket.emit("back", "last", 1)
    assert socket.closed is CloseReason.CLIENT_DISCONNECT
    await until(lambda: server.gone)
    assert server.gone == [CloseReason.CLIENT_DISCONNECT]
    await until(lambda: server.connections == 0)


@ways
async def test_goodbye_when_cancelled(url: str, server: Any, transports: tuple[str, ...]) -> None:
    with trio.CancelScope() as scope:
        async with connect(url, transports=transports) as socket:
            scope.cancel()
            await socket.wait_closed()
            raise AssertionError("not cancelled")
    assert scope.cancelled_caught
    await until(lambda: server.gone)
    assert server.gone == [CloseReason.CLIENT_DISCONNECT]


async def test_disconnect_inside_the_block(url: str) -> None:
    async with connect(url) as socket:
        socket.disconnect()
        assert await socket.wait_closed() is CloseReason.CLIENT_DISCONNECT
        socket.disconnect()


@ways
async def test_server_shuts_down(url: str, server: Any, transports: tuple[str, ...]) -> None:
    """The call that waits is released at once; the iteration ends."""
    async with connect(url, transports=transports) as socket:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.shutdown)
            with pytest.raises(Disconnected) as caught:
                await socket.call("unheard of", timeout=60)
        assert caught.value.reason is socket.closed is CloseReason.TRANSPORT_CLOSE
        assert [event.name async for event in socket] == ["welcome"]


async def test_ack_timeout(url: str) -> None:
    async with connect(url) as socket:
        with pytest.raises(AckTimeout):
            await socket.call("unheard of", timeout=0.01)
        assert await socket.call("echo", 2) == 2


async def test_event_without_a_handler_can_be_acked(url: str) -> None:
    async with connect(url) as socket, trio.open_nursery() as nursery:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await socket.call("ask", "?"))

        nursery.start_soon(ask)
        async for event in socket:
            if event.wants_ack:
                event.ack("yes", b"!")
                assert not event.wants_ack
                with pytest.raises(LocalProtocolError, match="question"):
                    event.ack("twice")
                break
        await until(lambda: answers)
        assert answers == [("yes", b"!")]


@ways
async def test_late_handler_gets_what_waits(url: str, transports: tuple[str, ...]) -> None:
    """Events may come together with the CONNECT answer, before a handler can be registered."""
    async with connect(url, transports=transports, auth={"n": 1}) as socket:
        await socket.call("echo")
        seen: list[Any] = []
        socket.on("welcome")(lambda auth, query, mark: seen.append(auth))
        assert seen == [{"n": 1}]


async def test_error_in_a_handler_comes_out(url: str) -> None:
    class Mine(Exception):
        pass

    def boom() -> None:
        raise Mine

    async def run() -> None:
        async with connect(url) as socket:
            socket.on("boom")(boom)
            socket.emit("back", "boom")
            await trio.sleep_forever()

    with pytest.raises(Mine):
        await run()


async def test_error_in_the_block_comes_out_as_itself(url: str, server: Any) -> None:
    with pytest.raises(KeyError) as caught:
        async with connect(url):
            raise KeyError("mine")
    assert caught.value.__context__ is None
    await until(lambda: server.gone)


async def test_handler_that_does_not_fit_ends_the_connection(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with connect(url) as socket:
        socket.on("one")(lambda number: None)
        socket.emit("back", "one", 1, 2)
        assert await socket.wait_closed() is CloseReason.POLICY
    assert "'one' came with 2 arguments" in caplog.text


async def test_nobody_iterates(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Unwanted events never stop a client that only calls: the oldest are dropped, with a warning."""
    async with connect(url, settings=Settings(handler_queue=3)) as socket:
        for number in range(5):
            socket.emit("back", "news", number)
        await socket.call("echo")
        socket.disconnect()
        assert [event.args for event in [event async for event in socket]] == [(2,), (3,), (4,)]
    assert "event 'welcome' is dropped" in caplog.text


async def test_iteration_brakes_the_reader(url: str) -> None:
    async with connect(url, settings=Settings(handler_queue=3)) as socket:
        events = aiter(socket)
        for number in range(50):
            socket.emit("back", "news", number)
        await socket.flush()
        assert (await anext(events)).name == "welcome"
        assert [(await anext(events)).args for _ in range(50)] == [(number,) for number in range(50)]


async def test_many_messages_fit_into_posts(nursery: trio.Nursery) -> None:
    """The server's max_payload bounds each POST; a single message beyond it ends the session."""
    server = make_server(Settings(max_payload=1_000))
    [address] = await nursery.start(partial(server.serve, host="127.0.0.1", port=0))
    async with connect(f"http://127.0.0.1:{address[1]}", transports=("polling",)) as socket:
        seen: list[int] = []
        socket.on("n")(seen.append)
        for number in range(3_000):
            socket.emit("back", "n", number)
        await socket.call("echo")
        await until(lambda: len(seen) == 3_000)
        assert seen == list(range(3_000))
        socket.emit("echo", "x" * 1_000)
        assert await socket.wait_closed() is CloseReason.TOO_BIG
    await server.shutdown()


@ways
async def test_nobody_there(transports: tuple[str, ...]) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(OSError):
        async with connect(f"http://127.0.0.1:{port}", transports=transports):
            raise AssertionError("joined")


NONSENSE = [
    b"",
    b"HTTP/1.1 200 OK\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 101 \xff\r\nX-\xe9: \xff\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n40",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n0{}",
    b"HTTP/1.1 401 No\r\nContent-Length: 50\r\n\r\nx",
]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("answer", NONSENSE)
async def test_whatever_answers(nursery: trio.Nursery, transport: str, answer: bytes) -> None:
    """Something else on that port is an error that says so, never a hang and never an error of a library beneath."""

    async def nonsense(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65_536)
            await stream.send_all(answer)

    [listener] = await nursery.start(partial(trio.serve_tcp, nonsense, 0, host="127.0.0.1"))
    port = listener.socket.getsockname()[1]
    with trio.fail_after(PATIENCE), pytest.raises((OSError, RemoteProtocolError, HandshakeRefused)) as caught:
        async with connect(f"http://127.0.0.1:{port}", transports=(transport,)):
            raise AssertionError("joined")
    assert str(caught.value)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("url", "more", "message"),
    [
        ("127.0.0.1:80", {}, "not of the form"),
        ("ftp://h", {}, "not of the form"),
        ("http://h/admin", {}, "path="),
        ("http://h?x=1", {}, "query="),
        ("http://h", {"transports": ()}, "transports"),
        ("http://h", {"transports": ("carrier pigeon",)}, "carrier pigeon"),
        ("http://h", {"path": "x"}, "begins with '/'"),
        ("http://h", {"query": {"sid": "x"}}, "sid"),
        ("http://h", {"headers": {"X": "a\r\nY: b"}}, "'X'"),
    ],
)
async def test_wrong_arguments(url: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        async with connect(url, **more):
            raise AssertionError("joined")


async def test_reserved_and_double_handlers(url: str) -> None:
    async with connect(url) as socket:
        with pytest.raises(ValueError, match="wait_closed"):
            socket.on("disconnect")
        socket.on("x")(print)
        with pytest.raises(ValueError, match="already"):
            socket.on("x")(print)
        with pytest.raises(TypeError, match="answer="):
            socket.on("y")(lambda value, *, answer: None)
        with pytest.raises(LocalProtocolError, match="reserved"):
            socket.emit("connect")
        assert isinstance(socket, ClientSocket)
        assert socket.id in repr(socket)
