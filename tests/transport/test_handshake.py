"""What a handshake must say: transport, revision, and the WebSocket headers (rows H13, H26)."""

import pytest
from trio.testing import MockClock

from engineio_trio import Settings, SocketServer
from tests.raw import (
    KEY,
    UPGRADE,
    Poller,
    request,
    serving,
    websocket_target,
)

OTHER_TRANSPORTS = ["", "&transport=", "&transport=__proto__", "&transport=constructor", "&transport=webtransport",
                    "&transport=POLLING", "&transport=polling&transport=polling"]  # fmt: skip


@pytest.mark.parametrize("query", OTHER_TRANSPORTS)
async def test_h13_unknown_transports(query: str) -> None:
    async with serving(SocketServer()) as listener:
        answer = await listener.connect().request("GET", f"/socket.io/?EIO=4{query}")
        assert answer.refusal == (400, 0)


@pytest.mark.parametrize(
    "eio", ["EIO=3", "EIO=", "", "EIO=4x", "EIO=04", "EIO=5", "EIO=4&EIO=4", "EIO=%D9%A4", "eio=4"]
)
@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_h13_other_revisions(eio: str, transport: str) -> None:
    """Code 5, and for a WebSocket before the 101."""
    async with serving(SocketServer()) as listener:
        headers = UPGRADE if transport == "websocket" else {}
        answer = await listener.connect().request("GET", f"/socket.io/?{eio}&transport={transport}", headers)
        assert answer.refusal == (400, 5)


@pytest.mark.parametrize("eio", ["EIO=3", "", "EIO=5", "EIO=4&EIO=3"])
async def test_h13_another_revision_on_a_session(eio: str) -> None:
    async with serving(SocketServer(Settings(allow_eio3=True))) as listener:
        poller = await Poller.session(listener)
        target = f"/socket.io/?{eio}&transport=polling&sid={poller.sid}"
        assert (await listener.connect().request("POST", target, body=b"40")).refusal == (400, 3)
        target = f"/socket.io/?{eio}&transport=websocket&sid={poller.sid}"
        assert (await listener.connect().request("GET", target, UPGRADE)).refusal == (400, 3)
        assert (await poller.post("40")).body == b"ok"


HANDSHAKES = {
    "short key": ({"Sec-WebSocket-Key": "AAAA"}, (400, 3)),
    "long key": ({"Sec-WebSocket-Key": "A" * 44}, (400, 3)),
    "key that is no base64": ({"Sec-WebSocket-Key": "****************************"}, (400, 3)),
    "no key": ({"Sec-WebSocket-Key": ""}, (400, 3)),
    "version 8": ({"Sec-WebSocket-Version": "8"}, (426, 3)),
    "no version": ({"Sec-WebSocket-Version": ""}, (426, 3)),
    "two versions": ({"Sec-WebSocket-Version": "13, 8"}, (426, 3)),
    "no upgrade": ({"Upgrade": ""}, (400, 3)),
    "other upgrade": ({"Upgrade": "h2c"}, (400, 3)),
    "xwebsocket": ({"Upgrade": "xwebsocket"}, (400, 3)),
    "connection": ({"Connection": "keep-alive"}, (400, 3)),
    "connection close": ({"Connection": "close"}, (400, 3)),
}


@pytest.mark.parametrize("case", HANDSHAKES)
async def test_h26_wrong_websocket_handshakes(case: str) -> None:
    headers, expected = HANDSHAKES[case]
    server = SocketServer()
    async with serving(server) as listener:
        answer = await listener.connect().request("GET", websocket_target(), {**UPGRADE, **headers})
        assert answer.refusal == expected
        if expected[0] == 426:
            assert answer.headers["sec-websocket-version"] == "13"
        assert server.connections == 0


@pytest.mark.parametrize("change", ["POST", "HTTP/1.0", "body", "chunked", "two keys", "polling"])
async def test_h26_websocket_handshakes_that_are_no_get(change: str, autojump_clock: MockClock) -> None:
    data = request("GET", websocket_target(), UPGRADE)
    head = data[:-4]
    changed = {
        "POST": data.replace(b"GET", b"POST", 1),
        "HTTP/1.0": data.replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        "body": head + b"\r\nContent-Length: 5\r\n\r\nhello",
        "chunked": head + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two keys": head + f"\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode(),
        "polling": data.replace(b"transport=websocket", b"transport=polling"),
    }
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        await raw.send(changed[change])
        assert (await raw.answer("GET")).status == 400


async def test_the_handshake_of_a_browser_is_accepted_without_extensions() -> None:
    """W7: what the browser offers is left out of the answer; lists and case in Connection and Upgrade are read."""
    async with serving(SocketServer()) as listener:
        headers = {
            **UPGRADE,
            "Upgrade": "WebSocket",
            "Connection": "keep-alive, Upgrade",
            "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits=abc",
            "Sec-WebSocket-Protocol": "a, b",
        }
        raw = listener.connect()
        await raw.send(request("GET", websocket_target(), headers))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await raw.exactly(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455 section 1.3
        assert b"extensions" not in head.lower()
        assert b"protocol:" not in head.lower()
