"""Channels: what is heard, in which order, and what is said when something may be missing."""

import pytest
import trio

from pushd.store.redis import pubsub
from pushd.store.redis.pubsub import Gap, Published
from tests.patience import PATIENCE
from tests.redis.clients import again, client, eventually
from tests.redis.servers import Server


async def test_messages_come_in_order_with_their_channel(redis: Server) -> None:
    async with client(redis.url) as redis_client, redis_client.subscribe("a", "b") as subscription:
        assert await anext(subscription) is Gap.RESUMED
        script = "redis.call('PUBLISH', 'a', ARGV[1]); redis.call('PUBLISH', 'b', ARGV[2])"
        await redis_client.execute("", "EVAL", script, 0, b"\xff\x00", "")
        for number in range(1_000):
            await redis_client.execute("", "PUBLISH", "a", number)
        with trio.fail_after(PATIENCE):
            assert await anext(subscription) == Published("a", b"\xff\x00")
            assert await anext(subscription) == Published("b", b"")
            for number in range(1_000):
                assert await anext(subscription) == Published("a", b"%d" % number)


async def test_a_lost_connection_is_replaced_and_said(redis: Server) -> None:
    async with client(redis.url) as redis_client, redis_client.subscribe("a") as subscription:
        assert await anext(subscription) is Gap.RESUMED
        for turn in range(3):
            if turn == 2:
                redis.restart()
            else:
                redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
            with trio.fail_after(PATIENCE):
                assert await anext(subscription) is Gap.RESUMED
            assert await again(lambda: redis_client.execute("", "PUBLISH", "a", "again")) == 1
            assert await anext(subscription) == Published("a", b"again")


async def test_i5_a_reader_that_falls_behind_is_told(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "MOST_UNREAD", 100)
    async with client(redis.url) as redis_client, redis_client.subscribe("a") as subscription:
        assert await anext(subscription) is Gap.RESUMED
        await redis_client.pipeline("", [("PUBLISH", "a", number) for number in range(150)])
        await redis_client.execute("", "PUBLISH", "a", "last")
        items = []
        with trio.fail_after(PATIENCE):
            while Published("a", b"last") not in items:
                items.append(await anext(subscription))
        assert items[0] is Gap.RESUMED or items[0] == Published("a", b"0")
        assert Gap.RESUMED in items
        assert len(items) < 100


async def test_a_cancelled_reader_misses_nothing(redis: Server) -> None:
    async with client(redis.url) as redis_client, redis_client.subscribe("a") as subscription:
        assert await anext(subscription) is Gap.RESUMED
        for number in range(20):
            with trio.move_on_after(0.001):
                await anext(subscription)
            await redis_client.execute("", "PUBLISH", "a", number)
            assert await anext(subscription) == Published("a", b"%d" % number)


async def test_leaving_ends_the_connection(redis: Server) -> None:
    async with client(redis.url) as redis_client:
        for _ in range(3):
            async with redis_client.subscribe("a") as subscription:
                await anext(subscription)
                assert len(redis.clients()) == 2
            await eventually(lambda: len(redis.clients()) == 1)
