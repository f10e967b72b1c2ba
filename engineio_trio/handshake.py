"""What is known of a peer from the request that opened its session."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Handshake:
    """The opening request, as `authorize` handlers and `socket.handshake` see it.

    `query` maps each name to its values in order; `headers` has lower-case names; `remote` is the peer's address (from
    `X-Forwarded-For` only when the request came through a trusted proxy). `state` is yours: what an `authorize`
    handler stores there, later handlers of the same connection find.
    """

    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    remote: str
    state: dict[str, Any] = dataclasses.field(default_factory=dict)
