"""A session over a WebSocket: our own lane for the common data frame, and trio-websocket for all of the rest.

Most connections never send anything but whole data frames, so trio-websocket sleeps: it is made when the first other
frame comes, or a CLOSE is to be said. From then on it owns the connection, through its public interface only.
"""

import base64
import binascii
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio
import trio_websocket
import wsproto.utilities

from engineio_trio.errors import CloseReason
from engineio_trio.protocol import engine
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.frame import FrameGuard
from engineio_trio.protocol.head import Request
from engineio_trio.settings import Settings
from engineio_trio.transport.answer import HttpError
from engineio_trio.transport.base import Lane, NurseryNeeded, TransportEnded
from engineio_trio.transport.http import HttpConnection
from engineio_trio.transport.socket import READ_SIZE
from engineio_trio.transport.stream import GuardedStream, Line

logger = logging.getLogger("engineio_trio")

ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n"
)
ACCEPT_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
logging.getLogger("trio-websocket").setLevel(logging.WARNING)  # it tells every event at DEBUG, in the hot path


class WebSocketTransport:
    """One open WebSocket. Each Engine.IO packet is one message (protocol v4, "WebSocket")."""

    asked = True

    __slots__ = ("_guarded", "_line", "_received", "_revision", "_settings", "_socket")

    def __init__(self, line: Line, settings: Settings, revision: int) -> None:
        self._line = line
        self._settings = settings
        self._revision = revision
        self._socket: trio_websocket.WebSocketConnection | None = None  # None: it sleeps
        self._guarded: GuardedStream | None = None
        self._received = False

    async def answer(self) -> None:
        """Answer the upgrade request now, rather than with the first message. Raises TransportEnded."""
        await self._write(b"")

    def open_lane(self, lane: Lane) -> None:
        self._line.lane = lane
        if self._guarded is not None:
            self._guarded.open_lane()

    def soon(self) -> bool:
        return False

    def interrupt(self) -> bool:
        return self._line.interrupt()

    async def receive(self, nursery: trio.Nursery | None = None) -> Sequence[engine.Packet]:
        socket = self._socket
        if socket is None:
            lane = self._line.lane or _Inbox()
            if await self._line.run_lane(lane) is None:
                return [self._decode(message) for message in lane.messages] if isinstance(lane, _Inbox) else ()
            if nursery is None:
                raise NurseryNeeded
            socket = await self.wake(nursery)
        assert self._guarded is not None
        if self._received:
            self._received = False
            self._guarded.taken()
        try:
            message = await socket.get_message()
        except trio_websocket.ConnectionClosed:
            await self._guarded.aclose()  # which trio-websocket's reader may not have come to yet
            raise TransportEnded(self._line.failure or CloseReason.TRANSPORT_CLOSE) from None
        self._received = True
        return (self._decode(message),)

    def _decode(self, message: str | bytes) -> engine.Packet:
        if isinstance(message, str):
            return engine.decode_text(message)
        return engine.decode_binary(message, self._revision)

    async def wake(self, nursery: trio.Nursery) -> trio_websocket.WebSocketConnection:
        """Have trio-websocket go on with whatever stands at the head of the line. Waits for nobody."""
        socket: trio_websocket.WebSocketConnection
        with trio.CancelScope(shield=True):
            socket = self._socket = await nursery.start(self._carry)
        return socket

    async def _carry(self, *, task_status: trio.TaskStatus[trio_websocket.WebSocketConnection]) -> None:
        """trio-websocket's reader, to its end."""
        limits = self._settings
        guard = FrameGuard(max_payload=limits.max_payload, max_fragments=limits.max_fragments)
        self._guarded = GuardedStream(self._line, guard)
        with _crossing():
            async with trio.open_nursery() as nursery:
                request = await trio_websocket.wrap_server_stream(
                    nursery, self._guarded, max_message_size=limits.max_payload, receive_buffer_size=READ_SIZE
                )
                task_status.started(await request.accept())

    async def send(self, batch: Sequence[Encoded]) -> None:
        await self._write(self._render(batch))

    async def _write(self, data: bytes) -> None:
        # trio-websocket sets `closed` before it sends CLOSE, so no data frame can follow one
        if self._socket is not None and self._socket.closed is not None:
            raise TransportEnded(self._line.failure or CloseReason.TRANSPORT_CLOSE)
        try:
            await self._line.write(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportEnded(self._line.failure or CloseReason.TRANSPORT_CLOSE) from None

    def send_nowait(self, batch: Sequence[Encoded]) -> int | None:
        if self._socket is not None and self._socket.closed is not None:
            return None
        alone = len(batch) == 1 and self._revision != 3  # nearly always: a call less for each delivery
        return self._line.write_nowait(batch[0].websocket if alone else self._render(batch))

    def _render(self, batch: Sequence[Encoded]) -> bytes:
        if self._revision == 3:
            return b"".join([encoded.websocket_v3 for encoded in batch])
        return b"".join([encoded.websocket for encoded in batch])

    async def goodbye(self, reason: CloseReason, nursery: trio.Nursery) -> None:
        socket = self._socket or await self.wake(nursery)
        await socket.aclose(reason.websocket_code, reason.value)

    async def linger(self) -> None:
        """Wait a little for the peer to take our last word."""
        if self._guarded is not None and self._guarded.close_sent:
            await self._line.linger()


class _Inbox:
    """The lane of a transport that has none yet: it takes one message."""

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []

    @property
    def full(self) -> bool:
        return bool(self.messages)

    async def room(self) -> None:
        raise AssertionError("nobody waits for it")

    def deliver(self, message: str | bytes) -> None:
        self.messages.append(message)

    def take(self, packets: Sequence[engine.Packet]) -> int:
        raise AssertionError("nobody posts here")

    def write_through(self) -> None:
        """It has nothing to say."""

    def pause(self) -> None:
        """It makes nothing."""


def check_upgrade(request: Request) -> str:
    """The Sec-WebSocket-Key of an upgrade request that is correct by RFC 6455 section 4.2.1; HttpError if it is not."""
    headers = request.headers
    if request.method != "GET" or request.version != "1.1":
        raise HttpError(400, "a WebSocket handshake must be a GET by HTTP/1.1")
    if "upgrade" not in [token.strip() for token in headers.get("connection", "").lower().split(",")]:
        raise HttpError(400, "a WebSocket handshake must say Connection: Upgrade")
    if headers["upgrade"].strip().lower() != "websocket":
        raise HttpError(400, "a WebSocket handshake must say Upgrade: websocket")
    if headers.get("sec-websocket-version") != "13":
        raise HttpError(426, "only WebSocket version 13 is spoken here", headers={"Sec-WebSocket-Version": "13"})
    key = headers.get("sec-websocket-key", "")
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        raise HttpError(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return key


def accept(http: HttpConnection, key: str, settings: Settings, revision: int) -> WebSocketTransport:
    """The transport that takes over from HTTP. The 101 goes out with the first message, or by `answer`."""
    digest = base64.b64encode(hashlib.sha1((key + ACCEPT_GUID).encode(), usedforsecurity=False).digest())
    answer = ANSWER.format(digest.decode()).encode()
    line = Line(http.stream, http.take_over(), answer, settings.max_payload, settings.write_timeout)
    return WebSocketTransport(line, settings, revision)


@contextmanager
def _crossing() -> Iterator[None]:
    """A PING that was read before our CLOSE went out makes trio-websocket's reader fail when it answers: nothing is
    lost by that, for the peer has its CLOSE, and the end of the stream follows it.
    """
    try:
        yield
    except* wsproto.utilities.LocalProtocolError:
        logger.debug("a PING crossed our CLOSE")
