"""The bytes of one WebSocket: the line, and the stream that trio-websocket is given once it is needed.

The line carries the common data frame both ways by itself. At the first bytes that are anything else it is put behind a
GuardedStream, which replays a clean upgrade request to trio-websocket and then stands guard: it refuses a bad frame by
its header, with the exact close code, before trio-websocket reads it, and lets ready-made frames be written between
trio-websocket's own.
"""

from typing import Final

import trio

from engineio_trio.errors import CloseReason
from engineio_trio.protocol.frame import FrameError, FrameGuard, Opcode, server_frame
from engineio_trio.protocol.lane import Head, take
from engineio_trio.transport.base import Lane, TransportEnded
from engineio_trio.transport.http import linger
from engineio_trio.transport.socket import READ_SIZE, PlainStream

UPGRADE_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
INVALID_TEXT = 1007
_PARTIAL: Final = Head.PARTIAL  # a member of an enum takes six times as long to look up as a name (Python 3.11)
CLOSE_BYTE = 0x88  # the first byte of a CLOSE frame
HEARTBEAT_RATE = 10.0  # PING and PONG frames a second that a peer may send for long
HEARTBEAT_BURST = 100.0  # and how many of them at once


class Line:
    """`stream` after the upgrade request: what came with it is `early`, the answer to it goes before the first write.

    `failure` tells, when the conversation ended badly, why: the reason that the session closes with. There is a
    deadline on every write; one that was cut short leaves half a frame, so after it nothing more is written. `stream`
    is closed by whoever accepted it.
    """

    __slots__ = (
        "_at", "_early", "_lock", "_plain", "_rest", "_stream", "_write_timeout", "failure", "lane", "max_payload",
        "peer_ended", "writable",
    )  # fmt: skip

    def __init__(
        self, stream: trio.abc.Stream, early: bytes, answer: bytes, max_payload: int, write_timeout: float
    ) -> None:
        self.failure: CloseReason | None = None
        self.lane: Lane | None = None
        self.max_payload = max_payload
        self.peer_ended = False
        self.writable = True
        self._stream = stream
        self._plain = stream if isinstance(stream, PlainStream) else None
        self._early: bytes | bytearray = early
        self._at = 0  # so far `_early` has been dealt with
        self._rest = answer  # goes before anything else: that, and what a write at once left over
        self._write_timeout = write_timeout
        self._lock: trio.Lock | None = None

    # In.

    async def receive(self) -> bytes:
        """What has come, waiting for it; empty at the end. Raises BrokenResourceError."""
        try:
            data = bytes(await self._stream.receive_some(READ_SIZE))
        except trio.BrokenResourceError:
            self.peer_ended = True
            raise
        self.peer_ended = not data
        return data

    def take_early(self) -> bytes:
        """What has come and has not been dealt with; it is forgotten here."""
        data = bytes(self._early[self._at :])
        self._early, self._at = b"", 0
        return data

    def hand_over(self, lane: Lane, data: bytes = b"") -> Head | None:
        """Hand the whole messages of what has come, and of `data` after it, to the lane.

        The answer is what stands at the head then, or None when it is the lane that takes no more for now.
        """
        buffer, position = self._early, self._at
        if not buffer:
            buffer = data
        elif data:  # a bytearray, for a message in many pieces is not to be copied at each of them
            buffer = buffer if isinstance(buffer, bytearray) else bytearray(buffer)
            buffer += data
        head: Head | None = None
        while not lane.full:
            if position == len(buffer):  # nearly always after one message, and this costs less than `take`
                head = _PARTIAL
                break
            taken = take(buffer, position, self.max_payload)
            if isinstance(taken, Head):
                head = taken
                break
            message, position = taken
            lane.deliver(message)
        if head is None:
            self._early, self._at = buffer, position
        else:
            self._early, self._at = buffer[position:] if position else buffer, 0
        lane.pause()
        return head

    async def run_lane(self, lane: Lane) -> Head | None:
        """Hand messages to the lane for as long as nothing else comes; the answer is that of `hand_over`.

        Raises TransportEnded at the end. May be cancelled, nothing is lost.
        """
        plain = self._plain if lane is self.lane else None
        head = self.hand_over(lane)
        while head is _PARTIAL:
            data = b""
            try:
                if plain is not None and plain.can_be_watched:
                    await plain.watch(self)
                else:
                    data = await self.receive()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.peer_ended = True
            if self.peer_ended:
                raise TransportEnded(self.failure or CloseReason.TRANSPORT_CLOSE)
            head = self.hand_over(lane, data)
        return head

    def interrupt(self) -> bool:
        """Have `run_lane` look whether the lane is full; False if it does not wait where it could be told."""
        return self._plain is not None and self._plain.interrupt()

    def advance(self) -> bool:
        """Hand over what has come to a plain stream; see `poller.Reader`."""
        assert self._plain is not None
        assert self.lane is not None
        try:
            data = self._plain.read_nowait(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if data:
            return self.hand_over(self.lane, data) is not _PARTIAL
        self.peer_ended = data is not None
        return self.peer_ended

    # Out.

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data`, all of it, within the write deadline; a peer that does not take it is a slow consumer.

        Raises BrokenResourceError then, and from then on. If it is cancelled, half a frame may be out: the same.
        """
        if self._lock is None:
            self._lock = trio.Lock()
        async with self._lock:
            if not self.writable:
                raise trio.BrokenResourceError("an earlier write was cut short")
            self.writable = False
            if self._rest:
                data, self._rest = self._rest + bytes(data), b""
            try:
                with trio.fail_after(self._write_timeout):
                    await self._stream.send_all(data)
            except trio.TooSlowError:
                self.failure = self.failure or CloseReason.SLOW_CONSUMER
                raise trio.BrokenResourceError("the peer does not read") from None
            self.writable = True

    def write_nowait(self, data: bytes) -> int | None:
        """Write at once, without a turn of the scheduler: how many bytes are left over, to go before anything else.

        They go with the next `write`, so call one. None: nothing was written, take the ordinary way.
        """
        if self._plain is None or not self.writable or (self._lock is not None and self._lock.locked()):
            return None
        if self._rest:
            data, self._rest = self._rest + data, b""
        try:
            went = self._plain.write_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None  # the ordinary way will find out, and say so
        if went == len(data):
            return 0
        self._rest = data[went:]
        return len(self._rest)

    async def wait_writable(self) -> None:
        """Wait until a write might go through at once."""
        await self._stream.wait_send_all_might_not_block()

    async def linger(self) -> None:
        """Let the peer read our CLOSE before the connection goes: see `http.linger`. Only if there is one to read."""
        if self.writable and not self.peer_ended:
            await linger(self._stream)


class GuardedStream(trio.abc.Stream):
    """`line` as trio-websocket sees it: behind a replayed upgrade request, and with a `guard` on what comes.

    The lane goes on here while trio-websocket waits for more, in its reader's task. Closing this stream ends the
    conversation.
    """

    def __init__(self, line: Line, guard: FrameGuard) -> None:
        self._line = line
        self._guard = guard
        self._request: bytes | None = UPGRADE_REQUEST
        self._answered = trio.Event()
        self._ending = trio.Lock()
        self.close_sent = False
        self._closed = False
        self._refused: FrameError | None = None
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
        line = self._line
        while line.failure is None and not self._guard.closing:
            if self._refused is not None:
                line.failure = self._refused.reason
                await self._send_close(self._refused.code)
                break
            if line.lane is not None and self._guard.between_messages:
                await self._run_lane(line.lane)
            data = line.take_early() or await line.receive()
            if not data:
                break
            data = self._inspect(data)
            if data and not self.close_sent:
                return data
        return b""

    async def _run_lane(self, lane: Lane) -> None:
        """Hand over whole messages until something else comes; that, and what precedes the end, is `early` then.

        What trio-websocket was given before has been dealt with by then, so the order is kept.
        """
        while self._taken < self._guard.messages:
            await self._caught_up.park()
        data = b""
        while (head := self._line.hand_over(lane, data)) is not Head.ODD:
            data = b""
            if head is None:
                await lane.room()
                continue
            data = await self._line.receive()
            if not data:
                return

    def open_lane(self) -> None:
        """The line has a lane now."""
        self._caught_up.unpark_all()

    def taken(self) -> None:
        """The session has dealt with a message that came through trio-websocket."""
        self._taken += 1
        self._caught_up.unpark_all()

    def _inspect(self, data: bytes) -> bytes:
        """`data` up to the end of the peer's CLOSE, or up to a frame that breaks a rule, which is `_refused` then."""
        seen = self._guard.heartbeats
        try:
            end = self._guard.feed(data)
            if self._guard.heartbeats > seen:
                self._count_heartbeats(self._guard.heartbeats - seen)
        except FrameError as error:
            self._refused = error
            end = 0 if self._heartbeats_left < 0 else self._guard.whole  # a flood is not answered, one read has 10,000
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
        """Write what trio-websocket has to say, except its answer to the handshake: the peer has had one."""
        if not self._answered.is_set():
            self._answered.set()
            return
        if data[0] == CLOSE_BYTE:
            self.close_sent = True
        await self._line.write(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a write might go through at once."""
        await self._line.wait_writable()

    async def aclose(self) -> None:
        """End the conversation: nothing more is read. When it returns, the peer has been told why, if it can be.

        trio-websocket ends without a word when the text is not UTF-8: the one fault that the guard leaves to it.
        """
        line = self._line
        async with self._ending:
            if self._closed:
                return
            if not line.peer_ended and line.failure is None and line.writable and not self.close_sent:
                line.failure = CloseReason.PARSE_ERROR
                await self._send_close(INVALID_TEXT)
            self._closed = True

    async def _send_close(self, code: int) -> None:
        if self.close_sent:
            return
        try:
            await self.send_all(server_frame(Opcode.CLOSE, code.to_bytes(2, "big")))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
