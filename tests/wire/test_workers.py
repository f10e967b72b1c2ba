"""Several workers on one port, with the stock client and no sticky balancer: a request finds its session's worker."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme

from tests.faults.processes import Daemon, Deployment, until
from tests.patience import again
from tests.redis import servers
from tests.wire.javascript import JavaScriptClient, JavaScriptSocket

pytestmark = pytest.mark.javascript

WORKERS = 3
ROUNDS = 15
EACH = 3  # clients of each way
PATIENCE = 30.0
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "polling": {"transports": ["polling"]},
    "hasty": {"transports": ["polling"], "extraHeaders": {"Connection": "close"}},  # a connection for each request
    "websocket": {"transports": ["websocket"]},
}
BACK_SOON = {"reconnectionDelay": 100, "reconnectionDelayMax": 300, "answers": {"push": []}}
NODE = {"name": "n", "lease": 2.0, "refresh": 0.4}


@pytest.fixture
def redis() -> Iterator[servers.Server]:
    with servers.server("valkey", tcp=True) as running:
        yield running


@contextlib.asynccontextmanager
async def workers(folder: Path, redis: servers.Server, scheme: str = "http") -> AsyncIterator[Daemon]:
    """A daemon with three of them."""
    sections: dict[str, Any] = {"takeover": {"max": 1_000}, "node": NODE, "protocol": {"ping_interval": 2.0}}
    if scheme == "https":
        issued = trustme.CA().issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
        sections["devices__tls"] = {"certificate": str(folder / "cert.pem")}
    deployment = Deployment(folder / "pushd", redis.url, **sections)
    async with deployment.running("--workers", str(WORKERS)) as daemon:
        yield daemon
    assert "Traceback" not in deployment.log.read_text()


async def devices(js: JavaScriptClient, daemon: Daemon, scheme: str = "http") -> dict[str, JavaScriptSocket]:
    """Some clients of every way, connected."""
    common = {"rejectUnauthorized": False, "within": PATIENCE, **BACK_SOON}
    return {
        f"{way}-{number}": await js.connect(
            f"{scheme}://{daemon.devices}", query={"deviceId": f"{way}-{number}"}, **common, **options
        )
        for way, options in WAYS.items()
        for number in range(EACH)
    }


async def both_ways(daemon: Daemon, device: str, client: JavaScriptSocket, tag: str) -> None:
    """Events with acknowledgements from the device, and pushes to it that it acknowledges, at the same time."""

    async def up() -> None:
        for number in range(ROUNDS):
            assert await client.call("reading", [tag, number], within=PATIENCE) == []

    async def down() -> None:
        for number in range(ROUNDS):
            await daemon.push(f"device:{device}", [tag, number], id=f"{tag}-{device}-{number}")
        for number in range(ROUNDS):
            assert (await client.next("push", within=PATIENCE))[0] == [tag, number]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(up)
        nursery.start_soon(down)


async def settled(daemon: Daemon, tag: str, names: set[str]) -> None:
    """Every push has its receipt."""
    wanted = {f"{tag}-{name}-{number}" for name in names for number in range(ROUNDS)}

    async def all_acked() -> bool:
        return wanted <= {entry["id"] for entry in await daemon.stream("receipt") if entry["state"] == "acked"}

    await until(all_acked)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_requests_find_their_session(
    js: JavaScriptClient, tmp_path: Path, redis: servers.Server, scheme: str
) -> None:
    """I1, I2, I7, I8: nobody's connection ends before it shall, under load in both directions."""
    async with workers(tmp_path, redis, scheme) as daemon:
        clients = await devices(js, daemon, scheme)
        async with trio.open_nursery() as nursery:
            for name, client in clients.items():
                nursery.start_soon(both_ways, daemon, name, client, "first")
        await settled(daemon, "first", set(clients))
        for name, client in clients.items():
            assert client.seen("disconnect") == client.seen("connect_error") == [], name
            assert bool(client.seen("upgrade")) == name.startswith("default"), name
        uplinks = await daemon.stream("uplink")
        assert Counter(entry["device"] for entry in uplinks) == dict.fromkeys(clients, ROUNDS)
        nodes = {entry["node"] for entry in uplinks}
        assert len(nodes) > 1, "with 12 clients all on one worker something else is wrong"
        assert nodes <= {"n-1", "n-2", "n-3"}
        stats = await daemon.get("/v1/stats")
        assert (stats["node"], stats["connections"], stats["devices"]) == ("n", len(clients), len(clients))
        assert sum(worker["connections"] for worker in stats["workers"]) == len(clients)
        metrics = await daemon.metrics()
        for name, total in (("pushd_uplinks_total", len(uplinks)), ("pushd_connections", len(clients))):
            assert sum(metrics[f'{name}{{worker="{number}"}}'] for number in (1, 2, 3)) == total
        assert metrics["pushd_devices_online"] == len(clients)
        daemon.signal(signal.SIGTERM)
        for client in clients.values():
            assert (await client.wait("disconnect", within=PATIENCE))["active"]
        assert await daemon.ended() == 0
    ends = redis.ask("XRANGE", "pushd:{0}:status", "-", "+")
    last = {}
    for _, flat in ends:
        entry = dict(zip(flat[::2], flat[1::2], strict=True))
        last[entry["device"]] = (entry["event"], entry["reason"])
    assert last == dict.fromkeys(clients, ("offline", "server shutting down"))
    assert redis.ask("ZCARD", "pushd:{0}:hb") == 0


async def test_a_worker_that_is_killed_is_replaced(js: JavaScriptClient, tmp_path: Path, redis: servers.Server) -> None:
    """I1, I4, F8: its clients come back, to any of them; nothing accepted is lost; nobody else's WebSocket ends.

    Another one's long-polling may: when a request was on its way to the worker that died.
    """
    async with workers(tmp_path, redis) as daemon:
        clients = await devices(js, daemon)
        for name, client in clients.items():
            if name.startswith("default"):
                await client.wait("upgrade", within=PATIENCE)
        nodes = {name: (await daemon.get(f"/v1/devices/{name}"))["node"] for name in clients}
        victim = max(set(nodes.values()), key=list(nodes.values()).count)
        (pid,) = [each["pid"] for each in (await daemon.get("/v1/stats"))["workers"] if each["node"] == victim]
        os.kill(pid, signal.SIGKILL)
        for number in range(ROUNDS):
            # The worker that had the connection, or would have had it, may have died; a push has an id and stays one.
            push = partial(daemon.push, "all", ["second", number], id=f"second-{number}")
            await again(push, httpx.TransportError)
        for name, client in clients.items():
            if nodes[name] == victim:
                assert (await client.wait("disconnect", within=PATIENCE))["reason"].startswith("transport")
                await client.connected(within=PATIENCE)
            seen: list[int] = []
            while len(set(seen)) < ROUNDS:
                data, _ = await client.next("push", within=PATIENCE)
                seen.append(data[1])
            assert sorted(set(seen)) == list(range(ROUNDS)), name
            assert await client.call("reading", "after", within=PATIENCE) == []
            if name.startswith(("websocket", "default")):
                assert client.seen("disconnect") == [], name

        async def all_three() -> bool:
            serving = (await daemon.get("/v1/stats"))["workers"]
            return len(serving) == WORKERS and pid not in {each["pid"] for each in serving}

        await until(all_three)
        for name in clients:
            events = [event for event, _ in await daemon.status(name)]
            assert events in (["online"], ["online", "takeover"], ["online", "offline", "online"]), name
            assert len(events) > 1 or nodes[name] != victim, name
        await daemon.stop()
    assert redis.ask("ZCARD", "pushd:{0}:hb") == 0
