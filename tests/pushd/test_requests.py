"""What services ask: every field, both spellings, and everything that makes no sense."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineio_trio.protocol.codec import encode
from engineio_trio.protocol.socket import Event
from pushd import jsonbytes
from pushd.errors import BadRequest
from pushd.model import Push
from pushd.requests import Form, PushDefaults, Reconcile, parse_push, parse_reconcile

DEFAULTS = PushDefaults(event="push", ttl=60.0, data_max=1_000)


def test_the_least_push_has_the_defaults() -> None:
    assert parse_push({"to": "device:a", "data": {"n": 1}}, DEFAULTS, "x") == Push(
        "device:a", '{"n":1}', "x", "push", 60.0, 1
    )


def test_both_spellings_say_the_same() -> None:
    values = {"to": "topic:a/b", "data": [1, None], "event": "e", "id": "i", "ttl": 5, "qos": 0}
    text = {"to": "topic:a/b", "data": "[1,null]", "event": "e", "id": "i", "ttl": "5", "qos": "0"}
    assert parse_push(values, DEFAULTS, "x") == parse_push(text, DEFAULTS, "x", Form.TEXT)


@pytest.mark.parametrize("to", ["device:a.B_~@-9", "topic:news/today", "all"])
def test_targets(to: str) -> None:
    assert parse_push({"to": to, "data": 1}, DEFAULTS, "x").target == to


BAD: list[tuple[dict[str, Any], str]] = [
    ({"to": None}, "to"),
    ({"to": "a"}, "to"),
    ({"to": "device:"}, "to"),
    ({"to": "device:x}{b"}, "to"),
    ({"to": "device:" + "x" * 129}, "to"),
    ({"to": "topic:a b"}, "to"),
    ({"to": "all:"}, "to"),
    ({"to": "room:a"}, "to"),
    ({"data": "x" * 1_000}, "data"),
    ({"data": {"$bytes": "%"}}, "data"),
    ({"data": {"$bytes": "AA==", "more": 1}}, "data"),
    ({"data": [{"$bytes": "AA=="}] * 11}, "data"),
    ({"data": [{"$bytes": "AA=="}, {"_placeholder": True, "num": 0}]}, "data"),
    ({"event": ""}, "event"),
    ({"event": 5}, "event"),
    ({"event": "connect"}, "event"),
    ({"event": "kicked"}, "event"),
    ({"event": "e" * 129}, "event"),
    ({"event": "a\nb"}, "event"),
    ({"id": ""}, "id"),
    ({"id": "i" * 257}, "id"),
    ({"id": "a\x00"}, "id"),
    ({"ttl": 0}, "ttl"),
    ({"ttl": -1}, "ttl"),
    ({"ttl": True}, "ttl"),
    ({"ttl": "5"}, "ttl"),
    ({"ttl": float("inf")}, "ttl"),
    ({"ttl": float("nan")}, "ttl"),
    ({"ttl": 1e12}, "ttl"),
    ({"qos": 2}, "qos"),
    ({"qos": 0.5}, "qos"),
    ({"qos": False}, "qos"),
    ({"colour": "red"}, "colour"),
]


@pytest.mark.parametrize(("fields", "named"), BAD)
def test_what_makes_no_sense_names_its_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_push({"to": "device:a", "data": 1} | fields, DEFAULTS, "x")
    assert named in str(caught.value).partition(":")[0]


@pytest.mark.parametrize("missing", ["to", "data"])
def test_what_is_missing_is_named(missing: str) -> None:
    fields = {"to": "device:a", "data": 1}
    del fields[missing]
    with pytest.raises(BadRequest, match=f"{missing}: missing"):
        parse_push(fields, DEFAULTS, "x")


@pytest.mark.parametrize("data", ["", "{", "nul", "[1,]", "NaN", '"\ud800"', "[" * 5_000, "[" * 70 + "]" * 70])
def test_data_of_a_stream_must_be_json(data: str) -> None:
    """S10, F19."""
    with pytest.raises(BadRequest, match="data: "):
        parse_push({"to": "all", "data": data}, PushDefaults(data_max=10**6), "x", Form.TEXT)


def test_data_of_a_stream_keeps_its_text() -> None:
    assert parse_push({"to": "all", "data": ' {"a": 1} '}, DEFAULTS, "x", Form.TEXT).data == ' {"a": 1} '


@given(st.dictionaries(st.text(), st.text()))
def test_any_entry_is_a_push_or_a_bad_request(fields: dict[str, str]) -> None:
    with contextlib.suppress(BadRequest):
        parse_push(fields, DEFAULTS, "x", Form.TEXT)


def test_reconcile() -> None:
    assert parse_reconcile({"devices": ["a", "b"]}, "x") == Reconcile("x", ("a", "b"))
    assert parse_reconcile({"devices": '["a"]', "id": "i"}, "x", Form.TEXT) == Reconcile("i", ("a",))


@pytest.mark.parametrize("devices", ["a", {"a": 1}, [1], ["a b"], [None], ["a"] * 100_001])
def test_a_reconcile_that_makes_no_sense(devices: Any) -> None:
    with pytest.raises(BadRequest, match="devices"):
        parse_reconcile({"devices": devices}, "x")
    with pytest.raises(BadRequest, match="devices"):
        parse_reconcile({"devices": json.dumps(devices)}, "x", Form.TEXT)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["$bytes", "$$bytes", "$$$bytes", "bytes"]), inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_every_value_survives_the_text(value: Any) -> None:
    assert jsonbytes.loads(jsonbytes.dumps(value)) == value


@given(st.text())
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        jsonbytes.loads(text)


@given(VALUES)
def test_what_is_sent_is_what_the_text_says(value: Any) -> None:
    """Whether it goes as the text itself, or (with bytes) as its value."""
    text = jsonbytes.dumps(value)
    assert encode(Event("push", (jsonbytes.sendable(text),))) == encode(Event("push", (jsonbytes.loads(text),)))


@pytest.mark.parametrize(
    "text", ["", "[1", "1 2", "nul", '"\x1e"', "\x1e1", '{"a":1,}', '"\ud800"', "[" * 5_000, '"\\x"']
)
def test_what_is_no_json_is_not_sent(text: str) -> None:
    with pytest.raises(ValueError):
        jsonbytes.sendable(text)


@pytest.mark.parametrize("value", [object(), {1: 2}, "\ud800", {"a": {"b": {3}}}])
def test_what_has_no_json_form_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match="not representable"):
        jsonbytes.dumps(value)


def test_nesting_is_bounded() -> None:
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested"):
        jsonbytes.dumps(deep)


@pytest.mark.parametrize("key", ["$bytes", "\\u0024bytes"])
def test_what_is_accepted_can_be_sent_however_its_bytes_are_spelled(key: str) -> None:
    """I1: a packet with too many attachments would be stored, and never leave the inbox."""
    one = '{"KEY":"AA=="}'.replace("KEY", key)
    some, many = f"[{','.join([one] * 5)}]", f"[{','.join([one] * 200)}]"
    assert parse_push({"to": "all", "data": some}, PushDefaults(), "id", Form.TEXT).data == some
    with pytest.raises(BadRequest, match=r"data: .*attachments"):
        parse_push({"to": "all", "data": many}, PushDefaults(), "id", Form.TEXT)
