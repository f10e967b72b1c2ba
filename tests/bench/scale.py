"""How far one machine goes: several workers on one port, and more connections than one process may have open files.

`python -m tests.bench.scale` connects 30,000 WebSockets to two workers, broadcasts to all of them for a while, and says
what came of it; `--daemon` has `pushdctl serve --workers` on a Redis of its own instead, whose devices send events that
are stored. Nothing is pinned to a processor: workers and load share what there is, so the figures are those of a whole
machine, and on a busy one they mean little. Exit code 1 when a connection was lost on the way.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tests.bench import daemon, generator, servers

LOOK = 1.0  # seconds between two looks at the processes
LIMIT = 1_200.0  # seconds for everything


def files(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def library(workers: int, ping_interval: float) -> Iterator[servers.Running]:
    """A server of the library with that many workers."""
    command = [sys.executable, "-m", "tests.bench.peers.workers", str(workers), str(ping_interval)]
    with servers.process(command, None) as started:
        assert started.stdout is not None
        yield servers.Running(started.pid, json.loads(started.stdout.readline())["port"], {})


@contextlib.contextmanager
def pushd(workers: int) -> Iterator[servers.Running]:
    """A daemon with that many workers."""
    with daemon.open_store(daemon.REDIS) as store, daemon.running(store, None, workers) as started:
        yield started.process


def run(options: argparse.Namespace) -> None:
    """Connect, load, and print what the generator and the processes say."""
    opened = pushd(options.workers) if options.daemon else library(options.workers, options.ping_interval)
    with opened as running:
        mode = "uplink" if options.daemon else "fan"
        keys = {"processes": options.loaders, "seconds": options.seconds, "warmup": 2, "settle": 2, "limit": LIMIT}
        keys |= {"window": options.window, "nap": options.nap}
        keys |= {"device": daemon.DEVICE} if options.daemon else {}
        load = generator.start(mode, running.port, options.connections, keys, running.pids(), None)
        most: dict[int, int] = {}
        while load.poll() is None:
            for pid in running.pids()[1:]:
                most[pid] = max(most.get(pid, 0), files(pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                load.wait(LOOK)
        measured = generator.finish(load, LIMIT)
    (kind,) = measured["latency_us"]
    latency = {part: measured["latency_us"][kind][part] / 1e6 for part in ("p50", "p99", "max")}
    print(f"{measured['ready']} connections, {options.workers} workers, limit of files {limit_of_files()}")
    print(f"open files at most, of each process: {sorted(most.values(), reverse=True)[: options.workers]}")
    print(f"connected at {measured['connects_per_s']:.0f}/s, {measured['memory_kb']:.1f} KB each")
    print(f"{kind}: {measured['messages_per_s']:.0f}/s over {measured['seconds']:.0f} s; seconds to arrive {latency}")
    print(f"processors used: server {measured['server_cpu']:.2f}, load {measured['load_cpu']:.2f}")


def limit_of_files() -> int:
    """What a process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--connections", type=int, default=30_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--loaders", type=int, default=2, help="processes of the load generator")
    parser.add_argument("--window", type=int, default=3, help="broadcasts (or a device's events) under way at a time")
    parser.add_argument("--nap", type=float, default=0.001, help="seconds that the load sleeps before each look")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load")
    parser.add_argument("--ping-interval", type=float, default=25.0, help="of the library's server, in seconds")
    parser.add_argument("--daemon", action="store_true", help="pushd instead of the library")
    options = parser.parse_args(words)
    servers.allow_files()
    try:
        run(options)
    except generator.LoadFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
