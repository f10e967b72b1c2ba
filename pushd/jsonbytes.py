"""JSON text <-> values with binary: how bytes travel through the queues, which carry text.

Bytes are written as `{"$bytes": "<base64>"}`. An object key that looks like that one (`$bytes`, `$$bytes`, ...) gets
one more `$` in the text, so every value survives the journey there and back.
"""

import base64
import binascii
import re
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 64  # as Settings.max_depth: what a device may not send, a service may not either
_KEY: Final = "$bytes"
_MARKED: Final = re.compile(r"\$+bytes")
_ANY: Final = msgspec.json.Decoder()
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_SCALARS: Final = (str, int, float, bool, type(None))


def dumps(value: Any) -> str:
    """The JSON text of a value made of dicts, lists, strings, numbers, booleans, None and bytes.

    Raises ValueError for anything else, for nesting over 64 levels and for text that is not Unicode (lone surrogates).
    """
    return encode(_mark(value, 0))


def encode(value: Any) -> str:
    """The JSON text of a plain value, whose `{"$bytes": ...}` is already spelled out. Raises ValueError."""
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    except (TypeError, UnicodeEncodeError) as error:
        raise ValueError(f"not representable as JSON: {error}") from None


def loads(text: str) -> Any:
    """The value of a JSON text, with bytes where the text has `{"$bytes": ...}`.

    Raises ValueError for what is no JSON, for nesting over 64 levels, and for a `$bytes` whose value is not base64 or
    that is not alone in its object.
    """
    return _unmark(parse(text), 0)


def may_have_bytes(text: str) -> bool:
    """Whether a JSON text could have a `{"$bytes": ...}`, or a key that looks like that one; it may be neither."""
    return "$" in text or "\\" in text


def sendable(text: str) -> Any:
    """What an event carries for a JSON text: the text itself as `msgspec.Raw`, or its value if that may have bytes.

    Raises ValueError as `loads`, but for the depth of a text without bytes.
    """
    return loads(text) if may_have_bytes(text) else _decoded(_RAW, text)


def parse(text: str) -> Any:
    """The plain value of a JSON text; `{"$bytes": ...}` stays as it is. Raises ValueError."""
    return _decoded(_ANY, text)


def _decoded(decoder: msgspec.json.Decoder[Any], text: str) -> Any:
    try:
        return decoder.decode(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeEncodeError:
        raise ValueError("the text has a lone surrogate, so it is not Unicode") from None


def _mark(value: Any, depth: int) -> Any:
    if isinstance(value, _SCALARS):
        return value
    _check_depth(depth)
    if isinstance(value, dict):
        return {_escaped(key): _mark(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mark(item, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {_KEY: base64.b64encode(value).decode()}
    raise ValueError(f"not representable as JSON: a {type(value).__name__}")


def _unmark(value: Any, depth: int) -> Any:
    if isinstance(value, _SCALARS):
        return value
    _check_depth(depth)
    if isinstance(value, list):
        return [_unmark(item, depth + 1) for item in value]
    if _KEY in value:
        return _bytes_of(value)
    return {_unescaped(key): _unmark(item, depth + 1) for key, item in value.items()}


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _escaped(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"not representable as JSON: an object's key that is a {type(key).__name__}")
    return f"${key}" if _MARKED.fullmatch(key) else key


def _unescaped(key: str) -> str:
    return key[1:] if _MARKED.fullmatch(key) else key


def _bytes_of(value: dict[str, Any]) -> bytes:
    text = value[_KEY]
    if len(value) != 1 or not isinstance(text, str):
        raise ValueError('"$bytes" must be alone in its object, with base64 text (a key of that name is "$$bytes")')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'"$bytes" is not base64: {error}') from None
