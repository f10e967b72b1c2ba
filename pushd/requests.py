"""What services ask for, understood: the fields of the push and reconcile streams, and of their HTTP requests.

Both say the same with different spelling: an entry of a stream has only text (`data` is JSON text, `ttl` a number in
digits), an HTTP request has JSON values. What makes no sense is a BadRequest that names the field.
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping
from typing import Any, Final

from engineio_trio import LocalProtocolError, check_event
from pushd import jsonbytes
from pushd.errors import BadRequest
from pushd.model import DEVICE_ID, TOPIC, Push

ID_MAX: Final = 256  # characters
EVENT_MAX: Final = 128
EVENTS_KNOWN: Final = 1_000  # names of events that are remembered as good ones
RECONCILE_MAX: Final = 100_000  # devices in one request
TTL_MAX: Final = 366 * 86_400.0
KICKED: Final = "kicked"  # the daemon's own event
PUSH_FIELDS: Final = dict.fromkeys(("to", "event", "data", "id", "ttl", "qos"))
RECONCILE_FIELDS: Final = dict.fromkeys(("id", "devices"))
_QOS: Final = {"0": 0, "1": 1}


class Form(enum.Enum):
    """How a request is spelled: `VALUES` of a JSON object, or the `TEXT` fields of a stream's entry."""

    VALUES = "values"
    TEXT = "text"


_TEXT: Final = Form.TEXT  # a member of an enum takes six times as long to look up as a name (Python 3.11)


@dataclasses.dataclass(frozen=True, slots=True)
class PushDefaults:
    """What a push is when it does not say, and how big its data may be (bytes of JSON text)."""

    event: str = "push"
    ttl: float = 604_800.0
    data_max: int = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Reconcile:
    """The devices that a service thinks online, and the id its answer shall carry."""

    id: str
    devices: tuple[str, ...]


def parse_push(fields: Mapping[str, Any], defaults: PushDefaults, default_id: str, form: Form = Form.VALUES) -> Push:
    """The push that a service asks for: fields `to` and `data`, and maybe `event`, `id`, `ttl`, `qos`.

    `default_id` is its id if it has none. Raises BadRequest naming the field.
    """
    _known(fields, PUSH_FIELDS)
    return Push(
        parse_target(_needed(fields, "to")),
        _data(_needed(fields, "data"), defaults.data_max, form),
        _name(fields.get("id", default_id), "id", ID_MAX),
        _event(fields.get("event", defaults.event)),
        _ttl(fields["ttl"], form) if "ttl" in fields else defaults.ttl,
        _qos(fields["qos"], form) if "qos" in fields else 1,
    )


def parse_target(to: Any) -> str:
    """`to` itself, if it is `device:ID`, `topic:NAME` or `all`. Raises BadRequest."""
    if not isinstance(to, str):
        raise BadRequest(f"to: must be device:ID, topic:NAME or all, not {_shown(to)}")
    kind, _, name = to.partition(":")
    if to == "all" or (kind == "device" and DEVICE_ID.fullmatch(name)) or (kind == "topic" and TOPIC.fullmatch(name)):
        return to
    rules = {"device": f"device ids match {DEVICE_ID.pattern}", "topic": f"topics match {TOPIC.pattern}"}
    rule = f" ({rules[kind]})" if kind in rules else ""
    raise BadRequest(f"to: {_shown(to)} is not device:ID, topic:NAME or all{rule}")


def parse_reconcile(fields: Mapping[str, Any], default_id: str, form: Form = Form.VALUES) -> Reconcile:
    """The reconcile request: field `devices` (a JSON array of ids), and maybe `id`. Raises BadRequest."""
    _known(fields, RECONCILE_FIELDS)
    devices = _needed(fields, "devices")
    if form is Form.TEXT:
        devices = _json("devices", devices)
    if not isinstance(devices, list):
        raise BadRequest(f"devices: must be an array of device ids, not {_shown(devices)}")
    if len(devices) > RECONCILE_MAX:
        raise BadRequest(f"devices: {len(devices)} of them; at most {RECONCILE_MAX} in one request")
    for index, device in enumerate(devices):
        if not isinstance(device, str) or not DEVICE_ID.fullmatch(device):
            raise BadRequest(f"devices[{index}]: {_shown(device)} is no device id ({DEVICE_ID.pattern})")
    return Reconcile(_name(fields.get("id", default_id), "id", ID_MAX), tuple(devices))


def _known(fields: Mapping[str, Any], names: Mapping[str, None]) -> None:
    if not fields.keys() <= names.keys():
        field = next(field for field in fields if field not in names)
        raise BadRequest(f"{_shown(field)}: no such field; there are {', '.join(names)}")


def _needed(fields: Mapping[str, Any], field: str) -> Any:
    if field not in fields:
        raise BadRequest(f"{field}: missing")
    return fields[field]


def _data(value: Any, limit: int, form: Form) -> str:
    try:
        text = _text_of(value) if form is _TEXT else jsonbytes.encode(value)
        value = jsonbytes.loads(text)
        if jsonbytes.may_have_bytes(text):  # the check takes half the time of all that is done here
            check_event("push", value)  # what is accepted can be sent: a packet has few attachments
    except (ValueError, LocalProtocolError) as error:
        raise BadRequest(f"data: {error}") from None
    if 4 * len(text) > limit and len(text.encode()) > limit:  # a character has at most four bytes
        raise BadRequest(f"data: {len(text.encode())} bytes of JSON; at most {limit}")
    return text


def _text_of(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be JSON text, not {_shown(value)}")
    return value


def _json(field: str, value: Any) -> Any:
    try:
        return jsonbytes.parse(_text_of(value))
    except ValueError as error:
        raise BadRequest(f"{field}: {error}") from None


def _event(value: Any) -> str:
    name = _name(value, "event", EVENT_MAX)
    _check_event_name(name)
    return name


@functools.lru_cache(maxsize=EVENTS_KNOWN)  # a third of the time that a push takes to be understood
def _check_event_name(name: str) -> None:
    try:
        check_event(name)
    except LocalProtocolError as error:
        raise BadRequest(f"event: {error}") from None
    if name == KICKED:
        raise BadRequest(f"event: {name!r} is the daemon's own")


def _name(value: Any, field: str, limit: int) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= limit:
        raise BadRequest(f"{field}: must be a text of 1 to {limit} characters, not {_shown(value)}")
    if not value.isprintable():
        raise BadRequest(f"{field}: {_shown(value)} has characters that cannot be printed")
    return value


def _ttl(value: Any, form: Form) -> float:
    ttl = _number("ttl", value, form)
    if not 0 < ttl <= TTL_MAX:
        raise BadRequest(f"ttl: must be more than 0 and at most {TTL_MAX:.0f} seconds, not {_shown(value)}")
    return ttl


def _qos(value: Any, form: Form) -> int:
    if form is _TEXT and value in _QOS:  # a tenth of the time that an unknown number takes
        return _QOS[value]
    qos = _number("qos", value, form)
    if qos not in (0, 1):
        raise BadRequest(f"qos: must be 0 or 1, not {_shown(value)}")
    return int(qos)


def _number(field: str, value: Any, form: Form) -> float:
    if form is Form.TEXT and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadRequest(f"{field}: must be a number, not {_shown(value)}") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRequest(f"{field}: must be a number, not {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    """A value in an error text: quoted, and short whatever was sent."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
