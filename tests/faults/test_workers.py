"""The workers of one daemon as the nodes that they are: they die and stop one by one, and every promise is kept."""

import os
import random
import signal
from pathlib import Path

import httpx
import pytest

from tests.faults.cluster import Node, cluster, simulated
from tests.faults.processes import until
from tests.faults.simulation import Stage

# A request that dies with a worker leaves httpx's generators to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator 'httpx:ResourceWarning", "ignore:Async generator 'httpcore:ResourceWarning"
)

SEED = int(os.environ.get("PUSHD_SEED", str(random.randrange(1_000_000))))
WORKERS = 3


async def pids(node: Node) -> dict[str, int]:
    """The workers' names and processes, when all of them serve; else nothing."""
    try:
        workers = (await node.daemon.get("/v1/stats"))["workers"]
    except httpx.TransportError:  # on a connection of one that has just died
        return {}
    return {each["node"]: each["pid"] for each in workers} if len(workers) == WORKERS else {}


async def end_one(node: Node, stage: Stage, how: signal.Signals) -> None:
    """End a worker, and wait for another in its place."""
    name, pid = stage.rng.choice(sorted((await until(lambda: pids(node))).items()))
    stage.history.note(name, "ending", how=how.name)
    os.kill(pid, how)

    async def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    await until(is_gone)
    stage.history.note(name, "ended", how=how.name)

    async def is_replaced() -> bool:
        return pid not in (await pids(node) or {name: pid}).values()

    await until(is_replaced)
    stage.history.note(name, "started")


@pytest.mark.timeout(240)
async def test_every_promise_is_kept_by_workers(tmp_path: Path) -> None:
    async with cluster(tmp_path) as fleet:
        node = await fleet.add("n1", node={"workers": WORKERS})
        async with simulated(fleet, SEED) as stage:
            for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
                await stage.history.grows(200)
                await end_one(node, stage, how)
            node.daemon.signal(signal.SIGHUP)
            await stage.history.grows(200)
        assert {entry["node"] for entry in fleet.stream("status")} == {f"n1-{number + 1}" for number in range(WORKERS)}
        await node.stop()
