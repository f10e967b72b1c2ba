"""JSON as the protocols carry it: one encoder, one decoder, and errors of ours only.

Numbers that JSON has no word for (NaN, the infinities) are written as `null`, as `JSON.stringify` does, and are
refused when they are read. Names of members: strings stay, numbers and enumerations become strings; anything else is
an error. Dataclasses, `msgspec.Struct`, datetimes, UUIDs and decimals are written the way msgspec writes them.
"""

import itertools
import re
from typing import Any

import msgspec

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError

ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder()

# All that msgspec raises: its own errors, ValueError for surrogates and integers of thousands of digits.
REFUSALS = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)

# A string that never ends is taken to the end of the text: one pass, whatever the quotes are.
_STRINGS = re.compile(rb'"(?>[^"\\]+|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def encode_json(value: Any, name: str = "the value") -> str:
    """The compact JSON text of `value`.

    Raises LocalProtocolError that says where in `value`, which it calls `name`, the thing is that JSON cannot carry.
    """
    try:
        return ENCODER.encode(value).decode()
    except RecursionError:
        raise LocalProtocolError(f"cannot be sent as JSON: {name} is nested too deeply, or contains itself") from None
    except REFUSALS as refusal:
        where, why = _locate(value, refusal)
        raise LocalProtocolError(f"cannot be sent as JSON: {name}{where}: {why}") from refusal


def decode_json(text: str, *, max_depth: int) -> Any:
    """The value of a JSON text: None, bool, int, float, str, list, or dict; of two equal names the last one counts.

    Whatever comes back can be given to `encode_json`. Raises RemoteProtocolError, and nothing else: not JSON, lone
    surrogates, numbers out of range; for nesting deeper than `max_depth` its reason is POLICY.
    """
    if text == "[]":  # nearly every acknowledgement
        return []
    try:
        if text.count("[") + text.count("{") > max_depth and _depth(text.encode()) > max_depth:
            raise RemoteProtocolError(f"JSON nested deeper than {max_depth}", CloseReason.POLICY)
        return _DECODER.decode(text)
    except REFUSALS as refusal:
        raise RemoteProtocolError(f"not JSON: {refusal}") from refusal


def _depth(data: bytes) -> int:
    """How deep the brackets outside strings go: one linear pass. On malformed text any answer will do."""
    brackets = _STRINGS.sub(b"", data).translate(None, _NOT_BRACKETS)
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _locate(value: Any, refusal: Exception) -> tuple[str, str]:
    """The path of the first thing inside `value` that cannot be encoded, and why."""
    members: Any = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list | tuple):
        members = enumerate(value)
    for key, member in members:
        try:
            ENCODER.encode(member)
        except REFUSALS as inner:
            where, why = _locate(member, inner)
            return f"[{key!r}]{where}", why
    return "", str(refusal)
