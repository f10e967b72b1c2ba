"""The stock `socket.io-client` against our server: what a user of the library and of the daemon does every day."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from engineio_trio import CloseReason, HandshakeRefused
from tests.patience import PATIENCE
from tests.wire.javascript import JavaScriptClient
from tests.wire.twin import serving, twin, twin_server

pytestmark = pytest.mark.javascript

TRANSPORTS = pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="default"),
        pytest.param({"transports": ["websocket"]}, id="websocket"),
        pytest.param({"transports": ["polling"]}, id="polling"),
    ],
)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The twin of the reference server, with its default settings."""
    async with twin_server() as port:
        yield f"http://127.0.0.1:{port}"


@TRANSPORTS
async def test_emits_acknowledges_and_carries_binary(js: JavaScriptClient, url: str, options: dict[str, Any]) -> None:
    socket = await js.connect(url, auth={"token": "t"}, answers={"question": ["yes"]}, **options)
    assert await socket.next("auth") == [{"token": "t"}]
    await socket.emit("echo", "grüße", {"n": [1, None]})
    assert await socket.next("echo") == ["grüße", {"n": [1, None]}]
    await socket.emit("binary", b"\x00\x04\xff", {"more": b""})
    assert await socket.next("binary") == [b"\x00\x04\xff", {"more": b""}]
    assert await socket.call("add", 20, 22) == [42]
    assert await socket.call("swap", b"a", "b") == ["b", b"a"]
    await socket.emit("ask", "?")
    assert await socket.next("answered") == ["yes"]


async def test_upgrades_by_default(js: JavaScriptClient, url: str) -> None:
    socket = await js.connect(url)
    assert (await socket.wait("upgrade"))["transport"] == "websocket"
    assert await socket.call("add", 1, 1) == [2]


async def test_order_holds_over_the_upgrade(js: JavaScriptClient, url: str) -> None:
    socket = await js.connect(url)
    for number in range(300):
        await socket.emit("echo", number)
    assert [(await socket.next("echo"))[0] for _ in range(300)] == list(range(300))
    await socket.wait("upgrade")


@TRANSPORTS
async def test_joins_a_namespace_and_is_refused_by_another(
    js: JavaScriptClient, url: str, options: dict[str, Any]
) -> None:
    main = await js.connect(url, forceNew=False, **options)
    custom = await js.connect(f"{url}/custom", auth={"a": 1}, forceNew=False, **options)
    assert await custom.next("auth") == [{"a": 1}]
    assert main.connection["engine"] == custom.connection["engine"]
    refused = await js.socket(f"{url}/refuse", forceNew=False, **options)
    report = await refused.wait("connect_error")
    assert (report["message"], report["data"], report["active"]) == ("not here", {"code": 401}, False)
    unknown = await js.socket(f"{url}/unknown", forceNew=False, **options)
    assert (await unknown.wait("connect_error"))["message"] == "Invalid namespace"
    assert await main.call("add", 1, 2) == [3]


@TRANSPORTS
@pytest.mark.parametrize("status", [401, 429, 503])
async def test_is_refused_at_the_handshake(js: JavaScriptClient, options: dict[str, Any], status: int) -> None:
    server = twin()

    @server.authorize
    async def refuse(_handshake: Any) -> None:
        raise HandshakeRefused(status, "no")

    async with serving(server) as port:
        url = f"http://127.0.0.1:{port}"
        socket = await js.socket(url, reconnection=False, **options)
        report = await socket.wait("connect_error")
        assert report["status"] == status
        assert server.connections == 0


@TRANSPORTS
async def test_is_kicked_and_stays_away(js: JavaScriptClient, url: str, options: dict[str, Any]) -> None:
    socket = await js.connect(url, reconnectionDelay=1, **options)
    await socket.emit("bye")
    report = await socket.wait("disconnect")
    assert (report["reason"], report["active"]) == ("io server disconnect", False)
    other = await js.connect(url, **options)  # a whole conversation later there was still no attempt
    assert await other.call("add", 1, 2) == [3]
    assert socket.seen("reconnect_attempt") == []


@TRANSPORTS
async def test_two_tabs_of_one_browser_are_two_sessions(js: JavaScriptClient, options: dict[str, Any]) -> None:
    """The bug that the project exists to fix: a cookie must not make the second tab take over the first."""
    server = twin()
    async with serving(server) as port:
        url = f"http://127.0.0.1:{port}"
        one = await js.connect(url, jar="browser", extraHeaders={"cookie": "io=stolen"}, **options)
        two = await js.connect(url, jar="browser", extraHeaders={"cookie": f"io={one.connection['engine']}"}, **options)
        assert len({one.id, two.id, one.connection["engine"], two.connection["engine"]}) == 4
        assert server.connections == 2
        for number, tab in enumerate((one, two)):
            assert await tab.call("join", f"tab-{number}") == [f"tab-{number}"]
        for number, tab in enumerate((one, two)):
            server.emit("only", number, to=f"tab-{number}")
            assert await tab.next("only") == [number]


@TRANSPORTS
async def test_says_why_a_client_went_away(js: JavaScriptClient, options: dict[str, Any]) -> None:
    server = twin()
    reasons: list[CloseReason] = []
    gone = trio.Event()

    @server.on("disconnect")
    def bye(_socket: Any, reason: CloseReason) -> None:
        reasons.append(reason)
        gone.set()

    async with serving(server) as port:
        url = f"http://127.0.0.1:{port}"
        socket = await js.connect(url, **options)
        await socket.next("auth")
        await socket.disconnect()
        with trio.fail_after(PATIENCE):
            await gone.wait()
        assert reasons == [CloseReason.CLIENT_DISCONNECT]


@TRANSPORTS
async def test_reconnects_with_a_new_session(js: JavaScriptClient, url: str, options: dict[str, Any]) -> None:
    socket = await js.connect(url, reconnectionDelay=1, **options)
    first = socket.id
    await socket.drop()
    await socket.connected()
    assert socket.id != first
    assert await socket.call("add", 1, 2) == [3]


async def test_lives_on_heartbeats(js: JavaScriptClient) -> None:
    async with twin_server(ping_interval=0.05, ping_timeout=5) as port:
        socket = await js.connect(f"http://127.0.0.1:{port}")
        for _ in range(5):
            await socket.wait("ping")
        assert await socket.call("add", 1, 2) == [3]


async def test_large_messages_pass_up_to_the_limit(js: JavaScriptClient, url: str) -> None:
    socket = await js.connect(url, transports=["websocket"])
    await socket.emit("echo", "x" * 900_000)
    assert await socket.next("echo") == ["x" * 900_000]
    await socket.emit("echo", "x" * 1_100_000)
    assert (await socket.wait("disconnect"))["reason"] in ("transport close", "transport error")
