"""The example services of docs/services.md, each in its language, against a real server and a real daemon."""

import json
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from engineio_trio.client import ClientSocket, connect
from tests.faults.processes import Deployment
from tests.patience import PATIENCE
from tests.redis import servers
from tests.redis.services import ROOT, SUFFIXES, Service

LANGUAGES = [pytest.param(name, marks=[pytest.mark.javascript] if name == "javascript" else []) for name in SUFFIXES]
SMALL_IDLE = 0.5  # seconds


@pytest.fixture
def server() -> Iterator[servers.Server]:
    """A server on a TCP port, which every client can speak to."""
    with servers.server("valkey", tcp=True) as one:
        yield one


@pytest.fixture(params=LANGUAGES)
def service(request: pytest.FixtureRequest, server: servers.Server, tmp_path: Path) -> Service:
    """The programs of each language."""
    return Service(request.param, tmp_path, {"REDIS_URL": server.url})


@pytest.fixture
async def devices(server: servers.Server, tmp_path: Path) -> AsyncIterator[str]:
    """Where the devices of a daemon connect."""
    async with Deployment(tmp_path, server.url).running() as daemon:
        yield daemon.url


async def emit(url: str, device: str, *readings: object) -> None:
    """A device comes, says something that is stored, and goes."""
    async with connect(url, auth={"deviceId": device}) as socket:
        for reading in readings:
            await socket.call("reading", reading, timeout=PATIENCE)


async def acknowledge(socket: ClientSocket) -> tuple[object, ...]:
    """Take the next push, and acknowledge it: its data, id and whether it is redelivered."""
    with trio.fail_after(PATIENCE):
        event = await anext(socket)
    event.ack()
    data, about = event.args
    return data, about["id"], about["redelivered"]


async def settled(server: servers.Server, key: str, group: str = "billing") -> None:
    """Return when the group has dealt with the whole stream."""

    def done() -> bool:
        (facts,) = [row for row in server.ask("XINFO", "GROUPS", key) if row["name"] == group]
        return (facts["pending"], facts["lag"]) == (0, 0)

    await trio.to_thread.run_sync(servers.until, done, f"{key} is dealt with")


def pending(server: servers.Server, key: str) -> int:
    """How many entries a group has taken and not acknowledged."""
    return int(server.ask("XPENDING", key, "billing")[0])


async def test_a_push_is_acknowledged_and_the_receipts_are_read(
    service: Service, server: servers.Server, devices: str
) -> None:
    """I1: stored while the device is away, then acknowledged; the same id a second time is no second message."""
    async with service.consume("receipt") as receipts:
        await service.produce("push", "device:d1", '{"light": "on", "name": "Küche"}', "order-17")
        stored = await receipts.next()
        assert (stored["id"], stored["device"], stored["state"]) == ("order-17", "d1", "stored")
        async with connect(devices, auth={"deviceId": "d1"}) as socket:
            assert await acknowledge(socket) == ({"light": "on", "name": "Küche"}, "order-17", False)
            assert (await receipts.next())["state"] == "acked"
            await service.produce("push", "device:d1", "1", "order-17")
            assert (await receipts.next())["state"] == "duplicate"
            await service.produce("push", "all", "[2]", "to-all")
            assert (await acknowledge(socket))[:2] == ([2], "to-all")
            assert [(await receipts.next())["state"] for _ in range(2)] == ["stored", "acked"]
        await settled(server, "pushd:{0}:receipt")
    assert server.ask("XLEN", "pushd:{0}:push") == 0, "pushd removes what it has done"


async def test_what_a_device_says_is_consumed(service: Service, server: servers.Server, devices: str) -> None:
    """I7: what was said before the consumer's first start, and after."""
    await emit(devices, "d1", {"celsius": 21})
    async with service.consume("uplink") as uplink, service.consume("status") as status:
        first = await uplink.next()
        assert (first["device"], first["event"], json.loads(first["data"])) == ("d1", "reading", {"celsius": 21})
        assert first["id"].startswith(first["conn"])
        await emit(devices, "d2", 22)
        assert (await uplink.next())["data"] == "22"
        told = [await status.next() for _ in range(4)]
        assert [(each["device"], each["event"]) for each in told] == [
            ("d1", "online"),
            ("d1", "offline"),
            ("d2", "online"),
            ("d2", "offline"),
        ]
        await settled(server, "pushd:{0}:uplink")


@pytest.mark.parametrize("heir", ["c1", "c2"])
async def test_an_entry_comes_again_after_a_kill_between_read_and_acknowledgement(
    service: Service, server: servers.Server, devices: str, heir: str
) -> None:
    """To the same consumer, started again (`c1`), or to another one, which claims it (`c2`)."""
    big = "x" * 90_000  # more than a pipe holds: who prints it stands still in the middle of its work
    async with service.started("consume", "uplink") as process:
        await emit(devices, "d1", big, "next")
        assert process.stdout is not None
        with trio.fail_after(PATIENCE):
            assert await process.stdout.receive_some(1)
        process.kill()
        await process.wait()
    assert pending(server, "pushd:{0}:uplink") > 0
    idle = 60.0 if heir == "c1" else SMALL_IDLE
    async with service.consume("uplink", name=heir, idle=idle) as again:
        seen = [json.loads((await again.next())["data"]) for _ in range(2)]
        assert sorted(seen) == ["next", big]
        await settled(server, "pushd:{0}:uplink")


async def test_a_reconcile_is_answered(service: Service, devices: str) -> None:
    async with service.consume("reconciled") as answers, connect(devices, auth={"deviceId": "here"}):
        await service.produce("reconcile", "audit-3", "here", "gone", "away")
        answer = await answers.next()
        assert (answer["id"], json.loads(answer["offline"])) == ("audit-3", ["gone", "away"])


async def test_a_consumer_goes_on_when_redis_was_killed(service: Service, server: servers.Server, devices: str) -> None:
    """F1: the consumer comes back by itself, and a producer waits for the server."""
    async with service.consume("uplink") as uplink, service.consume("receipt") as receipts:
        await emit(devices, "d1", 1)
        assert (await uplink.next())["data"] == "1"
        await settled(server, "pushd:{0}:uplink")
        server.kill()
        async with service.started("produce", "push", "device:d1", "1", "p1") as producer:
            server.start()
            with trio.fail_after(PATIENCE):
                assert await producer.wait() == 0
        assert (await receipts.next())["id"] == "p1"
        async with connect(devices, auth={"deviceId": "d1"}, transports=["websocket"]) as socket:
            assert (await acknowledge(socket))[1] == "p1"
            await socket.call("reading", 2, timeout=PATIENCE)
        assert (await uplink.next())["data"] == "2"


async def test_a_consumer_makes_its_group_again(service: Service, server: servers.Server) -> None:
    """After FLUSHALL, or a failover to a replica that had not heard of the group, there is none."""
    key = "pushd:{0}:uplink"
    async with service.consume("uplink") as uplink:
        server.ask("XADD", key, "*", "id", "a", "data", "1")
        assert (await uplink.next())["id"] == "a"
        server.ask("FLUSHALL")
        server.ask("XADD", key, "*", "id", "b", "data", "2")
        assert (await uplink.next())["id"] == "b"


async def test_an_entry_that_was_deleted_or_never_works_holds_nothing_up(
    service: Service, server: servers.Server
) -> None:
    """Both are off the group in the end, so that pushd can trim; what never worked is kept aside."""
    key = "pushd:{0}:uplink"
    server.ask("XGROUP", "CREATE", key, "billing", "0", "MKSTREAM")
    ids = [server.ask("XADD", key, "*", "id", name, "data", "1") for name in ("gone", "poison", "fine")]
    server.ask("XREADGROUP", "GROUP", "billing", "c1", "STREAMS", key, ">")
    server.ask("XDEL", key, ids[0])
    server.ask("XCLAIM", key, "billing", "c1", "0", ids[1], "RETRYCOUNT", "5")
    async with service.consume("uplink") as uplink:
        assert (await uplink.next())["id"] == "fine"
        await settled(server, key)
    ((_, fields),) = server.ask("XRANGE", "billing:dead", "-", "+")
    aside = dict(zip(fields[::2], fields[1::2], strict=True))
    assert (aside["stream"], aside["entry"]) == (key, ids[1])
    assert json.loads(aside["fields"]) == {"id": "poison", "data": "1"}


async def test_nothing_is_done_twice(server: servers.Server, tmp_path: Path) -> None:
    """An entry whose work was done before, and that comes again, has no second effect (Python's handler)."""
    service = Service("python", tmp_path, {"REDIS_URL": server.url})
    key = "pushd:{0}:uplink"
    async with service.consume("uplink") as uplink:
        server.ask("XADD", key, "*", "id", "a", "data", "1")
        assert (await uplink.next())["id"] == "a"
        await settled(server, key)
        server.ask("XADD", key, "*", "id", "a", "data", "1")
        server.ask("XADD", key, "*", "id", "b", "data", "2")
        assert (await uplink.next())["id"] == "b"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_producers_and_pushd_mean_the_same_buckets(language: str, server: servers.Server, tmp_path: Path) -> None:
    service = Service(language, tmp_path, {"REDIS_URL": server.url, "PUSHD_STORE__PARTITIONS": "5"})
    names = ["d1", "kitchen-1", "A~b@c.d_e"]
    for name in names:
        await service.produce("push", f"device:{name}", "1", name)
    await service.produce("push", "topic:lamps", "1", "t")
    await service.produce("reconcile", "r", "d1")
    expected = [(zlib.crc32(name.encode()) % 5, name) for name in names] + [(0, "t")]
    for bucket in range(5):
        entries = server.ask("XRANGE", f"pushd:{{{bucket}}}:push", "-", "+")
        assert [fields[fields.index("id") + 1] for _, fields in entries] == [n for b, n in expected if b == bucket]
    assert server.ask("XLEN", "pushd:{0}:reconcile") == 1


@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_rights_on_the_page_are_enough(language: str, server: servers.Server, tmp_path: Path) -> None:
    """The line of docs/services.md, word for word; also for what is done seldom."""
    _, _, rest = (ROOT / "docs" / "services.md").read_text().partition("```text\nuser billing ")
    rules = rest.partition("```")[0].split()
    server.ask("ACL", "SETUSER", "billing", *[word.replace("PASSWORD", "secret") for word in rules])
    service = Service(language, tmp_path, {"REDIS_URL": server.url.replace("//", "//billing:secret@")})
    await service.produce("push", "device:d1", "1", "p1")
    await service.produce("reconcile", "r1", "d1")
    assert [server.ask("XLEN", f"pushd:{{0}}:{stream}") for stream in ("push", "reconcile")] == [1, 1]
    key = "pushd:{0}:uplink"
    server.ask("XGROUP", "CREATE", key, "billing", "0", "MKSTREAM")
    ids = [server.ask("XADD", key, "*", "id", name, "data", "1") for name in ("poison", "own", "claimed")]
    server.ask("XREADGROUP", "GROUP", "billing", "c1", "STREAMS", key, ">")
    server.ask("XCLAIM", key, "billing", "c1", "0", ids[0], "RETRYCOUNT", "5")
    server.ask("XCLAIM", key, "billing", "c2", "0", ids[2])
    async with service.consume("uplink", idle=SMALL_IDLE) as uplink:
        assert [(await uplink.next())["id"] for _ in range(2)] == ["own", "claimed"]
        await settled(server, key)
    assert server.ask("XLEN", "billing:dead") == 1
    refused = [row["reason"] + " " + row["object"] for row in server.ask("ACL", "LOG")]
    assert refused == [], "asked for more"


@pytest.mark.parametrize("language", LANGUAGES)
async def test_on_a_cluster(language: str, tmp_path: Path) -> None:
    """Each bucket at another master: pushes by device, and one consumer for each bucket."""
    with servers.cluster("valkey", 3) as cluster:
        seeds = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        where = {"REDIS_URL": f"redis://127.0.0.1:{cluster.nodes[0].port}", "PUSHD_STORE__PARTITIONS": "3"}
        service = Service(language, tmp_path, where | {"REDIS_CLUSTER": seeds if language == "php" else "1"})
        by_bucket = {zlib.crc32(name.encode()) % 3: name for name in (f"d{n}" for n in range(20))}
        assert len(by_bucket) == 3
        async with Deployment(tmp_path, cluster.url, store={"partitions": 3}).running() as daemon:
            for bucket, name in by_bucket.items():
                await service.produce("push", f"device:{name}", "1", f"for-{name}")
                async with connect(daemon.url, auth={"deviceId": name}) as socket:
                    assert (await acknowledge(socket))[1] == f"for-{name}"
                    await socket.call("reading", bucket, timeout=PATIENCE)
                async with service.consume("uplink", str(bucket)) as uplink:
                    assert (await uplink.next())["device"] == name
