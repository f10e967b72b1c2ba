"""A cluster of three masters: slots that move under load, masters that die, and who is asked."""

from collections.abc import Iterator
from itertools import count, islice

import pytest
import trio
from redis.crc import key_slot
from redis.exceptions import ResponseError

from pushd.errors import ConfigError, StoreUnavailable
from pushd.store.redis.topology import Client
from tests.patience import PATIENCE
from tests.redis.clients import TIMEOUT, Writers, again, client, entries, eventually
from tests.redis.servers import LOCAL, Cluster, Server, cluster, free_port, lone_node, until


@pytest.fixture(scope="module", params=["valkey", "redis"])
def shared(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three masters, for the tests that leave them as they were."""
    with cluster(request.param) as servers:
        yield servers


@pytest.fixture
def three(shared: Cluster) -> Iterator[Cluster]:
    """Three masters without data."""
    for node in shared.nodes:
        node.ask("FLUSHALL")
    return shared


def slot(key: str) -> int:
    """The slot of a key."""
    return key_slot(key.encode())


def other(three: Cluster, owner: Server) -> Server:
    """A master that is not this one."""
    return next(node for node in three.nodes if node is not owner)


def moved(node: Server) -> int:
    """How often a master has answered MOVED."""
    return int(node.info("errorstats").get("errorstat_MOVED", "count=0").removeprefix("count="))


def keys_of(server: Server, three: Cluster) -> Iterator[str]:
    """Keys that a master serves."""
    return (key for key in map(str, count()) if three.owner(slot(key)) is server)


async def test_each_key_goes_to_its_master_at_once(three: Cluster) -> None:
    before = [moved(node) for node in three.nodes]
    async with client(three.url) as redis_client:
        for number in range(100):
            await redis_client.execute(f"k{number}", "SET", f"k{number}", number)
        assert [moved(node) for node in three.nodes] == before
    assert [int(node.ask("DBSIZE")) > 10 for node in three.nodes] == [True] * 3


async def test_any_node_of_the_list_will_do(three: Cluster) -> None:
    async with client(f"redis+cluster://{LOCAL}:{free_port()},{LOCAL}:{three.nodes[1].port}") as redis_client:
        for number in range(20):
            await redis_client.execute(f"k{number}", "SET", f"k{number}", number)
        masters = redis_client.masters()
        assert {master.address for master in masters} == {f"{LOCAL}:{node.port}" for node in three.nodes}
        for master in masters:
            answer = await redis_client.execute(master.slot_key, "CONFIG", "GET", "port")
            assert master.address == f"{LOCAL}:{answer[b'port'].decode()}"


async def test_f26_a_command_over_two_slots_is_the_callers_mistake(three: Cluster) -> None:
    async with client(three.url) as redis_client:
        with pytest.raises(ResponseError, match="CROSSSLOT"):
            await redis_client.execute("a", "MSET", "a", 1, "b", 2)


async def test_f4_moved_is_followed_and_learned(three: Cluster) -> None:
    """A slot has moved: every command is carried out once, and after the first the new master is asked at once."""
    key = "moving"
    old = three.owner(slot(key))
    new = other(three, old)
    async with client(three.url) as redis_client:
        await redis_client.execute(key, "SET", key, 0)
        move(three, key, old, new)
        before = moved(old)
        assert await redis_client.pipeline(key, [("INCR", key)] * 5) == [1, 2, 3, 4, 5]
        assert await redis_client.execute(key, "INCR", key) == 6
        assert moved(old) - before == 5
        move(three, key, new, old)
        assert await redis_client.blocking(key, "INCR", key, timeout=1) == 7


def move(three: Cluster, key: str, old: Server, new: Server) -> None:
    """Move a slot with all its keys."""
    three.begin_migration(slot(key), old, new)
    while three.move_keys(slot(key), old, new):
        pass
    three.end_migration(slot(key), old, new)


async def test_f4_ask_is_followed_and_not_learned(three: Cluster) -> None:
    """While a slot moves, a key that has gone is asked for at the new master, one that has not at the old one."""
    here, gone = "{moving}here", "{moving}gone"
    old = three.owner(slot(here))
    new = other(three, old)
    async with client(three.url) as redis_client:
        await redis_client.execute(here, "SET", here, "a")
        three.begin_migration(slot(here), old, new)
        try:
            await redis_client.execute(gone, "SET", gone, "b")
            assert await redis_client.pipeline(here, [("GET", here), ("GET", gone), ("GET", here)]) == [
                b"a",
                b"b",
                b"a",
            ]
            assert new.ask("DBSIZE") == 1
            assert old.ask("DBSIZE") == 1
            await redis_client.execute(gone, "RPUSH", "{moving}list", "x")
            assert await redis_client.blocking(here, "BLPOP", "{moving}list", 1, timeout=1) == [b"{moving}list", b"x"]
            script = "return redis.call('GET', KEYS[1])"
            assert await redis_client.execute(gone, "EVAL", script, 1, gone) == b"b"
        finally:
            while three.move_keys(slot(here), old, new):
                pass
            three.end_migration(slot(here), old, new)
            move(three, here, new, old)


async def test_f4_tryagain_waits_for_the_end_of_the_move(three: Cluster) -> None:
    """Keys of one command on both sides: it is tried again until they are together, and for `timeout` at most."""
    first, second = "{moving}1", "{moving}2"
    old = three.owner(slot(first))
    new = other(three, old)
    async with client(three.url, timeout=0.5) as redis_client:
        await redis_client.pipeline(first, [("SET", first, 1), ("SET", second, 2)])
        three.begin_migration(slot(first), old, new)
        assert three.move_keys(slot(first), old, new, 1) == 1
        with pytest.raises(StoreUnavailable, match=r"slot \d+ of the cluster is on the move"):
            await redis_client.execute(first, "MGET", first, second)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, redis_client, [b"1", b"2"], first, "MGET", first, second)
            await eventually(lambda: "errorstat_TRYAGAIN" in old.info("errorstats"))
            three.move_keys(slot(first), old, new)
            three.end_migration(slot(first), old, new)
        move(three, first, new, old)


async def expect(redis_client: Client, reply: object, *command: str) -> None:
    """A command with this reply."""
    assert await redis_client.execute(*command) == reply


async def test_f4_slots_move_under_load(three: Cluster) -> None:
    """Three streams move to another master, entry by entry written on, one after the other: nothing lost or doubled."""
    keys = tuple(islice(keys_of(three.nodes[0], three), 3))
    async with client(three.url) as redis_client, trio.open_nursery() as nursery:
        writers = Writers(redis_client, keys)
        nursery.start_soon(writers.run)
        await writers.more()
        for key in keys:
            three.begin_migration(slot(key), three.nodes[0], three.nodes[1])
            await writers.more(50)
            while three.move_keys(slot(key), three.nodes[0], three.nodes[1]):
                await writers.more(50)
            three.end_migration(slot(key), three.nodes[0], three.nodes[1])
            await writers.more()
        nursery.cancel_scope.cancel()
    stored = [entry for key in keys for entry in entries(three.nodes[1], key)]
    writers.check(stored)
    assert not writers.failed, "a move is no outage"
    for key in keys:
        move(three, key, three.nodes[1], three.nodes[0])


async def test_what_is_published_anywhere_is_heard(three: Cluster) -> None:
    async with client(three.url) as redis_client, redis_client.subscribe("c") as subscription:
        await anext(subscription)
        for master in redis_client.masters():
            await redis_client.execute(master.slot_key, "PUBLISH", "c", master.address)
            with trio.fail_after(PATIENCE):
                assert (await anext(subscription)).data.decode() == master.address


async def test_f2_one_master_dies_and_returns(flavour: str) -> None:
    """Its slots are away, and after a while the cluster is; with its return all is well."""
    with cluster(flavour, 3, "--cluster-require-full-coverage", "no") as three:
        victim, healthy = three.nodes[2], three.nodes[0]
        lost, kept = next(keys_of(victim, three)), next(keys_of(healthy, three))
        async with client(three.url) as redis_client:
            await redis_client.execute(lost, "SET", lost, "1")
            victim.kill()
            start = trio.current_time()
            for _ in range(20):
                with pytest.raises(StoreUnavailable):
                    await redis_client.execute(lost, "GET", lost)
                assert await redis_client.execute(kept, "SET", kept, "1") == b"OK"
            assert trio.current_time() - start < 20 * TIMEOUT / 2, "told at once, not at a deadline"
            victim.start()
            assert await again(lambda: redis_client.execute(lost, "GET", lost)) == b"1"


async def test_f4_a_replica_takes_over(flavour: str) -> None:
    """A master dies under writers, its replica is promoted: they go on there without being told."""
    with cluster(flavour, 3) as three:
        replica = three.add_replica(three.nodes[2])
        victim = three.nodes[2]
        key = next(keys_of(victim, three))
        async with client(three.url) as redis_client, trio.open_nursery() as nursery:
            writers = Writers(redis_client, (key,))
            nursery.start_soon(writers.run)
            await writers.more()
            victim.kill()
            await trio.to_thread.run_sync(until, lambda: replica.info("replication")["role"] == "master", "promoted")
            acked = set(writers.acked)
            await writers.more()
            nursery.cancel_scope.cancel()
        stored = entries(replica, key)
        assert len(stored) == len(set(stored))
        assert writers.acked - acked <= set(stored)


async def test_clusterdown_is_away(flavour: str) -> None:
    with cluster(flavour, 1) as one:
        async with client(one.url) as redis_client:
            await redis_client.execute("k", "SET", "k", "1")
            one.nodes[0].ask("CLUSTER", "DELSLOTS", str(slot("other")))
            until(lambda: "cluster_state:fail" in one.nodes[0].ask("CLUSTER", "INFO"), "the cluster is down")
            with pytest.raises(StoreUnavailable, match=r"the cluster is down \(CLUSTERDOWN|no master .* serves slot"):
                await redis_client.execute("k", "SET", "k", "2")
            one.nodes[0].ask("CLUSTER", "ADDSLOTS", str(slot("other")))
            assert await again(lambda: redis_client.execute("k", "SET", "k", "3")) == b"OK"
            assert await again(lambda: redis_client.execute("other", "SET", "other", "3")) == b"OK"


async def test_a_cluster_without_slots_is_waited_for() -> None:
    with lone_node() as empty:
        with pytest.raises(StoreUnavailable, match="it knows of no slots"):
            async with client(f"redis+cluster://{LOCAL}:{empty.port}", patience=0.5):
                pytest.fail("it has no slots")
        with pytest.raises(ConfigError, match="it refuses our user or password"):
            async with client(f"redis+cluster://a:b@{LOCAL}:{empty.port}", patience=0.5):
                pytest.fail("it knows no such user")
