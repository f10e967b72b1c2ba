"""Nodes that share a Redis: whatever dies, stops, is cut off or slow, the checker finds every promise kept.

`PUSHD_SOAK=600` lets the random run last so many seconds, `PUSHD_SEED=n` makes its choices those of another run.
"""

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from pushd.failpoint import VARIABLE
from tests.faults.cluster import (
    LEASE,
    Fleet,
    Node,
    cluster,
    cut_off,
    fall,
    kill,
    simulated,
    start,
    stop,
)
from tests.faults.simulation import Stage
from tests.faults.test_crash import FAILPOINTS
from tests.patience import PATIENCE

# A request that dies with a node leaves httpx's generators to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator 'httpx:ResourceWarning", "ignore:Async generator 'httpcore:ResourceWarning"
)

SOAK = float(os.environ.get("PUSHD_SOAK", "30"))
SEED = int(os.environ.get("PUSHD_SEED", str(random.randrange(1_000_000))))


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with cluster(tmp_path) as one:
        yield one


async def test_every_promise_is_kept(tmp_path: Path) -> None:
    """Devices on two nodes and moving between them, services that know nothing of nodes; a node and Redis die."""
    async with cluster(tmp_path, "--appendfsync", "always") as fleet:
        one, _ = await fleet.add("n1"), await fleet.add("n2")
        async with simulated(fleet, SEED) as stage:
            await stage.history.grows(500)
            await kill(one, stage)
            await stage.history.grows(150)
            fleet.redis.kill()
            await trio.sleep(1.0)
            fleet.redis.start()
            await stage.history.grows(300)
            await start(one, stage)
            await stage.history.grows(300)
        assert {entry["node"] for entry in fleet.stream("status")} == {"n1", "n2"}


# ---- anything, in any order ----


class Nemesis:
    """Does something bad to a cluster, of which at least one node always lives, and mends it."""

    def __init__(self, fleet: Fleet, stage: Stage, rng: random.Random) -> None:
        self.done: list[str] = []
        self._fleet = fleet
        self._stage = stage
        self._rng = rng
        self._deeds = [
            *(self.kill_node, self.stop_node, self.freeze_node, self.cut_node, self.failpoint),
            *(self.kill_redis, self.freeze_redis, self.cut_replies, self.slow, self.forget_scripts),
        ]

    async def strike(self) -> None:
        """One deed, and some time in peace."""
        deed = self._rng.choice(self._deeds)
        node = self._rng.choice(self._fleet.nodes)
        self.done.append(deed.__name__)
        print(f"{time.time():.3f} {deed.__name__} {node.name}")
        await deed(node)
        await self._stage.history.grows(self._rng.randrange(50, 400))

    async def _wait(self, longest: float) -> None:
        await trio.sleep(self._rng.uniform(0.0, longest))

    async def kill_node(self, node: Node) -> None:
        await kill(node, self._stage)
        await self._wait(2 * LEASE)
        await start(node, self._stage)

    async def stop_node(self, node: Node) -> None:
        await stop(node, self._stage)
        await start(node, self._stage)

    async def failpoint(self, node: Node) -> None:
        await stop(node, self._stage)
        name = self._rng.choice(FAILPOINTS)
        await start(node, self._stage, **{VARIABLE: f"{name}:exit:{self._rng.randrange(1, 30)}"})
        await fall(node, self._stage, within=2.0)  # long enough for most of them
        await start(node, self._stage)

    async def freeze_node(self, node: Node) -> None:
        with cut_off(node, self._stage):
            node.daemon.signal(signal.SIGSTOP)
            await self._wait(2.5 * LEASE)
            node.daemon.signal(signal.SIGCONT)
            await node.ready()

    async def cut_node(self, node: Node) -> None:
        with cut_off(node, self._stage):
            node.proxy.black_hole = True
            await self._wait(2.5 * LEASE)
            node.proxy.black_hole = False
            if self._rng.random() < 0.5:
                node.proxy.reset()
            await node.ready()

    async def kill_redis(self, node: Node) -> None:
        self._fleet.redis.kill()
        await self._wait(1.5 * LEASE)
        self._fleet.redis.start()
        await node.ready()

    async def freeze_redis(self, node: Node) -> None:
        self._fleet.redis.pause()
        await self._wait(1.5 * LEASE)
        self._fleet.redis.resume()
        await node.ready()

    async def cut_replies(self, node: Node) -> None:
        with cut_off(node, self._stage):  # it waits a second before each try in the end: a lease may not last
            for _ in range(5):
                await node.proxy.cut(self._rng.randrange(1, 5_000))
            await node.ready()

    async def slow(self, node: Node) -> None:
        with cut_off(node, self._stage):
            node.proxy.delay = self._rng.uniform(0.05, 0.5)
            await self._wait(2.0)
            node.proxy.delay = 0.0
            await node.ready()

    async def forget_scripts(self, node: Node) -> None:
        self._fleet.redis.ask("SCRIPT", "FLUSH")


@pytest.mark.timeout(SOAK + 600)
async def test_nothing_is_lost_whatever_happens(fleet: Fleet) -> None:
    """F2-F6, F8-F10, F16, F18: random faults for a while; nobody is falsely offline, nothing accepted is lost."""
    for name in ("n1", "n2"):
        await fleet.add(name, behind_proxy=True)
    async with simulated(fleet, SEED) as stage:
        nemesis = Nemesis(fleet, stage, random.Random(SEED + 1))
        end = time.monotonic() + SOAK
        while time.monotonic() < end or len(set(nemesis.done)) < 3:
            await nemesis.strike()


# ---- one fault, under load ----


async def test_f06_replies_are_lost_again_and_again(fleet: Fleet) -> None:
    """The connections of both nodes are cut after a random number of bytes: whatever is tried again is done once."""
    nodes = [await fleet.add(name, behind_proxy=True) for name in ("n1", "n2")]
    async with simulated(fleet, SEED) as stage:
        rng = random.Random(SEED + 1)
        with cut_off(nodes[0], stage), cut_off(nodes[1], stage):
            for _ in range(20):
                await rng.choice(nodes).proxy.cut(rng.randrange(1, 4_000))
                await stage.history.grows(20)
            for node in nodes:
                await node.ready()


async def test_f16_pushes_during_a_storm_of_takeovers(fleet: Fleet) -> None:
    """F16, F17: programs of two devices take them over from each other, on all nodes, many times a second."""
    for name in ("n1", "n2"):
        await fleet.add(name)
    async with simulated(fleet, SEED, {"d0": 5, "d1": 5}, longest=0.3) as stage:
        await stage.history.grows(1_500)
        while [entry["event"] for entry in fleet.stream("status")].count("takeover") <= 30:
            await stage.history.grows(100)


async def test_f18_killed_at_each_failpoint(fleet: Fleet) -> None:
    """Between any two side effects of login, deliver, ack, uplink, logout and ingest; the other node goes on."""
    one, _ = await fleet.add("n1"), await fleet.add("n2")
    async with simulated(fleet, SEED, {"d0": 2, "d1": 1, "d2": 1}, longest=1.0) as stage:
        await kill(one, stage)
        for name in FAILPOINTS:
            reconcile = name == "ingest.reconcile.dealt"
            await start(one, stage, **{VARIABLE: f"{name}:exit:{1 if reconcile else 5}"})
            requests = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                if reconcile:
                    nursery.start_soon(ask_to_reconcile, fleet, requests)
                assert await fall(one, stage, within=2 * PATIENCE), f"it never passed {name}"
                requests.cancel()
        await start(one, stage)


async def ask_to_reconcile(fleet: Fleet, scope: trio.CancelScope) -> None:
    """Until cancelled; whichever node comes first takes an entry."""
    with scope:
        while True:
            fleet.append("reconcile", id="r1", devices='["d0"]')
            await trio.sleep(0.05)


async def test_f25_nodes_are_restarted_one_after_the_other(fleet: Fleet) -> None:
    """I4, I8: SIGTERM and again, five times, each node in turn, under load, with devices that would stay for ever.

    No binding is left, nobody is lost with a node, and none is taken over or logged out more often than a node ends.
    """
    nodes = [await fleet.add(name) for name in ("n1", "n2")]
    restarts = Counter[str]()
    programs = {f"d{number}": 1 for number in range(8)}
    async with simulated(fleet, SEED, programs, longest=86_400.0) as stage:
        for node in itertools.islice(itertools.cycle(nodes), 5):
            await stage.history.grows(100)
            await stop(node, stage)
            await start(node, stage)
            restarts[node.name] += 1
        status = fleet.stream("status")
    assert {entry["reason"] for entry in status if entry["event"] == "offline"} == {"server shutting down"}
    for device in programs:
        moves = [entry for entry in status if entry["device"] == device and entry["event"] != "online"]
        assert len(moves) <= restarts.total(), moves
