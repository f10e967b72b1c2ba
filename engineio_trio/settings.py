"""Settings: one frozen value for every limit and time of a server, checked when it is made."""

import dataclasses
import ipaddress
import math
from collections.abc import Sequence
from typing import Any

_KINDS: dict[Any, tuple[type, ...]] = {float: (float, int), int: (int,), bool: (bool,)}  # bool is no number here


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Limits and times of a server; all times are in seconds, all sizes in bytes.

    `cors_origins` is `"*"`, or a list of origins such as `"https://app.example"`; the default allows pages of the same
    host and programs that send no Origin. `trusted_proxies` lists the addresses or networks whose `X-Forwarded-For` is
    believed. Raises ValueError naming the field and the range when a value makes no sense, TypeError when it is none.
    """

    ping_interval: float = 25.0  # as engine.io
    ping_timeout: float = 20.0  # as engine.io
    max_payload: int = 1_000_000  # as engine.io; a WebSocket message or a polling body
    connect_timeout: float = 45.0  # as socket.io: a connection that joins no namespace is closed
    upgrade_timeout: float = 10.0  # as engine.io: an unfinished probe loses its WebSocket, never the session
    cors_origins: str | Sequence[str] = ()
    cors_credentials: bool = False
    allow_eio3: bool = False  # as engine.io: clients of Socket.IO 2
    trusted_proxies: Sequence[str] = ()
    max_connections: int = 100_000
    max_header: int = 8_192  # a request's head
    request_timeout: float = 10.0  # for a whole request head, not restarted by each byte
    body_timeout: float = 20.0
    keep_alive: float = 30.0
    max_packets: int = 10_000  # in one polling body; by bytes first, this only stops a flood of empty packets
    max_fragments: int = 128  # of one WebSocket message
    max_attachments: int = 10  # as socket.io-parser
    max_depth: int = 64  # of nested JSON
    max_namespaces: int = 8  # CONNECT attempts pending or joined, per connection
    max_pending_acks: int = 1_000  # calls waiting for an answer, per socket
    outbox_bytes: int = 1_048_576  # waiting to be written to one peer; over it the peer is a slow consumer
    write_timeout: float = 10.0  # for one write to a peer that does not read
    close_timeout: float = 2.0  # for a goodbye
    handler_queue: int = 64  # events waiting for `async def` handlers; when full, the reader stops reading

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kinds = getattr(self, field.name), _KINDS.get(field.type)
            if field.type is int and type(value) is float and value.is_integer():  # 1e6 is a number of bytes, too
                object.__setattr__(self, field.name, value := int(value))
            if kinds is not None and type(value) not in kinds:
                raise TypeError(f"Settings.{field.name} must be of type {kinds[0].__name__}, not {value!r}")
            if kinds is not None and bool not in kinds and not 0 < value < math.inf:
                raise ValueError(f"Settings.{field.name} must be more than 0 and finite, not {value!r}")
        if self.cors_origins == "*" and self.cors_credentials:
            raise ValueError('Settings.cors_origins "*" cannot go with cors_credentials: name the origins')
        if isinstance(self.cors_origins, str) and self.cors_origins != "*":
            raise ValueError('Settings.cors_origins must be "*" or a list of origins')
        if isinstance(self.trusted_proxies, str):
            raise ValueError("Settings.trusted_proxies must be a list of addresses or networks, not one text")
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError as refusal:
                raise ValueError(f"Settings.trusted_proxies must be addresses or networks: {refusal}") from None
