"""Where a server is and what every request to it says."""

import dataclasses
import re
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from engineio_trio.handshake import Handshake
from engineio_trio.settings import Settings

Dial = Callable[[], Awaitable[trio.abc.Stream]]
Query = Mapping[str, str | Sequence[str]]

SECURE = {"http": False, "ws": False, "https": True, "wss": True}
PORTS = {False: 80, True: 443}
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
PER_REQUEST = frozenset({"EIO", "transport", "sid"})  # the protocol's own query fields


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """The way to one server: `dial` opens a new stream to it, the rest is what requests say.

    `host` is the value of the Host header; `headers` go with every request, on both transports.
    """

    dial: Dial
    host: str
    path: str
    query: Query
    headers: Mapping[str, str]
    settings: Settings

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"a path begins with '/', not {self.path!r}")
        for name, value in self.headers.items():
            if not (HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value)):
                raise ValueError(f"the header {name!r} cannot be sent: names and values are printable ASCII")
        taken = PER_REQUEST & self.query.keys()
        if taken:
            raise ValueError(f"query fields {sorted(taken)} belong to the protocol")

    def target(self, transport: str, sid: str | None = None) -> str:
        """The request target of a handshake, or of a request of the session `sid`."""
        fields = {"EIO": "4", "transport": transport, **({} if sid is None else {"sid": sid}), **self.query}
        path = self.path if self.path.endswith("/") else self.path + "/"
        return f"{path}?{urllib.parse.urlencode(fields, doseq=True)}"

    def handshake(self) -> Handshake:
        """What the server knows from the opening request, as this side said it."""
        query = {name: [value] if isinstance(value, str) else list(value) for name, value in self.query.items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Handshake(self.path, query, headers, self.host)


def to_url(
    url: str, *, path: str, query: Query, headers: Mapping[str, str], settings: Settings, tls: ssl.SSLContext | None
) -> Endpoint:
    """The endpoint of `http://host[:port]` (or https, ws, wss), over TCP.

    Raises ValueError for any other form: a path belongs into `path`, a query into `query`, a namespace has its own.
    """
    parts = urllib.parse.urlsplit(url)
    secure = SECURE.get(parts.scheme)
    if secure is None or not parts.hostname:
        raise ValueError(f"{url!r} is not of the form http://host:port, https://host:port (or ws, wss)")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            f"{url!r} has more than a host and a port: give the rest by path=, query=, headers=, namespace="
        )
    if tls is not None and not secure:
        raise ValueError(f"an ssl_context, but {url!r} is not https or wss")
    host, port = parts.hostname, parts.port or PORTS[secure]
    context = (tls or ssl.create_default_context()) if secure else None

    async def dial() -> trio.abc.Stream:
        stream = await trio.open_tcp_stream(host, port)
        if context is None:
            return stream
        secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(secured)
            raise ConnectionError(f"no TLS with {parts.netloc}: {error.__cause__ or error}") from error
        except BaseException:
            await trio.aclose_forcefully(secured)
            raise
        return secured

    return Endpoint(dial, parts.netloc, path, query, headers, settings)
