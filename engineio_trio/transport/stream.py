"""The stream that trio-websocket is given in place of the socket: it replays a clean request, then stands guard.

trio-websocket owns the WebSocket; this stream sees all that passes. It refuses a bad frame by its header, with the
exact close code, before trio-websocket reads it; it lets ready-made frames be written between trio-websocket's own; and
it puts a deadline on every write. A write that was cut short leaves half a frame, so after it nothing more is written.
"""

import trio

from engineio_trio.errors import CloseReason
from engineio_trio.protocol.frame import FrameError, FrameGuard, Opcode, server_frame
from engineio_trio.protocol.lane import Head, take
from engineio_trio.transport.base import Lane
from engineio_trio.transport.http import linger
from engineio_trio.transport.socket import PlainStream

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
        self._max_payload = guard.max_payload
        self._door = stream.write_nowait if isinstance(stream, PlainStream) else None
        self._rest = b""  # of what went through the door: it goes before anything else
        self._write_timeout = write_timeout
        self._answered = trio.Event()
        self._lock = trio.Lock()
        self._ending = trio.Lock()
        self._writable = True
        self._close_sent = False
        self._closed = False
        self._peer_ended = False
        self._refused: FrameError | None = None
        self._lane: Lane | None = None
        self._taken = 0  # messages that the session got through trio-websocket
        self._caught_up = trio.lowlevel.ParkingLot()
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
            if self._lane is not None and self._refused is None and self._guard.between_messages:
                await self._run_lane(self._lane, max_bytes)
            if self._refused is not None:
                self.failure = self._refused.reason
                await self._send_close(self._refused.code)
                break
            if self._early:
                data, self._early = self._early, b""
            else:
                data = await self._receive(max_bytes)
            if not data:
                self._peer_ended = True
                break
            data = self._inspect(data)
            if data and not self._close_sent:
                return data
        return b""

    def open_lane(self, lane: Lane) -> None:
        """From now on hand whole messages straight to `lane`."""
        self._lane = lane
        self._caught_up.unpark_all()

    def taken(self) -> None:
        """The session has dealt with a message that came through trio-websocket."""
        self._taken += 1
        self._caught_up.unpark_all()

    async def _run_lane(self, lane: Lane, max_bytes: int | None) -> None:
        """Hand over whole messages until something else comes; that, and the end, is left in `_early`.

        What trio-websocket was given before has been dealt with by then, so the order is kept.
        """
        while self._taken < self._guard.messages:
            await self._caught_up.park()
        while await self._hand_over(lane):
            lane.pause()
            data = await self._receive(max_bytes)
            if not data:
                self._peer_ended = True
                return
            self._early = self._early + data if self._early else data
        lane.pause()

    async def _hand_over(self, lane: Lane) -> bool:
        """Hand over the whole messages of `_early`; True if the rest of it is but the start of one more."""
        buffer, position = self._early, 0
        try:
            while position < len(buffer):
                head = take(buffer, position, self._max_payload)
                if isinstance(head, Head):
                    return head is Head.PARTIAL
                message, position = head
                lane.deliver(message)
                if lane.full:
                    lane.pause()
                    await lane.room()
        except UnicodeDecodeError as error:
            self._refused = FrameError(f"a text that is not UTF-8: {error}", code=INVALID_TEXT)
            return False
        finally:
            self._early = buffer[position:]
        return True

    async def _receive(self, max_bytes: int | None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError:
            self._peer_ended = True
            raise

    def _inspect(self, data: bytes) -> bytes:
        """`data` up to the end of the peer's CLOSE, or up to a frame that breaks a rule, which is `_refused` then."""
        seen = self._guard.heartbeats
        try:
            end = self._guard.feed(data)
            if self._guard.heartbeats > seen:
                self._count_heartbeats(self._guard.heartbeats - seen)
        except FrameError as error:
            self._refused = error
            end = self._guard.whole
        return data[:end]

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
            if self._rest:
                data, self._rest = self._rest + bytes(data), b""
            try:
                with trio.fail_after(self._write_timeout):
                    await self._stream.send_all(data)
            except trio.TooSlowError:
                self.failure = self.failure or CloseReason.SLOW_CONSUMER
                raise trio.BrokenResourceError("the peer does not read") from None
            self._writable = True

    def write_nowait(self, data: bytes) -> int | None:
        """Write at once, without a turn of the scheduler: how many bytes are left over, to go before anything else.

        They go with the next `write`, so call one. None: nothing was written, take the ordinary way.
        """
        if self._door is None or self._rest or not self._writable or self._lock.locked():
            return None
        try:
            went = self._door(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None  # the ordinary way will find out, and say so
        self._rest = data[went:]
        return len(self._rest)

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
