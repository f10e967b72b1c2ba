"""The stream that trio-websocket is given in place of the socket: it replays a clean request, then stands guard.

trio-websocket owns the WebSocket; this stream sees all that passes. It refuses a bad frame by its header, with the
exact close code, before trio-websocket reads it; it lets ready-made frames be written between trio-websocket's own; and
it puts a deadline on every write. A write that was cut short leaves half a frame, so after it nothing more is written.
"""

import trio

from engineio_trio.errors import CloseReason
from engineio_trio.protocol.frame import FrameError, FrameGuard, Opcode, server_frame
from engineio_trio.transport.http import linger

UPGRADE_REQUEST = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)
INVALID_TEXT = 1007
CLOSE_BYTE = 0x88  # the first byte of a CLOSE frame
HEARTBEAT_RATE = 10.0  # PING and PONG frames a second that a peer may send for long
HEARTBEAT_BURST = 100.0  # and how many of them at once


class GuardedStream(trio.abc.Stream):
    """`stream` behind a replayed upgrade request with `key`, followed by `early` (what came after the real request).

    `failure` tells, when the conversation ended badly, why: the reason that the session closes with. Closing this
    stream ends the conversation; `stream` itself is closed by whoever accepted it.
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
        self._answered = trio.Event()
        self._lock = trio.Lock()
        self._ending = trio.Lock()
        self._writable = True
        self._close_sent = False
        self._closed = False
        self._peer_ended = False
        self._heartbeats_left = HEARTBEAT_BURST
        self._heartbeats_counted = trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """What the peer sent, up to its CLOSE; `b""` at its end and after a frame that broke a rule.

        Once CLOSE was sent, nothing passes: trio-websocket would answer a PING, which its own lower half refuses.
        """
        if self._closed:
            raise trio.ClosedResourceError
        if self._request is not None:
            request, self._request = self._request, None
            return request
        await self._answered.wait()  # a frame read before the 101 would wait in trio-websocket for the next one
        while self.failure is None and not self._guard.closing:
            if self._early:
                data, self._early = self._early, b""
            else:
                data = await self._receive(max_bytes)
            if not data:
                self._peer_ended = True
                break
            try:
                data = self._inspect(data)
            except FrameError as error:
                self.failure = error.reason
                await self._send_close(error.code)
                break
            if not self._close_sent:
                return data
        return b""

    async def _receive(self, max_bytes: int | None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError:
            self._peer_ended = True
            raise

    def _inspect(self, data: bytes) -> bytes:
        """`data` up to the end of the peer's CLOSE. Raises FrameError."""
        seen = self._guard.heartbeats
        data = data[: self._guard.feed(data)]
        if self._guard.heartbeats > seen:
            self._count_heartbeats(self._guard.heartbeats - seen)
        return data

    def _count_heartbeats(self, number: int) -> None:
        """Each costs an answer or at least a look, and no client of ours needs any."""
        now = trio.current_time()
        grown = self._heartbeats_left + (now - self._heartbeats_counted) * HEARTBEAT_RATE
        self._heartbeats_left = min(grown, HEARTBEAT_BURST) - number
        self._heartbeats_counted = now
        if self._heartbeats_left < 0:
            raise FrameError("a flood of PING or PONG frames", CloseReason.POLICY)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write what trio-websocket has to say: the answer to the handshake, control frames."""
        if data[0] == CLOSE_BYTE:
            self._close_sent = True
        await self.write(data)
        self._answered.set()

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
                self.failure = self.failure or CloseReason.SLOW_CONSUMER
                raise trio.BrokenResourceError("the peer does not read") from None
            self._writable = True

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a write might go through at once."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """End the conversation: nothing more is read. When it returns, the peer has been told why, if it can be.

        trio-websocket ends without a word when the text is not UTF-8: the one fault that the guard leaves to it.
        """
        async with self._ending:
            if self._closed:
                return
            if not self._peer_ended and self.failure is None and self._writable and not self._close_sent:
                self.failure = CloseReason.PARSE_ERROR
                await self._send_close(INVALID_TEXT)
            self._closed = True

    async def linger(self) -> None:
        """Let the peer read our CLOSE before the connection goes: see `http.linger`. Only if there is one to read."""
        if self._close_sent and self._writable and not self._peer_ended:
            await linger(self._stream)

    async def _send_close(self, code: int) -> None:
        if self._close_sent:
            return
        try:
            await self.send_all(server_frame(Opcode.CLOSE, code.to_bytes(2, "big")))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
