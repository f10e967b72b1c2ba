"""How far one machine goes: several workers on one port, and more connections than one process may have open files.

`python -m tests.bench.scale` connects 30,000 WebSockets to two workers, broadcasts to all of them for a while, and says
what came of it (`make bench` does the same). The workers gather broadcasts for 50 ms (`peers/workers.py`). `--daemon`
has `pushdctl serve --workers` on a Redis of its own instead, whose devices send events that are stored. Workers and
load share two processors, so the figures are those of a whole machine, and on a busy one they mean little. Exit code 1
when a connection was lost on the way.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench import daemon, generator, servers
from tests.bench.figures import Better, Figure

NAME = "scale"
LOOK = 1.0  # seconds between two looks at the processes
LIMIT = 1_200.0  # seconds for everything


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much of everything. `window`: broadcasts, or events of a device, under way at a time. Times in seconds."""

    connections: int = 30_000
    workers: int = 2
    loaders: int = 2
    window: int = 4
    nap: float = 0.001  # of the load before each look: a load that sleeps need not be woken for each message
    seconds: float = 20.0
    ping_interval: float = 25.0  # of the library's server
    daemon: bool = False  # pushd instead of the library


SIZE = Size()
PEER = f"engineio-trio, {SIZE.workers} workers"
_TITLE = f"{SIZE.connections:,} connections"
FIGURES = [
    Figure(NAME, "messages_per_s", f"{_TITLE}, broadcasts to all", "deliveries/s", Better.MORE),
    Figure(NAME, "latency_us.fan.mean", f"{_TITLE}, from the sender to each, mean", "us", Better.LESS),
    Figure(NAME, "latency_us.fan.p99", f"{_TITLE}, from the sender to each, p99", "us", Better.LESS),
    Figure(NAME, "memory_kb", f"{_TITLE}, memory", "KB each", Better.LESS),
    Figure(NAME, "server_cpu", f"{_TITLE}, processors that the workers used", "of the machine's", Better.LESS),
    Figure(NAME, "load_cpu", f"{_TITLE}, processors that the load used", "of the machine's", Better.LESS),
    Figure(NAME, "files", f"{_TITLE}, open files of the fullest process", "files", Better.LESS),
]


def measure(size: Size, processors: servers.Processors) -> dict[str, Any]:
    """Connect, load, and answer what the generator and the processes say. Raises LoadFailed."""
    opened = _pushd(size) if size.daemon else _library(size)
    with servers.shared(processors), opened as running:
        keys = {"processes": size.loaders, "seconds": size.seconds, "warmup": 2, "settle": 2, "limit": LIMIT}
        keys |= {"window": size.window, "nap": size.nap}
        keys |= {"device": daemon.DEVICE} if size.daemon else {}
        mode = "uplink" if size.daemon else "fan"
        load = generator.start(mode, running.port, size.connections, keys, running.pids(), None)
        most = 0
        while load.poll() is None:
            most = max(most, *map(_files, running.pids()[1:]))
            with contextlib.suppress(subprocess.TimeoutExpired):
                load.wait(LOOK)
        return {**generator.finish(load, LIMIT), "files": most}


def _files(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def _library(size: Size) -> Iterator[servers.Running]:
    """A server of the library with that many workers."""
    command = [sys.executable, "-m", "tests.bench.peers.workers", str(size.workers), str(size.ping_interval)]
    with servers.process(command, None) as started:
        assert started.stdout is not None
        yield servers.Running(started.pid, json.loads(started.stdout.readline())["port"], {})


@contextlib.contextmanager
def _pushd(size: Size) -> Iterator[servers.Running]:
    """A daemon with that many workers."""
    with daemon.open_store(daemon.REDIS) as store, daemon.running(store, None, size.workers) as started:
        yield started.process


def _told(size: Size, measured: dict[str, Any]) -> str:
    (kind,) = measured["latency_us"]
    latency = {part: measured["latency_us"][kind][part] / 1e6 for part in ("mean", "p50", "p99", "max")}
    return (
        f"{measured['ready']} connections, {size.workers} workers, at most {measured['files']} open files each\n"
        f"connected at {measured['connects_per_s']:.0f}/s, {measured['memory_kb']:.1f} KB each\n"
        f"{kind}: {measured['messages_per_s']:.0f}/s over {measured['seconds']:.0f} s; seconds to arrive {latency}\n"
        f"processors used: server {measured['server_cpu']:.2f}, load {measured['load_cpu']:.2f}"
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__.split("\n")[0])
    for field in dataclasses.fields(Size):
        name, default = f"--{field.name.replace('_', '-')}", getattr(SIZE, field.name)
        if isinstance(default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=type(default), default=default, help=f"default {default}")
    size = Size(**vars(parser.parse_args(words)))
    servers.allow_files()
    try:
        print(_told(size, measure(size, servers.Processors.choose())))
    except generator.LoadFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
