"""The daemon as a process, with the stock client: what goes up, what comes down, what waits, who is missing."""

import base64
import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.faults.processes import Daemon, Deployment, until
from tests.pushd.node_support import SECRET, token
from tests.wire.javascript import JavaScriptClient, JavaScriptSocket, javascript_client

pytestmark = pytest.mark.javascript

TRANSPORTS = pytest.mark.parametrize(
    "options", [pytest.param({}, id="default"), pytest.param({"transports": ["websocket"]}, id="websocket")]
)
BINARY = bytes(range(256))
BINARY_JSON = {"$bytes": base64.b64encode(BINARY).decode()}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that asks for JSON Web Tokens, which may name topics."""
    deployment = Deployment(tmp_path, auth={"kind": "hmac"}, auth__hmac={"secret": SECRET})
    async with deployment.running() as running:
        yield running


async def connect(
    js: JavaScriptClient, daemon: Daemon, device: str, *, acks: bool = True, claims: Any = None, **options: Any
) -> JavaScriptSocket:
    """A device that is connected, and acknowledges pushes."""
    said = {"deviceId": device, "token": token(device, **(claims or {}))}
    return await js.connect(daemon.url, query=said, answers={"push": [], "photo": []} if acks else {}, **options)


async def states(daemon: Daemon, id: str) -> list[tuple[str, str]]:
    """What has become of a push so far: device and state, in order."""
    return [(entry["device"], entry["state"]) for entry in await daemon.stream("receipt") if entry["id"] == id]


# ---- 6. uplink ----


@TRANSPORTS
async def test_an_acknowledged_event_is_an_entry_of_the_uplink_stream(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """I7; with binary, which is written as {"$bytes": base64}; the data of several arguments is an array."""
    device = await connect(js, daemon, "d1", **options)
    events: list[tuple[str, list[Any], Any]] = [
        ("reading", [{"t": 21.5, "unit": "°C"}], {"t": 21.5, "unit": "°C"}),
        ("photo", [BINARY], BINARY_JSON),
        ("both", [{"raw": BINARY, "n": 1}, "two"], [{"raw": BINARY_JSON, "n": 1}, "two"]),
        ("nothing", [], None),
    ]
    for number, (event, args, data) in enumerate(events):
        assert await device.call(event, *args) == []
        entry = (await daemon.stream("uplink"))[number]
        assert (entry["device"], entry["event"], json.loads(entry["data"])) == ("d1", event, data)
        assert (entry["conn"], entry["node"]) == (device.id, (await daemon.get("/v1/stats"))["node"])
    (login,) = await daemon.stream("status")
    assert {entry["epoch"] for entry in await daemon.stream("uplink")} == {login["epoch"]}


@TRANSPORTS
async def test_events_of_a_device_are_stored_in_order(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """Also those without an acknowledgement, over the upgrade, and those that it says last of all."""
    devices = [await connect(js, daemon, f"d{n}", **options) for n in range(3)]
    for number in range(100):
        for device in devices:
            await device.emit("n", number)
    for device in devices:
        await device.emit("bye")
        await device.disconnect()
    for n in range(3):
        await daemon.told("status", event="offline", device=f"d{n}")
        said = [entry["data"] for entry in await daemon.stream("uplink") if entry["device"] == f"d{n}"]
        assert said == [*map(str, range(100)), "null"]


# ---- 7. push ----


@TRANSPORTS
async def test_a_live_push_arrives_and_is_acknowledged(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """By HTTP, by the command and by the stream; the receipts say how far each has come; binary arrives as binary."""
    device = await connect(js, daemon, "d1", **options)
    await daemon.push("device:d1", {"a": 1}, id="by-http")
    assert await device.next("push") == [{"a": 1}, {"id": "by-http", "seq": 1, "redelivered": False}]
    sent = await daemon.command("send", "--device", "d1", "--id", "by-command", "--wait", "10", '{"a": 2}')
    assert (sent.code, sent.out) == (0, "id by-command\nd1  acked  seq 2\n")
    assert (await device.next("push"))[0] == {"a": 2}
    await daemon.append("push", to="device:d1", id="by-stream", data='{"a": 3}')
    assert (await device.next("push"))[0] == {"a": 3}
    await daemon.push("device:d1", {"raw": BINARY_JSON}, id="binary", event="photo")
    assert (await device.next("photo"))[0] == {"raw": BINARY}
    for id in ("by-http", "by-command", "by-stream", "binary"):
        await daemon.told("receipt", id=id, state="acked")
        assert await states(daemon, id) == [("d1", "stored"), ("d1", "acked")]
    assert await daemon.stream("push") == [], "an entry that was carried is gone"


async def test_a_push_to_a_topic_and_to_all(daemon: Daemon, js: JavaScriptClient) -> None:
    """A topic's members are those whose token says so, also while they are away."""
    lamps = {"topics": ["lamps"]}
    one = await connect(js, daemon, "one", claims=lamps)
    two = await connect(js, daemon, "two", claims={"topics": ["lamps", "hall"]})
    away = await connect(js, daemon, "away", claims=lamps)
    other = await connect(js, daemon, "other")
    await away.disconnect()
    await daemon.told("status", event="offline", device="away")
    answer = await daemon.push("topic:lamps", "dim", id="t")
    assert sorted((r["device"], r["state"]) for r in answer["receipts"]) == [
        ("away", "stored"),
        ("one", "stored"),
        ("two", "stored"),
    ]
    assert (await daemon.push("all", "everybody", id="a"))["counts"] == {"stored": 4}
    assert (await daemon.push("topic:empty", 1))["counts"] == {}
    for device in (one, two):
        assert [(await device.next("push"))[0] for _ in range(2)] == ["dim", "everybody"]
    assert (await other.next("push"))[0] == "everybody"
    away = await connect(js, daemon, "away", claims=lamps)
    assert [(await away.next("push"))[0] for _ in range(2)] == ["dim", "everybody"]


async def test_a_push_id_is_carried_once(daemon: Daemon, js: JavaScriptClient) -> None:
    """F15: whatever way it comes again, and after it was acknowledged."""
    device = await connect(js, daemon, "d1")
    answers: list[dict[str, Any]] = []

    async def push() -> None:
        answers.append(await daemon.push("device:d1", "once", id="p1"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(push)
    receipts = [receipt for answer in answers for receipt in answer["receipts"]]
    assert sorted(r["state"] for r in receipts) == ["duplicate", "duplicate", "stored"]
    assert {r["seq"] for r in receipts} == {1}
    await daemon.told("receipt", id="p1", state="acked")
    await daemon.append("push", to="device:d1", id="p1", data='"once"')
    assert (
        await daemon.command("send", "--device", "d1", "--id", "p1", '"once"')
    ).out == "id p1\nd1  duplicate  seq 1\n"
    await daemon.push("device:d1", "the next")
    assert [(await device.next("push"))[0] for _ in range(2)] == ["once", "the next"]


async def test_qos_0_is_sent_once_or_dropped(daemon: Daemon, js: JavaScriptClient) -> None:
    device = await connect(js, daemon, "here", acks=False)
    await daemon.push("device:away", "stored", id="s")
    answer = await daemon.push("all", "now or never", id="z", qos=0)
    assert sorted((r["device"], r["state"], r["reason"]) for r in answer["receipts"]) == [
        ("away", "refused", "offline"),
        ("here", "delivered", ""),
    ]
    data, meta = await device.next("push")
    assert (data, meta) == ("now or never", {"id": "z", "seq": 0, "redelivered": False})
    away = await connect(js, daemon, "away")
    assert (await away.next("push"))[0] == "stored"
    assert (await daemon.push("device:away", "marker", wait=10))["counts"] == {"acked": 1}
    assert (await away.next("push"))[0] == "marker"
    assert await states(daemon, "z") == [("away", "refused"), ("here", "delivered")]


async def test_for_a_device_that_cannot_acknowledge_the_write_counts(daemon: Daemon, js: JavaScriptClient) -> None:
    """confirm = "write", here by a claim; it asks for no acknowledgement, and sends nothing twice."""
    await daemon.push("device:old-fleet", "while away", id="w1")
    claims = {"confirm": "write"}
    device = await connect(js, daemon, "old-fleet", acks=False, claims=claims)
    event = await device.wait("event", event="push")
    assert (event["args"][0], event["asked"]) == ("while away", False)
    answer = await daemon.push("device:old-fleet", "live", id="w2", wait=10)
    assert answer["counts"] == {"delivered": 1}
    assert (await device.next("push"))[0] == "live"
    await device.disconnect()
    await daemon.told("status", event="offline", device="old-fleet")
    again = await connect(js, daemon, "old-fleet", acks=False, claims=claims)
    await daemon.push("device:old-fleet", "marker")
    assert (await again.next("push"))[0] == "marker"
    assert await states(daemon, "w1") == [("old-fleet", "stored"), ("old-fleet", "delivered")]


# ---- 8. offline messages ----


@TRANSPORTS
async def test_what_waited_is_replayed_in_order_before_what_is_new(
    daemon: Daemon, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """I1, I2: rising seq without a gap; what was not acknowledged comes again first, and is marked."""
    for number in range(40):  # more than two windows
        await daemon.push("device:d1", number, id=f"p{number}")
    device = await connect(js, daemon, "d1", acks=False, **options)
    pushes = [await device.next("push") for _ in range(16)]
    assert [(data, meta["seq"], meta["redelivered"]) for data, meta in pushes] == [
        (number, number + 1, False) for number in range(16)
    ]
    await device.disconnect()
    await daemon.told("status", event="offline", device="d1")
    device = await connect(js, daemon, "d1", **options)
    await daemon.push("device:d1", 40)
    pushes = [await device.next("push") for _ in range(41)]
    assert [(data, meta["seq"], meta["redelivered"]) for data, meta in pushes] == [
        (number, number + 1, number < 16) for number in range(41)
    ]
    await daemon.told("receipt", seq="41", state="acked")
    assert (await daemon.get("/v1/devices/d1"))["inbox"] == 0
    acked = [int(entry["seq"]) for entry in await daemon.stream("receipt") if entry["state"] == "acked"]
    assert sorted(acked) == list(range(1, 42))


async def test_a_push_that_outlives_its_ttl_expires_with_a_receipt(daemon: Daemon, js: JavaScriptClient) -> None:
    """Whether the device comes back, or never does."""
    for device in ("comes", "never-comes"):
        await daemon.push(f"device:{device}", "too late", id=f"x-{device}", ttl=0.001)
    await daemon.push("device:comes", "in time", id="in-time")
    device = await connect(js, daemon, "comes")
    assert (await device.next("push"))[0] == "in time"
    await daemon.told("receipt", id="in-time", state="acked")
    for name in ("comes", "never-comes"):
        await daemon.told("receipt", id=f"x-{name}", state="expired", seq="1")
        assert (await daemon.get(f"/v1/devices/{name}"))["inbox"] == 0


async def test_a_full_inbox_refuses_and_says_so(js: JavaScriptClient, tmp_path: Path) -> None:
    async with Deployment(tmp_path, delivery={"inbox_max": 3, "window": 3}).running() as daemon:
        for number in range(3):
            assert (await daemon.push("device:d1", number))["counts"] == {"stored": 1}
        (refused,) = (await daemon.push("device:d1", 3, id="beyond"))["receipts"]
        assert (refused["state"], refused["seq"]) == ("refused", 0)
        assert "inbox full" in refused["reason"]
        await daemon.append("push", to="device:d1", data="4", id="by-stream")
        assert "inbox full" in (await daemon.told("receipt", id="by-stream"))["reason"]
        sent = await daemon.command("send", "--device", "d1", "5")
        assert sent.code == 1
        assert "refused" in sent.out
        device = await js.connect(daemon.url, query={"deviceId": "d1"}, answers={"push": []})
        assert [(await device.next("push"))[0] for _ in range(3)] == [0, 1, 2]
        await daemon.told("receipt", state="acked", seq="3")
        answer = await daemon.push("device:d1", "room again", id="beyond", wait=10)
        assert answer["counts"] == {"acked": 1}, "the refused id was not taken for a duplicate"


# ---- 9. reconcile ----


async def test_reconcile_names_those_that_are_not_alive(daemon: Daemon, js: JavaScriptClient) -> None:
    """By HTTP, by the command, and by the stream."""
    for name in ("d1", "d2"):
        await connect(js, daemon, name)
    gone = await connect(js, daemon, "gone")
    await gone.disconnect()
    await daemon.told("status", event="offline", device="gone")
    asked = ["unknown", "d1", "gone", "d2"]
    answer = (await daemon.ask("POST", "/v1/reconcile", json={"id": "r1", "devices": asked})).json()
    assert (answer["id"], answer["offline"]) == ("r1", ["unknown", "gone"])
    assert (await daemon.command("reconcile", *asked)).out == "unknown\ngone\n"
    await daemon.append("reconcile", id="r2", devices=json.dumps(asked))
    for id in ("r1", "r2"):
        told = await daemon.told("reconciled", id=id)
        assert json.loads(told["offline"]) == ["unknown", "gone"]
        assert float(told["ts"]) > 0
    assert await daemon.status("gone") == [("online", "login"), ("offline", "client namespace disconnect")]
    assert await daemon.status("d1") == [("online", "login")]


async def test_a_device_that_hangs_is_offline_once(js: JavaScriptClient, tmp_path: Path) -> None:
    """F11: its connection stays open, it says nothing any more. When it wakes up, it comes back by itself."""
    pings = {"ping_interval": 0.5, "ping_timeout": 3.0}
    async with Deployment(tmp_path, protocol=pings).running() as daemon, javascript_client() as others:
        await js.connect(daemon.url, query={"deviceId": "well"})
        ill = await others.connect(daemon.url, query={"deviceId": "ill"}, reconnectionDelay=50)
        others.signal(signal.SIGSTOP)
        await daemon.told("status", device="ill", event="offline")
        others.signal(signal.SIGCONT)
        await ill.wait("disconnect")
        await ill.connected()
        assert [event for event, _ in await daemon.status("ill")] == ["online", "offline", "online"]
        assert (await daemon.status("ill"))[1] == ("offline", "ping timeout")
        assert await daemon.status("well") == [("online", "login")]


@pytest.mark.parametrize("ask", [True, False], ids=["reconcile", "sweep"])
async def test_a_stale_device_gets_its_offline_once(js: JavaScriptClient, tmp_path: Path, ask: bool) -> None:
    """Its alive time is old (here: made old), so nobody knows that it lives: it ends, is closed, and comes back.

    Reconcile and the sweep look for it; whoever is first, it ends once.
    """
    deployment = Deployment(
        tmp_path,
        heartbeat={"interval": 0.1, "stale_after": 5.0},
        protocol={"ping_interval": 1.0, "ping_timeout": 2.0},
    )
    async with deployment.running() as daemon:
        await js.connect(daemon.url, query={"deviceId": "well"})
        device = await js.connect(daemon.url, query={"deviceId": "d1"}, reconnectionDelay=50)

        epoch = (await daemon.get("/v1/devices/d1"))["epoch"]

        async def ended() -> bool:
            make_old(deployment.store, "d1", epoch)
            if ask:
                await reconciled(daemon)
            return len(await daemon.status("d1")) > 1

        await until(ended)
        assert (await device.wait("disconnect"))["active"], "it was not told to stay away"
        await device.connected()
        events = [("online", "login"), ("offline", "stale"), ("online", "login")]
        assert await daemon.status("d1") == events
        assert await reconciled(daemon) == []
        assert await daemon.status("d1") == events
        assert await daemon.status("well") == [("online", "login")]


async def reconciled(daemon: Daemon) -> Any:
    """Which of the two devices are not alive."""
    return (await daemon.ask("POST", "/v1/reconcile", json={"devices": ["well", "d1"]})).json()["offline"]


def make_old(store: Path, device: str, epoch: int) -> None:
    """Nobody has heard of this connection of the device for an hour, says the store's file from now on."""
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as file:
        file.execute("UPDATE device SET seen = seen - 3600 WHERE id = ? AND epoch = ?", (device, epoch))
