"""Entries of streams as the server has them: ids and fields."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from pushd.errors import BadRequest

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
    words = [word.decode(errors="backslashreplace") for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))


def flat(fields: Mapping[str, str]) -> list[str]:
    """Fields as XADD takes them."""
    return [word for pair in fields.items() for word in pair]
