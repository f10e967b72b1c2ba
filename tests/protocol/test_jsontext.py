"""JSON at its edges."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol.jsontext import decode_json, encode_json
from tests.protocol.strategies import json_values


@given(json_values)
def test_round_trip(value: Any) -> None:
    assert decode_json(encode_json(value), max_depth=64) == value


@given(st.text() | st.text('[]{}",:1e\\u0 .-tfn\ud800', max_size=30))
def test_any_text_is_a_value_that_can_be_written_or_a_protocol_error(text: str) -> None:
    """S10."""
    try:
        value = decode_json(text, max_depth=4)
    except RemoteProtocolError:
        return
    assert decode_json(encode_json(value), max_depth=4) == value


def _depth(value: Any) -> int:
    members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if members is None else 1 + max(map(_depth, members), default=0)


tricky = st.recursive(
    st.text('[]{}"\\', max_size=6),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text('[{"', max_size=2), values, max_size=3),
)


@given(tricky, st.integers(1, 6))
def test_depth_is_counted_outside_strings_only(value: Any, limit: int) -> None:
    text = encode_json(value)
    if _depth(value) <= limit:
        assert decode_json(text, max_depth=limit) == value
    else:
        with pytest.raises(RemoteProtocolError, match=f"deeper than {limit}") as caught:
            decode_json(text, max_depth=limit)
        assert caught.value.reason is CloseReason.POLICY


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500_000,
        '{"a":' * 200_000,
        "[" * 100 + '"' + '\\"' * 500_000,  # a string that never ends, full of quotes
        "[" * 100 + '"' + "\\" * 500_001,
        '"' * 500_001 + "[" * 100,
        "[" * 100 + "]" * 500_000,
    ],
)
def test_hostile_text_is_refused_in_one_pass(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_json(text, max_depth=64)


def test_error_names_the_value() -> None:
    with pytest.raises(LocalProtocolError, match=r"cannot be sent as JSON: the value\['a'\]\[1\]: "):
        encode_json({"a": (1, object())})
    with pytest.raises(LocalProtocolError, match="cannot be sent as JSON: data: "):
        encode_json(object(), "data")


def test_value_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(LocalProtocolError, match="contains itself"):
        encode_json(loop)
