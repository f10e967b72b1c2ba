"""HTTP/1.1 as a client: one request at a time over a connection that is dialled when there is none (h11 parses)."""

import dataclasses

import h11
import msgspec
import trio

from engineio_trio.client.endpoint import Dial, Endpoint
from engineio_trio.errors import HandshakeRefused, RemoteProtocolError

READ_SIZE = 65_536
MAX_HEAD = 65_536
MAX_IDLE = 4.0  # seconds after which a connection is not used again: node's servers close theirs after five


class HttpFailure(Exception):
    """No answer came, or one that is not HTTP."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A server's whole answer."""

    status: int
    body: bytes


def refusal(status: int, body: bytes) -> HandshakeRefused | RemoteProtocolError:
    """What to raise for an answer that is not the one a handshake hopes for; the server's own words where it has some.

    engine.io answers `{"code": ..., "message": ...}`.
    """
    if not 400 <= status <= 599:
        return RemoteProtocolError(f"the server does not speak Engine.IO here: its answer has the status {status}")
    try:
        message = msgspec.json.decode(body, type=_Refusal).message
    except (msgspec.MsgspecError, ValueError):
        message = body[:200].decode(errors="replace").strip()
    return HandshakeRefused(status, message or f"status {status}")


class _Refusal(msgspec.Struct):
    message: str


class HttpLane:
    """A line of requests to one endpoint, answered one after the other.

    A request that is cancelled leaves its connection open and unusable until `aclose`: to a server, a poll that goes
    away is a session that ends.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._dial: Dial = endpoint.dial
        self._headers = [("Host", endpoint.host), ("Accept", "*/*"), *endpoint.headers.items()]
        self._limit = endpoint.settings.max_payload
        self._stream: trio.abc.Stream | None = None
        self._h11 = h11.Connection(h11.CLIENT)
        self._used = 0.0

    async def request(self, method: str, target: str, body: bytes = b"") -> Answer:
        """Send a request and wait for the whole answer. Raises HttpFailure; OSError when there is no way there."""
        if not self._reusable():
            await self.aclose()
            self._stream = await self._dial()
            self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        headers = list(self._headers)
        if method == "POST":
            headers += [("Content-Type", "text/plain; charset=UTF-8"), ("Content-Length", str(len(body)))]
        parts = (h11.Request(method=method, target=target, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        try:
            await self._send(b"".join(self._h11.send(part) or b"" for part in parts))
            answer = await self._answer()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError) as error:
            raise HttpFailure(f"{method} failed: {error.__cause__ or error}") from error
        self._used = trio.current_time()
        return answer

    def _reusable(self) -> bool:
        if self._stream is None or trio.current_time() - self._used > MAX_IDLE:
            return False
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    async def _send(self, data: bytes) -> None:
        assert self._stream is not None
        await self._stream.send_all(data)

    async def _answer(self) -> Answer:
        status, body = 0, bytearray()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                await self._receive()
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._limit:
                    raise HttpFailure(f"an answer larger than {self._limit} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, bytes(body))
            elif not isinstance(event, h11.InformationalResponse):
                raise HttpFailure("the server closed the connection without an answer")

    async def _receive(self) -> None:
        assert self._stream is not None
        self._h11.receive_data(bytes(await self._stream.receive_some(READ_SIZE)))

    async def aclose(self) -> None:
        """Close the connection, at once."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)
