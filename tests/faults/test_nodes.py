"""Nodes that die, stop, are cut off, wake up, end and begin while others go on: processes on one Redis (F8 to F27)."""

import signal
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from engineio_trio import CloseReason
from tests.faults.cluster import LEASE, TOPIC, Fleet, cluster, query_of
from tests.faults.phones import phone, phones
from tests.faults.processes import until
from tests.faults.simulation import Door
from tests.patience import PATIENCE
from tests.raw import UPGRADE, request, text
from tests.redis.proxy import proxied

pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator 'httpx:ResourceWarning", "ignore:Async generator 'httpcore:ResourceWarning"
)

UNHURRIED: dict[str, dict[str, Any]] = {  # a crowd makes a busy machine slow: that is nobody's death
    "node": {"lease": 60.0, "refresh": 1.0, "drain": PATIENCE / 2},
    "heartbeat": {"stale_after": 300.0},
    "protocol": {"ping_interval": 60.0, "ping_timeout": 60.0},
}
SKEWED = "import time\nreal = time.time\ntime.time = lambda: real() + 3600.0\n"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with cluster(tmp_path) as one:
        yield one


def events(fleet: Fleet, device: str) -> list[str]:
    """What the status stream says of a device, each with its node; an end with its reason too."""
    told = fleet.status(device)
    return [f"{event} {node}" if event != "offline" else f"offline {node}: {reason}" for event, reason, node in told]


async def is_told(fleet: Fleet, device: str, event: str) -> bool:
    return event in events(fleet, device)


async def has_receipt(fleet: Fleet, push: str, device: str, state: str) -> bool:
    return (device, state) in fleet.receipts(push)


async def all_have_ended(fleet: Fleet, devices: list[str]) -> bool:
    last = {entry["device"]: entry["event"] for entry in fleet.stream("status")}
    return all(last.get(device) == "offline" for device in devices)


def came_back(fleet: Fleet, device: str, old: str, new: str) -> bool:
    """Whether a device that a dead node held is at another: taken over, or, if it was slower than a sweep, anew."""
    taken_over = [f"online {old}", f"takeover {new}"]
    swept = [f"online {old}", f"offline {old}: node lost", f"online {new}"]
    return events(fleet, device) in (taken_over, swept)


# ---- one hop to the owner ----


async def test_services_need_not_know_where_a_device_is(fleet: Fleet) -> None:
    """To a device, a topic, all; by the stream and by either node; qos 1 and qos 0; kicked through the other node."""
    one, two = await fleet.add("n1"), await fleet.add("n2")
    async with phone(one, "d0") as here, phone(two, "d2") as there, phone(two, "d3") as odd:
        everybody = [here, there, odd]
        assert (await two.daemon.push("device:d0", 1, id="other"))["counts"] == {"stored": 1}
        assert (await one.daemon.push("device:d0", 1, id="own"))["counts"] == {"stored": 1}
        await here.has("other", "own")
        fleet.append("push", to="device:d0", data="1", id="by-stream")
        await here.got("by-stream")
        assert (await one.daemon.push(f"topic:{TOPIC}", 1, id="topic"))["counts"] == {"stored": 2}
        assert (await two.daemon.push("all", 1, id="all"))["counts"] == {"stored": 3}
        fleet.append("push", to="all", data="1", id="all-by-stream")
        for each in everybody:
            await each.got("all-by-stream")
        answer = await one.daemon.push("all", 1, id="now", qos=0)
        assert answer["counts"] == {"delivered": 3}
        for each in everybody:
            await each.got("now")
        waited = await one.daemon.push("device:d2", 1, id="waited", wait=10)
        assert waited["counts"] == {"acked": 1}, "acknowledged at the other node"
        kicked = await one.daemon.ask("DELETE", "/v1/devices/d2", params={"reason": "sold"})
        assert kicked.json() == {"device": "d2", "kicked": True}
        assert await there.closed() is CloseReason.SERVER_DISCONNECT
        assert there.kicks == [{"reason": "sold", "by": "admin"}]
        assert (await two.daemon.push("device:d2", 1, id="late", qos=0))["counts"] == {"refused": 1}
    expected = ["by-stream", "topic", "all", "all-by-stream", "now"]
    assert here.ids == ["other", "own", *expected]
    assert there.ids == [*expected[1:], "waited"]
    assert odd.ids == expected[2:]
    assert events(fleet, "d2") == ["online n2", "offline n2: sold"]


async def test_a_device_that_moves_is_taken_over(fleet: Fleet) -> None:
    """I2, I3: the old node is told at once, and what was not acknowledged comes again at the new one."""
    seldom = {"interval": 600.0, "stale_after": 1_200.0}  # so that it is not the heartbeat that finds out
    one, two = await fleet.add("n1", heartbeat=seldom), await fleet.add("n2")
    async with phone(one, "d1", acks=False) as old:
        await two.daemon.push("device:d1", 1, id="p1")
        await old.has("p1")
        async with phone(two, "d1") as new:
            await new.has("p1")
            assert new.pushes[0]["redelivered"]
            assert await old.closed() is CloseReason.SERVER_DISCONNECT
            assert old.kicks == [{"reason": "takeover", "by": new.socket.id}]
    await until(lambda: all_have_ended(fleet, ["d1"]))
    assert events(fleet, "d1") == ["online n1", "takeover n2", "offline n2: client namespace disconnect"]


# ---- a node dies ----


async def test_f08_node_killed_two_sweepers(fleet: Fleet) -> None:
    """I4: two nodes race to end what a dead one held: one `offline` each; who came back before is taken over."""
    one, two, three = [await fleet.add(name) for name in ("n1", "n2", "n3")]
    devices = [f"d{n}" for n in range(60)]
    back = devices[:10]
    await trio.sleep(LEASE)  # so that both may judge
    async with phones(one, devices):
        await one.kill()
        async with phones(two, back[:5]), phones(three, back[5:]):
            await until(lambda: all_have_ended(fleet, devices[10:]))
            await trio.sleep(2.0)  # the other one sweeps, too
            for device in devices[10:]:
                assert events(fleet, device) == ["online n1", "offline n1: node lost"]
            for device in back:
                assert came_back(fleet, device, "n1", "n2" if device in back[:5] else "n3")
    await until(lambda: all_have_ended(fleet, devices))


async def test_f09_a_node_that_was_stopped_changes_nothing_when_it_wakes(fleet: Fleet) -> None:
    """I1, I3, I4: SIGSTOP for longer than its lease, its devices move; SIGCONT: it refuses itself, and closes them."""
    one, two = await fleet.add("n1"), await fleet.add("n2")
    moved, left = [f"d{n}" for n in range(5)], [f"d{n}" for n in range(5, 10)]
    await trio.sleep(LEASE)
    async with phones(one, [*moved, *left], acks=False) as old:
        for each in old:
            await two.daemon.push(f"device:{each.device}", 1, id=f"p-{each.device}")
            await each.got(f"p-{each.device}")
        one.daemon.signal(signal.SIGSTOP)
        for each in old:  # what it finds in its sockets when it wakes
            each.socket.emit("late", 1)
            each.waiting.pop().ack()
            await two.daemon.push(f"device:{each.device}", 1, id="too late", qos=0)
        async with phones(two, moved, acks=False) as new:
            for each in new:
                await each.got(f"p-{each.device}")
            await until(lambda: all_have_ended(fleet, left))
            one.daemon.signal(signal.SIGCONT)
            for each in old:
                await each.closed()
                assert each.ids == [f"p-{each.device}"]
            assert not [entry for entry in fleet.stream("uplink") if entry["event"] == "late"]
            assert not [entry for entry in fleet.stream("receipt") if entry["state"] == "acked"]
            for device in moved:
                assert came_back(fleet, device, "n1", "n2")
            for device in left:
                assert events(fleet, device) == ["online n1", "offline n1: node lost"]
            await one.ready()  # it has begun again
            async with phone(one, left[0]) as again:
                await again.has(f"p-{left[0]}")
                assert again.pushes[0]["redelivered"]
            for each in new:
                each.waiting.pop().ack()
                await until(partial(has_receipt, fleet, f"p-{each.device}", each.device, "acked"))


async def test_f10_a_node_that_is_cut_off_does_nothing_for_its_devices(fleet: Fleet) -> None:
    """I3, I4: its clients stay attached, it delivers nothing, others end its bindings; back, it closes them."""
    one, two = await fleet.add("n1", behind_proxy=True), await fleet.add("n2")
    await trio.sleep(LEASE)
    async with phone(one, "d1") as first, phone(one, "d2") as second, phone(two, "d3") as third:
        one.proxy.black_hole = True
        await two.daemon.push("device:d1", 1, id="p1")
        await two.daemon.push("device:d1", 1, id="now", qos=0)  # on its way, and nowhere
        await until(lambda: all_have_ended(fleet, ["d1", "d2"]))
        assert first.is_on
        assert second.is_on
        assert first.ids == []
        async with phone(two, "d1", acks=False) as moved:
            await moved.has("p1")
            one.proxy.black_hole = False
            one.proxy.reset()
            await first.closed()
            await second.closed()
            assert first.ids == []
            await one.ready()
            async with phone(one, "d2"):
                pass
            await two.daemon.push("device:d1", 1, id="p2")
            await moved.has("p1", "p2")
            await two.daemon.push("device:d3", 1, id="p3")
            await third.has("p3")
            assert events(fleet, "d1") == ["online n1", "offline n1: node lost", "online n2"]
            assert events(fleet, "d3") == ["online n2"]


async def test_f11_a_device_whose_network_is_gone_is_taken_over_or_offline_in_time(fleet: Fleet) -> None:
    """I4: neither side is told. Who comes back does not wait for the old connection; who does not is offline, once."""
    node = await fleet.add("n1")
    host, _, port = node.daemon.devices.rpartition(":")
    async with proxied((host, int(port))) as network:
        away = Door(f"http://{network.host}:{network.port}", "")
        async with phone(node, "d1", door=away) as first, phone(node, "d2", door=away) as second:
            network.black_hole = True
            async with phone(node, "d1") as again:
                await node.daemon.push("device:d1", 1, id="p1")
                await node.daemon.push("device:d2", 1, id="p2")
                await again.has("p1")
                assert first.is_on
                await until(lambda: all_have_ended(fleet, ["d2"]))
                assert events(fleet, "d1") == ["online n1", "takeover n1"]
                assert events(fleet, "d2") == ["online n1", "offline n1: ping timeout"]
                for each in (first, second):
                    assert await each.closed() is CloseReason.PING_TIMEOUT
                    assert each.ids == []
    async with phone(node, "d2") as back:
        await back.has("p2")


async def test_f14_a_device_that_does_not_read_costs_no_more_than_a_window(fleet: Fleet) -> None:
    """I1, I5, I6: 30 MB for a device that reads nothing: the node keeps little of it, others go on, nothing is lost."""
    node = await fleet.add("n1", limits={"payload": 200_000}, **UNHURRIED)
    ids = [f"p{number}" for number in range(300)]
    host, _, port = node.daemon.devices.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    query = urllib.parse.urlencode({"EIO": "4", "transport": "websocket", **query_of("d1")})
    await stream.send_all(request("GET", f"/socket.io/?{query}", UPGRADE) + text("40"))
    await until(partial(is_told, fleet, "d1", "online n1"))
    before = (await node.daemon.burdens())[0].memory
    async with phone(node, "d2") as other:
        for id in ids:
            await node.daemon.push("device:d1", "x" * 100_000, id=id)
        await node.daemon.push("device:d2", 1, id="other")
        await other.has("other")
        assert (await node.daemon.burdens())[0].memory - before < 15_000_000
        assert len(fleet.receipts("p0")) == 1, "stored, and not acknowledged"
    await trio.aclose_forcefully(stream)
    async with phone(node, "d1") as reader:
        await reader.has(*ids, within=PATIENCE)


async def test_f12_a_node_whose_clock_is_an_hour_ahead(fleet: Fleet, tmp_path: Path) -> None:
    """No node's clock is compared with another's: nobody is stale, nothing expires, times in the streams are right."""
    (tmp_path / "sitecustomize.py").write_text(SKEWED)
    right, wrong = await fleet.add("right"), await fleet.prepare("wrong")
    await wrong.start(PYTHONPATH=str(tmp_path))
    await wrong.daemon.push("device:d2", 1, id="kept", ttl=60)
    async with phone(right, "d0") as here, phone(wrong, "d1") as there:
        await wrong.daemon.push("device:d0", 1, id="p0", ttl=60)
        await right.daemon.push("device:d1", 1, id="p1", ttl=60)
        await here.has("p0")
        await there.has("p1")
        await trio.sleep(LEASE + 2.0)  # both have swept
        reconciled = await wrong.daemon.ask("POST", "/v1/reconcile", json={"devices": ["d0", "d1", "d9"]})
        assert reconciled.json()["offline"] == ["d9"]
        assert events(fleet, "d0") == ["online right"]
        assert events(fleet, "d1") == ["online wrong"]
    async with phone(wrong, "d2") as later:
        await later.has("kept")
    times = [float(entry["ts"]) for name in ("status", "receipt") for entry in fleet.stream(name)]
    assert max(times) - min(times) < 60.0


# ---- a node ends, and begins ----


async def test_f13_f24_a_node_with_200_devices_ends_and_all_come_back_at_once(fleet: Fleet) -> None:
    """I1, I4, I8: SIGTERM: everybody closed and logged out once, exit 0 in time; then everybody at the other node."""
    one, two = [await fleet.add(name, **UNHURRIED) for name in ("n1", "n2")]
    devices = [f"d{n}" for n in range(200)]
    async with phones(one, devices, acks=False) as old:
        await two.daemon.push("all", 1, id="p")
        for each in old:
            await each.has("p", within=PATIENCE)  # a crowd
        await one.stop()
        ends = [entry for entry in fleet.stream("status") if entry["reason"] == "server shutting down"]
        assert sorted(entry["device"] for entry in ends) == sorted(devices)
        assert {entry["node"] for entry in ends} == {"n1"}
        assert await all_have_ended(fleet, devices)
        for each in old:
            assert await each.closed() is CloseReason.TRANSPORT_CLOSE, "it may come back"
        before = (await two.daemon.metrics())["process_resident_memory_bytes"]
        async with phones(two, devices) as new:
            for each in new:
                await each.has("p", within=PATIENCE)
                assert each.pushes[0]["redelivered"]
            assert (await two.daemon.metrics())["process_resident_memory_bytes"] - before < 50_000_000
    await until(lambda: all_have_ended(fleet, devices))
    assert Counter(state for _, state in fleet.receipts("p")) == {"stored": 200, "acked": 200}


# ---- names and prefixes ----


async def test_f27_two_nodes_of_one_name_and_two_deployments_on_one_redis(fleet: Fleet) -> None:
    """Nodes are told apart by their incarnations, deployments by their prefixes."""
    one, two = await fleet.add("same"), await fleet.add("same")
    other = await fleet.add("same", store={"prefix": "other"})
    await trio.sleep(LEASE)
    async with phone(one, "d1"), phone(two, "d2") as second, phone(other, "d2") as stranger:
        await one.daemon.push("device:d2", 1, id="p1")
        await second.has("p1")
        await one.kill()
        await until(partial(is_told, fleet, "d1", "offline same: node lost"))
        await two.daemon.push("all", 1, id="p2")
        await second.has("p1", "p2")
        await other.daemon.push("all", 1, id="mine")
        await stranger.has("mine")
        assert events(fleet, "d2") == ["online same"]
        assert [entry["device"] for entry in await other.daemon.stream("status")] == ["d2"]
        assert (await other.daemon.get("/v1/stats"))["store"]["devices"] == 1
