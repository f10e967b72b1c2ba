"""Request bodies that are slow, short, too large or doubtfully framed (rows H3, H6 to H10)."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import Settings, SocketServer
from tests.patience import PATIENCE
from tests.raw import (
    Poller,
    at_rest,
    polling,
    request,
    serving,
)
from tests.transport.refusals import refused, still_serving

pytestmark = pytest.mark.usefixtures("each_kind_of_stream")


async def test_h3_a_slow_body_is_cut_off_and_the_session_stays(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(body_timeout=5))) as listener:
        poller = await Poller.joined(listener)
        raw = listener.connect()
        await raw.send(f"POST {polling(poller.sid)} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n42[")
        started = trio.current_time()
        assert (await raw.answer("POST")).refusal == (408, 3)
        assert trio.current_time() - started == pytest.approx(5)
        assert (await poller.post("3")).body == b"ok"


SMUGGLED = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLING = {
    "CL and TE": ("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
    "TE and CL": ("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
    "two CLs": ("Content-Length: 5\r\nContent-Length: 6", "40abcd"),
    "CL list": ("Content-Length: 5, 6", "40abcd"),
    "CL with sign": ("Content-Length: +5", "40abc"),
    "negative CL": ("Content-Length: -1", ""),
    "CL with exponent": ("Content-Length: 1e3", ""),
    "hexadecimal CL": ("Content-Length: 0x5", "40abc"),
    "CL of many digits": ("Content-Length: " + "9" * 400, ""),
    "empty CL": ("Content-Length:", ""),
    "chunked, identity": ("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
    "identity": ("Transfer-Encoding: identity", "0\r\n\r\n"),
    "xchunked": ("Transfer-Encoding: xchunked", "0\r\n\r\n"),
    "two TEs": ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
    "space before colon": ("Transfer-Encoding : chunked", "0\r\n\r\n"),
    "chunk size with sign": ("Transfer-Encoding: chunked", "+5\r\n40abc\r\n0\r\n\r\n"),
    "chunk size of many digits": ("Transfer-Encoding: chunked", "f" * 40 + "\r\n40abc\r\n0\r\n\r\n"),
    "no chunk size": ("Transfer-Encoding: chunked", "\r\n40abc\r\n0\r\n\r\n"),
    "chunk longer than its size": ("Transfer-Encoding: chunked", "2\r\n40abc\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("case", SMUGGLING)
async def test_h6_nothing_is_smuggled(case: str, autojump_clock: MockClock) -> None:
    """Whatever frames the body doubtfully gets exactly one answer, an error, and then the end."""
    headers, body = SMUGGLING[case]
    async with serving(SocketServer()) as listener:
        poller = await Poller.session(listener)
        data = f"POST {polling(poller.sid)} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{body}{SMUGGLED}"
        assert (await refused(listener, data, method="POST"))[0] in (400, 413, 501)
        await still_serving(listener)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
async def test_h6_a_get_has_no_body(method: str, framing: str, autojump_clock: MockClock) -> None:
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        await raw.send(f"{method} {polling()} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\nhello")
        assert (await raw.answer(method)).status == 400
        await raw.ends()


async def test_h7_half_a_body_delivers_nothing_and_ends_the_session() -> None:
    server = SocketServer()
    heard: list[str] = []
    server.on("a")(lambda socket: heard.append("a"))
    gone = trio.Event()
    server.on("disconnect")(lambda socket, reason: (heard.append(reason.value), gone.set()))
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        raw = listener.connect()
        await raw.send(f'POST {polling(poller.sid)} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n42["a"]\x1e42["')
        await trio.testing.wait_all_tasks_blocked()
        await raw.stream.send_eof()  # type: ignore[attr-defined]
        await gone.wait()
        assert heard == ["transport error"]
        assert (await poller.get()).refusal == (400, 1)


async def test_h7_half_a_chunked_body_too() -> None:
    server = SocketServer()
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        raw = listener.connect()
        await raw.send(
            f'POST {polling(poller.sid)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n42["a"]\r\n'
        )
        await raw.stream.send_eof()  # type: ignore[attr-defined]
        await at_rest(server)


async def test_h7_what_follows_a_body_is_another_request() -> None:
    async with serving(SocketServer()) as listener:
        poller = await Poller.session(listener)
        raw = listener.connect()
        await raw.send(request("POST", polling(poller.sid), body=b"40") + b"extra\r\n\r\n")
        assert (await raw.answer("POST")).body == b"ok"
        assert (await raw.answer()).refusal == (400, 3)
        await raw.ends()


async def test_h8_a_body_declared_too_large_is_refused_before_it_is_read(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(max_payload=100))) as listener:
        poller = await Poller.joined(listener)
        started = trio.current_time()
        raw = listener.connect()
        await raw.send(f"POST {polling(poller.sid)} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        answer = await raw.answer("POST")
        assert answer.refusal == (413, 3)
        assert answer.headers["connection"] == "close"
        assert trio.current_time() == started
        assert (await poller.post("3")).body == b"ok"


async def test_h8_a_chunked_body_is_refused_where_it_grows_too_large() -> None:
    async with serving(SocketServer(Settings(max_payload=100))) as listener:
        poller = await Poller.joined(listener)
        raw = listener.connect()
        await raw.send(f"POST {polling(poller.sid)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            await raw.send(b"28\r\n" + b"4" * 40 + b"\r\n")
        assert (await raw.answer("POST")).refusal == (413, 3)
        assert (await poller.post("3")).body == b"ok"


async def test_h8_a_body_of_exactly_the_limit_passes() -> None:
    async with serving(SocketServer(Settings(max_payload=100))) as listener:
        poller = await Poller.joined(listener)
        packet = '42["' + "a" * 94 + '"]'
        assert len(packet) == 100
        assert (await poller.post(packet)).body == b"ok"


async def test_h9_octet_stream_is_no_engine_io_4() -> None:
    server = SocketServer()
    async with serving(server) as listener:
        poller = await Poller.session(listener)
        headers = {"Content-Type": "application/octet-stream"}
        answer = await listener.connect().request("POST", polling(poller.sid), headers, b"\x0440")
        assert answer.refusal == (400, 3)
        with trio.fail_after(PATIENCE):
            while server.connections:
                await trio.testing.wait_all_tasks_blocked()
                (await poller.get())


async def test_h10_a_compressed_body_is_refused() -> None:
    async with serving(SocketServer()) as listener:
        poller = await Poller.session(listener)
        answer = await listener.connect().request(
            "POST", polling(poller.sid), {"Content-Encoding": "gzip"}, b"\x1f\x8b"
        )
        assert answer.refusal == (415, 3)
        assert (await poller.post("40")).body == b"ok"


async def test_an_error_before_the_body_was_read_closes_and_says_so(autojump_clock: MockClock) -> None:
    """Else the unread body would reset the connection, and the answer with it."""
    async with serving(SocketServer()) as listener:
        raw = listener.connect()
        answer = await raw.request("POST", polling("unknown"), body=b"x" * 50_000)
        assert answer.refusal == (400, 1)
        assert answer.headers["connection"] == "close"
        await raw.ends()


async def test_expect_100_continue() -> None:
    async with serving(SocketServer()) as listener:
        poller = await Poller.session(listener)
        raw = listener.connect()
        head = f"POST {polling(poller.sid)} HTTP/1.1\r\nHost: x\r\nContent-Length: {{}}\r\nExpect: 100-continue\r\n\r\n"
        await raw.send(head.format(2))
        interim = b""
        while not interim.endswith(b"\r\n\r\n"):
            interim += await raw.exactly(1)
        assert interim.startswith(b"HTTP/1.1 100")
        await raw.send("40")
        assert (await raw.answer("POST")).body == b"ok"
        await raw.send(head.format(10**9))
        assert (await raw.answer("POST")).refusal == (413, 3)  # at once, and no 100


async def test_a_post_without_a_body_is_an_error() -> None:
    """Neither a length nor an encoding means no body (RFC 9112 section 6.3), and no body is no packet."""
    async with serving(SocketServer()) as listener:
        poller = await Poller.session(listener)
        with trio.fail_after(Settings().body_timeout / 2):
            assert (await listener.connect().request("POST", polling(poller.sid))).refusal == (400, 3)
