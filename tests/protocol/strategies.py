"""Values that hypothesis makes for the tests of this folder."""

from typing import Any

from hypothesis import strategies as st

from engineio_trio.protocol.socket import (
    MAX_ACK_ID,
    RESERVED_EVENTS,
    Ack,
    Connect,
    ConnectError,
    Disconnect,
    Event,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

# What comes back from JSON as it went: no NaN, no infinities, names are text.
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), text
)
# A name of its own would make a placeholder of data; `test_codec` says what happens then.
names = text.filter(lambda name: name != "_placeholder")


def _nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda values: st.lists(values, max_size=4) | st.dictionaries(names, values, max_size=4),
        max_leaves=12,
    )


json_values = _nested(scalars)
values_with_bytes = _nested(scalars | st.binary(max_size=20))
objects = st.dictionaries(names, json_values, max_size=4)

name_characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=",?")
namespaces = st.one_of(
    st.just("/"),
    st.text(name_characters, max_size=30).map("/".__add__),
)
queries = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=","), max_size=20)
event_names = text.filter(lambda name: name not in RESERVED_EVENTS)
ids = st.integers(0, 20) | st.integers(0, MAX_ACK_ID)


def _few_bytes(args: tuple[Any, ...]) -> bool:
    return _count(list(args)) <= 10


def _count(value: Any) -> int:
    if isinstance(value, bytes):
        return 1
    if isinstance(value, list):
        return sum(map(_count, value))
    return sum(map(_count, value.values())) if isinstance(value, dict) else 0


args = st.lists(values_with_bytes, max_size=4).map(tuple).filter(_few_bytes)
socket_packets = st.one_of(
    st.builds(Connect, namespaces, st.none() | objects, queries),
    st.builds(Disconnect, namespaces),
    st.builds(Event, event_names, args, namespaces, st.none() | ids),
    st.builds(Ack, ids, args, namespaces),
    st.builds(ConnectError, namespaces, objects | text),
)
