"""pushd under load: logins, uplink, and the way of a push from the queue to its acknowledgement in the store.

The daemon is `pushdctl serve`, with `auth.kind` open and everything else as it comes, on a store of its own. The
generator simulates its devices; pushes are written to the `push` stream as a service would: over HTTP, or with XADD.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from tests.bench import generator, provision, servers
from tests.bench.figures import Better, Figure, Load
from tests.redis.servers import server

START = 30.0  # seconds for the daemon to be ready, and for its devices to be there
DRAIN = 60.0  # seconds for all pushes to be acknowledged
LONGEST = 200.0  # seconds that devices stay, for one measurement
LOOK = 0.05  # seconds between two looks at the daemon: its answer costs it time, too
WRITERS = 4  # HTTP connections that write pushes at once
DEVICE = "bench-"  # the generator adds the number
SQLITE, REDIS = "sqlite", "redis"
STORES = (SQLITE, REDIS)


@dataclasses.dataclass(frozen=True, slots=True)
class Pushes:
    """What a service pushes while devices listen: `count` entries, `pace` a second (0: as fast as may be)."""

    name: str
    devices: int
    count: int
    pace: float = 0.0
    to_all: bool = False
    qos: int = 1

    @property
    def deliveries(self) -> int:
        """How many events reach devices in the end."""
        return self.count * (self.devices if self.to_all else 1)

    @property
    def receipts(self) -> int:
        """How many receipts there are then: one when it is stored, and one when it is acknowledged."""
        return self.deliveries * (2 if self.qos else 1)


LOADS = (
    Load("pushd-login", "idle", 2_000, {"waves": 2, "settle": 0.5}),
    Load("pushd-uplink-100", "uplink", 100, {"window": 4}),
    Load("pushd-uplink-1000", "uplink", 1_000, {"window": 1}),
)
PUSHES = (
    Pushes("pushd-queue", devices=100, count=10_000),
    Pushes("pushd-queue-1000", devices=1_000, count=10_000),
    Pushes("pushd-now", devices=100, count=10_000, qos=0),
    Pushes("pushd-all", devices=500, count=20, to_all=True),
    Pushes("pushd-paced", devices=100, count=250, pace=50),
)
HEARTBEATS = "pushd-heartbeats"
FLUSH = 100_000  # devices
CPU = "processor time of the daemon"


def _rate_and_cost(load: str, key: str, title: str, what: str) -> tuple[Figure, Figure]:
    """How many a second, and what each costs: that does not depend on who shares the other processor."""
    return (
        Figure(load, key, title, f"{what}s/s", Better.MORE),
        Figure(load, "cpu_us_per_message", f"{title}: {CPU}", f"us an {what}", Better.LESS),
    )


FIGURES = [
    Figure("pushd-login", "connects_per_s", "logins, the first 2,000 devices", "logins/s", Better.MORE),
    Figure("pushd-login", "connects_per_s_again", "logins, the same devices again", "logins/s", Better.MORE),
    Figure("pushd-login", "connect_cpu_us_again", f"logins again: {CPU}", "us a login", Better.LESS),
    Figure("pushd-login", "memory_kb", "memory, 2,000 idle devices", "KB each", Better.LESS),
    *_rate_and_cost("pushd-uplink-100", "messages_per_s", "uplink, 100 devices, window 4", "event"),
    *_rate_and_cost("pushd-uplink-1000", "messages_per_s", "uplink, 1,000 devices, window 1", "event"),
    *_rate_and_cost("pushd-queue", "acked_per_s", "queue to device and back, 100 devices", "acknowledgement"),
    *_rate_and_cost("pushd-queue-1000", "acked_per_s", "queue to device and back, 1,000 devices", "acknowledgement"),
    *_rate_and_cost("pushd-now", "acked_per_s", "queue to device, 100 devices, qos 0", "event"),
    Figure("pushd-all", "acked_per_s", "queue to device, 20 pushes to all of 500", "acknowledgements/s", Better.MORE),
    *(
        Figure("pushd-paced", f"latency_us.push.{part}", f"queue to device, 50 pushes/s: {part}", "us", Better.LESS)
        for part in ("p50", "p99", "max")
    ),
    Figure(HEARTBEATS, "seconds", f"one flush of {FLUSH:,} heartbeats", "s", Better.LESS),
    Figure(HEARTBEATS, "cpu", f"one flush of {FLUSH:,} heartbeats: {CPU}", "s", Better.LESS),
]


class Queue(Protocol):
    """Where a service writes its pushes."""

    def write(self, entries: Sequence[Callable[[], dict[str, str]]]) -> None:
        """Write entries, each made at the moment when it is written; returns when the store has them all."""


@dataclasses.dataclass(frozen=True, slots=True)
class HttpQueue:
    """The `push` stream over the admin interface: the only way to a store that the daemon alone may open."""

    admin: str

    def write(self, entries: Sequence[Callable[[], dict[str, str]]]) -> None:
        """See Queue. The entries are dealt out to several connections."""
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(self._write_some, [entries[first::WRITERS] for first in range(WRITERS)]))

    def _write_some(self, entries: Sequence[Callable[[], dict[str, str]]]) -> None:
        with contextlib.closing(http.client.HTTPConnection(self.admin, timeout=START)) as connection:
            for entry in entries:
                connection.request(
                    "POST", "/v1/streams/push", json.dumps(entry()), {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 202:
                    raise generator.LoadFailed(f"a push was answered {answer.status}: {body.decode()}")


@dataclasses.dataclass(frozen=True, slots=True)
class RedisQueue:
    """The `push` stream by XADD, in pipelines."""

    url: str
    prefix: str
    batch: int = 100

    def write(self, entries: Sequence[Callable[[], dict[str, str]]]) -> None:
        """See Queue."""
        with self._client() as client:
            for first in range(0, len(entries), self.batch):
                pipeline = client.pipeline(transaction=False)
                for entry in entries[first : first + self.batch]:
                    pipeline.xadd(f"{self.prefix}:{{0}}:push", entry())
                pipeline.execute()

    def receipts(self) -> int:
        """How many there are."""
        with self._client() as client:
            return int(client.xlen(f"{self.prefix}:{{0}}:receipt"))

    def forget(self) -> None:
        """Remove every key of this measurement."""
        with self._client() as client:
            for key in client.scan_iter(match=f"{self.prefix}:*", count=1_000):
                client.unlink(key)

    def _client(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url.replace("redis+unix:", "unix:"))


@dataclasses.dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that runs: its process, the port for devices, the admin address, the way to its queue."""

    process: servers.Running
    admin: str
    queue: Queue

    def stats(self) -> dict[str, Any]:
        """What `GET /v1/stats` answers."""
        with contextlib.closing(http.client.HTTPConnection(self.admin, timeout=START)) as connection:
            connection.request("GET", "/v1/stats")
            stats: dict[str, Any] = json.loads(connection.getresponse().read())
            return stats

    def receipts(self) -> int:
        """How many entries the receipt stream has. Redis is asked itself: the daemon has other things to do."""
        if isinstance(self.queue, RedisQueue):
            return self.queue.receipts()
        return int(self.stats()["store"]["streams"]["receipt"])

    def await_devices(self, count: int) -> None:
        """Return when so many are connected. Raises LoadFailed if they do not come."""
        _wait_for(lambda: self.stats()["devices"] == count, "the devices")


def name_of(store: str) -> str:
    """What tables call the daemon on this store."""
    return "pushd on SQLite" if store == SQLITE else "pushd on Redis"


@contextlib.contextmanager
def open_store(store: str) -> Iterator[str]:
    """A store that `running` takes: for `redis` a server is started, beside the load; others are there already."""
    if store != REDIS:
        yield store
        return
    with server() as started:
        yield started.url


@contextlib.contextmanager
def running(store: str, processor: int | None, workers: int = 1) -> Iterator[Daemon]:
    """A daemon on a fresh store: `sqlite`, or the URL of a Redis server (keys under a prefix of their own).

    Raises LoadFailed with the daemon's log when it does not start.
    """
    provision.BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=provision.BUILD, prefix="pushd-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if store == SQLITE:
            queue, settings = None, {"PUSHD_STORE__URL": f"sqlite:///{folder}/pushd.db"}
        else:
            queue = RedisQueue(store, f"pushd-bench-{os.getpid()}")
            settings = {"PUSHD_STORE__URL": store, "PUSHD_STORE__PREFIX": queue.prefix}
            stack.callback(queue.forget)
        settings["PUSHD_NODE__WORKERS"] = str(workers)
        process = stack.enter_context(_serve(folder, settings, processor))
        told = _wait_for(lambda: _ready(folder, process), "the daemon")
        port = int(told["devices"].rpartition(":")[2])
        yield Daemon(servers.Running(process.pid, port, {}), told["admin"], queue or HttpQueue(told["admin"]))


@contextlib.contextmanager
def _serve(folder: Path, settings: Mapping[str, str], processor: int | None) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "pushd", "serve", "--ready-file", str(folder / "ready"), "--auth", "open"]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHD_")}
    with (
        (folder / "log").open("wb") as log,
        servers.process(command, processor, {**environment, **settings}, log) as process,
    ):
        yield process


def _ready(folder: Path, process: "subprocess.Popen[bytes]") -> Any:
    """What the daemon says when it is ready, None before. Raises LoadFailed with its log if it has ended."""
    if process.poll() is not None:
        raise generator.LoadFailed(f"the daemon did not start:\n{(folder / 'log').read_text()}")
    return json.loads((folder / "ready").read_text()) if (folder / "ready").exists() else None


def _wait_for(look: Callable[[], Any], what: str, patience: float = START) -> Any:
    """What `look` gives, as soon as it gives anything. Raises LoadFailed after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > deadline:
            raise generator.LoadFailed(f"{what}: not within {patience:.0f} s")
        time.sleep(LOOK)
    return found


def run_load(store: str, load: Load, processors: servers.Processors) -> dict[str, Any]:
    """What the generator alone measures of a daemon."""
    with running(store, processors.server) as daemon:
        keys = {**load.keys, "device": DEVICE}
        pids = daemon.process.pids()
        return generator.finish(
            generator.start(load.mode, daemon.process.port, load.connections, keys, pids, processors.load)
        )


def run_pushes(store: str, pushes: Pushes, processors: servers.Processors) -> dict[str, Any]:
    """Push to devices that listen and acknowledge, until the store has every acknowledgement."""
    keys = {"device": DEVICE, "ack": 1, "settle": 0, "warmup": 0, "seconds": LONGEST, "limit": LONGEST}
    with running(store, processors.server) as daemon:
        port, pids = daemon.process.port, daemon.process.pids()
        devices = generator.start("recv", port, pushes.devices, keys, pids, processors.load)
        try:
            daemon.await_devices(pushes.devices)
            begin = time.monotonic()
            _write(daemon.queue, pushes)
            _wait_for(lambda: daemon.receipts() >= pushes.receipts, "the acknowledgements", DRAIN)
            seconds = time.monotonic() - begin
        finally:
            devices.terminate()
            measured = generator.finish(devices)
    return {**measured, "acked_per_s": round(pushes.deliveries / seconds)}


def run_flush(store: str, devices: int, processors: servers.Processors) -> dict[str, Any]:
    """The heartbeats of so many devices, by the store alone, as the daemon sends them."""
    command = [sys.executable, "-m", "tests.bench.store_redis", "--only-beats", "--beats", str(devices), "--url", store]
    with servers.process(command, processors.server) as process:
        output, _ = process.communicate(timeout=LONGEST)
    if process.returncode:
        raise generator.LoadFailed("the flush failed (its complaint stands above)")
    measured: dict[str, Any] = json.loads(output)["flush"]
    return measured


def _write(queue: Queue, pushes: Pushes) -> None:
    targets = ["all" if pushes.to_all else f"device:{DEVICE}{n % pushes.devices}" for n in range(pushes.count)]
    entries = [entry(target, **({} if pushes.qos else {"qos": "0"})) for target in targets]
    if not pushes.pace:
        queue.write(entries)
        return
    begin = time.monotonic()
    for number, one in enumerate(entries):
        time.sleep(max(begin + number / pushes.pace - time.monotonic(), 0))
        queue.write([one])


def entry(target: str, **more: str) -> Callable[[], dict[str, str]]:
    """What makes a push, with the time of its making at the head of its payload, where the generator looks for it."""

    def make() -> dict[str, str]:
        return {"to": target, "data": json.dumps(f"{time.monotonic_ns():016x}{'x' * 16}"), **more}

    return make
