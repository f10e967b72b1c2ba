"""Sentinels: the primary is found, its failover is followed under load, and wrong names are said."""

from collections.abc import Iterator

import pytest
import trio

from pushd.errors import ConfigError, StoreUnavailable
from tests.patience import PATIENCE
from tests.redis.clients import Writers, again, client, entries, eventually
from tests.redis.servers import LOCAL, Watched, free_port, watched


@pytest.fixture
def group(flavour: str) -> Iterator[Watched]:
    """A primary, a replica and three sentinels."""
    with watched(flavour) as servers:
        yield servers


async def test_f4_a_failover_is_followed_under_load(group: Watched) -> None:
    """The primary is killed under writers; they go on with the new one, and it is said when it was."""
    old = group.primary
    async with client(group.url) as redis_client, trio.open_nursery() as nursery:
        writers = Writers(redis_client)
        nursery.start_soon(writers.run)
        await writers.more()
        async with redis_client.subscribe("c") as subscription:
            await anext(subscription)
            old.kill()
            new = await trio.to_thread.run_sync(group.await_failover, old)
            acked = set(writers.acked)
            await writers.more()
            with trio.fail_after(PATIENCE):
                await anext(subscription)
            await again(lambda: redis_client.execute("", "PUBLISH", "c", "to the new one"))
            with trio.fail_after(PATIENCE):
                assert (await anext(subscription)).data == b"to the new one"
        nursery.cancel_scope.cancel()
    stored = entries(new)
    assert len(stored) == len(set(stored)), "nothing was sent twice"
    assert writers.acked - acked <= set(stored), "what the new primary acked is there"


async def test_f4_a_primary_that_lives_on_after_the_failover_is_left(group: Watched) -> None:
    """SENTINEL FAILOVER: the old primary stays alive as a replica; nobody stays connected to it."""
    old = group.primary
    async with client(group.url) as redis_client, trio.open_nursery() as nursery:
        writers = Writers(redis_client)
        nursery.start_soon(writers.run)
        await writers.more()
        group.sentinels[0].ask("SENTINEL", "FAILOVER", "main")
        new = await trio.to_thread.run_sync(group.await_failover, old)
        await eventually(lambda: "pushd" in {each["name"] for each in new.clients()})
        await eventually(lambda: "pushd" not in {each["name"] for each in old.clients()})
        await writers.more()
        nursery.cancel_scope.cancel()


async def test_any_sentinel_will_do(group: Watched) -> None:
    """Two of three sentinels are dead, one of them as a hole; and the one that was asked dies later."""
    group.sentinels[0].kill()
    group.sentinels[1].pause()
    async with client(group.url) as redis_client:
        assert await redis_client.execute("", "PING") == b"PONG"
        group.sentinels[1].resume()
        group.sentinels[2].kill()
        group.primary.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await again(lambda: redis_client.execute("", "PING")) == b"PONG"


async def test_without_sentinels_the_connection_lives_on(group: Watched) -> None:
    async with client(group.url) as redis_client:
        for sentinel in group.sentinels:
            sentinel.kill()
        await trio.sleep(1.5)  # the sentinels are asked every second
        assert await redis_client.execute("", "PING") == b"PONG"


async def test_a_name_that_no_sentinel_knows(group: Watched) -> None:
    with pytest.raises(ConfigError, match=r"store.url: .*it watches no primary called 'other'"):
        async with client(group.url.replace("/main/", "/other/")):
            pytest.fail("there is no such primary")


async def test_f1_no_sentinel_answers() -> None:
    first, second = free_port(), free_port()
    with pytest.raises(StoreUnavailable) as caught:
        async with client(f"redis+sentinel://{LOCAL}:{first},{LOCAL}:{second}/main", patience=0.5):
            pytest.fail("nobody answers")
    for port in (first, second):
        assert f"sentinel {LOCAL}:{port}: cannot connect ([Errno 111]" in str(caught.value)


async def test_passwords_of_sentinels_and_of_the_primary_are_two(group: Watched) -> None:
    for sentinel in group.sentinels:
        sentinel.ask("ACL", "SETUSER", "watcher", "on", ">watch", "+@all")
    group.nodes[0].ask("ACL", "SETUSER", "app", "on", ">data", "+@all", "~*")
    url = group.url.replace("://", "://app:data@")
    async with client(f"{url}?sentinel_user=watcher&sentinel_password=watch") as redis_client:
        assert await redis_client.execute("", "ACL", "WHOAMI") == b"app"
    with pytest.raises(ConfigError, match="it refuses our user or password"):
        async with client(f"{url}?sentinel_user=watcher&sentinel_password=wrong"):
            pytest.fail("it was let in")


async def test_f4_an_old_primary_that_does_not_know_is_left(group: Watched) -> None:
    """Cut off from its sentinels the old primary takes writes for ever; whoever still reaches it must leave it."""
    old, new = group.nodes
    async with client(group.url) as redis_client, redis_client.subscribe("c") as subscription:
        await anext(subscription)
        new.lead()
        for sentinel in group.sentinels:
            sentinel.ask("SENTINEL", "REMOVE", "main")
            sentinel.ask("SENTINEL", "MONITOR", "main", LOCAL, str(new.port), "2")
        await eventually(lambda: "pushd" not in {each["name"] for each in old.clients()})
        await again(lambda: redis_client.execute("k", "SET", "k", "new"))
        with trio.fail_after(PATIENCE):
            await anext(subscription)
    assert old.info("replication")["role"] == "master"
    assert (old.ask("GET", "k"), new.ask("GET", "k")) == (None, "new")
