"""A WebSocket as a client: trio-websocket on a stream that tells when it has ended."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio
import trio_websocket

from engineio_trio.client.endpoint import Endpoint
from engineio_trio.client.http import refusal
from engineio_trio.errors import CloseReason, EngineIOError
from engineio_trio.protocol import engine
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.transport.base import Lane, TransportEnded

logger = logging.getLogger("engineio_trio")

READ_SIZE = 65_536
TOO_BIG = 1009


class ClientWebSocket:
    """One open WebSocket: a `Transport`. Each Engine.IO packet is one message."""

    asked = True

    name = "websocket"

    def __init__(
        self, socket: trio_websocket.WebSocketConnection, stream: trio.abc.Stream, write_timeout: float
    ) -> None:
        self._socket = socket
        self._stream = stream
        self._write_timeout = write_timeout

    async def receive(self, nursery: trio.Nursery | None = None) -> Sequence[engine.Packet]:
        try:
            message = await self._socket.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise TransportEnded(_reason(closed)) from None
        if isinstance(message, str):
            return (engine.decode_text(message),)
        return (engine.decode_binary(message),)

    async def send(self, batch: Sequence[Encoded]) -> None:
        try:
            for encoded in batch:
                for packet in encoded.packets:
                    data = packet.data if isinstance(packet.data, bytes) else engine.encode_text(packet)
                    with trio.fail_after(self._write_timeout):
                        await self._socket.send_message(data)
        except trio_websocket.ConnectionClosed as closed:
            raise TransportEnded(_reason(closed)) from None
        except trio.TooSlowError:
            await self.abort()  # half a frame is out: nothing can follow it
            raise TransportEnded(CloseReason.SLOW_CONSUMER) from None

    def open_lane(self, lane: Lane) -> None:
        """There is none."""

    def interrupt(self) -> bool:
        return False

    def soon(self) -> bool:
        return False

    def send_nowait(self, batch: Sequence[Encoded]) -> int | None:
        return None

    async def goodbye(self, reason: CloseReason, nursery: trio.Nursery) -> None:
        await self._socket.aclose(reason.websocket_code, reason.value)

    async def abort(self) -> None:
        """Cut it off without a word."""
        await trio.aclose_forcefully(self._stream)


def _reason(closed: trio_websocket.ConnectionClosed) -> CloseReason:
    code = closed.reason.code if closed.reason is not None else None
    return CloseReason.TOO_BIG if code == TOO_BIG else CloseReason.TRANSPORT_CLOSE


async def carry(
    endpoint: Endpoint, sid: str | None, *, task_status: trio.TaskStatus[ClientWebSocket] = trio.TASK_STATUS_IGNORED
) -> None:
    """Open a WebSocket, give it by `task_status`, and keep its reader running until it is closed or this is cancelled.

    `sid` names the session that it is to take over. Raises, before it is started, HandshakeRefused, OSError,
    TransportEnded, or RemoteProtocolError; afterwards nothing: the transport tells.
    """
    stream = _EndingStream(await endpoint.dial())
    failure: EngineIOError | None = None
    opened = False
    try:
        async with trio.open_nursery() as nursery:
            socket = await _open(nursery, stream, endpoint, sid)
            opened = True
            task_status.started(ClientWebSocket(socket, stream, endpoint.settings.write_timeout))
    except* trio_websocket.ConnectionRejected as rejections:
        rejection = rejections.exceptions[0]
        assert isinstance(rejection, trio_websocket.ConnectionRejected)
        failure = refusal(rejection.status_code, rejection.body or b"")
    except* Exception as errors:  # noqa: BLE001 - the boundary: whatever a server sent that trio-websocket trips over
        failure = TransportEnded(CloseReason.TRANSPORT_ERROR, f"no WebSocket: {errors.exceptions[0]}")
    finally:
        await trio.aclose_forcefully(stream)
    if failure is not None:
        if not opened:
            raise failure
        logger.warning("a WebSocket ended: %s", failure)


async def _open(
    nursery: trio.Nursery, stream: "_EndingStream", endpoint: Endpoint, sid: str | None
) -> trio_websocket.WebSocketConnection:
    """The handshake. trio-websocket would wait for ever for a peer that hangs up, so the stream's end ends it."""
    with trio.CancelScope() as opening:
        stream.on_end = opening.cancel
        return await trio_websocket.wrap_client_stream(
            nursery,
            stream,  # type: ignore[arg-type]  # it says SocketStream, and takes any, as its documentation says
            endpoint.host,
            endpoint.target("websocket", sid),
            extra_headers=[(name.encode(), value.encode()) for name, value in endpoint.headers.items()],
            max_message_size=endpoint.settings.max_payload,
            receive_buffer_size=READ_SIZE,
        )
    raise TransportEnded(CloseReason.TRANSPORT_ERROR, "the server hung up during the handshake")


class _EndingStream(trio.abc.Stream):
    """`stream`; `on_end` is called when nothing more comes from it, or goes into it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.on_end: Callable[[], object] | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        with self._watched():
            data = await self._stream.receive_some(max_bytes)
        if not data and self.on_end is not None:
            self.on_end()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._watched():
            await self._stream.send_all(data)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if self.on_end is not None:
                self.on_end()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
