"""The express lane for heads: for any bytes, cut anywhere, the same requests and answers as h11 and our checks give.

The same requests, bodies and refusals, and the same framing of the answers; also where the lane knows the headers of
the request before, which most of these conversations repeat.
"""

import itertools
import urllib.parse
from collections.abc import Sequence

import h11
import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engineio_trio.protocol.head import MAX_HEADERS, MAX_QUERY_FIELDS, MAX_TARGET, HeadLane, Request, parse_query
from engineio_trio.settings import Settings
from engineio_trio.transport.answer import HttpError, Response
from engineio_trio.transport.http import HttpConnection, PeerGone
from tests.raw import KEY

MAX_HEADER = 400
MAX_BODY = 12

targets = st.one_of(
    st.just("/socket.io/?EIO=4&transport=polling&t=Pb1x&sid=abc"),
    st.sampled_from(
        ["/", "/?", "/?a", "/?a=%41+b&a=&=c&&", "*", "http://h/", "//h/", "/\x7f", "/a b", "/" + "x" * 380]
    ),
    st.integers(1, 70).map(lambda count: "/?" + "&".join(["a"] * count)),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20).map(lambda text: f"/?{text}"),
)
LINES = [
    "Host: h", "host:h", "Host: other", "Connection: keep-alive", "connection:  Keep-Alive\t", "Connection: close",
    "Connection: Upgrade", "Connection: keep-alive, Upgrade", "Connection: keep-alive, close", "Upgrade: websocket",
    "Upgrade: h2c", f"Sec-WebSocket-Key: {KEY}", "Origin: https://a.example", "Origin: null", "Cookie: a=b; c=d",
    "Cookie: e=f", "X-Empty:", "X-Empty: \t ", "X-Colons: a:b: c", "X-Control: a\x01b", "X-Tab: a\tb", "X-High: \xe4",
    "X-Nul: a\0b", "X-Cr: a\rb", "X Space: a", "X-Space : a", " folded", "\tfolded", ": no name", "no colon", "",
    "X-Sly: content-length: 3", "Expect: 100-continue", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip",
    "Content-Encoding: gzip", "Content-Encoding: identity", "X-Long: " + "x" * 300, "\xe4: a", "Accept: */*",
    "Content-Length: 0", "Content-Length: 5",
]  # fmt: skip
LENGTHS = ["0", "3", "5", "12", "13", " 5", "5\t", "05", "+5", "-1", "5, 5", "5, 6", "5,", "", "0x5", "5 5", "9" * 30]
lengths = st.sampled_from(LENGTHS)
lines = st.one_of(st.sampled_from(LINES), lengths.map("Content-Length:{}".format))
ordinary = st.lists(
    st.sampled_from(["Accept: */*", "Cookie: a=b", "X-Tab: a\tb", "connection: keep-alive"]), max_size=2
)
bodies = st.sampled_from([b"", b"abc", b"abcde", b"x" * 12, b"3\r\nabc\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])


def head(method: str, target: str, headers: Sequence[str], version: str = "1.1", end: str = "\r\n") -> bytes:
    """A head, whatever it is worth."""
    return "".join(f"{line}{end}" for line in [f"{method} {target} HTTP/{version}", *headers, ""]).encode("latin-1")


gets = st.builds(lambda target, more: head("GET", target, ["Host: h", *more]), targets, ordinary)
posts = st.builds(
    lambda target, length, body, more: head("POST", target, ["Host: h", f"Content-Length: {length}", *more]) + body,
    targets,
    st.sampled_from(["3", "3", "5", "12"]) | lengths,
    bodies,
    ordinary,
)
odd = st.builds(
    lambda method, target, headers, version, end, body: head(method, target, headers, version, end) + body,
    st.sampled_from(["GET", "GET", "POST", "POST", "HEAD", "OPTIONS", "CONNECT", "get", "P ST", ""]),
    targets,
    st.tuples(st.sampled_from(["Host: h", "Host: h", "Accept: */*"]), st.lists(lines, max_size=4)).map(
        lambda parts: [parts[0], *parts[1]]
    ),
    st.sampled_from(["1.1", "1.1", "1.1", "1.0", "1.2", "2"]),
    st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r"]),
    bodies,
)
damages = st.lists(
    st.tuples(st.integers(0, 2_000), st.sampled_from([b"", b"\r", b"\n", b"\0", b" ", b":", b"\xff", b"5"]))
)


def damaged(data: bytes, damages: Sequence[tuple[int, bytes]]) -> bytes:
    """With some bytes replaced, by others or by none."""
    for place, byte in damages:
        at = place % (len(data) + 1)
        data = data[:at] + byte + data[at + 1 :]
    return data


whole = st.lists(st.one_of(gets, gets, posts, posts, odd), min_size=1, max_size=5).map(b"".join)
conversations = st.one_of(whole, st.builds(damaged, whole, damages), st.binary(max_size=60))


class NoLane(HeadLane):
    """Everything goes to h11."""

    def take(self, data: bytes) -> tuple[Request, int, int] | None:
        return None


Heard = tuple[list[object], bytes]


async def converse(chunks: Sequence[bytes], lane: type[HeadLane]) -> Heard:
    """What a server hears and says when these bytes come, and then the end."""
    ours, theirs = trio.testing.memory_stream_pair()
    http = HttpConnection(theirs, Settings(max_header=MAX_HEADER), "peer")
    http._lane = lane(MAX_HEADER)
    heard: list[object] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, http, heard)
        for chunk in chunks:
            await trio.testing.wait_all_tasks_blocked()
            await ours.send_all(chunk)
        await ours.send_eof()
    await theirs.aclose()
    said = b"".join([piece async for piece in ours])
    return heard, said


async def serve(http: HttpConnection, heard: list[object]) -> None:
    """Answer every request with its number."""
    try:
        while True:
            try:
                request = await http.next_request()
                if request is None:
                    break
                heard += [request, parsed(http.unserved())]
                if request.method != "GET":
                    heard.append(await http.body(request, MAX_BODY))
                await http.respond(Response(200, b"%d" % len(heard)))
            except HttpError as error:
                heard.append((error.status, error.message))
                await http.respond(error.response())
    except PeerGone:
        heard.append(PeerGone)


def parsed(data: bytes) -> object:
    """What another worker would make of a request that is handed over."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    request = parser.next_event()
    assert isinstance(request, h11.Request)
    return request.method, request.target, list(request.headers), bytes(parser.trailing_data[0])


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The data in pieces."""
    places = sorted({place % (len(data) + 1) for place in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=400, deadline=None)
@given(conversations, st.lists(st.integers(0, 3_000), max_size=4))
@example(head("POST", "/", ["Host: h", "Content-Length: 5, 6"]) + b"abcde", [])
@example((head("POST", "/", ["Host: h", "X-Sly: content-length: 3", "Content-Length: 5"]) + b"abcde") * 2, [])
@example(b"".join(head("POST", "/", ["Host: h", f"Content-Length: {n}"]) + b"abc" for n in ["3", "3", "03"]), [])
@example(b"".join(head("GET", target, ["Host: h", "X-Long: " + "x" * 300]) for target in ("/", "/" + "x" * 99)), [])
@example(head("GET", "/", ["Host: h"]) * 2 + head("GET", "/", ["Host: h", "Host: h"]), [])
def test_any_bytes_cut_anywhere_are_the_same_with_the_lane_and_without(data: bytes, cuts: list[int]) -> None:
    chunks = cut(data, cuts)
    heard = [trio.run(converse, chunks, lane) for lane in (HeadLane, NoLane)]
    assert heard[0] == heard[1]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_single_line_makes_a_difference(line: str, method: str) -> None:
    """Alone, and after a request that the lane remembers."""
    for length in LENGTHS:
        more = [f"Content-Length:{length}"] if method == "POST" else []
        for headers in (["Host: h", line, *more], ["Host: h", *more, line], [line, *more]):
            good = head("GET", "/", ["Host: h"]) + head("POST", "/", ["Host: h", "Content-Length: 5"]) + b"abcde"
            chunks = [good + head(method, "/", headers) + b"abcde" * (method == "POST")]
            heard = [trio.run(converse, chunks, lane) for lane in (HeadLane, NoLane)]
            assert heard[0] == heard[1], headers
        if method == "GET":
            break


BROWSER = ["Host: h", "Connection: keep-alive", "User-Agent: Mozilla/5.0 (X11)", "Accept: */*", "Cookie: a=b; c=d"]


def test_what_ordinary_clients_send_is_for_the_lane() -> None:
    """Or all of the above would hold for a lane that takes nothing."""
    lane = HeadLane(8_192)
    for turn in range(3):
        data = head("GET", f"/socket.io/?EIO=4&transport=polling&t={turn}&sid=a.b-c_d", BROWSER)
        taken = lane.take(data + b"more")
        assert taken is not None
        request, size, length = taken
        assert (size, length) == (len(data), 0)
        assert (request.method, request.path, request.version) == ("GET", "/socket.io/", "1.1")
        assert request.query == {"EIO": ["4"], "transport": ["polling"], "t": [str(turn)], "sid": ["a.b-c_d"]}
        assert request.headers["cookie"] == "a=b; c=d"
        more = ["Content-Type: text/plain;charset=UTF-8", f"Content-Length: {10**turn}", "Origin: https://a.example"]
        taken = lane.take(head("POST", "/socket.io/?EIO=4", BROWSER + more))
        assert taken is not None
        assert taken[2] == 10**turn
        assert taken[0].headers["content-length"] == str(10**turn)
    upgrade = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}"]
    assert lane.take(head("GET", "/", ["Host: h", "Connection: keep-alive, Upgrade", *upgrade])) is not None
    assert lane.take(head("GET", "/" + "x" * MAX_TARGET, ["Host: h"])) is None
    assert lane.take(head("GET", "/", ["Host: h", *[f"X-{number}: 1" for number in range(MAX_HEADERS)]])) is None


def test_what_a_request_does_with_its_headers_the_next_one_does_not_see() -> None:
    lane = HeadLane(8_192)
    for _ in range(2):
        taken = lane.take(head("GET", "/", BROWSER))
        assert taken is not None
        assert isinstance(taken[0].headers, dict)
        assert "mine" not in taken[0].headers
        taken[0].headers["mine"] = "1"


queries = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E) | st.sampled_from("&=&=%+;"), max_size=40)


@given(queries)
@example("&" * MAX_QUERY_FIELDS)
@example("&" * (MAX_QUERY_FIELDS - 1))
def test_a_query_is_read_as_urllib_reads_it(text: str) -> None:
    try:
        expected = urllib.parse.parse_qs(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        with pytest.raises(ValueError, match="fields"):
            parse_query(text)
        return
    assert parse_query(text) == expected
    assert list(parse_query(text)) == list(expected)
