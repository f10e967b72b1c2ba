"""What a request or an answer says about who a device is: read, checked for form, not yet believed."""

from collections.abc import Mapping, Sequence
from typing import Any

from pushd.errors import AuthRejected
from pushd.model import DEVICE_ID, TOPIC, Confirm, Identity

Credentials = tuple[str | None, str | None]
"""A device id and a token; None for what was not given."""

TOPICS_MAX = 256  # of one device


def parse_identity(device: Any, topics: Any, expires: Any, confirm: Any) -> Identity:
    """An Identity from JSON values; None for what is absent. Raises ValueError saying what is wrong."""
    if topics is None:
        topics = []
    if not isinstance(topics, list):
        raise ValueError("topics must be an array of strings")
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, int | float)):
        raise ValueError("the expiry must be a number of Unix seconds")
    try:
        identity = Identity(
            device,
            tuple(topics),
            None if expires is None else float(expires),
            None if confirm is None else Confirm(confirm),
        )
    except OverflowError as error:
        raise ValueError("the expiry is out of range") from error
    checked_identity(identity)
    return identity


def checked_identity(identity: Identity) -> None:
    """Raises ValueError if this can be nobody's identity."""
    if not isinstance(identity, Identity):
        raise ValueError(f"an authenticator must return an Identity, not {type(identity).__name__}")
    if not isinstance(identity.device, str) or not DEVICE_ID.fullmatch(identity.device):
        raise ValueError("the device id must be 1 to 128 letters, digits, . _ ~ @ -")
    if len(identity.topics) > TOPICS_MAX:
        raise ValueError(f"a device has at most {TOPICS_MAX} topics")
    for topic in identity.topics:
        if not isinstance(topic, str) or not TOPIC.fullmatch(topic):
            raise ValueError("a topic must be 1 to 128 letters, digits, . _ ~ @ / -")
    if identity.expires is not None and not abs(identity.expires) < 1e15:  # also refuses nan
        raise ValueError("the expiry is out of range")


def credentials(query: Mapping[str, Sequence[str]], headers: Mapping[str, str]) -> Credentials:
    """What a request says: `deviceId` and `token` of its query, or the token as `Authorization: Bearer`.

    `headers` has lower-case names. Raises AuthRejected when something is said twice and not the same.
    """
    return merge_credentials(
        (_only(query, "deviceId"), _only(query, "token")), (None, _bearer(headers.get("authorization", "")))
    )


def credentials_from_auth(auth: object) -> Credentials:
    """What the CONNECT packet's auth object says: `{"deviceId"?, "token"?}`. Raises AuthRejected for another form."""
    if auth is None:
        return None, None
    if not isinstance(auth, Mapping):
        raise AuthRejected('auth must be an object such as {"deviceId": "...", "token": "..."}')
    for name in ("deviceId", "token"):
        if not isinstance(auth.get(name, ""), str):
            raise AuthRejected(f"auth.{name} must be a string")
    return auth.get("deviceId") or None, auth.get("token") or None


def merge_credentials(first: Credentials, second: Credentials) -> Credentials:
    """Both together. Raises AuthRejected if they contradict each other."""
    for name, one, other in zip(("deviceId", "token"), first, second, strict=True):
        if one is not None and other is not None and one != other:
            raise AuthRejected(f"{name} is given twice, and not the same")
    return first[0] or second[0], first[1] or second[1]


def _only(query: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = query.get(name, ())
    if len(values) > 1:
        raise AuthRejected(f"{name} is given {len(values)} times")
    return values[0] or None if values else None


def _bearer(header: str) -> str | None:
    """The token of an Authorization header; None for another scheme, which is somebody else's."""
    scheme, _, token = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = token.strip()
    if not token or "," in token or " " in token:  # two headers arrive joined by a comma
        raise AuthRejected("the Authorization header must be: Bearer <token>")
    return token
