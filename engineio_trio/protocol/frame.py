"""RFC 6455 frames: the header of what a server sends, and a guard that reads the header of all that a client sends.

No extension is negotiated, so a server's frame is the same bytes for every peer, and RSV bits are always an error.
"""

import enum
import struct

from engineio_trio.errors import CloseReason, RemoteProtocolError


class Opcode(enum.IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_FIN = 0x80
_RSV = 0x70
_MASKED = 0x80
_MASK_SIZE = 4
_MAX_CONTROL = 125  # RFC 6455 section 5.5
_OPCODES = frozenset(Opcode)
_LENGTH_SIZES = {126: 2, 127: 8}  # the 7-bit length that announces a longer one -> its size in bytes
_SMALLEST = {126: 126, 127: 65_536}  # the first length that needs that form

# RFC 6455 section 7.4.1 and the registry of close codes, without those that never travel (1005, 1006, 1015).
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, *range(3000, 5000)})


class FrameError(RemoteProtocolError):
    """The peer broke RFC 6455. `code` is the close code that says so; `reason` as in RemoteProtocolError."""

    def __init__(self, message: str, reason: CloseReason = CloseReason.PARSE_ERROR, code: int | None = None) -> None:
        super().__init__(message, reason)
        self.code = reason.websocket_code if code is None else code


def server_frame(opcode: Opcode, payload: bytes) -> bytes:
    """One whole frame as a server sends it: FIN set, not masked, with the shortest form of the length (section 5.2)."""
    size = len(payload)
    if size <= _MAX_CONTROL:
        return bytes((_FIN | opcode, size)) + payload
    if size < _SMALLEST[127]:
        header = struct.pack("!BBH", _FIN | opcode, 126, size)
    else:
        header = struct.pack("!BBQ", _FIN | opcode, 127, size)
    return header + payload


class _Part(enum.Enum):
    """What the guard collects bytes for; everything else it skips."""

    START = enum.auto()  # the first two bytes of a frame
    LENGTH = enum.auto()  # the 2 or 8 bytes of a long length
    CLOSE = enum.auto()  # mask and body of a CLOSE frame


class FrameGuard:
    """Watches client-to-server bytes pass by and raises as soon as they break a rule, before the payload is there.

    `max_payload` bounds the bytes (not the characters) of one message, `max_fragments` the frames that carry it. What
    is kept between calls is at most one CLOSE frame: payloads are skipped. `closing` is True once a CLOSE frame was
    seen; what comes after it is ignored (RFC 6455 section 1.4). `heartbeats` counts PING and PONG frames,
    `messages` the last frames of messages, `whole` is the end of the last whole
    frame in what was fed last, also when that raised. UTF-8 of messages is not checked here.
    """

    __slots__ = (
        "_collected",
        "_fragments",
        "_max_fragments",
        "_part",
        "_size",
        "_skip",
        "_wanted",
        "closing",
        "heartbeats",
        "max_payload",
        "messages",
        "whole",
    )

    def __init__(self, *, max_payload: int, max_fragments: int) -> None:
        self.max_payload = max_payload
        self._max_fragments = max_fragments
        self._size = 0  # bytes so far of the message that is open
        self._fragments = 0  # frames so far of the message that is open; 0: none is open
        self._skip = 0  # bytes of mask and payload still to pass by
        self._collected = bytearray()
        self._wanted = 2
        self._part = _Part.START
        self.closing = False
        self.heartbeats = 0
        self.messages = 0
        self.whole = 0

    @property
    def between_messages(self) -> bool:
        """Whether all that was seen so far is whole: no frame and no fragmented message is under way."""
        return not (self._skip or self._collected or self._fragments or self._part is not _Part.START)

    def feed(self, data: bytes) -> int:
        """Look at the next bytes of the peer, cut anywhere. The answer: how many of them are up to the end of CLOSE.

        Raises FrameError with `code` 1002 (the frame is illegal here, or a CLOSE body is), 1007 (a CLOSE reason that
        is not UTF-8), 1008 (too many fragments), or 1009 (too big). After it the guard is of no more use.
        """
        position = self.whole = 0
        while position < len(data) and not self.closing:
            if self._skip:
                passing = min(self._skip, len(data) - position)
                self._skip -= passing
                position += passing
                if not self._skip:
                    self.whole = position
                continue
            step = data[position : position + self._wanted - len(self._collected)]
            self._collected += step
            position += len(step)
            if len(self._collected) == self._wanted:
                self._advance()
        return position

    def _advance(self) -> None:
        """What was wanted is here: judge it, and say what is wanted next."""
        collected, self._collected = self._collected, bytearray()
        part, self._part, self._wanted = self._part, _Part.START, 2
        if part is _Part.START:
            self._start(*collected)
        elif part is _Part.LENGTH:
            self._long_length(collected)
        else:
            _check_close_body(collected)
            self.closing = True

    def _collect(self, part: _Part, size: int) -> None:
        self._part, self._wanted = part, size

    def _start(self, first: int, second: int) -> None:
        final, opcode, length = bool(first & _FIN), first & 0x0F, second & 0x7F
        if first & _RSV:
            raise FrameError("a reserved bit is set, though no extension was negotiated (RFC 6455 section 5.2)")
        if opcode not in _OPCODES:
            raise FrameError(f"unknown opcode {opcode:#x} (RFC 6455 section 5.2)")
        if not second & _MASKED:
            raise FrameError("a client's frame must be masked (RFC 6455 section 5.1)")
        if opcode >= Opcode.CLOSE:
            self._control(opcode, final, length)
        else:
            self._data(opcode, final)
            if length in _LENGTH_SIZES:
                self._collect(_Part.LENGTH, _LENGTH_SIZES[length])
            else:
                self._add(length)
            if final:
                self._fragments = 0
                self.messages += 1

    def _control(self, opcode: int, final: bool, length: int) -> None:
        """RFC 6455 section 5.5: control frames are short, whole, and may come between fragments."""
        if not final:
            raise FrameError("a control frame cannot be fragmented (RFC 6455 section 5.5)")
        if length > _MAX_CONTROL:
            raise FrameError(f"a control frame longer than {_MAX_CONTROL} bytes (RFC 6455 section 5.5)")
        if opcode == Opcode.CLOSE:
            self._collect(_Part.CLOSE, _MASK_SIZE + length)
        else:
            self.heartbeats += 1
            self._skip = _MASK_SIZE + length

    def _data(self, opcode: int, final: bool) -> None:
        """RFC 6455 section 5.4: the first fragment names the type, the others continue it."""
        if opcode == Opcode.CONTINUATION and not self._fragments:
            raise FrameError("a continuation of no message (RFC 6455 section 5.4)")
        if opcode != Opcode.CONTINUATION:
            if self._fragments:
                raise FrameError("a new message inside a fragmented one (RFC 6455 section 5.4)")
            self._size = 0
        self._fragments += 1
        if self._fragments > self._max_fragments:
            raise FrameError(f"more than {self._max_fragments} fragments in a message", CloseReason.POLICY)

    def _long_length(self, collected: bytearray) -> None:
        length = int.from_bytes(collected, "big")
        if length >= 1 << 63:
            raise FrameError("the top bit of a length is set (RFC 6455 section 5.2)")
        if length < _SMALLEST[126 if len(collected) == 2 else 127]:
            raise FrameError("a length that is not in its shortest form (RFC 6455 section 5.2)")
        self._add(length)

    def _add(self, length: int) -> None:
        self._size += length
        if self._size > self.max_payload:
            raise FrameError(f"a message bigger than {self.max_payload} bytes", CloseReason.TOO_BIG)
        self._skip = _MASK_SIZE + length


def _check_close_body(collected: bytearray) -> None:
    """RFC 6455 section 5.5.1: nothing, or a code that may travel and a reason in UTF-8."""
    mask, masked = collected[:_MASK_SIZE], collected[_MASK_SIZE:]
    body = bytes(byte ^ mask[index % _MASK_SIZE] for index, byte in enumerate(masked))
    if not body:
        return
    code = int.from_bytes(body[:2], "big")
    if len(body) == 1 or code not in _CLOSE_CODES:
        raise FrameError(f"a CLOSE frame with the body {body[:2].hex()}, which is no close code (RFC 6455 section 7.4)")
    try:
        body[2:].decode()
    except UnicodeDecodeError as refusal:
        raise FrameError(f"a CLOSE reason that is not UTF-8: {refusal}", code=1007) from refusal
