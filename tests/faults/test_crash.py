"""kill -9 at any moment, SIGTERM at any moment, and at every failpoint: what was promised holds (F8, F17, F18, F24).

`PUSHD_SOAK=600` lets the random run last so many seconds, `PUSHD_SEED=n` makes its choices those of another run.
"""

import contextlib
import os
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import pushd
from pushd.failpoint import EXIT_CODE, VARIABLE
from pushd.model import Stream
from tests.faults.checker import Evidence, check
from tests.faults.history import recording
from tests.faults.processes import Daemon, Deployment, asking, until
from tests.faults.simulation import Door, Producer, Program, Stage, by_http, by_stream_over_http, worthwhile
from tests.patience import PATIENCE
from tests.pushd.node_support import SECRET, token

# A request that dies with the daemon leaves httpx's generators to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator 'httpx:ResourceWarning", "ignore:Async generator 'httpcore:ResourceWarning"
)

NODE = "daemon"
DEVICES = [f"d{n}" for n in range(6)]
TOPIC = "even"
SOAK = float(os.environ.get("PUSHD_SOAK", "15"))
SEED = int(os.environ.get("PUSHD_SEED", str(random.randrange(1_000_000))))


def failpoints() -> list[str]:
    """The names of all failpoints in the daemon's source."""
    names: set[str] = set()
    for path in Path(pushd.__file__).parent.rglob("*.py"):
        for name in re.findall(r'\bfailpoint\(f?"([^"]+)"\)', path.read_text()):
            if not name.startswith("name"):
                names |= {name.format(stream=stream) for stream in (Stream.PUSH, Stream.RECONCILE)}
    return sorted(names)


FAILPOINTS = failpoints()


def deployment_in(folder: Path) -> Deployment:
    """One where takeovers are common, and nothing is refused."""
    return Deployment(
        folder,
        auth={"kind": "hmac"},
        auth__hmac={"secret": SECRET},
        takeover={"max": 100_000},
        node={"name": NODE},
        delivery={"inbox_max": 100_000},
    )


def query_of(device: str) -> dict[str, str]:
    topics = [TOPIC] if int(device[1:]) % 2 == 0 else []
    return {"deviceId": device, "token": token(device, topics=topics)}


@contextlib.asynccontextmanager
async def simulated(deployment: Deployment, folder: Path, seed: int) -> AsyncIterator[Stage]:
    """Devices and producers around a daemon that comes and goes; at the end of the block all must be as promised."""
    print(f"seed {seed}, history {folder / 'history.jsonl'}")
    async with recording(folder / "history.jsonl") as history:
        async with deployment.running() as daemon:  # so that the addresses are known
            doors = [Door(daemon.url, f"http://{daemon.admin}")]
            stage = Stage(doors, history, random.Random(seed))
            await daemon.stop()
        async with asking() as http, trio.open_nursery() as nursery:
            for device in DEVICES:
                for number in range(2 if device in DEVICES[:3] else 1):
                    program = Program(device, f"{device}/{number}", query_of(device), stage, first=number == 0)
                    nursery.start_soon(program.run)
            targets = [f"device:{device}" for device in DEVICES]
            everyone = [*targets, f"topic:{TOPIC}", "all"]
            nursery.start_soon(Producer("http", everyone, stage, by_http(stage, http)).run)
            nursery.start_soon(Producer("stream", targets, stage, by_stream_over_http(stage, http)).run)
            yield stage
            await conclude(deployment, stage)


async def conclude(deployment: Deployment, stage: Stage) -> None:
    """When enough has happened, let everything come to rest, and check.

    Then kill once more, and check that nobody stays who is not there.
    """
    async with deployment.running() as daemon:
        await stage.history.has(worthwhile)
        stage.drain.set()
        try:
            await until(lambda: at_rest(daemon, stage, online=len(DEVICES)), within=2 * PATIENCE)
        finally:  # which also says why it never came to rest
            await check_evidence(daemon, stage)
        stage.over.set()
        await ends(daemon, stage, "SIGKILL")
    async with deployment.running() as daemon:
        assert await at_rest(daemon, stage, online=0)
        await check_evidence(daemon, stage)


async def at_rest(daemon: Daemon, stage: Stage, online: int) -> bool:
    """Nobody is about to do something, nothing waits for anybody, and so many devices are connected."""
    if stage.busy:
        return False
    store = (await daemon.get("/v1/stats"))["store"]
    return (store["inbox"], store["streams"]["push"], store["online"]) == (0, 0, online)


async def check_evidence(daemon: Daemon, stage: Stage) -> None:
    streams = {name: await daemon.stream(name) for name in ("status", "receipt", "uplink", "push", "dead")}
    devices = (await daemon.get("/v1/devices", limit=1_000))["devices"]
    evidence = Evidence(list(stage.history.records), streams, devices, stage.history.late, await daemon.burdens())
    violations = check(evidence)
    assert not violations, "\n".join(violations[:20])


async def ends(daemon: Daemon, stage: Stage, how: str) -> None:
    """End the daemon so; a failpoint does it by itself."""
    stage.history.note(NODE, "ending", how=how)
    if how == "SIGKILL":
        await daemon.kill()
    elif how == "SIGTERM":
        await daemon.stop()
    else:
        assert await daemon.ended() == EXIT_CODE
    stage.history.note(NODE, "ended", how=how)


@pytest.mark.timeout(SOAK + 600)
async def test_nothing_is_lost_whenever_the_daemon_ends(tmp_path: Path) -> None:
    """I1, I2, I3, I4, I7, I8: pushed while away and live, acknowledged or not, taken over, killed, and again."""
    deployment = deployment_in(tmp_path)
    async with simulated(deployment, tmp_path, SEED) as stage:
        rng = random.Random(SEED + 1)
        end = time.monotonic() + SOAK
        while time.monotonic() < end:
            how = rng.choice(("SIGKILL", "SIGKILL", "SIGTERM", rng.choice(FAILPOINTS)))
            setting = {VARIABLE: f"{how}:exit:{rng.randrange(1, 30)}"} if how in FAILPOINTS else {}
            async with deployment.running(**setting) as daemon:
                stage.history.note(NODE, "started", how=how)
                if how in FAILPOINTS:
                    with trio.move_on_after(5.0) as rare:
                        await ends(daemon, stage, how)
                    how = "SIGKILL" if rare.cancelled_caught else ""
                else:
                    await stage.history.grows(rng.randrange(1, 400))
                if how:
                    await ends(daemon, stage, how)


@pytest.mark.timeout(900)
async def test_nothing_is_lost_at_any_failpoint(tmp_path: Path) -> None:
    """F18: between any two side effects, one after the other on the same file."""
    deployment = deployment_in(tmp_path)
    async with simulated(deployment, tmp_path, SEED) as stage:
        for name in FAILPOINTS:
            reconcile = name == "ingest.reconcile.dealt"
            async with deployment.running(**{VARIABLE: f"{name}:exit:{1 if reconcile else 5}"}) as daemon:
                stage.history.note(NODE, "started", how=name)
                if reconcile:
                    await daemon.append("reconcile", id="r1", devices='["d0"]')
                await ends(daemon, stage, name)
