"""Socket.IO packets <-> one text and its binary attachments.

The text is `<type>[<number of attachments>-][<namespace>,][<ack id>][JSON]` (Socket.IO protocol v5, "Packet
encoding"). Bytes in the arguments are replaced by `{"_placeholder":true,"num":N}` and travel right after the text, in
the order of `num`.
"""

import enum
import re
from typing import Any

import msgspec

from engineio_trio.errors import CloseReason, LocalProtocolError, RemoteProtocolError
from engineio_trio.protocol.jsontext import ENCODER, REFUSALS, decode_json, encode_json
from engineio_trio.protocol.socket import (
    MAX_ACK_ID,
    MAX_NAMESPACE,
    RESERVED_EVENTS,
    Ack,
    Connect,
    ConnectError,
    Disconnect,
    Event,
    SocketPacket,
    event_name_fault,
    is_long_namespace,
    namespace_fault,
    query_fault,
)

MAX_ATTACHMENTS = 10  # as socket.io-parser: a stock client closes its connection over it


class Kind(enum.IntEnum):
    """The type of a packet; the number is its digit on the wire (Socket.IO protocol v5, "Packet types")."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


_WITH_ID = frozenset({Kind.EVENT, Kind.ACK, Kind.BINARY_EVENT, Kind.BINARY_ACK})
_WITH_ATTACHMENTS = {Kind.EVENT: Kind.BINARY_EVENT, Kind.ACK: Kind.BINARY_ACK}
_EVENTS = frozenset({Kind.EVENT, Kind.BINARY_EVENT})
_BINARY_KINDS = frozenset(_WITH_ATTACHMENTS.values())

# ASCII digits alone: \d, isdigit() and int() take those of every script.
_HEADER = re.compile(r"([0-6])(?:([0-9]+)-)?(?:(/[^,]*),?)?([0-9]*)")
_MAX_COUNT_DIGITS = 9
_MAX_ID_DIGITS = len(str(MAX_ACK_ID))
_SHORT_ID = _MAX_ID_DIGITS + 1  # where its bracket is by then, the id is not too large

# Raw is JSON already; who made it answers for it.
_SCALARS = frozenset({str, int, float, bool, type(None), msgspec.Raw})
_BYTES = (bytes, bytearray, memoryview)
_PLACEHOLDER = '"_placeholder":true'  # as our compact JSON has it; inside a string its quotes would be escaped
_PLAIN_DEPTH = 16  # how deep `encode_plain` looks into the data
_NOTHING: Any = object()  # no JSON at all, which is not null


# Encoding


def encode(packet: SocketPacket, *, max_attachments: int = MAX_ATTACHMENTS) -> tuple[str, tuple[bytes, ...]]:
    """The text of a packet, and its attachments in the order in which they must follow it, nothing between.

    bytes, bytearray and memoryview anywhere in `args` become attachments (copied, so they may change afterwards).
    Raises LocalProtocolError: a reserved event name, a name that no namespace can have, an id out of range, data that
    JSON cannot carry (it says where), more than `max_attachments`.
    """
    match packet:
        case Event(name, args, namespace, id):
            _refuse(event_name_fault(name))
            return _encode_args(Kind.EVENT, namespace, id, encode_json(name, "name"), args, max_attachments)
        case Ack(id, args, namespace):
            return _encode_args(Kind.ACK, namespace, id, "", args, max_attachments)
        case Connect(namespace, data, query):
            _refuse(query_fault(query))
            if not (data is None or isinstance(data, dict)):
                raise LocalProtocolError(f"the data of a CONNECT is an object (a dict), not {type(data).__name__}")
            return _encode_plain(Kind.CONNECT, namespace, data, query)
        case Disconnect(namespace):
            return _encode_plain(Kind.DISCONNECT, namespace, None)
        case ConnectError(namespace, data):
            if not isinstance(data, dict | str):
                raise LocalProtocolError(f"the data of a CONNECT_ERROR is an object or a string, not {data!r:.40}")
            return _encode_plain(Kind.CONNECT_ERROR, namespace, data)


def encode_plain(digits: bytes, namespace: str, id: int | None, values: list[Any]) -> bytes | None:
    """The text of an EVENT (`values` begin with its name) or an ACK in UTF-8, when the values are JSON's own types.

    It begins with `digits`, which are the packet's type and what else stands before that.
    None for everything else: `encode` deals with it, or says what is wrong. This is the way of nearly every event, in
    one pass: a tenth of the instructions of `encode`.
    """
    if namespace != "/" and namespace_fault(namespace):
        return None
    if id is not None and not (type(id) is int and 0 <= id <= MAX_ACK_ID):
        return None
    for value in values:
        if type(value) not in _SCALARS and not _is_plain(value, _PLAIN_DEPTH):
            return None
    try:
        data = ENCODER.encode(values)
    except REFUSALS:
        return None
    prefix = digits if namespace == "/" else b"%b%b," % (digits, namespace.encode())
    return prefix + data if id is None else b"%b%d%b" % (prefix, id, data)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether nothing in `value` is, or could hide, an attachment."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if not depth:
        return False
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        members = value.values()
    elif kind is list or kind is tuple:
        members = value
    else:
        return False
    for member in members:  # noqa: SIM110 - `all` over a generator takes 1.7 times as long
        if type(member) not in _SCALARS and not _is_plain(member, depth - 1):
            return False
    return True


def check_event(event: str, *args: Any) -> None:
    """Raise the LocalProtocolError that `emit(event, *args)` would raise, if any: for what is kept, and sent later."""
    encode(Event(event, args))


def _encode_plain(kind: Kind, namespace: str, data: Any, query: str = "") -> tuple[str, tuple[bytes, ...]]:
    attachments: list[bytes] = []
    plain = _detach(data, attachments)
    if attachments:
        raise LocalProtocolError(f"a {kind.name} packet cannot carry bytes")
    name = f"{namespace}?{query}" if query else namespace
    return _prefix(kind, namespace, name) + ("" if data is None else encode_json(plain, "data")), ()


def _encode_args(
    kind: Kind, namespace: str, id: int | None, name: str, args: tuple[Any, ...], max_attachments: int
) -> tuple[str, tuple[bytes, ...]]:
    if id is None:
        digits = ""
    elif type(id) is int and 0 <= id <= MAX_ACK_ID:
        digits = str(id)
    else:
        raise LocalProtocolError(f"an ack id is a whole number from 0 to 2**53-1, not {id!r}")
    attachments: list[bytes] = []
    rest = encode_json(_detach(args, attachments), "args")
    text = rest if not name else f"[{name},{rest[1:]}" if args else f"[{name}]"
    if not attachments:
        return _prefix(kind, namespace, namespace) + digits + text, ()
    if len(attachments) > max_attachments:
        raise LocalProtocolError(f"{len(attachments)} attachments in one packet; {max_attachments} are allowed")
    if text.count(_PLACEHOLDER) != len(attachments):
        raise LocalProtocolError("data with '_placeholder': True of its own cannot travel together with bytes")
    kind, count = _WITH_ATTACHMENTS[kind], f"{len(attachments)}-"
    return _prefix(kind, namespace, namespace, count) + digits + text, tuple(attachments)


def _prefix(kind: Kind, namespace: str, name: str, count: str = "") -> str:
    _refuse(namespace_fault(namespace))
    return f"{kind:d}{count}" if name == "/" else f"{kind:d}{count}{name},"


def _refuse(fault: str | None) -> None:
    if fault is not None:
        raise LocalProtocolError(fault)


def _detach(value: Any, attachments: list[bytes]) -> Any:
    """`value` with a placeholder for everything binary, which goes to `attachments`."""
    try:
        return _detach_deep(value, attachments)
    except RecursionError:
        raise LocalProtocolError("cannot be sent as JSON: the data is nested too deeply, or contains itself") from None


def _detach_deep(value: Any, attachments: list[bytes]) -> Any:
    if type(value) in _SCALARS:
        return value
    if isinstance(value, _BYTES):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, dict):
        for key in value:
            if isinstance(key, _BYTES):  # msgspec would write base64, which no peer expects
                raise LocalProtocolError(f"cannot be sent as JSON: a member's name is a string, not bytes: {key!r:.40}")
        return {key: _detach_deep(member, attachments) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_detach_deep(member, attachments) for member in value]
    return _detach_object(value, attachments)


def _detach_object(value: Any, attachments: list[bytes]) -> Any:
    """A set, a dataclass, a Struct and the like may hold bytes too: take them apart as JSON would."""
    try:
        plain = msgspec.to_builtins(value, builtin_types=_BYTES)
    except (TypeError, ValueError, msgspec.MsgspecError):
        return value  # the encoder says what is wrong with it, and where
    return _detach_deep(plain, attachments)


# Decoding


class _Header(msgspec.Struct, frozen=True):
    kind: Kind
    attachments: int
    namespace: str
    query: str
    id: int | None


class _Held(msgspec.Struct, frozen=True):
    """A packet whose attachments are not all there, and the places where they belong: the next one is the last."""

    header: _Header
    args: list[Any]
    places: list[tuple[Any, Any]]


class Decoder:
    """Incoming Engine.IO messages -> packets, holding a packet back until its attachments are there.

    Limits: `max_attachments` of a packet, `max_bytes` of all its attachments together, `max_depth` of nested JSON.
    """

    __slots__ = ("_bytes_left", "_held", "_max_attachments", "_max_bytes", "_max_depth")

    def __init__(self, *, max_attachments: int, max_bytes: int, max_depth: int) -> None:
        self._max_attachments = max_attachments
        self._max_bytes = max_bytes
        self._max_depth = max_depth
        self._held: _Held | None = None
        self._bytes_left = 0

    @property
    def waiting(self) -> bool:
        """Whether attachments are still missing. Only the caller knows time, and must bound how long."""
        return self._held is not None

    def feed(self, message: str | bytes) -> SocketPacket | None:
        """The packet that this message completes, or None when attachments have to follow.

        Raises RemoteProtocolError, and nothing else, whatever the message is; then nothing is held any more. Its
        reason is TOO_BIG for attachments beyond `max_bytes`, POLICY for a namespace longer than 128 bytes or JSON that
        is too deep, otherwise PARSE_ERROR.
        """
        held, self._held = self._held, None
        if isinstance(message, str):
            if held is not None:
                raise RemoteProtocolError("a text message, but binary attachments are awaited")
            return self._read_text(message)
        if held is None:
            raise RemoteProtocolError("a binary message, but no attachment is awaited")
        return self._read_attachment(held, message)

    def _read_text(self, text: str) -> SocketPacket | None:
        if text[:2] == "2[":  # nearly always: an event of "/" that asks for nothing, which needs no header
            args = decode_json(text[1:], max_depth=self._max_depth)
            if type(args[0] if args else None) is str and args[0] not in RESERVED_EVENTS:
                return Event(args[0], tuple(args[1:]))
        if text[:1] in ("2", "3"):  # the same for one that asks, and for an answer, in a third of the time
            id, bracket, _ = text[1:_SHORT_ID].partition("[")
            if bracket and id.isascii() and id.isdecimal():
                args = decode_json(text[1 + len(id) :], max_depth=self._max_depth)
                if text[0] == "3":
                    return Ack(int(id), tuple(args))
                if type(args[0] if args else None) is str and args[0] not in RESERVED_EVENTS:
                    return Event(args[0], tuple(args[1:]), "/", int(id))
        header, rest = self._read_header(text)
        data = decode_json(text[rest:], max_depth=self._max_depth) if rest < len(text) else _NOTHING
        if header.kind not in _WITH_ID:
            return _plain_packet(header, data)
        args = _checked_args(header, data)
        if header.kind in _BINARY_KINDS:
            places = _places(args, header.attachments)
            if places:
                self._held, self._bytes_left = _Held(header, args, places), self._max_bytes
                return None
        return _args_packet(header, args)

    def _read_header(self, text: str) -> tuple[_Header, int]:
        match = _HEADER.match(text)
        if match is None:
            raise RemoteProtocolError(f"no Socket.IO packet begins with {text[:1]!r}")
        digit, count, name, id = match.groups()
        kind = Kind(int(digit))
        if (count is not None) != (kind in _BINARY_KINDS):
            raise RemoteProtocolError(f"{kind.name} {'without' if count is None else 'with'} a number of attachments")
        if count is not None and (len(count) > _MAX_COUNT_DIGITS or int(count) > self._max_attachments):
            raise RemoteProtocolError(f"more than {self._max_attachments} attachments announced")
        namespace, query = _read_namespace(name, kind)
        return _Header(kind, int(count or 0), namespace, query, _read_id(id, kind)), match.end()

    def _read_attachment(self, held: _Held, data: bytes) -> SocketPacket | None:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise RemoteProtocolError(f"attachments of more than {self._max_bytes} bytes", CloseReason.TOO_BIG)
        container, key = held.places.pop()
        container[key] = bytes(data)
        if held.places:
            self._held = held
            return None
        return _args_packet(held.header, held.args)


def _read_namespace(name: str | None, kind: Kind) -> tuple[str, str]:
    """The namespace and the query. Only a CONNECT may have a query; elsewhere the `?` is a fault of the name."""
    if name is None:
        return "/", ""
    namespace, _, query = name.partition("?") if kind is Kind.CONNECT else (name, "", "")
    if is_long_namespace(namespace):
        raise RemoteProtocolError(f"a namespace longer than {MAX_NAMESPACE} bytes", CloseReason.POLICY)
    fault = namespace_fault(namespace) or query_fault(query)
    if fault is not None:
        raise RemoteProtocolError(fault)
    return namespace, query


def _read_id(digits: str, kind: Kind) -> int | None:
    if not digits:
        if kind in (Kind.ACK, Kind.BINARY_ACK):
            raise RemoteProtocolError(f"{kind.name} without an id")
        return None
    if kind not in _WITH_ID:
        raise RemoteProtocolError(f"{kind.name} with an ack id")
    if len(digits) > _MAX_ID_DIGITS or int(digits) > MAX_ACK_ID:
        raise RemoteProtocolError("an ack id greater than 2**53-1")
    return int(digits)


def _plain_packet(header: _Header, data: Any) -> SocketPacket:
    """The packets without arguments and what their data may be (socket.io-parser, isPayloadValid)."""
    if header.kind is Kind.CONNECT and (data is _NOTHING or isinstance(data, dict)):
        return Connect(header.namespace, None if data is _NOTHING else data, header.query)
    if header.kind is Kind.DISCONNECT and data is _NOTHING:
        return Disconnect(header.namespace)
    if header.kind is Kind.CONNECT_ERROR and isinstance(data, dict | str):
        return ConnectError(header.namespace, data)
    raise RemoteProtocolError(f"{header.kind.name} with data that it cannot have")


def _checked_args(header: _Header, data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise RemoteProtocolError(f"the data of {header.kind.name} is an array")
    if header.kind in _EVENTS:
        fault = event_name_fault(data[0]) if data else "an event without a name"
        if fault is not None:
            raise RemoteProtocolError(fault)
    return data


def _args_packet(header: _Header, args: list[Any]) -> SocketPacket:
    if header.kind in _EVENTS:
        return Event(args[0], tuple(args[1:]), header.namespace, header.id)
    assert header.id is not None, "_read_id refuses an ACK without an id"
    return Ack(header.id, tuple(args), header.namespace)


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, dict) and value.get("_placeholder") is True


def _places(args: list[Any], attachments: int) -> list[tuple[Any, Any]]:
    """Where the attachments belong, as (list or dict, key), the last attachment first.

    Each attachment must have exactly one place. No recursion, so no depth is too deep.
    """
    found: dict[Any, tuple[Any, Any]] = {}
    count = 0
    pending: list[Any] = [args]
    while pending:
        container = pending.pop()
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            if _is_placeholder(value):
                count += 1
                number = value.get("num")
                if type(number) is int:
                    found[number] = (container, key)
            elif isinstance(value, dict | list):
                pending.append(value)
    if count != attachments or found.keys() != set(range(attachments)):
        raise RemoteProtocolError(f"{attachments} attachments, but not exactly one placeholder for each")
    return [found[number] for number in reversed(range(attachments))]
