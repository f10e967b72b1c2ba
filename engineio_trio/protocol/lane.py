"""The express lane's eye: whole, unfragmented, masked data frames at the head of what a client sent.

They are nearly all frames that a server sees, and need nothing but to be unmasked. Everything else (a control frame, a
fragment, a length out of order or bounds, anything odd) is left to those who know the whole of RFC 6455.
"""

import enum

_TEXT = 0x81  # FIN and opcode, no reserved bit
_BINARY = 0x82
_MASKED = 0x80
_MASK_SIZE = 4


class Head(enum.Enum):
    """What stands at the head of the bytes when it is no frame for the lane."""

    PARTIAL = "partial"  # the start of one, the rest is still to come
    ODD = "odd"  # anything else


def take(data: bytes | bytearray, position: int, max_payload: int) -> tuple[str | bytes, int] | Head:
    """The message of the frame at `position`, and where the next begins; or what stands there instead.

    Sizes are checked before the payload has come.
    """
    available = len(data) - position
    if available < 2:
        return Head.PARTIAL
    first, length, start = data[position], data[position + 1] - _MASKED, position + 2
    if (first != _TEXT and first != _BINARY) or length < 0:
        return Head.ODD
    if length > 125:
        size = 2 if length == 126 else 8
        if available < 2 + size:
            return Head.PARTIAL
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
        if length < (126 if size == 2 else 65_536):
            return Head.ODD
    if length > max_payload:
        return Head.ODD
    end = start + _MASK_SIZE + length
    if end > len(data):
        return Head.PARTIAL
    payload = unmask(data[start : start + _MASK_SIZE], data[start + _MASK_SIZE : end])
    if first == _BINARY:
        return payload, end
    try:
        return payload.decode(), end
    except UnicodeDecodeError:
        return Head.ODD


def unmask(mask: bytes | bytearray, payload: bytes | bytearray) -> bytes:
    """`payload` with the 4 bytes of `mask` laid over it (RFC 6455 section 5.3), as one large integer: 20 x a loop."""
    length = len(payload)
    key = int.from_bytes((mask * (length // _MASK_SIZE + 1))[:length], "little")
    return (int.from_bytes(payload, "little") ^ key).to_bytes(length, "little")
