"""A cluster for the fault tests: `pushdctl` processes on one real Redis, and what can be done to them.

`async with cluster(folder) as fleet:` is a Redis and no node yet. `node = await fleet.add("n1")` starts one; a node may
stand behind a proxy of its own. Everything ends with the block. `simulated(...)` puts devices and producers around
it, and has the checker judge what is left when they are through.
"""

import contextlib
import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio
from redis.exceptions import RedisError

from pushd.model import Stream
from tests.faults.checker import Evidence, check
from tests.faults.history import History, recording
from tests.faults.processes import Daemon, Deployment, asking, until
from tests.faults.simulation import Door, Producer, Program, Send, Stage, by_http, entry_of, worthwhile
from tests.patience import PATIENCE
from tests.pushd.node_support import SECRET, token
from tests.redis.proxy import Proxy, proxied
from tests.redis.servers import Server, server

PREFIX = "pushd"
LEASE = 3.0  # seconds, as below
BRISK: Mapping[str, Mapping[str, Any]] = {  # so that nobody waits long for what takes its time
    "auth": {"kind": "hmac"},
    "auth__hmac": {"secret": SECRET},
    "takeover": {"max": 100_000},
    "delivery": {"inbox_max": 100_000},
    "node": {"lease": LEASE, "refresh": 0.4, "drain": 8.0},
    "heartbeat": {"interval": 1.0, "stale_after": 10.0},
    "protocol": {"ping_interval": 3.0, "ping_timeout": 5.0},
}
TOPIC = "even"
PROGRAMS = {f"d{number}": 2 if number < 4 else 1 for number in range(8)}


class Node:
    """A member of the cluster: its process, one after the other, and its way to Redis."""

    def __init__(self, name: str, deployment: Deployment, nursery: trio.Nursery, proxy: Proxy | None) -> None:
        self.name = name
        self.deployment = deployment
        self._nursery = nursery
        self._proxy = proxy
        self._daemon: Daemon | None = None
        self._gone = trio.Event()
        self._code = 0

    @property
    def daemon(self) -> Daemon:
        """The process that runs now."""
        assert self._daemon is not None, f"{self.name} does not run"
        return self._daemon

    @property
    def runs(self) -> bool:
        return self._daemon is not None

    @property
    def proxy(self) -> Proxy:
        """What stands between it and Redis."""
        assert self._proxy is not None, f"{self.name} has no proxy"
        return self._proxy

    @property
    def door(self) -> Door:
        return Door(self.daemon.url, f"http://{self.daemon.admin}")

    async def start(self, **variables: str) -> Daemon:
        """One more process, on the same addresses as the last."""
        assert self._daemon is None, f"{self.name} runs"
        await self._nursery.start(partial(self._live, variables))
        return self.daemon

    async def _live(self, variables: Mapping[str, str], *, task_status: trio.TaskStatus[None]) -> None:
        self._gone = trio.Event()
        try:
            async with self.deployment.running("--node", self.name, **variables) as self._daemon:
                task_status.started()
                self._code = await self._daemon.ended(within=math.inf)
        finally:
            self._daemon = None
            self._gone.set()

    async def kill(self) -> None:
        """`kill -9`."""
        await self.daemon.kill()
        await self._gone.wait()

    async def stop(self) -> None:
        """SIGTERM, and a clean end."""
        await self.daemon.stop()
        await self._gone.wait()

    async def ready(self) -> None:
        """Wait until the node says that it wants work."""

        async def is_ready() -> bool:
            return (await self.daemon.ask("GET", "/ready")).status_code == 200

        await until(is_ready)

    async def gone(self, *, within: float = PATIENCE) -> int:
        """Wait until its process has ended by itself; the exit code."""
        with trio.fail_after(within):
            await self._gone.wait()
        return self._code


class Fleet:
    """The nodes, and their Redis."""

    def __init__(self, folder: Path, redis: Server, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.redis = redis
        self.nodes: list[Node] = []
        self._nursery = nursery

    async def add(self, name: str, *, behind_proxy: bool = False, url: str = "", **sections: Mapping[str, Any]) -> Node:
        """A new node, running; `sections` change single keys of the configuration."""
        node = await self.prepare(name, behind_proxy=behind_proxy, url=url, **sections)
        await node.start()
        return node

    async def prepare(
        self, name: str, *, behind_proxy: bool = False, url: str = "", **sections: Mapping[str, Any]
    ) -> Node:
        """A new node that does not run yet."""
        proxy = None
        if behind_proxy:
            proxy = await self._nursery.start(_stand_between, self.redis)
        merged = {key: {**BRISK.get(key, {}), **sections.get(key, {})} for key in {**BRISK, **sections}}
        folder = self.folder / f"{name}-{len(self.nodes)}"
        url = url or (proxy.url if proxy is not None else self.redis.url)
        node = Node(name, Deployment(folder, url, **merged), self._nursery, proxy)
        self.nodes.append(node)
        return node

    @property
    def doors(self) -> list[Door]:
        """Where the nodes are that run now."""
        return [node.door for node in self.nodes if node.runs]

    @property
    def anyone(self) -> Daemon:
        """A node that runs."""
        return next(node.daemon for node in self.nodes if node.runs)

    # What Redis has.

    def append(self, stream: str, **fields: str) -> str:
        """XADD, as a service does it."""
        flat = [text for pair in fields.items() for text in pair]
        return str(self.redis.ask("XADD", key_of(stream), "*", *flat))

    def stream(self, name: str) -> list[dict[str, str]]:
        """The fields of all entries of a stream, by XRANGE."""
        with self.redis.plain(decode_responses=True) as client:
            rows: Sequence[tuple[str, dict[str, str]]] = client.xrange(key_of(name))
        return [fields for _, fields in rows]

    def status(self, device: str) -> list[tuple[str, str, str]]:
        """Event, reason and node of each status entry of a device."""
        entries = [entry for entry in self.stream("status") if entry["device"] == device]
        return [(entry["event"], entry["reason"], entry["node"]) for entry in entries]

    def receipts(self, push: str) -> list[tuple[str, str]]:
        """Device and state of each receipt of a push."""
        return [(entry["device"], entry["state"]) for entry in self.stream("receipt") if entry["id"] == push]

    async def _devices(self) -> list[dict[str, Any]] | None:
        answer = await self.anyone.ask("GET", "/v1/devices", params={"limit": 1_000})
        return None if answer.status_code == 503 else answer.raise_for_status().json()["devices"]

    async def evidence(self, history: History) -> Evidence:
        """All that is left. It is much after a long run, and the proxies are not to wait for it: so in a thread."""
        streams = await trio.to_thread.run_sync(lambda: {stream.value: self.stream(stream.value) for stream in Stream})
        devices = await until(self._devices)
        burdens = [burden for node in self.nodes if node.runs for burden in await node.daemon.burdens()]
        return Evidence(list(history.records), streams, devices, history.late, burdens)


def key_of(stream: str) -> str:
    """The Redis key of a stream."""
    return f"{PREFIX}:{{0}}:{stream}"


@contextlib.asynccontextmanager
async def cluster(folder: Path, *options: str) -> AsyncIterator[Fleet]:
    """A Redis with these options, and no node yet. All processes end with the block."""
    with server("valkey", *options) as redis:
        async with trio.open_nursery() as nursery:
            yield Fleet(folder, redis, nursery)
            nursery.cancel_scope.cancel()


async def _stand_between(redis: Server, *, task_status: trio.TaskStatus[Proxy]) -> None:
    async with proxied(redis, redis.folder) as proxy:
        task_status.started(proxy)
        await trio.sleep_forever()


def query_of(device: str) -> dict[str, str]:
    """How a device shows who it is. Those with an even number are in a topic."""
    topics = [TOPIC] if int(device.lstrip("abcdefghijklmnopqrstuvwxyz") or 0) % 2 == 0 else []
    return {"deviceId": device, "token": token(device, topics=topics)}


def by_xadd(fleet: Fleet) -> Send:
    """Writes to the push stream with a plain client, which knows Redis and no node."""

    async def send(push: Mapping[str, Any]) -> Mapping[str, Any] | None:
        try:
            await trio.to_thread.run_sync(partial(fleet.append, "push", **entry_of(push)), abandon_on_cancel=True)
        except RedisError:
            return None
        return {"what": "appended"}

    return send


@contextlib.asynccontextmanager
async def simulated(
    fleet: Fleet, seed: int, programs: Mapping[str, int] = PROGRAMS, *, longest: float = 3.0
) -> AsyncIterator[Stage]:
    """Devices and services around nodes that run; at the end of the block, or when enough has happened to be judged,
    all must be as promised.

    `programs`: how many use the id of each device. A visit lasts up to `longest` seconds.
    """
    path = fleet.folder / "history.jsonl"
    print(f"seed {seed}, history {path}")
    async with recording(path) as history:
        stage = Stage(fleet.doors, history, random.Random(seed))
        async with asking() as http, trio.open_nursery() as nursery:
            for device, count in programs.items():
                for number in range(count):
                    name, query = f"{device}/{number}", query_of(device)
                    nursery.start_soon(Program(device, name, query, stage, first=number == 0, longest=longest).run)
            targets = [*(f"device:{device}" for device in programs), f"topic:{TOPIC}", "all"]
            for name, send in {"http": by_http(stage, http), "stream": by_xadd(fleet)}.items():
                nursery.start_soon(Producer(name, targets, stage, send).run)
            yield stage
            await history.has(worthwhile)
            await conclude(fleet, stage, len(programs))


async def conclude(fleet: Fleet, stage: Stage, devices: int) -> None:
    """Let everything come to rest, and check; then let all devices leave, and check again."""
    stage.drain.set()
    try:
        await until(partial(at_rest, fleet, stage, online=devices), within=2 * PATIENCE)
    finally:  # which also says why it never came to rest
        await check_evidence(fleet, stage)
    stage.over.set()
    await until(partial(at_rest, fleet, stage, online=0))
    await check_evidence(fleet, stage)


async def at_rest(fleet: Fleet, stage: Stage, online: int) -> bool:
    """Nobody is about to do something, nothing waits for anybody, and so many devices are connected."""
    if stage.busy:
        return False
    stats = await fleet.anyone.ask("GET", "/v1/stats")
    if stats.status_code == 503:
        return False
    store = stats.raise_for_status().json()["store"]
    return (store["inbox"], store["streams"]["push"], store["online"]) == (0, 0, online)


async def check_evidence(fleet: Fleet, stage: Stage) -> None:
    violations = await trio.to_thread.run_sync(check, await fleet.evidence(stage.history))
    assert not violations, "\n".join(violations[:20])


# Faults, noted in the history.


async def kill(node: Node, stage: Stage) -> None:
    """`kill -9`."""
    stage.history.note(node.name, "ending", how="SIGKILL")
    await node.kill()
    stage.history.note(node.name, "ended", how="SIGKILL")


async def stop(node: Node, stage: Stage) -> None:
    """SIGTERM, and a clean end."""
    stage.history.note(node.name, "ending", how="SIGTERM")
    await node.stop()
    stage.history.note(node.name, "ended", how="SIGTERM")


async def fall(node: Node, stage: Stage, within: float) -> bool:
    """Wait for the end of a process that has a failpoint; one that never comes there is killed, and counts for less."""
    stage.history.note(node.name, "ending", how="failpoint")
    with trio.move_on_after(within) as waiting:
        await node.gone(within=math.inf)
    if waiting.cancelled_caught:
        await node.kill()
    stage.history.note(node.name, "ended", how="failpoint")
    return not waiting.cancelled_caught


@contextlib.contextmanager
def cut_off(node: Node, stage: Stage) -> Iterator[None]:
    """The node may be taken for dead in this block, and for as long afterwards as it takes it to be heard again."""
    stage.history.note(node.name, "cutting")
    try:
        yield
    finally:
        stage.history.note(node.name, "mended")


async def start(node: Node, stage: Stage, **variables: str) -> None:
    """One more process of this node."""
    await node.start(**variables)
    stage.history.note(node.name, "started")
