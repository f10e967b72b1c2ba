"""Tasks that are cancelled while a real server works for them: nobody gets another's reply, no reader stays behind."""

import random

import pytest
import trio

from pushd.errors import StoreUnavailable
from pushd.store.redis.link import MOST_READERS
from tests.patience import PATIENCE
from tests.redis.clients import client
from tests.redis.servers import Server, until


async def test_no_reply_goes_to_another_task_when_many_are_cancelled(redis: Server) -> None:
    """F6: thousands of cancels at random moments."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    right = cancelled = 0
    async with client(redis.url) as redis_client:

        async def ask(worker: int) -> None:
            nonlocal right, cancelled
            for turn in range(150):
                text = f"{worker}-{turn}".encode()
                with trio.move_on_after(chance.choice([0, 0.00005, 0.0005, 0.005, 5])) as scope:
                    assert await redis_client.execute("", "ECHO", text) == text
                    right += 1
                cancelled += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for worker in range(50):
                nursery.start_soon(ask, worker)
        assert await redis_client.execute("", "ECHO", "last") == b"last"
        assert len(redis.clients()) == 1, "one connection for all"
    assert right > 1_000
    assert cancelled > 1_000
    assert right + cancelled == 50 * 150


async def test_cancelling_does_not_wait_for_a_stalled_server(redis: Server) -> None:
    async with client(redis.url, timeout=PATIENCE) as redis_client:
        redis.pause()
        start = trio.current_time()
        with trio.move_on_after(0.1):
            await redis_client.execute("k", "GET", "k")
        took = trio.current_time() - start
        redis.resume()
        assert 0.1 <= took < PATIENCE / 2
        assert await redis_client.execute("", "ECHO", "right") == b"right"


async def test_a_cancelled_blocking_read_takes_no_message(redis: Server) -> None:
    """No ghost: what is pushed after the cancel is there for the next reader, every time."""
    async with client(redis.url) as redis_client:
        for turn in range(20):
            with trio.move_on_after(0.02) as scope:
                await redis_client.blocking("list", "BLPOP", "list", 30, timeout=30)
            assert scope.cancelled_caught
            until(lambda: redis.info("clients")["blocked_clients"] == "0", "the server has forgotten the reader")
            await redis_client.execute("list", "RPUSH", "list", turn)
            assert await redis_client.blocking("list", "BLPOP", "list", 30, timeout=30) == [b"list", b"%d" % turn]
        until(lambda: len(redis.clients()) <= 2, "no connection has leaked")


async def test_a_cancelled_group_read_leaves_its_message_to_the_next(redis: Server) -> None:
    async with client(redis.url) as redis_client:
        await redis_client.execute("s", "XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
        command = ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 30_000, "STREAMS", "s", ">")
        with trio.move_on_after(0.05):
            await redis_client.blocking("s", *command, timeout=30)
        until(lambda: redis.info("clients")["blocked_clients"] == "0", "the server has forgotten the reader")
        await redis_client.execute("s", "XADD", "s", "1-1", "a", "b")
        assert await redis_client.execute("s", "XPENDING", "s", "g") == [0, None, None, None]
        assert await redis_client.blocking("s", *command, timeout=30) == {b"s": [[b"1-1", [b"a", b"b"]]]}


async def test_blocking_reads_use_their_connections_again(redis: Server) -> None:
    async with client(redis.url) as redis_client:

        async def read(key: str) -> None:
            assert await redis_client.blocking(key, "BLPOP", key, 0.01, timeout=1) is None

        seen = set()
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(read, f"k{number}")
            seen |= {each["id"] for each in redis.clients()}
        assert len(seen) == 5


async def test_i5_blocking_reads_are_bounded(redis: Server) -> None:
    async with client(redis.url, timeout=2) as redis_client, trio.open_nursery() as nursery:
        for _ in range(MOST_READERS):
            nursery.start_soon(lambda: redis_client.blocking("k", "BLPOP", "k", 60, timeout=60))
        await trio.to_thread.run_sync(
            until, lambda: redis.info("clients")["blocked_clients"] == str(MOST_READERS), "all places are taken"
        )
        with pytest.raises(StoreUnavailable, match="connections for commands that wait are in use"):
            await redis_client.blocking("k", "BLPOP", "k", 60, timeout=60)
        assert await redis_client.execute("", "PING") == b"PONG", "the others have their own connection"
        nursery.cancel_scope.cancel()


async def test_nothing_is_left_when_the_client_closes(redis: Server) -> None:
    async with client(redis.url) as redis_client, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: redis_client.blocking("k", "BLPOP", "k", 60, timeout=60))
        await trio.to_thread.run_sync(until, lambda: len(redis.clients()) == 2, "the reader is there")
        nursery.cancel_scope.cancel()
    until(lambda: not redis.clients(), "all connections are closed")
