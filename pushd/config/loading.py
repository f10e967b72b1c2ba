"""pushd's configuration as one frozen value, and how it is read: defaults, then the file, the environment, the flags.

`load` finds every mistake at once and says for each where it came from. What the keys are is in `sections`, where
values come from in `layers`; this module joins them, checks what concerns several sections or the disk, and makes the
settings of the lower layers.
"""

import dataclasses
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from engineio_trio import Settings
from pushd.config import sections
from pushd.config.keys import read_tokens, verification_keys
from pushd.config.layers import Layers, collect, did_you_mean, options, related
from pushd.errors import ConfigError
from pushd.store.base import Deployment, Limits
from pushd.store.redis.address import parse_address


class Config(BaseModel):
    """Everything that can be set. `Config()` has the defaults; `load` reads and checks a real one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    devices: sections.Devices = sections.Devices()
    admin: sections.Admin = sections.Admin()
    store: sections.StoreSection = sections.StoreSection()
    auth: sections.Auth = sections.Auth()
    takeover: sections.Takeover = sections.Takeover()
    delivery: sections.Delivery = sections.Delivery()
    heartbeat: sections.Heartbeat = sections.Heartbeat()
    node: sections.Node = sections.Node()
    limits: sections.Limits = sections.Limits()
    protocol: sections.Protocol = sections.Protocol()
    streams: sections.Streams = sections.Streams()

    def settings(self) -> Settings:
        """The library's settings for the device listener."""
        limits, protocol = self.limits, self.protocol
        return Settings(
            ping_interval=protocol.ping_interval,
            ping_timeout=protocol.ping_timeout,
            max_payload=limits.payload,
            connect_timeout=protocol.connect_timeout,
            upgrade_timeout=protocol.upgrade_timeout,
            cors_origins="*" if self.devices.cors_origins == ("*",) else self.devices.cors_origins,
            cors_credentials=self.devices.cors_credentials,
            allow_eio3=protocol.allow_eio3,
            trusted_proxies=self.devices.trusted_proxies,
            max_connections=limits.connections,
            max_header=limits.header,
            request_timeout=limits.request_timeout,
            body_timeout=limits.body_timeout,
            keep_alive=limits.keep_alive,
            max_packets=limits.packets,
            max_fragments=limits.fragments,
            max_attachments=limits.attachments,
            max_depth=limits.depth,
            max_namespaces=limits.namespaces,
            max_pending_acks=limits.pending_acks,
            outbox_bytes=limits.outbox_bytes,
            write_timeout=limits.write_timeout,
            close_timeout=limits.close_timeout,
            handler_queue=limits.handler_queue,
        )

    def store_limits(self) -> Limits:
        """What the store has to enforce."""
        return Limits(
            takeovers=self.takeover.max,
            takeover_window=self.takeover.window,
            inbox_max=self.delivery.inbox_max,
            window=self.delivery.window,
            dedupe=self.delivery.dedupe,
            stale_after=self.heartbeat.stale_after,
            stream_max=self.streams.max,
        )

    def deployment(self) -> Deployment:
        """How this node shares its store with others."""
        return Deployment(
            prefix=self.store.prefix,
            partitions=self.store.partitions,
            wait_replicas=self.store.wait_replicas,
            lease=self.node.lease,
            refresh=self.node.refresh,
        )


_DEFAULTS = Config()
_REDIS_ONLY = (
    ("store", "prefix"),
    ("store", "partitions"),
    ("store", "wait_replicas"),
    ("node", "lease"),
    ("node", "refresh"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where its values came from."""

    config: Config
    layers: Layers


@dataclasses.dataclass(frozen=True, slots=True)
class _Finding:
    """Something wrong with the values at some paths; the first of them is the one to name."""

    paths: tuple[str, ...]
    message: str


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration from a TOML file (or none), `PUSHD_*` variables and flags; the later ones win.

    `flags` has dotted paths: `{"devices.listen": "127.0.0.1:0"}`. Raises ConfigError with every mistake that was found,
    each as `path: what is wrong (where it came from)`. Looks at the files that it names; opens no port.
    """
    return read(path, environ, flags).config


def read(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Loaded:
    """As `load`, with the origins of the values."""
    layers = collect(Config, path, environ, flags)
    config, findings = _validate(layers.tree)
    wrong = [path for finding in findings for path in finding.paths]
    findings += [
        found for found in _checks(config) if not any(related(path, bad) for path in found.paths for bad in wrong)
    ]
    problems = layers.problems + [
        f"{found.paths[0]}: {found.message} ({_origins(layers, found)})" for found in findings
    ]
    if problems:
        raise ConfigError(problems)
    return Loaded(config, layers)


def _origins(layers: Layers, finding: _Finding) -> str:
    """Where the values of a finding came from; the default only if nothing else is to blame."""
    origins = list(dict.fromkeys(layers.origin(path) for path in finding.paths))
    return ", ".join([origin for origin in origins if origin != "default"] or origins)


def _validate(tree: dict[str, Any]) -> tuple[Config, list[_Finding]]:
    """The tree as a Config, with defaults in the place of whatever is wrong, and what is wrong."""
    findings: list[_Finding] = []
    while True:
        try:
            return Config.model_validate_json(json.dumps(tree, default=str), strict=True), findings
        except ValidationError as error:
            details = error.errors(include_url=False)
        findings += [_finding(detail) for detail in details]
        for detail in details:
            tree = _without(tree, detail["loc"])


def _without(tree: dict[str, Any], path: tuple[int | str, ...]) -> dict[str, Any]:
    """The tree without the value at a path (or without the list that it stands in)."""
    key, *rest = path
    if key not in tree:
        return tree  # a list with two mistakes has gone with the first
    if rest and isinstance(tree[str(key)], dict):
        return {**tree, str(key): _without(tree[str(key)], tuple(rest))}
    return {name: value for name, value in tree.items() if name != key}


def _finding(detail: ErrorDetails) -> _Finding:
    """pydantic's words in ours. A secret's value is never repeated."""
    path = ".".join(part for part in detail["loc"] if isinstance(part, str))
    if detail["type"] == "extra_forbidden":
        return _Finding((path,), "no such setting" + _suggestion(path))
    if detail["type"] in ("model_type", "model_attributes_type"):
        return _Finding((path,), f"must be a table: [{path}]")
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
    secret = any(option.secret for option in options(Config) if option.path == path)
    if secret or detail["type"] == "value_error":
        return _Finding((path,), message)
    return _Finding((path,), f"{message}, not {json.dumps(detail['input'])}")


def _suggestion(path: str) -> str:
    """Near names in the same table, else the tables that do have this key."""
    table, _, key = path.rpartition(".")
    known = [option.path for option in options(Config)]
    depth = path.count(".")
    siblings = {
        ".".join(name.split(".")[: depth + 1]) for name in known if name.startswith(f"{table}." if table else "")
    }
    near = did_you_mean(key, {name.rpartition(".")[2] for name in siblings})
    elsewhere = [name for name in known if name.rpartition(".")[2] == key]
    return near or (f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else "")


def _checks(config: Config) -> Iterator[_Finding]:
    """What no section can see alone, and what only the disk can tell."""
    yield from _check_listeners(config)
    yield from _check_tls(config.devices.tls)
    yield from _check_store(config)
    yield from _check_auth(config)
    yield from _check_times(config)


def _check_listeners(config: Config) -> Iterator[_Finding]:
    if not config.admin.loopback and not config.admin.token.get_secret_value():
        yield _Finding(
            ("admin.token", "admin.listen"),
            f"other machines can reach {config.admin.listen}, so a token is required: set admin.token",
        )
    if config.auth.kind == "open" and not config.devices.loopback and not config.auth.insecure:
        yield _Finding(
            ("auth.kind", "devices.listen", "auth.insecure"),
            f'"open" lets anybody who can reach {config.devices.listen} be any device: choose another kind, '
            "or set auth.insecure = true if that is what you want",
        )
    if config.devices.cors_credentials and "*" in config.devices.cors_origins:
        yield _Finding(
            ("devices.cors_origins", "devices.cors_credentials"),
            '"*" cannot go with cors_credentials: name the origins',
        )
    if config.devices.address == config.admin.address and config.devices.address[1] != 0:
        yield _Finding(("admin.listen", "devices.listen"), "is the address of devices.listen: they need one each")


def _check_tls(tls: sections.Tls) -> Iterator[_Finding]:
    names = {"key": tls.key, "client_ca": tls.client_ca, "certificate": tls.certificate}
    if not tls.certificate:
        for name in [name for name, value in names.items() if value]:
            yield _Finding((f"devices.tls.{name}",), "has no use without devices.tls.certificate")
        return
    for name, value in names.items():
        if value and (problem := _unreadable(value)):
            yield _Finding((f"devices.tls.{name}",), problem)
            return
    try:
        tls.context()
    except (ssl.SSLError, OSError) as error:
        message = f"TLS cannot start with these files: {error}"
        yield _Finding(
            tuple(f"devices.tls.{name}" for name in ("certificate", "key", "client_ca") if names[name]), message
        )


def _check_store(config: Config) -> Iterator[_Finding]:
    store = config.store
    if store.shared:
        yield from _check_shared(config)
        return
    try:
        folder = store.file.absolute().parent
    except ValueError as error:
        yield _Finding(("store.url",), str(error))
        return
    if store.file.is_dir():
        yield _Finding(("store.url",), f"{store.file} is a directory, not a database file")
    elif not folder.is_dir():
        yield _Finding(("store.url",), f"the directory {folder} does not exist")
    elif not os.access(folder, os.W_OK):
        yield _Finding(("store.url",), f"the directory {folder} cannot be written to")
    for section, name in _REDIS_ONLY:
        if getattr(getattr(config, section), name) != getattr(getattr(_DEFAULTS, section), name):
            yield _Finding((f"{section}.{name}", "store.url"), "has a meaning only with a Redis store")
    if config.node.workers > 1:
        yield _Finding(("node.workers", "store.url"), "SQLite serves one process: more workers need a Redis store")


def _check_shared(config: Config) -> Iterator[_Finding]:
    """A store in Redis, for any number of nodes."""
    try:
        parse_address(config.store.url)
    except ConfigError as error:
        yield _Finding(("store.url",), error.problems[0].removeprefix("store.url: "))
    node = config.node
    if node.lease < 2 * node.refresh:
        least = 2 * node.refresh
        text = f"must be at least 2 * node.refresh = {least:g}, or one late renewal would cost a node its devices"
        yield _Finding(("node.lease", "node.refresh"), text)


def _check_auth(config: Config) -> Iterator[_Finding]:
    auth = config.auth
    if auth.kind == "static":
        try:
            read_tokens(Path(auth.static.file))
        except OSError as error:
            yield _Finding(("auth.static.file", "auth.kind"), f"{auth.static.file} cannot be read: {error.strerror}")
        except ValueError as error:
            yield _Finding(("auth.static.file", "auth.kind"), f"{auth.static.file}: {error}")
    elif auth.kind == "http" and not auth.http.url:
        yield _Finding(("auth.http.url", "auth.kind"), "is required with auth.kind http")
    elif auth.kind == "custom" and not auth.custom.factory:
        yield _Finding(("auth.custom.factory", "auth.kind"), "is required with auth.kind custom")
    elif auth.kind == "hmac":
        for name, problem in verification_keys(auth.hmac).problems:
            yield _Finding((f"auth.hmac.{name}", "auth.hmac.algorithms", "auth.kind"), problem)


def _check_times(config: Config) -> Iterator[_Finding]:
    heartbeat, protocol = config.heartbeat, config.protocol
    silence = protocol.ping_interval + protocol.ping_timeout + heartbeat.interval
    if heartbeat.stale_after <= silence:
        yield _Finding(
            ("heartbeat.stale_after", "protocol.ping_interval", "protocol.ping_timeout", "heartbeat.interval"),
            f"must be more than protocol.ping_interval + protocol.ping_timeout + heartbeat.interval = {silence:g}, "
            "or living devices would be called offline",
        )
    if config.delivery.window * sections.SENDINGS > config.limits.pending_acks:
        yield _Finding(
            ("delivery.window", "limits.pending_acks"),
            f"must not be more than limits.pending_acks / {sections.SENDINGS} = "
            f"{config.limits.pending_acks // sections.SENDINGS}, for a message may be sent {sections.SENDINGS} times",
        )
    if config.delivery.window > config.delivery.inbox_max:
        yield _Finding(
            ("delivery.window", "delivery.inbox_max"),
            f"must not be more than delivery.inbox_max = {config.delivery.inbox_max}",
        )


def _unreadable(name: str) -> str:
    """Why a file cannot be read, or nothing."""
    try:
        with Path(name).open("rb"):
            return ""
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
