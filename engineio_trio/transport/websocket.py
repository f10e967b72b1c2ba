"""A session over a WebSocket: trio-websocket, through its public interface, on a stream of ours."""

import base64
import binascii
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio
import trio_websocket
import wsproto.utilities

from engineio_trio.errors import CloseReason
from engineio_trio.protocol import engine
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.frame import FrameGuard
from engineio_trio.settings import Settings
from engineio_trio.transport.base import Lane, TransportEnded
from engineio_trio.transport.http import HttpConnection, HttpError, Request
from engineio_trio.transport.stream import GuardedStream

logger = logging.getLogger("engineio_trio")

READ_SIZE = 65_536
logging.getLogger("trio-websocket").setLevel(logging.WARNING)  # it tells every event at DEBUG, in the hot path


class WebSocketTransport:
    """One open WebSocket. Each Engine.IO packet is one message (protocol v4, "WebSocket")."""

    def __init__(self, socket: trio_websocket.WebSocketConnection, stream: GuardedStream, revision: int) -> None:
        self._socket = socket
        self._stream = stream
        self._revision = revision
        self._received = False

    def open_lane(self, lane: Lane) -> None:
        self._stream.open_lane(lane)

    async def receive(self) -> Sequence[engine.Packet]:
        if self._received:
            self._received = False
            self._stream.taken()
        try:
            message = await self._socket.get_message()
        except trio_websocket.ConnectionClosed:
            await self._stream.aclose()  # which trio-websocket's reader may not have come to yet
            raise TransportEnded(self._stream.failure or CloseReason.TRANSPORT_CLOSE) from None
        self._received = True
        if isinstance(message, str):
            return (engine.decode_text(message),)
        return (engine.decode_binary(message, self._revision),)

    async def send(self, batch: Sequence[Encoded]) -> None:
        # trio-websocket sets `closed` before it sends CLOSE, so no data frame can follow one
        if self._socket.closed is not None:
            raise TransportEnded(self._stream.failure or CloseReason.TRANSPORT_CLOSE)
        try:
            await self._stream.write(self._render(batch))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportEnded(self._stream.failure or CloseReason.TRANSPORT_CLOSE) from None

    def send_nowait(self, batch: Sequence[Encoded]) -> int | None:
        if self._socket.closed is not None:
            return None
        return self._stream.write_nowait(self._render(batch))

    def _render(self, batch: Sequence[Encoded]) -> bytes:
        if self._revision == 3:
            return b"".join([encoded.websocket_v3 for encoded in batch])
        if len(batch) == 1:
            return batch[0].websocket
        return b"".join([encoded.websocket for encoded in batch])

    async def goodbye(self, reason: CloseReason) -> None:
        await self._socket.aclose(reason.websocket_code, reason.value)


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


@asynccontextmanager
async def accepted(
    http: HttpConnection, key: str, settings: Settings, revision: int
) -> AsyncIterator[WebSocketTransport | None]:
    """Answer 101 and give the transport, None when the peer has gone meanwhile; it is carried while the block runs.

    Afterwards it waits a little for the peer to take our last word. The HTTP connection's stream stays open.
    """
    guard = FrameGuard(max_payload=settings.max_payload, max_fragments=settings.max_fragments)
    stream = GuardedStream(http.stream, key, http.take_over(), guard, settings.write_timeout)
    try:
        with _crossing():
            async with trio.open_nursery() as nursery:
                socket = await _shake_hands(nursery, stream, settings)
                yield None if socket is None else WebSocketTransport(socket, stream, revision)
                nursery.cancel_scope.cancel()
    finally:
        await stream.linger()


async def _shake_hands(
    nursery: trio.Nursery, stream: GuardedStream, settings: Settings
) -> trio_websocket.WebSocketConnection | None:
    request = await trio_websocket.wrap_server_stream(
        nursery, stream, max_message_size=settings.max_payload, receive_buffer_size=READ_SIZE
    )
    try:
        return await request.accept()
    except trio_websocket.ConnectionClosed:
        return None


@contextmanager
def _crossing() -> Iterator[None]:
    """A PING that was read before our CLOSE went out makes trio-websocket's reader fail when it answers: nothing is
    lost by that, for the peer has its CLOSE, and the end of the stream follows it.
    """
    try:
        yield
    except* wsproto.utilities.LocalProtocolError:
        logger.debug("a PING crossed our CLOSE")
