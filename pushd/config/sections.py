"""The sections of pushd's configuration: every key with its type, default, range and meaning. Values only.

What one section can check by looking at itself is checked here; what needs two sections or a look at the disk is in
`pushd.config`, which also knows where a value came from.
"""

import ipaddress
import re
import ssl
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from pushd.model import Confirm

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
AuthKind = Literal["open", "static", "hmac", "http", "custom", "store"]
Algorithm = Literal["HS256", "RS256", "EdDSA"]


class Section(BaseModel):
    """One table of the file: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def split_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` as its two halves, an IPv6 host without its brackets. Raises ValueError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError('must be HOST:PORT, such as "127.0.0.1:8780" or "[::1]:8780"')
    return match[1] or match[2], int(match[3])


def is_loopback(host: str) -> bool:
    """Whether a listener on this host can only be reached from its own machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(text: str) -> str:
    split_address(text)
    return text


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise ValueError(f'"{value}" is neither an address nor a network such as "10.0.0.0/8"') from error
    return values


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/]+", value):
            raise ValueError(f'"{value}" is not an origin such as "https://app.example" (no path, no slash at the end)')
    if "*" in values and len(values) > 1:
        raise ValueError('"*" allows every origin, so it stands alone')
    return values


def _request_path(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", value):
        raise ValueError('must be a path such as "/socket.io/"')
    return value if value.endswith("/") else value + "/"


def _bearer(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[!-~]*", value):
        raise ValueError("must be visible ASCII without spaces, because it travels in a header")
    return value


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(what)
        return value

    return check


Address = Annotated[str, AfterValidator(_address)]
WebUrl = AfterValidator(_matching(r"(https?://[^\s/?#]+\S*)?", 'must be a URL such as "http://127.0.0.1:9000/check"'))
ObjectPath = AfterValidator(_matching(r"([A-Za-z_][\w.]*:[A-Za-z_]\w*)?", 'must be "package.module:Class"'))


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("must name at least one")
    return values


class Tls(Section):
    """TLS of the device listener; it is on when a certificate is named."""

    certificate: str = Field(default="", description="PEM file with the certificate and its chain; empty: no TLS")
    key: str = Field(default="", description="PEM file with the certificate's private key")
    client_ca: str = Field(
        default="", description="PEM file of authorities; when set, a client must show a certificate of theirs"
    )

    def context(self) -> ssl.SSLContext | None:
        """A server's TLS context, or None when TLS is off. Raises OSError or ssl.SSLError if a file cannot be used."""
        if not self.certificate:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key or None)
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Listener(Section):
    """Something that is listened on."""

    listen: Address

    @property
    def address(self) -> tuple[str, int]:
        """Host (an IPv6 one without brackets) and port; port 0 lets the system choose."""
        return split_address(self.listen)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.address[0])


class Devices(Listener):
    """The listener that devices connect to."""

    listen: Address = Field(
        default="127.0.0.1:8780", description="HOST:PORT that devices connect to; port 0 picks a free one"
    )
    path: Annotated[str, AfterValidator(_request_path)] = Field(
        default="/socket.io/", description="request path of Socket.IO"
    )
    cors_origins: Annotated[tuple[str, ...], AfterValidator(_origins)] = Field(
        default=(), description='origins of web pages that may connect; ["*"] for all; empty: pages of the same host'
    )
    cors_credentials: bool = Field(default=False, description="let pages of `cors_origins` send cookies along")
    trusted_proxies: Annotated[tuple[str, ...], AfterValidator(_networks)] = Field(
        default=(), description="addresses or networks whose X-Forwarded-For is believed"
    )
    tls: Tls = Tls()


class Admin(Listener):
    """The admin listener: the HTTP API, metrics, health and the page."""

    listen: Address = Field(
        default="127.0.0.1:8781", description="HOST:PORT of the admin interface; port 0 picks a free one"
    )
    token: Annotated[SecretStr, BeforeValidator(_bearer)] = Field(
        default=SecretStr(""),
        description="bearer token that requests must show; required when `listen` is not loopback",
    )


class StoreSection(Section):
    """Where pushd keeps its state."""

    url: str = Field(
        default="sqlite:///pushd.db",
        description="sqlite:///FILE from the working directory, sqlite:////FILE from the root; redis://HOST:PORT/DB, "
        "redis+sentinel://HOSTS/NAME, redis+cluster://HOSTS (rediss for TLS; see docs/redis.md)",
    )
    prefix: Annotated[str, AfterValidator(_matching(r"[A-Za-z0-9._-]{1,64}", "must be letters, digits, . _ -"))] = (
        Field(default="pushd", description="first part of every Redis key (Redis only)")
    )
    partitions: Annotated[int, Field(ge=1, le=16384)] = Field(
        default=1, description="how many buckets devices are spread over; cannot change later (Redis only)"
    )
    wait_replicas: Annotated[int, Field(ge=0)] = Field(
        default=0, description="how many replicas must have a write before it counts (Redis only)"
    )

    @property
    def scheme(self) -> str:
        """The kind of store: what stands before `://`."""
        return self.url.partition("://")[0]

    @property
    def shared(self) -> bool:
        """Is it one for any number of nodes?"""
        return re.match("rediss?[:+]", self.url) is not None

    @property
    def file(self) -> Path:
        """The database file of a `sqlite:///` URL. Raises ValueError for another URL."""
        match = re.fullmatch(r"sqlite:///([^?#]+)", self.url)
        if match is None:
            raise ValueError("must be sqlite:///FILE, such as sqlite:///pushd.db, or redis://HOST")
        return Path(urllib.parse.unquote(match[1]))


class StaticAuth(Section):
    """Tokens in a file."""

    file: str = Field(
        default="tokens.toml", description='TOML file of `"device" = "token"` lines; read again when it changes'
    )


class HmacAuth(Section):
    """JSON Web Tokens."""

    secret: SecretStr = Field(default=SecretStr(""), description="the key of HS256; at least 32 bytes")
    public_key: str = Field(default="", description="PEM file with the public key of RS256 or EdDSA")
    algorithms: Annotated[tuple[Algorithm, ...], AfterValidator(_some)] = Field(
        default=("HS256",), description="the algorithms that are accepted"
    )
    device_claim: Annotated[str, Field(min_length=1)] = Field(default="sub", description="claim that names the device")
    topics_claim: Annotated[str, Field(min_length=1)] = Field(
        default="topics", description="claim with the device's topics, an array of strings; may be absent"
    )
    confirm_claim: Annotated[str, Field(min_length=1)] = Field(
        default="confirm", description='claim that overrides delivery.confirm ("client" or "write"); may be absent'
    )
    audience: str = Field(default="", description="required value of the claim `aud`; empty: not looked at")
    issuer: str = Field(default="", description="required value of the claim `iss`; empty: not looked at")
    leeway: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=10.0, description="seconds that clocks may differ for `exp`, `nbf`"
    )


class HttpAuth(Section):
    """Your service decides."""

    url: Annotated[str, WebUrl] = Field(
        default="", description='where to POST {"device", "token"}: 200 yes, 401 or 403 no'
    )
    timeout: Seconds = Field(default=5.0, description="seconds for a whole answer, waiting for a free slot included")
    concurrency: Count = Field(default=64, description="questions on their way at once")


class CustomAuth(Section):
    """A class of yours."""

    factory: Annotated[str, ObjectPath] = Field(
        default="", description='"package.module:Class" with `async authenticate(device, token)`'
    )
    options: dict[str, Any] = Field(default={}, description="keyword arguments for it")


class Auth(Section):
    """How a device proves who it is."""

    kind: AuthKind = Field(
        default="open",
        description="open (no proof), static (file), hmac (JWT), http (your service), store (devices that "
        "services have permitted), custom (your class)",
    )
    insecure: bool = Field(default=False, description="allow kind open on a listener that other machines can reach")
    static: StaticAuth = StaticAuth()
    hmac: HmacAuth = HmacAuth()
    http: HttpAuth = HttpAuth()
    custom: CustomAuth = CustomAuth()


class Takeover(Section):
    """A newer login of a device takes it over; too many are refused."""

    max: Count = Field(default=3, description="takeovers of one device allowed within `window`")
    window: Seconds = Field(default=10.0, description="seconds over which takeovers are counted")


SENDINGS = 4  # of one message on one connection, each of which asks for an acknowledgement; then it is closed


class Delivery(Section):
    """Messages to devices."""

    window: Count = Field(default=16, description="messages on their way to one device without an acknowledgement")
    inbox_max: Count = Field(default=1000, description="messages kept for one device; a push beyond it is refused")
    ttl: Seconds = Field(default=604_800.0, description="seconds a push is kept when it does not say")
    confirm: Confirm = Field(
        default=Confirm.CLIENT,
        description='what removes a message: "client" (its acknowledgement) or "write" (the completed write)',
    )
    resend: Seconds = Field(
        default=30.0, description="seconds without an acknowledgement after which a message is sent again"
    )
    dedupe: Seconds = Field(default=86_400.0, description="seconds for which the id of a push is remembered")


class Heartbeat(Section):
    """Who is alive, as the store knows it."""

    interval: Seconds = Field(default=10.0, description="seconds between writes of the devices' alive times")
    stale_after: Seconds = Field(
        default=90.0, description="seconds without a sign of life after which a device is offline"
    )


class Node(Section):
    """This process among others."""

    name: Annotated[str, AfterValidator(_matching(r"[A-Za-z0-9._~@-]{0,64}", "must be letters, digits, . _ ~ @ -"))] = (
        Field(
            default="",
            description="name in status entries and metrics, of several workers followed by -1, -2, ...; empty: the "
            "host's name",
        )
    )
    workers: Count = Field(
        default=1, description="processes that serve devices on the same port, each a node (more than 1: Redis only)"
    )
    lease: Seconds = Field(
        default=15.0, description="seconds after which a node that is not heard of is dead (Redis only)"
    )
    refresh: Seconds = Field(default=5.0, description="seconds between renewals of the lease (Redis only)")
    drain: Seconds = Field(default=10.0, description="seconds that SIGTERM gives to open connections")


class Limits(Section):
    """Bounds on what a peer can make this process hold or wait for."""

    connections: Count = Field(
        default=100_000, description="connections at once (of each worker); more are answered 503"
    )
    payload: Count = Field(default=100_000, description="bytes of one message or polling body from a device")
    header: Count = Field(default=8_192, description="bytes of a request's head")
    packets: Count = Field(default=10_000, description="packets in one polling body")
    fragments: Count = Field(default=128, description="fragments of one WebSocket message")
    attachments: Count = Field(default=10, description="binary attachments of one event")
    depth: Count = Field(default=64, description="nesting of JSON")
    namespaces: Count = Field(default=8, description="namespaces that one connection may ask for")
    pending_acks: Count = Field(default=1_000, description="acknowledgements that one device may owe")
    handler_queue: Count = Field(
        default=64, description="events of one device waiting to be stored; then its reading stops"
    )
    uplink_rate: Count = Field(
        default=1_000, description="events a second that one device may send for long; then its reading waits"
    )
    outbox_bytes: Count = Field(
        default=1_048_576, description="bytes waiting to be written to one device; over it, it is closed"
    )
    request_timeout: Seconds = Field(default=10.0, description="seconds for a whole request head")
    body_timeout: Seconds = Field(default=20.0, description="seconds for a request's body")
    keep_alive: Seconds = Field(default=30.0, description="seconds that an idle HTTP connection stays open")
    write_timeout: Seconds = Field(default=10.0, description="seconds for one write to a device that does not read")
    close_timeout: Seconds = Field(default=2.0, description="seconds for a goodbye")


class Protocol(Section):
    """Engine.IO and Socket.IO."""

    ping_interval: Seconds = Field(default=25.0, description="seconds between pings to a device")
    ping_timeout: Seconds = Field(default=20.0, description="seconds that a device has to answer a ping")
    connect_timeout: Seconds = Field(default=10.0, description="seconds that a connection has to join the namespace")
    upgrade_timeout: Seconds = Field(default=10.0, description="seconds for the change from polling to WebSocket")
    allow_eio3: bool = Field(default=False, description="also serve Engine.IO 3 (clients of Socket.IO 2)")


class Streams(Section):
    """The queues between pushd and your services."""

    max: Count = Field(default=1_000_000, description="entries kept in each stream; the oldest go first")
