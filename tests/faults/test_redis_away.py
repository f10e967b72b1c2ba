"""Redis that is not there, goes away, forgets, fails over, is slow or full: real nodes on a real server (F1-F7)."""

import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from engineio_trio import CloseReason, HandshakeRefused
from tests.faults.cluster import LEASE, PREFIX, Fleet, Node, cluster, query_of
from tests.faults.phones import Phone, phone, phones
from tests.faults.processes import asking, until
from tests.patience import PATIENCE
from tests.redis.servers import watched

pytestmark = pytest.mark.filterwarnings(
    "ignore:Async generator 'httpx:ResourceWarning", "ignore:Async generator 'httpcore:ResourceWarning"
)

STOP = 5.0  # seconds


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with cluster(tmp_path) as one:
        yield one


async def handshake(node: Node, device: str = "d1") -> httpx.Response:
    """What a request for a session is answered."""
    query = {"EIO": "4", "transport": "polling", **query_of(device)}
    async with asking() as http:
        return await http.get(f"{node.door.devices}/socket.io/", params=query)


async def is_refused(node: Node) -> bool:
    """Whether devices are told that the store is away, and when to come again. Nothing else but to come in is right."""
    response = await handshake(node)
    assert response.status_code in (200, 503), response.text
    if response.status_code == 503:
        assert 1 <= int(response.headers["Retry-After"]) <= 10
    return response.status_code == 503


async def pushed(node: Node, device: str, id: str) -> bool:
    """Whether a push by HTTP is accepted."""
    response = await node.daemon.ask("POST", "/v1/push", json={"to": f"device:{device}", "id": id, "data": id})
    assert response.status_code in (200, 503), response.text
    return response.status_code == 200


# ---- not there at the start ----


async def test_f01_a_node_begins_without_redis(fleet: Fleet) -> None:
    """It is alive and not ready, sends devices away, and serves them soon after Redis has come."""
    fleet.redis.kill()
    node = await fleet.add("n1")
    assert (await node.daemon.ask("GET", "/live")).status_code == 200
    ready = await node.daemon.ask("GET", "/ready")
    assert ready.status_code == 503
    assert "cannot connect" in ready.text
    assert await is_refused(node)
    with pytest.raises(HandshakeRefused):
        async with phone(node, "d1"):
            pass
    assert not await pushed(node, "d1", "p0")
    assert (await node.daemon.metrics())["pushd_store_up"] == 0
    await trio.sleep(1.0)
    begun = time.monotonic()
    fleet.redis.start()
    came = time.monotonic()
    await node.ready()
    assert time.monotonic() - came < 2.0 + 10 * (came - begun), "2 s, on a machine where Redis starts at once"
    async with phone(node, "d1") as device:
        assert await pushed(node, "d1", "p1")
        await device.has("p1")
    await node.stop()


async def test_f01_a_redis_that_is_wrong_ends_the_node_whenever_it_comes(fleet: Fleet) -> None:
    """F1, F7: what a person must mend is not waited for: 1 for another's store, 2 for one that throws data away."""
    fleet.redis.ask("HSET", f"{PREFIX}:meta", "partitions", "4")
    fleet.redis.kill()
    node, other = await fleet.add("n1"), await fleet.add("n2", store={"prefix": "other"})
    fleet.redis.start("--maxmemory-policy", "allkeys-lru")
    assert await other.gone() == 2
    assert "maxmemory-policy allkeys-lru" in other.deployment.log.read_text()
    assert await node.gone() == 2
    fleet.redis.kill()
    await node.start()
    fleet.redis.start()
    assert await node.gone() == 1
    assert "partitions = 4" in node.deployment.log.read_text()
    assert "Traceback" not in node.deployment.log.read_text()


# ---- goes away ----


async def test_f02_redis_dies_for_longer_than_leases_last(fleet: Fleet) -> None:
    """I1, I4, I7: nobody is disconnected or called offline; what was said meanwhile is stored in the end, in order."""
    one, two = await fleet.add("n1"), await fleet.add("n2")
    here, there = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(10)]
    async with (
        phones(one, here) as first,
        phones(two, there) as second,
        trio.open_nursery() as nursery,
    ):
        everybody = [*first, *second]
        await pushed(one, "b0", "before")
        await second[0].has("before")
        fleet.redis.kill()
        begun = time.monotonic()
        heard: list[str] = []

        async def say(each: Phone) -> None:
            await each.socket.call("said", each.device, timeout=60)
            heard.append(each.device)

        for each in everybody:
            for number in range(20):
                each.socket.emit("reading", number)
            nursery.start_soon(say, each)
        assert await until(lambda: is_refused(one))
        assert await until(lambda: is_refused(two))
        assert not await pushed(one, "b0", "while away")
        assert (await one.daemon.ask("GET", "/ready")).status_code == 503
        assert (await one.daemon.ask("GET", "/live")).status_code == 200
        await trio.sleep(10.0 - (time.monotonic() - begun))
        assert all(each.is_on for each in everybody)
        assert not heard, "acknowledged, and stored nowhere"
        fleet.redis.start()
        await one.ready()
        assert await pushed(one, "b0", "after")
        await second[0].has("before", "after")
        await until(lambda: answer(len(heard) == 20))
        await trio.sleep(1.3 * LEASE)  # and nobody is judged by what could not be noted meanwhile
        assert all(each.is_on for each in everybody)
        for each in everybody:
            entries = [entry for entry in fleet.stream("uplink") if entry["device"] == each.device]
            said = [(entry["event"], entry["data"]) for entry in entries]
            assert said == [*(("reading", str(number)) for number in range(20)), ("said", f'"{each.device}"')]
            assert fleet.status(each.device) == [("online", "login", "n1" if each.device in here else "n2")]


async def test_f02_of_a_device_that_says_too_much_meanwhile_no_more_is_read(fleet: Fleet) -> None:
    """I5: a bound for each device, then its own socket is full; nothing of it is lost."""
    node = await fleet.add("n1")
    count, data, written = 600, "x" * 50_000, 0  # 30 MB
    async with phone(node, "d1") as device:
        fleet.redis.kill()
        assert await until(lambda: is_refused(node))
        memory = (await node.daemon.metrics())["process_resident_memory_bytes"]
        with trio.move_on_after(3.0):
            for _ in range(count):
                device.socket.emit("flood", data)
                await device.socket.flush()
                written += 1
        assert written < count / 2, "it was read all the time"
        assert (await node.daemon.metrics())["process_resident_memory_bytes"] - memory < 20_000_000
        fleet.redis.start()
        await until(lambda: answer(len(fleet.stream("uplink")) >= written))
        assert device.is_on
        assert fleet.status("d1") == [("online", "login", "n1")]


async def answer(value: object) -> object:
    """A value, as what a question is answered."""
    return value


# ---- forgets ----


async def test_f03_forgotten_scripts_are_loaded_again(fleet: Fleet) -> None:
    """SCRIPT FLUSH: nobody notices."""
    node = await fleet.add("n1")
    async with phone(node, "d1") as device:
        for number in range(5):
            fleet.redis.ask("SCRIPT", "FLUSH")
            assert await pushed(node, "d1", f"p{number}")
            assert await device.socket.call("said", number) is None
        await device.has(*(f"p{number}" for number in range(5)))
        async with phone(node, "d2"):
            fleet.redis.ask("SCRIPT", "FLUSH")
    metrics = await node.daemon.metrics()
    assert not [name for name in metrics if name.startswith("pushd_store_errors")]


async def test_f03_a_store_that_lost_its_memory_is_a_new_beginning(fleet: Fleet) -> None:
    """FLUSHALL: the node finds that it is not known; its devices come back with epochs beyond the old ones."""
    node = await fleet.add("n1")
    async with phone(node, "d1") as device:
        (old,) = [int(entry["epoch"]) for entry in fleet.stream("status")]
        fleet.redis.ask("FLUSHALL")
        assert await device.closed() is CloseReason.TRANSPORT_CLOSE, "not told to stay away"
        assert device.kicks == []
    await node.ready()
    async with phone(node, "d1") as device:
        assert await pushed(node, "d1", "p1")
        assert await device.socket.call("said", 1) is None
        fleet.append("push", to="device:d1", id="p2", data="1")
        await device.has("p1", "p2")
        (new,) = [int(entry["epoch"]) for entry in fleet.stream("status")]
        assert new > old
    await node.stop()
    assert [event for event, *_ in fleet.status("d1")] == ["online", "offline"]


async def test_f03_while_redis_loads_it_is_away(fleet: Fleet) -> None:
    """LOADING: as if it were down, and everybody stays."""
    node = await fleet.add("n1")
    async with phone(node, "d1") as device:
        with fleet.redis.plain() as client:
            for number in range(10):
                client.mset({f"filler-{number}-{n}": "x" for n in range(5_000)})
        fleet.redis.kill()
        fleet.redis.start("--key-load-delay", "100", wait=False)  # us for each key
        assert await until(lambda: is_refused(node))
        await node.ready()
        assert await pushed(node, "d1", "p1")
        await device.has("p1")
        assert device.is_on
        assert fleet.status("d1") == [("online", "login", "n1")]


# ---- fails over ----


async def test_f04_a_replica_takes_over(tmp_path: Path) -> None:
    """I1, I2, I4, I7: with `wait_replicas` nothing accepted is lost; nobody is disconnected; epochs and seqs rise."""
    with watched(replicas=2) as group:
        async with trio.open_nursery() as nursery:
            old = group.primary
            fleet = Fleet(tmp_path, old, nursery)
            nodes = [await fleet.add(name, url=group.url, store={"wait_replicas": 1}) for name in ("n1", "n2")]
            async with phones(nodes[0], ["d0", "d1"]) as first, phones(nodes[1], ["d2", "d3"]) as second:
                talkers = [Talker(each, nodes[0]) for each in (*first, *second)]
                for each in talkers:
                    nursery.start_soon(each.run)
                await until(lambda: answer(all(len(each.heard) > 10 for each in talkers)))
                old.kill()
                fleet.redis = await trio.to_thread.run_sync(group.await_failover, old)
                counts = [len(each.heard) for each in talkers]
                await until(lambda: answer(all(len(each.heard) > n for each, n in zip(talkers, counts, strict=True))))
                for each in talkers:
                    await each.rest()
                    assert each.phone.is_on
                    assert [event for event, *_ in fleet.status(each.phone.device)] == ["online"]
                    said = [entry["data"] for entry in fleet.stream("uplink") if entry["device"] == each.phone.device]
                    assert said == [str(number) for number in each.heard]
                    seqs = [push["seq"] for push in each.phone.pushes if not push["redelivered"]]
                    assert seqs == sorted(set(seqs))
                epochs = [int(entry["epoch"]) for entry in fleet.stream("status")]
                async with phone(nodes[0], "d2"):
                    assert int(fleet.stream("status")[-1]["epoch"]) > max(epochs)
            nursery.cancel_scope.cancel()


class Talker:
    """Pushes to a device and has it speak, in turn, and notes what was accepted."""

    def __init__(self, phone: Phone, node: Node) -> None:
        self.phone = phone
        self.heard: list[int] = []
        self._node = node
        self._resting = trio.Event()
        self._rests = trio.Event()

    async def run(self) -> None:
        """Until told to rest: then everything accepted has arrived."""
        number = 0
        while not self._resting.is_set():
            id = f"{self.phone.device}-{number}"
            await until(partial(pushed, self._node, self.phone.device, id))
            await self.phone.socket.call("said", number, timeout=60)
            self.heard.append(number)
            await self.phone.got(id)
            number += 1
        self._rests.set()

    async def rest(self) -> None:
        """End after the turn at hand."""
        self._resting.set()
        with trio.fail_after(PATIENCE):
            await self._rests.wait()


# ---- slow, full ----


async def test_f05_a_slow_redis_makes_nobody_fall(fleet: Fleet) -> None:
    """One second more for each answer: it takes longer, the loop turns, nobody is lost, no storm of connections."""
    node = await fleet.add("n1", behind_proxy=True)
    async with phones(node, [f"d{n}" for n in range(5)]) as devices:
        node.proxy.delay = 0.4  # each way, and one piece after the other
        before, begun = node.proxy.connections, trio.current_time()
        async with trio.open_nursery() as nursery:
            for each in devices:
                nursery.start_soon(each.socket.call, "said", each.device)
            await until(lambda: pushed(node, "d0", "p1"))
        await devices[0].has("p1")
        assert (await node.daemon.metrics())["pushd_loop_lag_seconds"] < node.proxy.delay
        assert node.proxy.connections - before < 5 + trio.current_time() - begun, "at most one a second"
        node.proxy.delay = 0.0
        assert all(each.is_on for each in devices)
        assert await pushed(node, "d0", "p2")
        await devices[0].has("p1", "p2")


async def test_f05_a_redis_that_stops_for_5_seconds(fleet: Fleet) -> None:
    """SIGSTOP, SIGCONT: what waited in its sockets comes too late to declare anybody dead."""
    nodes = [await fleet.add(name) for name in ("n1", "n2")]
    async with phones(nodes[0], ["a0", "a1"]) as first, phones(nodes[1], ["b0", "b1"]) as second:
        devices = [*first, *second]
        await trio.sleep(LEASE)  # so that the nodes may judge each other
        before = int(fleet.redis.info("stats")["total_connections_received"])
        fleet.redis.pause()
        async with trio.open_nursery() as nursery:
            for each in devices:
                nursery.start_soon(each.socket.call, "said", each.device, name=each.device)
            await trio.sleep(STOP)
            for node in nodes:
                lag = (await node.daemon.metrics())["pushd_loop_lag_seconds"]
                assert lag < STOP / 2, "the loop did not wait for Redis"
            fleet.redis.resume()
        assert int(fleet.redis.info("stats")["total_connections_received"]) - before < 60
        await trio.sleep(LEASE)
        assert all(each.is_on for each in devices)
        for each in devices:
            assert [event for event, *_ in fleet.status(each.device)] == ["online"]


async def test_f07_a_full_redis_takes_nothing_and_lets_everybody_go(fleet: Fleet) -> None:
    """OOM: pushes and logins 503, delivery and logout go on, and it recovers by itself."""
    node = await fleet.add("n1")
    async with phone(node, "d1", acks=False) as device, phone(node, "d2"):
        assert await pushed(node, "d1", "p1")
        await device.has("p1")
        fleet.redis.ask("CONFIG", "SET", "maxmemory", "1")
        assert not await pushed(node, "d1", "p2")
        assert await until(lambda: is_refused(node))
        assert (await node.daemon.ask("GET", "/ready")).status_code == 503
        device.waiting.pop().ack()
        await until(lambda: answer(("d1", "acked") in fleet.receipts("p1")))
    await until(lambda: answer(len(fleet.status("d1")) == len(fleet.status("d2")) == 2))
    fleet.redis.ask("CONFIG", "SET", "maxmemory", "0")
    await node.ready()
    assert not await is_refused(node)
    assert await pushed(node, "d1", "p2")
    async with phone(node, "d1") as device:
        await device.has("p2")
    assert [event for event, *_ in fleet.status("d1")] == ["online", "offline", "online", "offline"]
