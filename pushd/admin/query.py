"""What a request says: its query parameters and its JSON body, checked. What makes no sense is a BadRequest."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from pushd import jsonbytes
from pushd.errors import BadRequest
from pushd.model import DEVICE_ID


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in the body. Raises BadRequest."""
    try:
        value = jsonbytes.parse((await request.body()).decode())
    except ValueError as error:
        raise BadRequest(f"body: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest(f"body: must be a JSON object, not a {type(value).__name__}")
    return value


def query_of(request: Request, *names: str) -> Mapping[str, str]:
    """The query parameters, if these are all that there are. Raises BadRequest."""
    for name in request.query_params:
        if name not in names:
            known = f"there are {', '.join(names)}" if names else "there are none here"
            raise BadRequest(f"{name[:80]!r}: no such query parameter; {known}")
    return request.query_params


def device_of(request: Request) -> str:
    """The device id in the path. Raises BadRequest."""
    device: str = request.path_params["device"]
    if not DEVICE_ID.fullmatch(device):
        raise BadRequest(f"device: {device[:80]!r} is no device id ({DEVICE_ID.pattern})")
    return device


def limit_of(query: Mapping[str, str], default: int, most: int) -> int:
    """The parameter `limit`, from 1 to `most`. Raises BadRequest."""
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise BadRequest(f"limit: must be a whole number from 1 to {most}, not {text[:80]!r}")
    return int(text)


def flag_of(query: Mapping[str, str], name: str) -> bool:
    """A parameter that is `true` or `false` (the default). Raises BadRequest."""
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise BadRequest(f"{name}: must be true or false, not {text[:80]!r}")
    return text == "true"


def wait_of(value: Any, most: float) -> float:
    """How long a request waits: a number from 0 to `most` seconds. Raises BadRequest."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise BadRequest(f"wait: must be a number of seconds from 0 to {most:g}, not {str(value)[:80]!r}")
    return float(value)


def query_wait_of(query: Mapping[str, str], most: float) -> float:
    """The parameter `wait`: 0 (the default) to `most` seconds. Raises BadRequest."""
    text = query.get("wait", "0")
    try:
        return wait_of(float(text), most)
    except ValueError:
        return wait_of(text, most)
