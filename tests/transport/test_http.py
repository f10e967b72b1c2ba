"""The HTTP front against heads that no decent client sends (rows H1, H2, H4 to H6, H11, H12, H21), byte by byte."""

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from engineio_trio import Settings, SocketServer
from engineio_trio.transport.http import HttpConnection
from tests.raw import (
    HOST,
    UPGRADE,
    MemoryListener,
    Poller,
    polling,
    request,
    serving,
)
from tests.transport.refusals import refused, still_serving

pytestmark = pytest.mark.usefixtures("each_kind_of_stream")

HEADERS = [
    "Host", "Connection", "Upgrade", "Origin", "Cookie", "Authorization", "User-Agent", "X-Forwarded-For",
    "Content-Type", "Content-Length", "Transfer-Encoding", "Sec-WebSocket-Key", "Sec-WebSocket-Version",
    "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol",
]  # fmt: skip
BAD_BYTES = [*range(0x80, 0x100), *(byte for byte in range(0x20) if byte != 0x09), 0x7F]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_h1_bad_bytes_in_a_header_are_refused(header: str, transport: str, autojump_clock: MockClock) -> None:
    async with serving(SocketServer()) as listener:
        for byte in BAD_BYTES:
            headers = {"Host": HOST, **(UPGRADE if transport == "websocket" else {})}
            headers[header] = headers.get(header, "x") + chr(byte) + "y"
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            # A bare CR or LF ends the value or the line for some parsers: whatever it means, it is one refusal.
            data = f"GET /socket.io/?EIO=4&transport={transport} HTTP/1.1\r\n{lines}\r\n"
            assert await refused(listener, data) in {(400, 3), (501, 3)}, (header, byte)
        await still_serving(listener)


@pytest.mark.parametrize("header", ["Origin", "Authorization", "Host", "Upgrade", "Connection", "Content-Encoding"])
async def test_h6_a_header_that_decides_something_comes_once(header: str, autojump_clock: MockClock) -> None:
    async with serving(SocketServer()) as listener:
        lines = f"Host: {HOST}\r\n" if header != "Host" else ""
        data = f"GET {polling()} HTTP/1.1\r\n{lines}{header}: a\r\n{header}: a\r\n\r\n"
        assert await refused(listener, data) == (400, 3)


async def test_a_refusal_after_a_head_request_has_its_body() -> None:
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        assert (await raw.request("HEAD", "/socket.io/?EIO=4&transport=none")).status == 400
        await raw.send("what\r\n\r\n")
        assert (await raw.answer()).refusal == (400, 3)
        await raw.ends()


async def test_what_came_with_an_upgrade_is_passed_on_and_not_kept() -> None:
    """An upgraded session keeps its HTTP connection for as long as the WebSocket lives."""
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(request("GET", "/", UPGRADE) + b"early")
    http = HttpConnection(theirs, Settings(), "peer")
    assert await http.next_request() is not None
    assert http.take_over() == b"early"
    assert http.unserved() == b""


async def test_h1_a_tab_in_a_header_is_allowed() -> None:
    async with serving(SocketServer()) as listener:
        answer = await listener.connect().request("GET", polling(), {"User-Agent": "a\tb"})
        assert answer.status == 200


@pytest.mark.parametrize(
    "line", [b"GET /\xff HTTP/1.1", b"G\x80T / HTTP/1.1", b"\x16\x03\x01\x02\x00", b"hello", b"\0" * 40]
)
async def test_h1_bad_bytes_in_the_request_line_are_refused(line: bytes, autojump_clock: MockClock) -> None:
    async with serving(SocketServer()) as listener:
        assert (await refused(listener, line + b"\r\nHost: x\r\n\r\n"))[0] == 400
        await still_serving(listener)


async def test_h2_a_head_that_drips_is_cut_off_at_an_absolute_time(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(request_timeout=10))) as listener, trio.open_nursery() as nursery:
        raw = listener.connect()
        started = trio.current_time()

        async def drip() -> None:
            await raw.send("GET /socket.io/ HTTP/1.1\r\nX-A: ")
            while True:
                await trio.sleep(1)
                await raw.send("a")

        nursery.start_soon(drip)
        answer = await raw.answer()
        assert answer.refusal == (408, 3)
        assert trio.current_time() - started == pytest.approx(10)
        nursery.cancel_scope.cancel()


async def test_h2_a_second_head_that_drips_is_cut_off_too(autojump_clock: MockClock) -> None:
    """The keep-alive time is for silence: the first byte of a head starts the head's own clock."""
    async with serving(SocketServer(Settings(request_timeout=10, keep_alive=30))) as listener:
        raw = listener.connect()
        await raw.request("GET", polling())
        await trio.sleep(29)
        await raw.send("G")
        started = trio.current_time()
        assert (await raw.answer()).refusal == (408, 3)
        assert trio.current_time() - started == pytest.approx(10)


async def test_h21_silence_is_ended_without_a_word(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(request_timeout=10))) as listener:
        started = trio.current_time()
        await listener.connect().ends()
        assert trio.current_time() - started == pytest.approx(10)


@pytest.mark.parametrize("pieces", [1, 1000], ids=["in one read", "in many"])
async def test_h4_a_head_that_is_too_large_is_refused(pieces: int, autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(max_header=8_192))) as listener:
        raw = listener.connect()
        head = request("GET", polling(), {"X-Large": "x" * 9_000})
        size = len(head) // pieces + 1
        for start in range(0, len(head), size):
            await raw.send(head[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        assert (await raw.answer()).refusal == (431, 3)
        await raw.ends()


async def test_h4_too_many_headers_are_refused() -> None:
    async with serving(SocketServer(Settings(max_header=100_000))) as listener:
        many = {f"X-{number}": "1" for number in range(64)}
        assert await refused(listener, request("GET", polling(), many)) == (431, 3)


async def test_h5_a_target_that_is_too_long_is_refused() -> None:
    async with serving(SocketServer()) as listener:
        assert await refused(listener, request("GET", polling() + "&a=" + "x" * 2_048)) == (414, 3)
        assert await refused(listener, request("GET", "/socket.io/?" + "a&" * 65)) == (400, 3)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60))
def test_h5_no_query_makes_an_error(query: str) -> None:
    """Any printable query is answered: with a refusal, or (rarely) with a session."""

    async def ask() -> None:
        async with serving(SocketServer()) as listener:
            answer = await listener.connect().request("GET", f"/socket.io/?{query}")
            assert answer.status in (200, 400), answer

    trio.run(ask, clock=MockClock(autojump_threshold=0))


async def test_h11_pipelined_requests_are_served_one_by_one_and_not_hoarded() -> None:
    """While one request is parked, at most one read of what follows it is kept."""
    async with serving(SocketServer(), MemoryListener()) as listener:
        poller = await Poller.joined(listener)
        raw = listener.connect()
        await raw.send(request("GET", polling(poller.sid)))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(100):
            await raw.send(request("GET", polling("unknown")) * 100)
            await trio.testing.wait_all_tasks_blocked()
        pending = len(listener.accepted[-1].receive_stream._incoming._data)  # type: ignore[attr-defined]
        assert pending > 9_000 * len(request("GET", polling("unknown")))
        assert (await poller.post("42[]")).status == 400  # ends the session, so the parked poll is answered
        assert (await raw.answer()).status == 200
        for _ in range(10):
            assert (await raw.answer()).refusal == (400, 1)


METHODS = [
    ("OPTIONS", 204, None), ("HEAD", 400, 2), ("PUT", 400, 2), ("DELETE", 400, 2), ("TRACE", 400, 2), ("PATCH", 400, 2),
    ("POST", 400, 2), ("get", 400, 2), ("BREW", 400, 2),
]  # fmt: skip


@pytest.mark.parametrize(("method", "status", "code"), METHODS)
async def test_h12_methods_without_a_session(method: str, status: int, code: int | None) -> None:
    async with serving(SocketServer()) as listener:
        answer = await listener.connect().request(method, polling())
        assert answer.status == status
        if method == "HEAD":
            assert answer.body == b""
        elif code is not None:
            assert answer.refusal == (status, code)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "TRACE", "PATCH", "get"])
async def test_h12_methods_on_a_session(method: str) -> None:
    async with serving(SocketServer()) as listener:
        poller = await Poller.session(listener)
        answer = await listener.connect().request(method, polling(poller.sid))
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, POST, OPTIONS"
        assert (await poller.post("40")).body == b"ok"


@pytest.mark.parametrize(
    "target", ["http://evil/socket.io/?EIO=4&transport=polling", "*", "evil:443", "//evil/socket.io/", "/"]
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "CONNECT"])
async def test_h12_targets_that_are_no_path_of_ours(method: str, target: str) -> None:
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        await raw.send(request(method, target))
        assert (await raw.answer("GET")).status in (400, 404)
        await raw.ends()


async def test_keep_alive_serves_many_requests_on_one_connection() -> None:
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        opening = await raw.request("GET", polling())
        sid = opening.body.decode().split('"sid":"')[1].split('"')[0]
        for _ in range(20):
            assert (await raw.request("POST", polling(sid), body=b"3")).body == b"ok"
        assert len(listener.accepted) == 1


async def test_keep_alive_ends_after_a_time_of_silence(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(keep_alive=30))) as listener:
        raw = listener.connect()
        await raw.request("GET", polling())
        started = trio.current_time()
        await raw.ends()
        assert trio.current_time() - started == pytest.approx(30)


async def test_the_last_answer_of_a_connection_says_that_it_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was told asks on a new connection; one that was not would lose its POST."""
    monkeypatch.setattr("engineio_trio.transport.http.MAX_REQUESTS", 3)
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        for expected in (None, None, "close"):
            answer = await raw.request("GET", polling("unknown"))
            assert answer.headers.get("connection") == expected
        await raw.ends()


async def test_http_1_0_polls_one_request_a_connection() -> None:
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        await raw.send("GET /socket.io/?EIO=4&transport=polling HTTP/1.0\r\n\r\n")
        answer = await raw.answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        await raw.ends()
        sid = answer.body.decode().split('"sid":"')[1].split('"')[0]
        raw = listener.connect()
        await raw.send(request("POST", polling(sid), body=b"40", version="1.0"))
        assert (await raw.answer("POST")).body == b"ok"


async def test_other_paths_are_not_found() -> None:
    async with serving(SocketServer(path="/hub")) as listener:
        for path in ("/", "/hubb/", "/hub/x", "/HUB/", "/%68ub/", "/socket.io/"):
            answer = await listener.connect().request("GET", f"{path}?EIO=4&transport=polling")
            assert answer.status == 404
        for path in ("/hub", "/hub/"):
            assert (await listener.connect().request("GET", f"{path}?EIO=4&transport=polling")).status == 200


async def test_a_poll_is_answered_with_the_headers_of_engine_io() -> None:
    async with serving(SocketServer()) as listener:
        answer = await listener.connect().request("GET", polling())
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert answer.headers["cache-control"] == "no-store"
        poller = await Poller.session(listener)
        posted = await poller.post("40")
        assert posted.headers["content-type"] == "text/html"
        assert posted.headers["cache-control"] == "no-store"
