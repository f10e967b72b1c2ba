"""The HTTP/1.1 front: one request at a time from a stream, checked before anything else sees it (h11 parses).

Everything that a hostile request can be is answered here with a status and a JSON body, so that what stands behind
(the session table, trio-websocket) only ever sees clean values.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping

import h11
import msgspec
import trio

from engineio_trio.settings import Settings
from engineio_trio.transport.socket import READ_SIZE, PlainStream

MAX_TARGET = 2_048
MAX_HEADERS = 64
MAX_QUERY_FIELDS = 64
MAX_REQUESTS = 10_000  # on one keep-alive connection: a client that polls every 25 s stays for days
LINGER_BYTES = 65_536  # of what the peer still sends, dropped so that a reset does not destroy our last word
LINGER_SECONDS = 1.0
BODILESS = frozenset((b"GET", b"HEAD", b"OPTIONS"))
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # a tab is white space
ONCE = frozenset(  # headers that decide something: twice, they would decide two things
    (
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "host",
        "origin",
        "sec-websocket-key",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    )
)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request's head. Header names are lower case, values ASCII text; `query` is decoded, in order of appearance."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    version: str

    def first(self, name: str) -> str | None:
        """The first value of a query field, or None."""
        values = self.query.get(name)
        return values[0] if values else None

    @property
    def wants_websocket(self) -> bool:
        """It asks for the upgrade to a WebSocket (whether it does so correctly is another question)."""
        return "websocket" in self.headers.get("upgrade", "").lower()


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """An answer, whole. `closing`: no further request is read from this connection."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=UTF-8"
    headers: tuple[tuple[str, str], ...] = ()
    closing: bool = False


class HttpError(Exception):
    """A request that is answered with an error: `{"code": code, "message": message}` as engine.io does."""

    def __init__(
        self, status: int, message: str, code: int = 3, headers: Mapping[str, str] | None = None, closing: bool = True
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.closing = closing

    def response(self) -> Response:
        body = msgspec.json.encode({"code": self.code, "message": self.message})
        headers = tuple(self.headers.items())
        return Response(self.status, body, "application/json", headers, closing=self.closing)


class PeerGone(Exception):
    """The peer closed or broke the connection; there is nobody to answer."""


class HttpConnection:
    """One TCP (or other) stream that speaks HTTP/1.1 as a server."""

    def __init__(self, stream: trio.abc.Stream, settings: Settings, early: bytes = b"") -> None:
        """`early`: what somebody else has read of it already."""
        self.stream = stream
        self._settings = settings
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=settings.max_header)
        self._served = 0
        self._event: h11.Request | None = None
        if early:
            self._h11.receive_data(early)

    async def next_request(self) -> Request | None:
        """The next request's head, or None when the peer has gone, stays silent, or has had its share.

        Raises HttpError for a head that is refused. The whole head must come within `request_timeout`; between two
        requests the connection may be idle for `keep_alive`.
        """
        if self._served:
            if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
                return None
            if self._served >= MAX_REQUESTS:
                return None
            self._h11.start_next_cycle()
        patience = self._settings.keep_alive if self._served else self._settings.request_timeout
        self._served += 1
        try:
            event = self._head_at_once() or await self._head(patience)
        except PeerGone:
            return None
        if event is None:
            if self._h11.trailing_data[0]:
                raise HttpError(408, "the request's head took too long")
            return None
        self._event = event
        request = _check(event, self._settings.max_header)
        if "content-length" not in request.headers and "transfer-encoding" not in request.headers:
            self._next_event()  # the end of a message without a body
        return request

    def _head_at_once(self) -> h11.Request | None:
        """The first head, which nearly always came with the connection: then there is nothing to wait for."""
        if self._served > 1 or not isinstance(self.stream, PlainStream):
            return None
        try:
            data = self.stream.read_nowait(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGone from None
        if data is None:
            return None
        self._feed(data)
        event = self._next_event()
        return event if isinstance(event, h11.Request) else None

    async def _head(self, patience: float) -> h11.Request | None:
        """The next head, None if it does not come in time."""
        started = self._served == 1  # the first head's time runs from the connection's start
        with trio.move_on_after(patience) as waiting:
            while True:
                event = self._next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    raise PeerGone
                await self._receive()
                if not started:  # the clock of the head starts with its first byte and no later byte restarts it
                    started = True
                    waiting.deadline = trio.current_time() + self._settings.request_timeout
        return None

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint or 400
            raise HttpError(status, f"Bad request: {error}") from None

    async def _receive(self) -> bytes | bytearray:
        try:
            data = await self.stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGone from None
        self._feed(data)
        return data

    def _feed(self, data: bytes | bytearray) -> None:
        try:
            self._h11.receive_data(bytes(data))
        except h11.RemoteProtocolError:
            raise PeerGone from None

    async def body(self, request: Request, limit: int) -> bytes:
        """The request's body, at most `limit` bytes: HttpError 413 before reading when the length says so.

        Raises HttpError 408 when it is not there within `body_timeout`, PeerGone when the peer leaves before its end.
        """
        if request.headers.get("content-encoding", "identity") != "identity":
            raise HttpError(415, "a compressed body is not accepted")
        length = request.headers.get("content-length")
        if length is not None and int(length) > limit:
            raise HttpError(413, f"the body is larger than {limit} bytes")
        with trio.move_on_after(self._settings.body_timeout):
            return await self._read_body(limit)
        raise HttpError(408, "the request's body took too long")

    async def _read_body(self, limit: int) -> bytes:
        if self._h11.they_are_waiting_for_100_continue:
            await self._write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        body = bytearray()
        while self._h11.their_state is h11.SEND_BODY:
            event = self._next_event()
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > limit:
                    raise HttpError(413, f"the body is larger than {limit} bytes")
            elif event is h11.NEED_DATA and not await self._receive():
                raise PeerGone
        return bytes(body)

    async def respond(self, response: Response) -> None:
        """Write the whole answer in one go. Raises PeerGone if the peer does not take it.

        It is the connection's last answer if the response says so, if the request's body has not been read, or if the
        connection has had its share; the peer is told, so that it asks on another one.
        """
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise PeerGone
        unread = self._h11.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR)
        closing = response.closing or unread or self._served >= MAX_REQUESTS
        parts: list[h11.Event] = [h11.Response(status_code=response.status, headers=_headers(response, closing))]
        if response.body and (self._event is None or self._event.method != b"HEAD"):
            parts.append(h11.Data(data=response.body))
        parts.append(h11.EndOfMessage())
        await self._write(b"".join(self._h11.send(part) or b"" for part in parts))
        if closing:
            await linger(self.stream)

    async def _write(self, data: bytes) -> None:
        try:
            with trio.fail_after(self._settings.write_timeout):
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self._h11.send_failed()
            raise PeerGone from None

    async def watch(self) -> None:
        """Return when the peer leaves. What it sends meanwhile (the start of a pipelined request) is kept, once."""
        try:
            if not await self._receive():
                return
        except PeerGone:
            return
        await trio.sleep_forever()

    def take_over(self) -> bytes:
        """End HTTP here: the bytes that came after the head, for whoever speaks on this stream from now on."""
        self._event = None
        return bytes(self._h11.trailing_data[0])

    def unserved(self) -> bytes:
        """The request under way as bytes again, and all that has come after its head: for another one to serve it."""
        event = self._event
        assert event is not None
        lines = [b"%s %s HTTP/%s" % (event.method, event.target, event.http_version)]
        lines += [b"%s: %s" % (name, value) for name, value in event.headers]
        return b"\r\n".join([*lines, b"", bytes(self._h11.trailing_data[0])])


async def linger(stream: trio.abc.Stream) -> None:
    """Say that nothing more comes, and read a little of what the peer still sends: closing a socket that has unread
    bytes resets the connection, and with it what the peer has not read of us yet.
    """
    with trio.move_on_after(LINGER_SECONDS):
        try:
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            dropped = 0
            while dropped < LINGER_BYTES:
                data = await stream.receive_some(READ_SIZE)
                if not data:
                    return
                dropped += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


def _headers(response: Response, closing: bool) -> list[tuple[str, str]]:
    headers = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), *response.headers]
    if response.status != 204:  # RFC 9110 section 8.6: no length with a status that has no content
        headers += [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
    return [*headers, ("Connection", "close")] if closing else headers


def _check(event: h11.Request, max_header: int) -> Request:
    """A parsed head as a Request, or an HttpError: the checks that h11 leaves to its user."""
    fields = list(event.headers)  # once: h11 makes each pair anew
    if len(fields) > MAX_HEADERS:
        raise HttpError(431, f"more than {MAX_HEADERS} headers")
    if len(event.target) + sum([len(name) + len(value) + 4 for name, value in fields]) > max_header:
        raise HttpError(431, f"a head of more than {max_header} bytes")  # h11 counts only one that is incomplete
    if len(event.target) > MAX_TARGET:
        raise HttpError(414, f"the request's target is longer than {MAX_TARGET} bytes")
    headers: dict[str, str] = {}
    for name, value in fields:
        key, text = name.decode("ascii"), value.decode("latin-1")
        if not text.isascii() or CONTROLS.search(text):
            raise HttpError(400, f"Bad request: the header {key} has a character that is not printable ASCII")
        if key in headers and key in ONCE:
            raise HttpError(400, f"Bad request: the header {key} comes twice")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    if "content-length" in headers and "transfer-encoding" in headers:
        raise HttpError(400, "Bad request: both Content-Length and Transfer-Encoding")
    if event.method in BODILESS and (headers.get("content-length", "0") != "0" or "transfer-encoding" in headers):
        raise HttpError(400, f"Bad request: a {event.method.decode('ascii')} with a body")
    target = event.target.decode("ascii")
    if not target.startswith("/"):
        raise HttpError(400, "Bad request: the target must be a path")
    path, _, query_text = target.partition("?")
    try:
        query = urllib.parse.parse_qs(query_text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise HttpError(400, f"Bad request: more than {MAX_QUERY_FIELDS} query fields") from None
    return Request(event.method.decode("ascii"), path, query, headers, event.http_version.decode("ascii"))
