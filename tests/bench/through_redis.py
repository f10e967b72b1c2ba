"""A push to one device, by a service that reaches the server through Redis: pushd, and socket.io's Redis adapters.

The service writes as fast as it can, to each device in turn; the server is on a processor of its own, Redis, the
service and the devices share the other one. The adapters carry an event to whoever is connected (what pushd calls
`qos` 0); with `qos` 1 pushd also stores it, awaits the device's acknowledgement, and writes receipts of both.
"""

import contextlib
import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import daemon, generator, provision, servers
from tests.bench.figures import Better, Figure
from tests.redis.servers import server

LONGEST = 60.0  # seconds for all of it
LOADS = {"push-100": 100, "push-1000": 1_000}  # devices
COUNT = 20_000
QUICK_COUNT = 4_000


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """A server that takes pushes from Redis, by its name in tables; `command` is None for pushd."""

    name: str
    command: Callable[[], list[str]] | None = None
    qos: int = 0


def _node() -> list[str]:
    node, program = provision.node_peer()
    return [node, str(Path(program).with_name("redis.mjs"))]


def _python() -> list[str]:
    python, program = provision.python_peer()
    return [python, str(Path(program).with_name("python_redis.py"))]


ROUTES = (
    Route("pushd, qos 0"),
    Route("pushd, qos 1", qos=1),
    Route("node socket.io", _node),
    Route("python-socketio", _python),
)
FIGURES = [
    Figure(load, key, f"{devices:,} devices: {title}", unit, better)
    for load, devices in LOADS.items()
    for key, title, unit, better in (
        ("delivered_per_s", "delivered", "events/s", Better.MORE),
        ("cpu_us_per_message", "processor time of the server", "us an event", Better.LESS),
    )
]


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """A server that runs, and how to write pushes for it."""

    process: servers.Running
    await_devices: Callable[[], object]
    write: Callable[[int], object]


def measure(route: Route, devices: int, count: int, processors: servers.Processors) -> dict[str, Any]:
    """One run: a fresh Redis, a fresh server, `count` pushes. Raises LoadFailed."""
    keys = {"device": daemon.DEVICE, "ack": 1, "settle": 0, "warmup": 0, "count": count, "seconds": LONGEST}
    with server("valkey", tcp=True) as redis, _serve(route, redis.url, devices, processors) as served:
        process = served.process
        started = generator.start("recv", process.port, devices, keys, process.pids(), processors.load)
        try:
            served.await_devices()
            served.write(count)
        except BaseException:
            started.kill()
            raise
        finally:
            measured = generator.finish(started, LONGEST)
    if measured["messages"] < count:
        raise generator.LoadFailed(f"{count - measured['messages']:.0f} of {count} events did not arrive")
    seconds = (measured["last_ns"] - measured["first_ns"]) / 1e9
    return {**measured, "delivered_per_s": round((count - 1) / seconds), "versions": process.versions}


@contextlib.contextmanager
def _serve(route: Route, url: str, devices: int, processors: servers.Processors) -> Iterator[Served]:
    if route.command is None:
        with daemon.running(url, processors.server) as running:
            yield Served(
                running.process, lambda: running.await_devices(devices), _pushd_writer(route, running, devices)
            )
        return
    command = route.command()
    with servers.process([*command, "serve", url, str(devices)], processors.server) as started:
        told = _told(started, route)
        process = servers.Running(started.pid, told["port"], told["versions"])
        yield Served(process, lambda: _told(started, route), _emitter([*command, "emit", url, str(devices)]))


def _told(started: "subprocess.Popen[bytes]", route: Route) -> dict[str, Any]:
    """The next thing that a peer says."""
    assert started.stdout is not None
    line = started.stdout.readline()
    if not line:
        raise generator.LoadFailed(f"{route.name} ended (its complaint stands above)")
    told: dict[str, Any] = json.loads(line)
    return told


def _emitter(command: list[str]) -> Callable[[int], object]:
    return lambda count: subprocess.run([*command, str(count)], check=True, timeout=LONGEST)


def _pushd_writer(route: Route, running: daemon.Daemon, devices: int) -> Callable[[int], object]:
    extra = {} if route.qos else {"qos": "0"}

    def write(count: int) -> None:
        targets = [f"device:{daemon.DEVICE}{number % devices}" for number in range(count)]
        running.queue.write([daemon.entry(target, **extra) for target in targets])

    return write
