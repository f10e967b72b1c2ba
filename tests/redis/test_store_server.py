"""What the server does to the store: it forgets, it is full, it fails over, it has other settings."""

from collections.abc import Iterator

import pytest
import trio

from pushd.errors import ConfigError, StoreBusy, StoreUnavailable
from pushd.model import ReceiptState, Stream
from pushd.store import open_store
from pushd.store.base import Deployment, Limits
from pushd.store.redis.store import open_redis
from tests.patience import PATIENCE
from tests.pushd.stores import Clock, Node, bind, everything, push, told
from tests.redis.clients import again, eventually
from tests.redis.nodes import Peer, check_status, peer, status, until
from tests.redis.proxy import proxied
from tests.redis.servers import FLAVOURS, Server, replicated, server

CALM = Deployment(lease=30.0, refresh=10.0)


@pytest.fixture(params=FLAVOURS)
def redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server(request.param) as one:
        yield one


async def lost(node: Peer) -> bool:
    return node.node.losses > 0


# ---- it forgets ----


async def test_scripts_that_the_server_has_forgotten_are_sent_again(redis: Server) -> None:
    """F3."""
    async with peer(redis.url, deployment=CALM) as one:
        epoch = await one.bind("d", "c1")
        redis.ask("SCRIPT", "FLUSH")

        async def send(number: int) -> None:
            await one.store.enqueue(push(f"p{number}"), ["d"])

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(send, number)
        assert len(await one.store.fetch("d", epoch, 0, 100)) == 50
        assert len(await everything(one.store, Stream.RECEIPT)) == 50


async def test_after_flushall_nodes_notice_and_devices_come_back_with_greater_epochs(redis: Server) -> None:
    """F3, I3: the store knows nothing any more, and it all begins again, without a restart."""
    async with peer(redis.url, "n1") as one, peer(redis.url, "n2") as two:
        old = await one.bind("d", "c1")
        await one.store.append(Stream.PUSH, {"n": "0"})
        assert len(await one.store.take(Stream.PUSH, 5)) == 1
        redis.ask("FLUSHALL")
        assert await one.store.beat([("d", old)]) == ["d"], "the next heartbeat says so"
        await until(lambda: lost(one))
        await until(lambda: lost(two))
        epoch = await until(lambda: again_bound(two))
        assert epoch > old
        await again(lambda: two.store.enqueue(push("p"), ["d"]))
        assert [message.id for message in await two.store.fetch("d", epoch, 0, 5)] == ["p"]
        await again(lambda: one.store.append(Stream.PUSH, {"n": "1"}))
        with trio.fail_after(PATIENCE):
            (entry,) = await again(lambda: one.store.take(Stream.PUSH, 5))
        assert entry.fields["n"] == "1"
        assert await one.store.sweep() == 0
        check_status(await status(one), {"d"})
        assert redis.ask("HGET", "pushd:meta", "partitions") == "1"


async def test_a_node_that_is_not_known_any_more_leaves_its_old_bindings_to_the_sweep(redis: Server) -> None:
    """I4: the list of nodes was lost, the bindings were not: each ends once, and not by its old node."""
    async with peer(redis.url, "n1") as one, peer(redis.url, "n2", deployment=CALM) as two:
        old = await one.bind("d", "c1")
        redis.ask("DEL", "pushd:nodes")
        await until(lambda: lost(one))
        assert not await again(lambda: one.store.logout("d", old, "late"))
        assert await until(two.store.sweep) == 1
        assert (await status(two))[-1] == ("d", "offline", str(old), "node lost")
        check_status(await status(two), set())


async def again_bound(node: Peer) -> int:
    """Its epoch, as soon as the node has its new lease."""
    return await again(lambda: node.bind("d", "c2"))


async def test_marks_are_kept_for_the_window_and_not_for_ever(redis: Server) -> None:
    """They are looked after now and then, not at each push; also when the clock is set back."""
    clock, gap, window = Clock(), 5.0, 160.0
    key, most = "pushd:{0}:x:d", int(window / gap * 17 / 16) + 1
    limits = Limits(dedupe=window, inbox_max=1_000)
    async with open_redis(redis.url, node="n1", control=Node(), limits=limits, deployment=CALM, clock=clock) as store:
        for number in range(120):
            (receipt,) = await store.enqueue(push(f"p{number}"), ["d"])
            assert receipt.state is ReceiptState.STORED
            assert redis.ask("ZCARD", key) <= most
            assert redis.ask("PTTL", key) > window * 1_000
            (receipt,) = await store.enqueue(push(f"p{max(0, number - 31)}"), ["d"])
            assert receipt.state is ReceiptState.DUPLICATE
            clock.now += gap
        assert redis.ask("ZCARD", key) > window / gap
        clock.now -= 100
        for number in range(15):
            await store.enqueue(push(f"back {number}"), ["d"])
            clock.now += gap
        assert (await store.enqueue(push("p119"), ["d"]))[0].state is ReceiptState.DUPLICATE


# ---- it is full ----


async def test_a_full_server_refuses_whole_what_grows_and_lets_the_rest_go_on(redis: Server) -> None:
    """F7, I1: pushes, logins and uplinks fail whole; acks and logouts work, leases and heartbeats too; it recovers."""
    async with peer(redis.url) as one:
        epoch = await one.bind("d", "c1")
        leaving = await one.bind("leaving", "c1")
        for number in range(3):
            await one.store.enqueue(push(f"p{number}", ttl=1000 if number else 0.001), ["d"])
        before = await snapshot(one)
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        for act in (
            lambda: one.store.enqueue(push("more"), ["d", "e"]),
            lambda: one.store.login("new", "c1", ["t"]),
            lambda: one.store.login("d", "c2", ["t"]),
            lambda: one.store.uplink("d", epoch, "c1", "u1", "event", "1"),
            lambda: one.store.append(Stream.STATUS, {"n": "1"}),
            lambda: one.store.cast(push("now"), ["d", "away"]),
            one.store.ping,
            lambda: one.store.admits("d"),
        ):
            with pytest.raises(StoreUnavailable, match="memory is full"):
                await act()
        assert await snapshot(one) == before, "nothing of it is there"
        assert await one.store.beat([("d", epoch), ("new", 1)]) == ["new"]
        messages = await one.store.fetch("d", epoch, 0, 1)
        messages += await one.store.fetch("d", epoch, messages[0].seq, 10)
        assert [message.id for message in messages] == ["p1", "p2"]
        await one.store.ack("d", epoch, [message.seq for message in messages], ReceiptState.ACKED)
        assert await one.store.logout("leaving", leaving, "bye")
        await one.store.sweep()
        await trio.sleep(1.0)  # longer than the lease
        assert one.node.losses == 0
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        await one.store.ping()
        assert await one.store.admits("d") is None
        await one.store.uplink("d", epoch, "c1", "u1", "event", "1")
        await one.bind("new", "c1", "t")
        states = [state for (state,) in await told(one.store, Stream.RECEIPT, "state")]
        assert states == ["stored"] * 3 + ["expired"] + ["acked"] * 2
        check_status(await status(one), {"d", "new"})


async def snapshot(node: Peer) -> tuple[object, ...]:
    """All that calls which fail could have changed."""
    store = node.store
    return (
        await store.counts(),
        await store.devices("", 100, online=False),
        await store.members("t", "", 10),
        [await everything(store, stream) for stream in Stream],
        list(node.node.casts),
    )


# ---- failover ----


async def test_epochs_and_seqs_rise_through_a_failover_that_lost_writes() -> None:
    """F4: what the replica had not seen is lost; what is given out afterwards is greater than what was lost."""
    with replicated() as (primary, replica):
        async with proxied(("127.0.0.1", primary.port)) as link:
            replica.ask("REPLICAOF", "127.0.0.1", str(link.port))
            await eventually(lambda: replica.info("replication")["master_link_status"] == "up")
            async with peer(primary.url, deployment=CALM) as one:
                kept = await one.bind("d", "c0")
                (first,) = await one.store.enqueue(push("kept"), ["d"])
                await eventually(lambda: replica.ask("LLEN", "pushd:{0}:q:d") == 1)
                link.black_hole = True
                epochs = [await one.bind("d", f"c{number}") for number in range(1, 30)]
                seqs = [(await one.store.enqueue(push(f"p{number}"), ["d"]))[0].seq for number in range(50)]
                assert kept < epochs[0]
                assert first.seq < seqs[0]
            primary.kill()
            await trio.sleep(0.1)  # no failover is faster; 29 logins within a few ms were given a few ms in advance
            replica.lead()
        async with peer(replica.url, deployment=CALM) as two:
            record = await two.store.device("d")
            assert record is not None
            assert (record.epoch, record.inbox) == (kept, 1)
            epoch = await two.bind("d", "new")
            assert epoch > epochs[-1]
            (receipt,) = await two.store.enqueue(push("p0"), ["d"])
            assert receipt.state is ReceiptState.STORED
            assert receipt.seq > seqs[-1]
            assert [message.id for message in await two.store.fetch("d", epoch, 0, 100)] == ["kept", "p0"]


async def test_with_wait_replicas_a_write_counts_only_when_a_replica_has_it() -> None:
    """F4: nothing that was acknowledged is lost; a write that was not confirmed may be repeated."""
    confirmed = Deployment(wait_replicas=1, lease=30.0, refresh=10.0)
    with replicated() as (primary, replica):
        async with proxied(("127.0.0.1", primary.port)) as link:
            replica.ask("REPLICAOF", "127.0.0.1", str(link.port))
            await eventually(lambda: replica.info("replication")["master_link_status"] == "up")
            async with peer(primary.url, deployment=confirmed) as one, peer(primary.url, deployment=confirmed) as two:
                epoch = await one.bind("d", "c1")
                await one.store.enqueue(push("p"), ["d"])
                await one.store.uplink("d", epoch, "c1", "u1", "event", "1")
                assert replica.ask("XLEN", "pushd:{0}:uplink") == 1, "at once"
                link.black_hole = True
                for act in (
                    lambda: one.store.enqueue(push("q"), ["d"]),
                    lambda: two.store.enqueue(
                        push("q"), ["d"]
                    ),  # stored already, but not confirmed; a fresh connection
                    lambda: one.store.login("e", "c1", []),
                    lambda: one.store.uplink("d", epoch, "c1", "u2", "event", "1"),
                    lambda: one.store.uplink("d", epoch, "c1", "u2", "event", "1"),
                ):
                    with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
                        await act()
                link.black_hole = False
                link.reset()
                (receipt,) = await again(lambda: one.store.enqueue(push("q"), ["d"]))
                assert receipt.state is ReceiptState.DUPLICATE
                await again(lambda: one.store.uplink("d", epoch, "c1", "u2", "event", "1"))
                assert await told(one.store, Stream.UPLINK, "id") == [("u1",), ("u2",)]
                assert replica.ask("XLEN", "pushd:{0}:uplink") == 2


# ---- its settings ----


async def test_a_server_that_evicts_is_refused(redis: Server) -> None:
    for policy in ("allkeys-lru", "volatile-ttl"):
        redis.ask("CONFIG", "SET", "maxmemory-policy", policy)
        with pytest.raises(ConfigError, match=f"maxmemory-policy {policy}.*set it to noeviction"):
            async with open_store(redis.url, node="n", control=Node(), limits=Limits()):
                pytest.fail("opened")


async def test_a_server_that_keeps_nothing_on_disk_is_spoken_of(
    redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    for setting, spoken_of in (("yes", False), ("no", True)):
        redis.ask("CONFIG", "SET", "appendonly", setting)
        async with peer(redis.url):
            assert ("has appendonly no: what was accepted" in caplog.text) == spoken_of


async def test_another_number_of_partitions_is_refused(redis: Server) -> None:
    async with peer(redis.url, deployment=Deployment(partitions=4)):
        pass
    with pytest.raises(StoreBusy, match=r"partitions = 4, and here it is 1: set store\.partitions = 4"):
        async with open_store(redis.url, node="n", control=Node(), limits=Limits()):
            pytest.fail("opened")
    async with peer(redis.url, deployment=Deployment(prefix="other")) as other:
        await bind(other.store, "d", "c1")
    redis.ask("HSET", "pushd:meta", "version", 99)
    with pytest.raises(StoreBusy, match="version = 99"):
        async with peer(redis.url, deployment=Deployment(partitions=4)):
            pytest.fail("opened")


async def test_two_deployments_on_one_server_do_not_see_each_other(redis: Server) -> None:
    """F27."""
    async with peer(redis.url, "n1") as one, peer(redis.url, "n1", deployment=Deployment(prefix="other")) as other:
        await one.bind("d", "c1")
        assert await other.store.device("d") is None
        await other.bind("d", "c1")
        assert (await other.store.counts()).online == 1
        assert one.node.kicks == []
    assert {key.partition(":")[0] for key in redis.ask("KEYS", "*")} == {"pushd", "other"}
