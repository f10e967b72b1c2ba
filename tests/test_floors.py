"""The house's own laws: who may import whom, what the protocol floor knows nothing of, how long a file may be.

A module imports only what stands before it in its package's list below: from a lower floor, or from an earlier place
on its own. A new module is listed where it belongs; the failure of an unlisted one says so.
"""

import ast
import pathlib
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# From the ground up, one floor a line: what is left of the colon is its name for people.
FLOORS = {
    "engineio_trio": """
        values:     errors settings handshake
        protocol:   protocol.jsontext protocol.engine protocol.payload protocol.frame protocol.lane protocol.head
                    protocol.socket protocol.codec protocol.encoded protocol.engine_session protocol.socket_session
        transport:  transport.poller transport.socket transport.answer transport.http transport.base transport.stream
                    transport.websocket transport.polling
        server:     server.base server.handlers server.rooms server.admission server.neighbours server.outbox
                    server.round server.connection server.engine server.socket server.namespace server.serve
                    server.application server.server
        workers:    supervisor workers
        client:     client.endpoint client.application client.http client.polling client.websocket client.socket
                    client.connecting client
        tests:      testing
    """,
    "pushd": """
        values:     errors model jsonbytes failpoint limits backoff metrics requests
        settings:   store.base store.redis.address
                    config.layers config.sections config.keys config.loading config config.reference
        redis:      store.redis.replies store.redis.wire store.redis.link store.redis.routing
                    store.redis.sentinel store.redis.cluster store.redis.pubsub store.redis.topology
                    store.redis.keys store.redis.entries store.redis.scripts store.redis.rounds
                    store.redis.lease store.redis.context
                    store.redis.control store.staleness store.redis.bindings store.redis.messages store.redis.devices
                    store.redis.news store.redis.streams store.redis.groups store.redis.store
        store:      store.sqlite.transaction store.sqlite.worker store.sqlite.schema store.sqlite.streams
                    store.sqlite.bindings store.sqlite.devices store.sqlite.messages store.sqlite.store store
        devices:    auth.identity auth.http auth.authenticators auth
        node:       hub goodbye confirmations uplinks node
        tasks:      peer relay heartbeat pump device sweeper reconcile
        service:    service ingest
        admin:      admin.answers admin.query admin.guard admin.waiting admin.page admin.health admin.metrics
                    admin.streams admin.api admin.server admin
        daemon:     listening admission gateway daemon
        commands:   cli.admin_client cli.commands cli.program cli __main__
        show:       demo
    """,
}

# What pushd may know of the library: what any other program may.
PUBLIC = {"engineio_trio", "engineio_trio.client", "engineio_trio.testing", "engineio_trio.workers"}

# The protocol floor gets bytes, values and `now` as arguments: it has no clock, no chance, no log, no I/O.
NOT_IN_PROTOCOL = {"trio", "time", "datetime", "logging", "random", "secrets", "socket", "ssl", "select", "selectors"}
NOT_IN_PROTOCOL |= {"asyncio", "anyio", "threading", "os", "io", "sys"}

MAX_LINES = 400


def _files(package: str) -> dict[str, pathlib.Path]:
    """Every module of a package by its full name; a package's own `__init__` by the name of the package."""
    files = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


MODULES = {name: path for package in FLOORS for name, path in _files(package).items()}


def _order(package: str) -> list[str]:
    """The package's list as full names. The package itself is not on it: it is the face, above all of them."""
    words = [word for word in FLOORS[package].split() if not word.endswith(":")]
    return [f"{package}.{word}" for word in words]


ORDER = {package: _order(package) for package in FLOORS}


def imports(source: str) -> set[str]:
    """The modules that a source imports, anywhere in it. `from pushd import model` is the module pushd.model."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


def _ours(name: str) -> set[str]:
    return {module for module in imports(MODULES[name].read_text()) if module.split(".")[0] in FLOORS} - {name}


def _package(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("package", FLOORS)
def test_every_module_has_its_place(package: str) -> None:
    order = ORDER[package]
    assert len(order) == len(set(order)), "a module is listed twice"
    empty = {name for name, path in _files(package).items() if path.name == "__init__.py" and not _ours(name)}
    unlisted = set(_files(package)) - set(order) - empty - {package}
    assert not unlisted, f"{sorted(unlisted)}: list them in FLOORS in tests/test_floors.py, after all that they import"
    gone = set(order) - set(_files(package))
    assert not gone, f"{sorted(gone)} do not exist: take them out of FLOORS in tests/test_floors.py"


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_only_from_below(name: str) -> None:
    package = _package(name)
    order = ORDER[package]
    inside = {module for module in _ours(name) if _package(module) == package}
    if name == package:
        return  # the package's face may show every floor
    bare = {module for module in inside if MODULES[module].name == "__init__.py" and not _ours(module)}
    below = set(order[: order.index(name)]) if name in order else set()
    above = inside - below - bare
    assert not above, f"{name} imports {sorted(above)}, which stand above it in FLOORS in tests/test_floors.py"


@pytest.mark.parametrize("name", [name for name in MODULES if _package(name) == "engineio_trio"])
def test_library_does_not_know_the_daemon(name: str) -> None:
    assert not {module for module in _ours(name) if _package(module) == "pushd"}


@pytest.mark.parametrize("name", [name for name in MODULES if _package(name) == "pushd"])
def test_daemon_uses_the_library_as_anyone_may(name: str) -> None:
    inner = {module for module in _ours(name) if _package(module) == "engineio_trio"} - PUBLIC
    assert not inner, f"{name} imports {sorted(inner)}: take the names from {sorted(PUBLIC)}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("engineio_trio.protocol")])
def test_protocol_floor_has_no_clock_and_no_io(name: str) -> None:
    used = {module.split(".")[0] for module in imports(MODULES[name].read_text())} & NOT_IN_PROTOCOL
    assert not used, f"{name} imports {sorted(used)}: what it needs of them comes in as an argument"


@pytest.mark.parametrize("name", MODULES)
def test_file_is_not_too_long(name: str) -> None:
    lines = MODULES[name].read_text().count("\n")
    assert lines <= MAX_LINES, f"{name} has {lines} lines: find the two things in it and give each a file"


def test_every_package_is_installed() -> None:
    """An editable install would hide one that is missing."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(setuptools["packages"]) == {name for name, path in MODULES.items() if path.name == "__init__.py"}


def test_all_modules_were_found() -> None:
    """A wrong root would make every law above hold."""
    assert {"engineio_trio.protocol.codec", "pushd.store.base", "pushd.model"} <= MODULES.keys()


def test_imports_are_seen_wherever_they_are() -> None:
    source = """
import time
import os.path as path
from pushd import model
from pushd import __version__
from pushd.errors import ConfigError
def late():
    from trio import Event
if TYPE_CHECKING:
    from engineio_trio.protocol import codec
"""
    assert imports(source) == {
        "time",
        "os.path",
        "pushd.model",
        "pushd",
        "pushd.errors",
        "trio",
        "engineio_trio.protocol.codec",
    }
    with pytest.raises(AssertionError, match="line 1: imports are absolute"):
        imports("from . import model")
