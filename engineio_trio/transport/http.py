"""The HTTP/1.1 front: one request at a time from a stream, checked before anything else sees it.

Ordinary heads are known by the express lane (`protocol/head.py`), all others are parsed by h11 and checked here.
Everything that a hostile request can be is answered here with a status and a JSON body, so that what stands behind
(the session table, trio-websocket) only ever sees clean values.
"""

import math
import re

import h11
import trio

from engineio_trio.protocol.head import MAX_HEADERS, MAX_QUERY_FIELDS, MAX_TARGET, HeadLane, Request, parse_query
from engineio_trio.settings import Settings
from engineio_trio.transport.answer import Headers, HttpError, Response
from engineio_trio.transport.socket import READ_SIZE, PlainStream

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


class PeerGone(Exception):
    """The peer closed or broke the connection; there is nobody to answer."""


class HttpConnection:
    """One TCP (or other) stream that speaks HTTP/1.1 as a server.

    One task asks for requests and answers them; `respond_nowait` and `wake` are for others, while that one is in
    `wait`. `answered` is whether the request under way has been; `headers` go with every answer to it, if any are set
    once its head is known.
    """

    __slots__ = (
        "_bodiless", "_data", "_head", "_idle_since", "_lane", "_last", "_parser", "_plain", "_rest", "_served",
        "_settings", "_unread", "_waiting", "answered", "headers", "peer", "stream",
    )  # fmt: skip

    def __init__(self, stream: trio.abc.Stream, settings: Settings, peer: str, early: bytes = b"") -> None:
        """`peer`: its address. `early`: what somebody else has read of it already."""
        self.stream = stream
        self.peer = peer
        self.answered = False
        self.headers: Headers = ()
        self._plain = stream if isinstance(stream, PlainStream) else None
        self._settings = settings
        self._lane = HeadLane(settings.max_header)
        self._parser: h11.Connection | None = None  # of a message that is not for the lane, until its end
        self._data = early  # what has come and has not been dealt with, unless the parser has it
        self._head = b""  # of the request under way
        self._bodiless = False  # it was HEAD
        self._unread = 0  # bytes of its body that are still to be taken from `_data` and after it
        self._last = False  # no other request follows
        self._rest = b""  # of an answer that did not go out at once
        self._served = 0
        self._idle_since = 0.0
        self._waiting: trio.CancelScope | None = None

    # In.

    async def next_request(self) -> Request | None:
        """The next request's head, or None when the peer has gone, stays silent, or has had its share.

        Raises HttpError for a head that is refused. The whole head must come within `request_timeout`; between two
        requests the connection may be idle for `keep_alive`.
        """
        if self._last or self._unread or self._parser is not None or self._served >= MAX_REQUESTS:
            return None
        try:
            deadline = await self._begin_head()
            self._served += 1
            self.answered = self._bodiless = False  # also of a head that will be refused
            self.headers = ()
            taken = self._lane.take(self._data)
            if taken is None:
                return await self._parse(deadline)
        except PeerGone:
            return None
        request, size, self._unread = taken
        self._head, self._data = self._data[:size], self._data[size:]
        return request

    async def _begin_head(self) -> float:
        """Wait for the first bytes of a head: until when all of it must be there. Raises PeerGone if none come."""
        patience = self._settings.request_timeout
        if self._served == 0:
            deadline = silence = trio.current_time() + patience  # the first head's time runs from the start
            if not self._data and self._plain is not None:  # it nearly always came with the connection
                self._data = self._read_at_once(self._plain)
        else:
            deadline, silence = math.inf, self._idle_since + self._settings.keep_alive
        if not self._data:
            with trio.CancelScope(deadline=silence):
                self._data = await self._receive()
        if not self._data:
            raise PeerGone
        # otherwise the clock of the head starts with its first byte, and no later byte restarts it
        return min(deadline, trio.current_time() + patience)

    def _read_at_once(self, stream: PlainStream) -> bytes:
        try:
            data = stream.read_nowait(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGone from None
        if data == b"":
            raise PeerGone
        return data or b""

    async def _receive(self) -> bytes:
        """Some bytes; none at the end. Raises PeerGone."""
        try:
            return bytes(await self.stream.receive_some(READ_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGone from None

    async def _parse(self, deadline: float) -> Request:
        """The head that is not for the lane, by h11. Raises HttpError, PeerGone."""
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._settings.max_header)
        self._parser.receive_data(self._data)
        self._data = b""
        event = self._next_event(self._parser)
        with trio.CancelScope(deadline=deadline):
            while event is h11.NEED_DATA:
                self._feed(self._parser, await self._receive())
                event = self._next_event(self._parser)
        if event is h11.NEED_DATA:
            raise HttpError(408, "the request's head took too long")
        if not isinstance(event, h11.Request):
            raise PeerGone
        lines = [b"%s %s HTTP/%s" % (event.method, event.target, event.http_version)]
        lines += [b"%s: %s" % (name, value) for name, value in event.headers]
        self._head = b"\r\n".join([*lines, b"", b""])
        self._bodiless = event.method == b"HEAD"
        request = _check(event, self._settings.max_header)
        tokens = [token.strip() for token in request.headers.get("connection", "").lower().split(",")]
        self._last = request.version != "1.1" or "close" in tokens
        if not int(request.headers.get("content-length", 0)) and "transfer-encoding" not in request.headers:
            self._next_event(self._parser)  # the end of a message without a body
            self._forget_parser(self._parser)
        return request

    def _forget_parser(self, parser: h11.Connection) -> None:
        """The message is at its end: what comes after it is for the lane again."""
        self._data, self._parser = bytes(parser.trailing_data[0]), None

    def _next_event(self, parser: h11.Connection) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return parser.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint or 400
            raise HttpError(status, f"Bad request: {error}") from None

    def _feed(self, parser: h11.Connection, data: bytes) -> None:
        try:
            parser.receive_data(data)
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
        if self._parser is None and self._unread <= len(self._data):  # nearly always: it came with the head
            return self._take_body()
        with trio.CancelScope(deadline=trio.current_time() + self._settings.body_timeout):
            if self._parser is not None:
                return await self._parse_body(self._parser, limit)
            return await self._read_body()
        raise HttpError(408, "the request's body took too long")

    def _take_body(self) -> bytes:
        body, self._data = self._data[: self._unread], self._data[self._unread :]
        self._unread = 0
        return body

    async def _read_body(self) -> bytes:
        pieces, size = [self._data], len(self._data)
        while size < self._unread:
            pieces.append(await self._receive())
            size += len(pieces[-1])
            if not pieces[-1]:
                raise PeerGone
        self._data = b"".join(pieces)
        return self._take_body()

    async def _parse_body(self, parser: h11.Connection, limit: int) -> bytes:
        if parser.they_are_waiting_for_100_continue:
            await self._write(parser.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        body = bytearray()
        while parser.their_state is h11.SEND_BODY:
            event = self._next_event(parser)
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > limit:
                    raise HttpError(413, f"the body is larger than {limit} bytes")
            elif event is h11.NEED_DATA:
                data = await self._receive()
                self._feed(parser, data)
                if not data:
                    raise PeerGone
        self._forget_parser(parser)
        return bytes(body)

    # Out.

    async def respond(self, response: Response) -> None:
        """Write the whole answer. Raises PeerGone if the peer does not take it.

        It is the connection's last answer if the response says so, if the request's body has not been read, or if the
        connection has had its share; the peer is told, so that it asks on another one.
        """
        if self.answered:
            raise PeerGone
        self._last = self._is_last(response)
        data = response.render(self.headers, closing=self._last, bodiless=self._bodiless)
        self._mark_answered()
        if self._plain is not None:
            data = data[self._write_at_once(self._plain, data) :]
        if data:
            await self._write(data)
        if self._last:
            await linger(self.stream)
        elif self._data:
            await trio.lowlevel.checkpoint()  # who sends many requests at once is not served before all others

    def respond_nowait(self, response: Response) -> int | None:
        """Answer at once: how many bytes are left over, which `finish` writes. None: this answer must go by `respond`.

        The task that is in `wait` stays there until the next request comes, or something is left over.
        """
        if self._plain is None or self.answered or self._is_last(response):
            return None
        data = response.render(self.headers, closing=False, bodiless=self._bodiless)
        try:
            went = self._write_at_once(self._plain, data)
        except PeerGone:
            return None  # the task will find out, and say so
        self._mark_answered()
        self._rest = data[went:]
        if self._waiting is not None:
            if self._rest or self._data:
                self._waiting.cancel()
            else:
                self._waiting.deadline = self._idle_since + self._settings.keep_alive
        return len(self._rest)

    async def finish(self) -> None:
        """Write what `respond_nowait` left over. Raises PeerGone."""
        if self._rest:
            await self._write(self._rest)
            self._rest = b""

    def _is_last(self, response: Response) -> bool:
        unread = self._unread > 0 or self._parser is not None
        return response.closing or unread or self._last or self._served >= MAX_REQUESTS

    def _mark_answered(self) -> None:
        self.answered = True
        self._idle_since = trio.current_time()

    def _write_at_once(self, stream: PlainStream, data: bytes) -> int:
        try:
            return stream.write_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGone from None

    async def _write(self, data: bytes) -> None:
        try:
            with trio.CancelScope(deadline=trio.current_time() + self._settings.write_timeout) as patience:
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise PeerGone from None
        if patience.cancelled_caught:
            raise PeerGone
        self._idle_since = trio.current_time()

    # A request that is not answered yet.

    async def wait(self, deadline: float = math.inf) -> None:
        """Wait for `wake`, the deadline, or the next request of a peer whose answer went out by `respond_nowait`.

        What the peer sends before it is answered (the start of a pipelined request) is kept, once. Raises PeerGone
        when it leaves unanswered.
        """
        with trio.CancelScope(deadline=deadline) as self._waiting:
            try:
                if not self._data:
                    self._data = await self._receive()
                if not self.answered:
                    if not self._data:
                        raise PeerGone
                    await trio.sleep_forever()
            except PeerGone:
                if not self.answered:  # otherwise it is `next_request` that finds nobody
                    raise
            finally:
                self._waiting = None

    def wake(self) -> None:
        """Have `wait` return."""
        if self._waiting is not None:
            self._waiting.cancel()

    def take_over(self) -> bytes:
        """End HTTP here: the bytes that came after the head, for whoever speaks on this stream from now on."""
        data, self._data = self._data, b""  # an upgrade keeps this object for as long as the WebSocket lives
        self._last, self._head, self.headers = True, b"", ()
        return data

    def unserved(self) -> bytes:
        """The request under way as bytes again, and all that has come after its head: for another one to serve it."""
        return self._head + (self._data if self._parser is None else bytes(self._parser.trailing_data[0]))


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
        query = parse_query(query_text)
    except ValueError:
        raise HttpError(400, f"Bad request: more than {MAX_QUERY_FIELDS} query fields") from None
    return Request(event.method.decode("ascii"), path, query, headers, event.http_version.decode("ascii"))
