"""A polling body: several packets in one HTTP request or answer.

Revision 4 joins packet texts by U+001E. Revision 3 puts a length before each packet: in UTF-16 code units, for that is
what a JavaScript string counts, or, in a binary body, in bytes.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol.engine import Packet, decode_binary, decode_text, encode_binary, encode_text

SEPARATOR = "\x1e"

# What stands before a packet in revision 3; ten digits are more than any body needs.
_TEXT_LENGTH = re.compile(r"([0-9]{1,10}):")
_BINARY_LENGTH = re.compile(rb"([\x00\x01])([\x00-\x09]{1,10})\xff")
_STRING_MARK, _BYTES_MARK = b"\x00", b"\x01"


def encode(texts: Iterable[str], *, separator: str = SEPARATOR) -> bytes:
    """One revision 4 body of packets that are texts already (`engine.encode_text`, `Encoded.polling`).

    Engine.IO protocol v4, "Packet encoding", "HTTP long-polling". Raises LocalProtocolError for text that is not
    Unicode (a lone surrogate). A text that is not several packets on purpose must not contain U+001E.
    """
    try:
        return separator.join(texts).encode()
    except UnicodeEncodeError as refusal:
        raise LocalProtocolError(f"not Unicode text: {refusal}") from refusal


def decode(body: bytes, *, max_packets: int) -> list[Packet]:
    """The packets of a revision 4 body, one or more, in order; all of them or none.

    Raises RemoteProtocolError when one is empty or malformed or the body is not UTF-8, with the reason POLICY when
    there are more than `max_packets`.
    """
    _check_count(body.count(SEPARATOR.encode()) + 1, max_packets)  # before anything is made of them
    return [decode_text(text) for text in _utf8(body).split(SEPARATOR)]


def encode_v3(packets: Sequence[Packet], *, binary: bool) -> bytes:
    """One revision 3 body: a binary one if a packet holds bytes and `binary` (the client can read it), else a text one.

    Engine.IO protocol v3, "Payload". `is_binary_v3` says which of the two it is, for the Content-Type.
    Raises LocalProtocolError for text that is not Unicode.
    """
    if is_binary_v3(packets, binary=binary):
        return b"".join(map(_binary_part, packets))
    return encode([_text_part(encode_text(packet, revision=3)) for packet in packets], separator="")


def is_binary_v3(packets: Iterable[Packet], *, binary: bool) -> bool:
    """Whether `encode_v3` makes a binary body of these (`application/octet-stream`)."""
    return binary and any(isinstance(packet.data, bytes) for packet in packets)


def decode_v3(body: bytes, *, binary: bool, max_packets: int) -> list[Packet]:
    """The packets of a revision 3 body; `binary` when its Content-Type is `application/octet-stream`.

    Raises RemoteProtocolError as `decode` does, and for a length that is no number or that the body does not have.
    """
    packets: list[Packet] = []
    for packet in _binary_parts(body) if binary else _text_parts(_utf8(body)):
        packets.append(packet)
        _check_count(len(packets), max_packets)
    if not packets:
        raise RemoteProtocolError("an empty body")
    return packets


def _check_count(count: int, max_packets: int) -> None:
    if count > max_packets:
        raise RemoteProtocolError(f"more than {max_packets} packets in one body", CloseReason.POLICY)


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as refusal:
        raise RemoteProtocolError(f"not UTF-8: {refusal}") from refusal


def _text_part(text: str) -> str:
    units = len(text) + sum(character > "\uffff" for character in text)
    return f"{units}:{text}"


def _text_parts(body: str) -> Iterator[Packet]:
    """The packets of `<length>:<packet>...`, lengths in UTF-16 code units."""
    position = 0
    while position < len(body):
        head = _TEXT_LENGTH.match(body, position)
        if head is None:
            raise RemoteProtocolError("a packet's length is missing or is not a number")
        units = int(head[1])
        # As many code points are surely enough; in UTF-16 they are two bytes a unit.
        data = body[head.end() : head.end() + units].encode("utf-16-le")[: 2 * units]
        if len(data) < 2 * units:
            raise RemoteProtocolError("the body ends before its last packet does")
        try:
            text = data.decode("utf-16-le")
        except UnicodeDecodeError as refusal:
            raise RemoteProtocolError(f"a packet's length cuts a character in two: {refusal}") from refusal
        yield decode_text(text, revision=3)
        position = head.end() + len(text)


def _binary_part(packet: Packet) -> bytes:
    if isinstance(packet.data, bytes):
        mark, data = _BYTES_MARK, encode_binary(packet, revision=3)
    else:
        mark, data = _STRING_MARK, encode([encode_text(packet)])
    return mark + bytes(map(int, str(len(data)))) + b"\xff" + data


def _binary_parts(body: bytes) -> Iterator[Packet]:
    """The packets of `<0 string | 1 bytes><length in bytes, a byte for each digit><255><packet>...`."""
    position = 0
    while position < len(body):
        head = _BINARY_LENGTH.match(body, position)
        if head is None:
            raise RemoteProtocolError("a packet's mark or length is missing or malformed")
        position = head.end() + int("".join(map(str, head[2])))
        data = body[head.end() : position]
        if len(body) < position:
            raise RemoteProtocolError("the body ends before its last packet does")
        yield decode_binary(data, revision=3) if head[1] == _BYTES_MARK else decode_text(_utf8(data), revision=3)
