"""Settings: one frozen value for every limit and time of a server, checked when it is made."""

import dataclasses
import ipaddress
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Limits and times of a server; all times are in seconds, all sizes in bytes.

    `cors_origins` is `"*"`, or a list of origins such as `"https://app.example"`; the default allows pages of the same
    host and programs that send no Origin. `trusted_proxies` lists the addresses or networks whose `X-Forwarded-For` is
    believed. Raises ValueError naming the field and the range when a value makes no sense.
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
            value = getattr(self, field.name)
            if field.type in (float, int, "float", "int") and not value > 0:
                raise ValueError(f"Settings.{field.name} must be more than 0, not {value!r}")
        if self.cors_origins == "*" and self.cors_credentials:
            raise ValueError('Settings.cors_origins "*" cannot go with cors_credentials: name the origins')
        if isinstance(self.cors_origins, str) and self.cors_origins != "*":
            raise ValueError('Settings.cors_origins must be "*" or a list of origins')
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError as refusal:
                raise ValueError(f"Settings.trusted_proxies must be addresses or networks: {refusal}") from None
