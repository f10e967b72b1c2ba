"""The daemon as a process, with the stock client: who comes in, who is refused, who is taken over, who is counted."""

import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from trio_websocket import open_websocket_url

from tests.faults.processes import Daemon, Deployment, until
from tests.pushd.node_support import SECRET, token
from tests.wire.javascript import JavaScriptClient, JavaScriptSocket, javascript_client

pytestmark = pytest.mark.javascript

DEFAULT: dict[str, Any] = {}
WEBSOCKET = {"transports": ["websocket"]}
TRANSPORTS = pytest.mark.parametrize(
    "options", [pytest.param(DEFAULT, id="default"), pytest.param(WEBSOCKET, id="websocket")]
)
HMAC = {"auth": {"kind": "hmac"}, "auth__hmac": {"secret": SECRET}}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that asks for JSON Web Tokens."""
    async with Deployment(tmp_path, **HMAC).running() as running:
        yield running


def credentials(device: str, **claims: Any) -> dict[str, str]:
    """What a device says of itself, in the query or in the auth object."""
    return {"deviceId": device, "token": token(device, **claims)}


async def connect(js: JavaScriptClient, daemon: Daemon, device: str, **options: Any) -> JavaScriptSocket:
    """A device that is connected."""
    return await js.connect(daemon.url, query=credentials(device), **options)


async def is_well(device: JavaScriptSocket, daemon: Daemon, name: str) -> None:
    """The device works, both ways."""
    await device.answer("well?", "yes")
    assert await device.call("well", 1) == []
    assert (await daemon.push(f"device:{name}", event="well?", wait=10))["counts"] == {"acked": 1}
    await device.next("well?")


# ---- 2. authorisation ----


@TRANSPORTS
async def test_a_token_may_be_in_the_query_in_a_header_or_in_connect(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    named = credentials("kitchen-1")
    bearer = {"authorization": f"Bearer {named['token']}"}
    ways: list[dict[str, Any]] = [
        {"query": named},
        {"query": {"deviceId": "kitchen-1"}, "extraHeaders": bearer},
        {"extraHeaders": bearer},
        {"auth": named},
        {"auth": {"token": named["token"]}},
    ]
    for number, way in enumerate(ways):
        device = await js.connect(daemon.url, **way, **options)
        assert await device.call("arrived", number) == []
        await device.disconnect()
        await daemon.told("status", event="offline", conn=device.id)
    uplink = await daemon.stream("uplink")
    assert [(entry["device"], entry["data"]) for entry in uplink] == [("kitchen-1", str(n)) for n in range(len(ways))]


@TRANSPORTS
async def test_a_refused_device_gets_401_and_sees_connect_error(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    good = token("kitchen-1")
    refused: list[dict[str, Any]] = [
        {"query": {"deviceId": "kitchen-1"}},
        {"query": {"deviceId": "kitchen-1", "token": good + "x"}},
        {"query": {"deviceId": "kitchen-2", "token": good}},
        {"query": {"deviceId": "kitchen-1", "token": token("kitchen-1", exp=1)}},
        {"extraHeaders": {"authorization": "Bearer nonsense"}},
    ]
    for way in refused:
        device = await js.socket(daemon.url, reconnection=False, **way, **options)
        assert (await device.wait("connect_error"))["status"] == 401
    assert await daemon.stream("status") == []
    assert (await daemon.metrics())['pushd_refusals_total{reason="bad_token"}'] == len(refused)


@TRANSPORTS
async def test_a_refusal_in_connect_carries_its_code(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """44 with data.code; a stock client gives up, until its program says otherwise."""
    device = await js.socket(daemon.url, auth={"deviceId": "kitchen-1", "token": "nonsense"}, **options)
    refusal = await device.wait("connect_error")
    assert (refusal["data"]["code"], refusal["active"]) == (401, False)
    device = await js.socket(daemon.url, **options)
    assert (await device.wait("connect_error"))["data"]["code"] == 401


async def test_a_file_of_tokens(js: JavaScriptClient, tmp_path: Path) -> None:
    """auth static; the file may change while the daemon runs."""
    deployment = Deployment(tmp_path, auth={"kind": "static"}, auth__static={"file": "tokens.toml"})
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('"kitchen-1" = "a secret of its own"\n')
    async with deployment.running() as daemon:
        await js.connect(daemon.url, query={"deviceId": "kitchen-1", "token": "a secret of its own"})
        hall = {"deviceId": "hall", "token": "another secret"}
        refused = await js.socket(daemon.url, query=hall, reconnection=False)
        assert (await refused.wait("connect_error"))["status"] == 401
        tokens.write_text('"kitchen-1" = "a secret of its own"\nhall = "another secret"\n')
        await js.connect(daemon.url, query=hall)


@TRANSPORTS
async def test_the_fourth_takeover_in_ten_seconds_is_refused(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """429 for the new one, at the request or in CONNECT; the old one stays and works."""
    holders = [await connect(js, daemon, "d1", **options) for _ in range(4)]
    late = await js.socket(daemon.url, query=credentials("d1"), reconnection=False, **options)
    assert (await late.wait("connect_error"))["status"] == 429
    later = await js.socket(daemon.url, auth=credentials("d1"), reconnection=False, **options)
    refusal = await later.wait("connect_error")
    assert refusal["data"]["code"] == 429
    assert 1 <= refusal["data"]["retry_after"] <= 10
    await is_well(holders[-1], daemon, "d1")
    assert holders[-1].seen("disconnect") == []
    assert [event for event, _ in await daemon.status("d1")] == ["online", "takeover", "takeover", "takeover"]
    assert (await connect(js, daemon, "d2", **options)).id, "another device is not concerned"


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Another program holds the store's file, as a backup would: nothing can be written."""
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@TRANSPORTS
async def test_while_the_store_is_down_it_is_503_and_then_all_is_as_before(
    js: JavaScriptClient, tmp_path: Path, options: dict[str, Any]
) -> None:
    """F2: who is connected stays; nothing is acknowledged that is not stored; nobody is called offline."""
    deployment = Deployment(tmp_path, **HMAC)
    async with deployment.running() as daemon:
        old = await connect(js, daemon, "old", **options)
        with locked(deployment.store):
            new = await js.socket(daemon.url, auth=credentials("new"), reconnectionDelay=50, **options)
            await new.wait("reconnect_attempt")  # refused in CONNECT: its transport is closed, so that it comes again
            other = await js.socket(daemon.url, query=credentials("other"), reconnectionDelay=50, **options)
            assert (await other.wait("connect_error"))["status"] == 503
            response = await daemon.ask("POST", "/v1/push", json={"to": "device:old", "data": 1})
            assert response.status_code == 503
            assert (await daemon.ask("GET", "/ready")).status_code == 503
            assert (await daemon.ask("GET", "/live")).status_code == 200
            await old.emit("while-away", 1)
        await new.connected()
        await other.connected()  # a stock client that was told 503 by its request comes by itself, too
        await is_well(old, daemon, "old")
        assert [entry["event"] for entry in await daemon.stream("uplink")] == ["while-away", "well"]
        await until(lambda: _ready(daemon))
        assert await daemon.status("old") == [("online", "login")]


async def _ready(daemon: Daemon) -> bool:
    return (await daemon.ask("GET", "/ready")).status_code == 200


# ---- 3. takeover, 4. status ----


@TRANSPORTS
async def test_a_newer_login_wins_and_the_old_one_does_not_come_back(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """I3, I4: `kicked` with the reason, then 41, then the end; exactly one start and one end for each epoch."""
    old = await connect(js, daemon, "d1", reconnectionDelay=1, **options)
    new = await connect(js, daemon, "d1", **options)
    assert await old.next("kicked") == [{"reason": "takeover", "by": new.id}]
    end = await old.wait("disconnect")
    assert (end["reason"], end["active"]) == ("io server disconnect", False)
    for _ in range(20):  # a client that wanted to come back would have tried long since: its delay is 1 ms
        await is_well(new, daemon, "d1")
    assert old.seen("reconnect_attempt") == []
    await new.disconnect()
    await daemon.told("status", device="d1", event="offline")
    entries = await daemon.stream("status")
    assert [(entry["event"], entry["conn"]) for entry in entries] == [
        ("online", old.id),
        ("takeover", new.id),
        ("offline", new.id),
    ]
    assert [entry["reason"] for entry in entries] == ["login", "login", "client namespace disconnect"]
    first, second, last = (int(entry["epoch"]) for entry in entries)
    assert first < second == last
    assert all(float(entry["ts"]) > 0 and entry["node"] for entry in entries)


@TRANSPORTS
async def test_the_late_end_of_an_old_connection_changes_nothing(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """I3: the old client hangs while it is taken over, and dies afterwards."""
    async with javascript_client() as others:
        old = await connect(others, daemon, "d1", **options)
        others.signal(signal.SIGSTOP)
        new = await connect(js, daemon, "d1", **options)
        others.signal(signal.SIGKILL)
        await until(lambda: _connections(daemon, 1))
    await is_well(new, daemon, "d1")
    assert await daemon.status("d1") == [("online", "login"), ("takeover", "login")]
    record = await daemon.get("/v1/devices/d1")
    assert (record["online"], record["conn"]) == (True, new.id)
    assert record["conn"] != old.id


async def _connections(daemon: Daemon, number: int) -> bool:
    return bool((await daemon.get("/v1/stats"))["connections"] == number)


async def test_a_kick_by_an_operator(daemon: Daemon, js: JavaScriptClient) -> None:
    """By HTTP and by the command: the device is told, stays away, and has one `offline` with the reason."""
    for name, reason in (("d1", "sold"), ("d2", "lost its key")):
        device = await connect(js, daemon, name, reconnectionDelay=1)
        if name == "d1":
            answer = (await daemon.ask("DELETE", f"/v1/devices/{name}", params={"reason": reason})).json()
            assert answer == {"device": name, "kicked": True}
        else:
            assert (await daemon.command("kick", name, "--reason", reason)).code == 0
        assert await device.next("kicked") == [{"reason": reason, "by": "admin"}]
        assert (await device.wait("disconnect"))["reason"] == "io server disconnect"
        assert await daemon.status(name) == [("online", "login"), ("offline", reason)]
    assert (await daemon.command("kick", "d1")).code == 1


# ---- 5. heartbeat ----


async def test_alive_times_go_to_the_store_in_batches(js: JavaScriptClient, tmp_path: Path) -> None:
    heartbeat = {"interval": 0.5, "stale_after": 60.0}
    deployment = Deployment(tmp_path, heartbeat=heartbeat, protocol={"ping_interval": 0.02, "ping_timeout": 20.0})
    async with deployment.running() as daemon:
        devices = [await js.connect(daemon.url, query={"deviceId": f"d{n}"}, **WEBSOCKET) for n in range(3)]
        seen = [await _seen(daemon, f"d{n}") for n in range(3)]
        for n in range(3):

            async def advanced(n: int = n) -> bool:
                return await _seen(daemon, f"d{n}") > seen[n]

            await until(advanced)
        for device in devices:
            for _ in range(30):
                await device.wait("ping")
        beats = (await daemon.metrics())['pushd_store_seconds_count{operation="beat"}']
        assert 1 <= beats < 3 * 30 / 5


async def _seen(daemon: Daemon, device: str) -> float:
    return float((await daemon.get(f"/v1/devices/{device}"))["seen"])


# ---- 1. counting ----


async def test_the_command_the_statistics_and_the_metrics_count_the_same(daemon: Daemon, js: JavaScriptClient) -> None:
    """Connections, also those without a device; distinct devices; and those that are known but away."""
    devices = [await connect(js, daemon, f"d{n}", **options) for n, options in enumerate((DEFAULT, WEBSOCKET, DEFAULT))]
    await daemon.push("device:never-seen", 1)
    async with _silent(daemon):
        await until(lambda: _connections(daemon, 4))
        assert await _counted(daemon) == [(4, 3, 4)] * 3
        await devices[0].disconnect()
        await daemon.told("status", event="offline", device="d0")
        await until(lambda: _connections(daemon, 3))
        assert await _counted(daemon) == [(3, 2, 4)] * 3
    shown = (await daemon.command("devices", "--online")).out.splitlines()
    assert shown[0].endswith("distinct devices online 2, known 4")
    assert [line.split()[0] for line in shown[2:]] == ["d1", "d2"]


@contextlib.asynccontextmanager
async def _silent(daemon: Daemon) -> AsyncIterator[None]:
    """A connection that has not said who it is."""
    url = f"ws://{daemon.devices}/socket.io/?EIO=4&transport=websocket"
    async with open_websocket_url(url) as websocket:
        assert (await websocket.get_message()).startswith("0{")
        yield


async def _counted(daemon: Daemon) -> list[tuple[int, int, int]]:
    """Connections, distinct devices online, known devices: by the command, the statistics and the metrics."""
    told = json.loads((await daemon.command("devices", "--json")).out)
    stats = await daemon.get("/v1/stats")
    metrics = await daemon.metrics()
    return [
        (told["connections"], told["online"], told["known"]),
        (stats["connections"], stats["store"]["online"], stats["store"]["devices"]),
        (
            int(metrics["pushd_connections"]),
            int(metrics["pushd_devices_online"]),
            int(metrics["pushd_devices_known"]),
        ),
    ]
