"""Entries as the server has them: of streams (ids and fields) and of inboxes (messages)."""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pushd.errors import BadRequest
from pushd.model import Message

_HEAD: Final = struct.Struct(">dd")  # of an inbox's entry: seq, expiry
_SIZE: Final = struct.Struct(">H")  # before a text in it
_ID: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


def check_id(text: str) -> str:
    """An entry's id as the server gives it. Raises BadRequest for what never was one."""
    if not _ID.fullmatch(text):
        raise no_id(text)
    return text


def no_id(text: str) -> BadRequest:
    """What to raise for an id that never was one."""
    return BadRequest(f"after: {text[:40]!r} is not an id of a stream's entry")


def order(id: str) -> tuple[int, int]:
    """A server's id as numbers that rise with it."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)


def fields_of(flat: Sequence[bytes]) -> dict[str, str]:
    """An entry's fields. What is no UTF-8 can still be seen, as backslashes."""
    try:
        words: Iterator[str] = map(bytes.decode, flat)  # a quarter of the time that the other way takes
        return dict(zip(words, words, strict=True))
    except UnicodeDecodeError:
        words = iter([word.decode(errors="backslashreplace") for word in flat])
        return dict(zip(words, words, strict=True))


def flat(fields: Mapping[str, str]) -> list[str]:
    """Fields as XADD takes them."""
    return [word for pair in fields.items() for word in pair]


def unpack_message(entry: bytes, sent: int) -> Message:
    """The message in an inbox's entry; `sent`: the highest seq that was sent before."""
    seq = int(_HEAD.unpack_from(entry)[0])
    id_end = 18 + _SIZE.unpack_from(entry, 16)[0]
    event_end = id_end + 2 + _SIZE.unpack_from(entry, id_end)[0]
    id, event, data = entry[18:id_end], entry[id_end + 2 : event_end], entry[event_end:]
    return Message(seq, id.decode(), event.decode(), data.decode(), redelivered=seq <= sent)
