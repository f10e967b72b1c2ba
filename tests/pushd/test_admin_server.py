"""The admin interface as a whole: its listener, bad clients, and an end in bounded time."""

import socket
from functools import partial
from pathlib import Path

import pytest
import trio

from pushd.admin import serve, server
from pushd.model import Stream
from tests.patience import PATIENCE
from tests.pushd.admin_support import Admin, running

WEBSOCKET = (
    "GET /v1/stats HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BAD = {
    "nothing": b"",
    "noise": bytes(range(256)) * 8,
    "no http": b"hello\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "host not ascii": b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    "origin not ascii": b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: \xff\r\n\r\n",
    "token not ascii": b"GET /v1/stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xc3\xa9\r\n\r\n",
    "path not ascii": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "path of broken utf-8": b"GET /v1/devices/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "query of broken utf-8": b"GET /v1/devices?after=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nul": b"GET /v1/devices/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "absolute target": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "connect": b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two lengths": b"POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "bad chunk": b"POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "long head": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000,
    "websocket": WEBSOCKET.encode(),
    "websocket with a bad key": WEBSOCKET.replace("dGhlIHNhbXBsZSBub25jZQ==", "\xff").encode("latin-1"),
    "websocket of version 1": WEBSOCKET.replace("Version: 13", "Version: 1").encode(),
    "websocket without http 1.1": WEBSOCKET.replace("HTTP/1.1", "HTTP/1.0").encode(),
    "h2c upgrade": b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: !!!!\r\n\r\n",
    "h2c upgrade without settings": b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "http 2 preface and noise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_one_bad_client_never_stops_the_others(tmp_path: Path, data: bytes, ending: str) -> None:
    """I6: whatever comes in, the HTTP server does not fail, and the next client is answered."""
    async with running(tmp_path) as admin:
        good = await admin.tail("/v1/streams/dead")
        await good.block()
        stream = await admin.connect()
        await stream.send_all(data)
        if ending == "close":
            await stream.send_eof()
            with trio.move_on_after(1):
                await _drain(stream)
        else:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await stream.aclose()
        assert (await admin.http.get("/live")).status_code == 200
        await admin.service.store.append(Stream.DEAD, {"n": "1"})
        assert "data" in await good.block()  # the same HTTP server as before: it was not started again
        await good.stream.aclose()


async def _drain(stream: trio.SocketStream) -> None:
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass


async def test_if_the_http_server_fails_it_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The boundary: the daemon's main job goes on, and so does the interface, on the same port."""
    monkeypatch.setattr(server, "RESTART_PAUSE", 0.01)
    original, runs = server._hypercorn, []

    async def once(*args: object) -> None:
        runs.append(args)
        if len(runs) == 1:
            raise RuntimeError("a mistake in the HTTP server")
        await original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(server, "_hypercorn", once)
    async with running(tmp_path) as admin:
        assert (await admin.http.get("/live")).status_code == 200
    assert len(runs) == 2
    assert "starts again" in caplog.text


async def test_it_answers_on_all_its_listeners(tmp_path: Path) -> None:
    async with running(tmp_path) as admin:
        listeners = [*await trio.open_tcp_listeners(0, host="::1"), *await trio.open_tcp_listeners(0, host="127.0.0.1")]
        ports = [listener.socket.getsockname()[1] for listener in listeners]
        told = await admin.nursery.start(partial(serve, admin.service, listeners, token=""))
        assert told == ("::1", ports[0])
        for host, port in zip(("[::1]", "127.0.0.1"), ports, strict=True):
            assert (await admin.http.get(f"http://{host}:{port}/live")).status_code == 200


async def test_the_end_is_quick_with_live_readers_and_idle_connections(tmp_path: Path) -> None:
    """Readers get a proper end, so that a stock EventSource comes back; idle connections are no reason to wait."""
    async with running(tmp_path) as admin:
        await admin.http.get("/live")  # leaves an idle connection
        tails = [await admin.tail("/v1/streams/dead") for _ in range(3)]
        with trio.fail_after(server.GRACE / 2):
            await admin.stop()
            for tail in tails:
                await tail.end()
        assert await _refused(admin)


async def test_a_waiting_push_ends_with_the_interface(tmp_path: Path) -> None:
    async with running(tmp_path) as admin:
        await admin.online("d1")
        answers: list[dict[str, int]] = []
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_push_and_wait, admin, answers)
                await admin.service.store.read_stream(Stream.RECEIPT, "", 1, wait=5)
                await admin.stop()
    assert answers == [{"duplicate": 1}]  # it was stored, and the same id says so


async def _push_and_wait(admin: Admin, answers: list[dict[str, int]]) -> None:
    answer = await admin.http.post("/v1/push", json={"to": "device:d1", "data": 1, "id": "p", "wait": 100})
    answers.append(answer.json()["counts"])


async def test_a_reader_that_does_not_read_is_dropped_and_holds_no_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypercorn shields its writes: only the kernel's timeout on the socket ends one that is stuck."""
    monkeypatch.setattr(server, "WRITE_TIMEOUT", 1.0)
    async with running(tmp_path) as admin:
        for _ in range(12):
            await admin.service.store.append(Stream.DEAD, {"text": "x" * 1_000_000})
        stuck = await admin.connect()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await stuck.send_all(b"GET /v1/streams/dead HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        await stuck.receive_some(100)
        async with stuck:  # hangs up even if the server is still stuck
            with trio.fail_after(server.GRACE + 5):
                await admin.stop()


async def _refused(admin: Admin) -> bool:
    try:
        stream = await trio.open_tcp_stream(admin.host, admin.port)
    except OSError:
        return True
    await stream.aclose()
    return False
