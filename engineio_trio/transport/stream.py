"""The stream that trio-websocket is given in place of the socket: it replays a clean request, then stands guard.

trio-websocket owns the WebSocket; this stream sees all that passes. It refuses a bad frame by its header, with the
exact close code, before trio-websocket reads it; it lets ready-made frames be written between trio-websocket's own; and
it puts a deadline on every write. A write that was cut short leaves half a frame, so after it nothing more is written.
"""

import trio

from engineio_trio.errors import CloseReason
from engineio_trio.protocol.frame import FrameError, FrameGuard, Opcode, server_frame

UPGRADE_REQUEST = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)
INVALID_TEXT = 1007
CLOSE_BYTE = 0x88  # the first byte of a CLOSE frame


class GuardedStream(trio.abc.Stream):
    """`stream` behind a replayed upgrade request with `key`, followed by `early` (what came after the real request).

    `failure` tells, when the conversation ended badly, why: the reason that the session closes with.
    """

    def __init__(
        self, stream: trio.abc.Stream, key: str, early: bytes, guard: FrameGuard, write_timeout: float
    ) -> None:
        self.failure: CloseReason | None = None
        self._stream = stream
        self._request: bytes | None = UPGRADE_REQUEST.format(key=key).encode("ascii")
        self._early = early
        self._guard = guard
        self._write_timeout = write_timeout
        self._lock = trio.Lock()
        self._writable = True
        self._close_sent = False
        self._peer_ended = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """What the peer sent, or `b""` at its end and after a frame that broke a rule."""
        if self._request is not None:
            data: bytes | bytearray = self._request
            self._request = None
            return data
        if self.failure is not None:
            return b""
        if self._early:
            data, self._early = self._early, b""
        else:
            data = await self._stream.receive_some(max_bytes)
        if not data:
            self._peer_ended = True
            return data
        try:
            self._guard.feed(bytes(data))
        except FrameError as error:
            self.failure = error.reason
            await self._send_close(error.code)
            return b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write what trio-websocket has to say: the answer to the handshake, control frames."""
        if data[0] == CLOSE_BYTE:
            self._close_sent = True
        await self.write(data)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data`, all of it, within the write deadline; a peer that does not take it is a slow consumer.

        Raises BrokenResourceError then, and from then on. If it is cancelled, half a frame may be out: the same.
        """
        async with self._lock:
            if not self._writable:
                raise trio.BrokenResourceError("an earlier write was cut short")
            self._writable = False
            try:
                with trio.fail_after(self._write_timeout):
                    await self._stream.send_all(data)
            except trio.TooSlowError:
                self.failure = CloseReason.SLOW_CONSUMER
                raise trio.BrokenResourceError("the peer does not read") from None
            self._writable = True

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a write might go through at once."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the stream.

        trio-websocket closes without a word when the text is not UTF-8: the one fault that the guard leaves to it.
        """
        if not self._peer_ended and self.failure is None and self._writable and not self._close_sent:
            self.failure = CloseReason.PARSE_ERROR
            await self._send_close(INVALID_TEXT)
        await self._stream.aclose()

    async def _send_close(self, code: int) -> None:
        if self._close_sent:
            return
        try:
            await self.send_all(server_frame(Opcode.CLOSE, code.to_bytes(2, "big")))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
