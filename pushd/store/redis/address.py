"""A store's URL: which servers, by which names and rights, over what kind of connection.

    redis://[user[:password]@]host[:port][/db]            one server
    redis+unix://[user[:password]@]/path[?db=N]           one server, by its Unix socket
    redis+sentinel://[user[:password]@]host[:port],host[:port]/NAME[/db]
                     [?sentinel_user=U&sentinel_password=P]   the primary that these sentinels call NAME
    redis+cluster://[user[:password]@]host[:port],host[:port]

`rediss` in place of `redis` speaks TLS, with `?ca=FILE` for an authority of your own and `?cert=FILE&key=FILE` to show
a certificate. What stands between the signs of a URL is percent-encoded.
"""

import dataclasses
import enum
import re
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Final

from pushd.errors import ConfigError

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_SYNTAX: Final = "write redis://HOST:PORT/DB, redis+unix:///PATH, redis+sentinel://HOSTS/NAME or redis+cluster://HOSTS"
_TLS_FILES: Final = ("ca", "cert", "key")
_SENTINEL: Final = ("sentinel_user", "sentinel_password")


class Kind(enum.Enum):
    """How the servers belong together."""

    ALONE = ""
    UNIX = "unix"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_OPTIONS: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.ALONE: (),
    Kind.UNIX: ("db",),
    Kind.SENTINEL: _SENTINEL,
    Kind.CLUSTER: (),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens: a host and port, or the path of a Unix socket and port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """How to come in: user and password (None: without), database, and TLS (None: without)."""

    user: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """What a store's URL says. For sentinels, `endpoints` are theirs, and `name` is the primary's."""

    kind: Kind
    endpoints: tuple[Endpoint, ...]
    access: Access
    name: str = ""
    sentinel_access: Access = Access()


def parse_address(url: str) -> Address:
    """What a store's URL says; its certificate files are read. Raises ConfigError with the path `store.url`."""
    try:
        return _parse(url)
    except ValueError as error:
        raise ConfigError([f"store.url: {error}"]) from None


def _parse(url: str) -> Address:
    parts = urllib.parse.urlsplit(url)
    match = re.fullmatch(r"(rediss?)(?:\+(unix|sentinel|cluster))?", parts.scheme)
    if match is None or parts.fragment:
        raise ValueError(f"{without_password(url)!r} is no address of Redis; {_SYNTAX}")
    kind = Kind(match[2] or "")
    secure = match[1] == "rediss"
    if secure and kind is Kind.UNIX:
        raise ValueError("a Unix socket has no TLS; write redis+unix://")
    options = _options(parts.query, kind, secure)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, password = _credentials(credentials)
    tls = _context(options) if secure else None
    if kind is Kind.UNIX:
        path = urllib.parse.unquote(parts.path)
        if hosts or path in ("", "/"):
            raise ValueError(
                "redis+unix:// takes the absolute path of a socket, as in redis+unix:///run/redis/redis.sock"
            )
        return Address(kind, (Endpoint(path, 0),), Access(user, password, _db(options.get("db", "")), tls))
    endpoints = _endpoints(hosts, SENTINEL_PORT if kind is Kind.SENTINEL else PORT)
    name, db = _name_and_db(kind, parts.path.strip("/"))
    if kind is Kind.ALONE and len(endpoints) > 1:
        raise ValueError("redis:// takes one host; for more write redis+sentinel:// or redis+cluster://")
    sentinel = Access(options.get("sentinel_user"), options.get("sentinel_password"), 0, tls)
    return Address(kind, endpoints, Access(user, password, db, tls), name, sentinel)


def _options(query: str, kind: Kind, secure: bool) -> dict[str, str]:
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    known = _OPTIONS[kind] + (_TLS_FILES if secure else ())
    for name, _ in pairs:
        if name in _TLS_FILES and not secure:
            raise ValueError(f"`{name}` is for TLS; write rediss in place of redis")
        if name not in known:
            raise ValueError(f"there is no option {name!r} here; there is {', '.join(known) or 'none'}")
    return dict(pairs)


def _credentials(text: str) -> tuple[str | None, str | None]:
    user, colon, password = text.partition(":")
    return urllib.parse.unquote(user) or None, urllib.parse.unquote(password) if colon else None


def _endpoints(hosts: str, port: int) -> tuple[Endpoint, ...]:
    if not hosts:
        raise ValueError(f"no host is named; {_SYNTAX}")
    return tuple(_endpoint(host, port) for host in hosts.split(","))


def _endpoint(text: str, port: int) -> Endpoint:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/@,\s]+))(?::(\d{1,5}))?", text)
    if match is None:
        raise ValueError(f"{text!r} is no HOST:PORT (an IPv6 address stands in brackets)")
    number = int(match[3] or port)
    if not 1 <= number <= 65_535:
        raise ValueError(f"{text!r}: a port is 1 to 65535")
    return Endpoint(match[1] or match[2], number)


def _name_and_db(kind: Kind, path: str) -> tuple[str, int]:
    if kind is Kind.ALONE:
        return "", _db(path)
    if kind is Kind.CLUSTER:
        if path not in ("", "0"):
            raise ValueError("a cluster has one database, 0")
        return "", 0
    name, _, db = path.partition("/")
    if not name:
        raise ValueError("name the primary that the sentinels watch, as in redis+sentinel://host1,host2/NAME")
    return urllib.parse.unquote(name), _db(db)


def _db(text: str) -> int:
    if not re.fullmatch(r"\d{0,5}", text):
        raise ValueError(f"the database is a number, not {text!r}")
    return int(text or 0)


def _context(options: Mapping[str, str]) -> ssl.SSLContext:
    if "key" in options and "cert" not in options:
        raise ValueError("`key` belongs to a `cert`")
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(f"{name}={options[name]}" for name in _TLS_FILES if name in options)
        raise ValueError(f"TLS cannot start with these files: {names}: {error.strerror or error}") from None
    return context


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    hidden = re.sub(r"(?<=//)([^/@]*?):[^/@]*@", r"\1:***@", url)
    return re.sub(r"(?<=sentinel_password=)[^&]*", "***", hidden)
