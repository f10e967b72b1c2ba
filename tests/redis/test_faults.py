"""A real server that is killed, stopped, full, loading or turned into a replica; a network that cuts and swallows."""

import random

import pytest
import trio
from redis.exceptions import ResponseError

from pushd.errors import ConfigError, StoreUnavailable
from pushd.store.redis import link
from tests.patience import PATIENCE
from tests.redis.clients import WRITERS, Writers, again, client, entries, eventually, steady
from tests.redis.proxy import proxied
from tests.redis.servers import LOCAL, Server, free_port, lone_node, replicated, server, until


async def test_f2_killed_under_writers_and_restarted(redis: Server) -> None:
    """Nothing acked is missing, nothing is there twice: what was in flight failed, and was not sent again."""
    async with client(redis.url, timeout=PATIENCE) as redis_client, trio.open_nursery() as nursery:
        writers = Writers(redis_client)
        nursery.start_soon(writers.run)
        await writers.more()
        redis.kill()
        in_flight = len(writers.acked)
        await eventually(lambda: len(writers.failed) >= WRITERS)
        assert len(writers.acked) <= in_flight + WRITERS
        redis.start()
        await writers.more()
        nursery.cancel_scope.cancel()
    assert writers.longest < PATIENCE / 2, "everyone is told at once, not at a deadline"
    writers.check(entries(redis))


async def test_f6_cut_at_random_after_forwarding(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after a random number of bytes, again and again, the reply lost: nothing is sent again."""
    monkeypatch.setattr(link, "LONGEST", 0.05)
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    async with proxied(redis) as proxy, client(proxy.url) as redis_client, trio.open_nursery() as nursery:
        writers = Writers(redis_client)
        nursery.start_soon(writers.run)
        for _ in range(50):
            await writers.more(chance.randrange(1, 60))
            await proxy.cut(chance.randrange(1, 3_000))
        await writers.more()
        nursery.cancel_scope.cancel()
    stored = entries(redis)
    writers.check(stored)
    unknown = writers.failed & set(stored)
    print(f"{len(writers.acked)} acked, {len(writers.failed)} failed, of which {len(unknown)} are stored")
    assert unknown, "a cut after forwarding leaves some stored: no caller may take a failure for a no"


async def test_f5_a_stopped_server_costs_a_deadline_and_no_storm(redis: Server) -> None:
    """SIGSTOP for 3 s: the loop turns, calls fail at their deadline and then at once, few connections are tried."""
    longest: list[float] = []
    async with client(redis.url, timeout=0.5) as redis_client, trio.open_nursery() as nursery:
        nursery.start_soon(steady, longest)
        writers = Writers(redis_client)
        nursery.start_soon(writers.run)
        await writers.more()
        before = int(redis.info("stats")["total_connections_received"])
        redis.pause()
        await trio.sleep(3)
        redis.resume()
        await writers.more()
        nursery.cancel_scope.cancel()
    assert longest[0] < 1.0, "the loop did not wait for the server"
    assert writers.longest < 2.0, "nobody did"
    assert int(redis.info("stats")["total_connections_received"]) - before < 10
    assert len(redis.clients()) == 0
    writers.check(entries(redis))


async def test_f10_a_black_hole_is_noticed_without_traffic(redis: Server) -> None:
    async with (
        proxied(redis) as proxy,
        client(proxy.url, timeout=0.4) as redis_client,
        redis_client.subscribe("c") as subscription,
    ):
        await anext(subscription)
        proxy.black_hole = True
        await trio.sleep(1.2)  # both connections are asked and found dead
        took = []
        for _ in range(5):
            start = trio.current_time()
            with pytest.raises(StoreUnavailable):
                await redis_client.execute("", "PING")
            took.append(trio.current_time() - start)
        assert min(took) < 0.1, "it was known"
        proxy.black_hole = False
        assert await again(lambda: redis_client.execute("", "PING")) == b"PONG"
        with trio.fail_after(PATIENCE):
            assert await anext(subscription)


async def test_a_partition_that_heals_in_time_leaves_each_reply_to_its_command(redis: Server) -> None:
    async with proxied(redis) as proxy, client(proxy.url) as redis_client, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            assert await redis_client.execute("", "ECHO", number) == b"%d" % number

        for number in range(200):
            nursery.start_soon(ask, number)
            if number % 20 == 0:
                proxy.black_hole = not proxy.black_hole
            await trio.sleep(0.001)
        proxy.black_hole = False


@pytest.mark.parametrize("fault", ["reset", "half_open"])
async def test_a_broken_connection_is_replaced(fault: str, redis: Server) -> None:
    async with proxied(redis) as proxy, client(proxy.url, timeout=0.5) as redis_client:
        await redis_client.execute("", "PING")
        getattr(proxy, fault)()
        with pytest.raises(StoreUnavailable):
            await redis_client.execute("", "PING")
        assert await again(lambda: redis_client.execute("", "PING")) == b"PONG"
        assert proxy.connections == 2


async def test_a_slow_network_loses_nothing(redis: Server) -> None:
    async with proxied(redis, unix=redis.folder) as proxy, client(proxy.url) as redis_client:
        proxy.delay = 0.1
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(redis_client.execute, "n", "SADD", "n", number)
        assert trio.current_time() - start < 200 * proxy.delay / 2, "they went together"
        assert redis.ask("SCARD", "n") == 200


async def test_f1_the_server_comes_after_the_client(flavour: str) -> None:
    with server(flavour, tcp=True) as redis:
        redis.kill()
        async with trio.open_nursery() as nursery:

            async def use() -> None:
                async with client(redis.url) as redis_client:
                    assert await redis_client.execute("", "PING") == b"PONG"

            nursery.start_soon(use)
            await trio.sleep(0.3)
            redis.start()


async def test_f1_patience_ends() -> None:
    with pytest.raises(StoreUnavailable, match=r"no connection within 0.2 s: redis 127.0.0.1:\d+: cannot connect"):
        async with client(f"redis://{LOCAL}:{free_port()}", patience=0.2):
            pytest.fail("there is no server")


async def test_without_patience_calls_fail_until_the_server_comes(flavour: str) -> None:
    with server(flavour) as redis:
        redis.kill()
        async with client(redis.url, patience=0) as redis_client:
            with pytest.raises(StoreUnavailable, match="cannot connect"):
                await redis_client.execute("", "PING")
            redis.start()
            assert await again(lambda: redis_client.execute("", "PING")) == b"PONG"


async def test_f3_loading_is_down(flavour: str) -> None:
    """A restart with much to load: nobody sees LOADING, and it is up when it has loaded."""
    with server(flavour, "--loading-process-events-interval-bytes", "1024") as redis:
        redis.ask("DEBUG", "POPULATE", "20000", "key", "200")
        redis.ask("BGREWRITEAOF")
        until(lambda: redis.info("persistence")["aof_rewrite_in_progress"] == "0", "the file is written")
        async with client(redis.url) as redis_client:
            redis.kill()
            redis.start("--key-load-delay", "20", wait=False)  # us for each key
            reasons = set()

            async def size() -> int:
                try:
                    answer: int = await redis_client.execute("", "DBSIZE")
                except StoreUnavailable as error:
                    reasons.add(str(error))
                    raise
                return answer

            assert await again(size) == 20_000
        print(reasons)
        assert any("it is still loading its data (LOADING" in reason for reason in reasons)


async def test_f4_readonly_after_a_failover_drops_the_connection(flavour: str) -> None:
    with replicated(flavour) as (first, second):
        async with proxied((LOCAL, first.port)) as proxy, client(proxy.url) as redis_client:
            await redis_client.execute("k", "SET", "k", "1")
            second.lead()
            first.follow(second)
            with pytest.raises(StoreUnavailable):
                await redis_client.execute("k", "SET", "k", "2")
            with pytest.raises(StoreUnavailable, match=r"READONLY|not a master|closed|replica|slave"):
                await redis_client.execute("k", "SET", "k", "3")
            proxy.target = (LOCAL, second.port)  # as the name of the service, or its virtual address, moves
            assert await again(lambda: redis_client.execute("k", "SET", "k", "4")) == b"OK"
            assert second.ask("GET", "k") == "4"


async def test_f7_a_full_server_is_away_for_writes_alone(redis: Server) -> None:
    async with client(redis.url) as redis_client:
        await redis_client.execute("k", "SET", "k", "1")
        redis.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable, match=r"its memory is full \(OOM"):
            await redis_client.execute("k", "SET", "k", "2")
        with pytest.raises(StoreUnavailable, match="OOM"):
            await redis_client.execute("k", "EVAL", "return redis.call('SET', KEYS[1], '2')", 1, "k")
        assert await redis_client.execute("k", "GET", "k") == b"1"
        redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert await redis_client.execute("k", "SET", "k", "2") == b"OK"
        assert len(redis.clients()) == 1


async def test_too_few_replicas_is_away(redis: Server) -> None:
    async with client(redis.url) as redis_client:
        redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        with pytest.raises(StoreUnavailable, match="too few replicas follow it"):
            await redis_client.execute("k", "SET", "k", "2")


async def test_what_is_the_callers_matter_stays_a_response_error(redis: Server) -> None:
    async with client(redis.url) as redis_client:
        await redis_client.execute("k", "SET", "k", "1")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await redis_client.execute("k", "XADD", "k", "*", "a", "b")
        with pytest.raises(ResponseError, match="NOSCRIPT"):
            await redis_client.execute("k", "EVALSHA", "0" * 40, 0)
        replies = await redis_client.pipeline("k", [("INCR", "k"), ("LPUSH", "k", "x"), ("INCR", "k")])
        assert replies[0] == 2
        assert isinstance(replies[1], ResponseError)
        assert replies[2] == 3
        assert await redis_client.pipeline("k", []) == []


async def test_a_kicked_connection_is_replaced(redis: Server) -> None:
    async with client(redis.url) as redis_client:
        redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await again(lambda: redis_client.execute("", "PING")) == b"PONG"


async def test_a_server_with_all_its_clients(flavour: str) -> None:
    with server(flavour) as redis:
        redis.ask("CONFIG", "SET", "maxclients", "1")
        async with client(redis.url) as redis_client:
            with pytest.raises(StoreUnavailable, match=r"closed the connection \(ERR max number of clients reached"):
                await redis_client.blocking("k", "BLPOP", "k", 1, timeout=1)


async def test_the_wrong_scheme_is_said() -> None:
    with lone_node() as node:
        message = r"it runs as cluster, not as standalone; write redis\+cluster://"
        with pytest.raises(ConfigError, match=message):
            async with client(node.url):
                pytest.fail("it is no server alone")
    with server("valkey", tcp=True) as alone:
        with pytest.raises(ConfigError, match="it runs as standalone, not as cluster; write redis://"):
            async with client(f"redis+cluster://{LOCAL}:{alone.port}"):
                pytest.fail("it is no cluster")
        with pytest.raises(ConfigError, match="it runs as standalone, not as sentinel; write redis://"):
            async with client(f"redis+sentinel://{LOCAL}:{alone.port}/main"):
                pytest.fail("it is no sentinel")


async def test_errors_of_the_body_come_out_as_they_are(redis: Server) -> None:
    with pytest.raises(StoreUnavailable, match="mine"):
        async with client(redis.url):
            raise StoreUnavailable("mine")
