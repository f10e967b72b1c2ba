"""Nodes that share a Redis: whatever dies, stops or is cut off, the checker finds every promise kept."""

import os
import random
from pathlib import Path

import pytest
import trio

from tests.faults.cluster import assert_worthwhile, cluster, kill, simulated, start

# A request that dies with a node leaves httpx's generators to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator 'httpx:ResourceWarning", "ignore:Async generator 'httpcore:ResourceWarning"
)

SOAK = float(os.environ.get("PUSHD_SOAK", "30"))
SEED = int(os.environ.get("PUSHD_SEED", str(random.randrange(1_000_000))))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("flush", ["everysec", "always"])
async def test_every_promise_is_kept(tmp_path: Path, flush: str) -> None:
    """Devices on two nodes and moving between them, services that know nothing of nodes; a node and Redis die."""
    async with cluster(tmp_path, "--appendfsync", flush) as fleet:
        one, _ = await fleet.add("n1"), await fleet.add("n2")
        async with simulated(fleet, SEED) as stage:
            await stage.history.grows(800)
            await kill(one, stage)
            await stage.history.grows(200)
            fleet.redis.kill()
            await trio.sleep(1.0)
            fleet.redis.start()
            await stage.history.grows(600)
            await start(one, stage)
            await stage.history.grows(600)
        assert_worthwhile(stage)
        assert {entry["node"] for entry in fleet.stream("status")} == {"n1", "n2"}
