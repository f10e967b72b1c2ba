"""The rules for users that docs/redis.md recommends: pushd can do all its work under them, and nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.exceptions
import trio

from pushd.model import ReceiptState, Stream
from pushd.store.base import Deployment, Limits
from tests.pushd.stores import everything, push
from tests.redis.nodes import peer, until
from tests.redis.servers import FLAVOURS, Server, cluster, server

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"
CALM = Deployment(lease=30.0, refresh=10.0)


def rules(user: str) -> list[str]:
    """What the page grants a user, as arguments of ACL SETUSER."""
    [line] = re.findall(rf"```text\nuser {user} (.*?)```", PAGE.read_text(), re.DOTALL)
    return line.replace("PASSWORD", "secret").split()


@pytest.fixture(params=FLAVOURS)
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server(request.param, tcp=True) as one:
        for user in ("pushd", "service"):
            one.ask("ACL", "SETUSER", user, *rules(user))
        yield one


async def test_pushd_does_all_its_work_under_the_rules(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pushd.store.redis.groups.IDLE", 0.0)
    url = f"redis://pushd:secret@127.0.0.1:{redis_server.port}"
    await work(url, Limits(stream_max=2, forget_after=0.0, dedupe=0.001, inbox_max=1))
    assert "ACL" not in caplog.text
    assert "cannot be seen" not in caplog.text


async def test_in_a_cluster_too(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("pushd.store.redis.groups.IDLE", 0.0)
    with cluster(masters=1) as whole:
        whole.nodes[0].ask("ACL", "SETUSER", "pushd", *rules("pushd"))
        await work(f"redis+cluster://pushd:secret@127.0.0.1:{whole.nodes[0].port}", Limits(stream_max=2))
    assert "ACL" not in caplog.text


async def work(url: str, limits: Limits) -> None:
    """Use every method, and most scripts."""
    async with peer(url, "n1", limits=limits) as one, peer(url, "n2", limits=limits) as two:
        store = one.store
        epoch = await one.bind("d", "c1", "t")
        await store.ping()
        assert await store.admits("d") is None
        for number in range(3):
            await store.enqueue(push(f"p{number}", ttl=0.001), ["d"])
            await trio.sleep(0.005)
        await store.enqueue(push("q"), ["d"])
        (message, *_) = await store.fetch("d", epoch, 0, 5)
        await store.ack("d", epoch, [message.seq], ReceiptState.ACKED)
        await store.uplink("d", epoch, "c1", "u1", "event", "1")
        assert await store.beat([("d", epoch)]) == []
        await two.store.cast(push("now"), ["d"])
        await until(lambda: answer(one.node.casts))
        assert await store.reconcile(["d", "e"]) == ["e"]
        await two.bind("d", "c2")
        await two.store.kick("d", "operator", "admin")
        for stream in Stream:
            await store.append(stream, {"to": "all"})
        (entry,) = await two.store.take(Stream.PUSH, 5)
        for group in two.store._groups.values():
            await group.touch()
        assert [other.id for other in await store.take(Stream.PUSH, 5)] == [entry.id], (
            "left by a dead node, as it seems"
        )
        await store.done(Stream.PUSH, [entry.id])
        assert await store.read_stream(Stream.STATUS, await store.newest(Stream.STATUS), 5, wait=0.01) == []
        await store.members("t", "", 5)
        await store.devices("", 5, online=True)
        await store.counts()
        assert await store.sweep() == 0
        await store._groups[Stream.PUSH].dismiss(store._context.keys.buckets[0], "n9~gone")
        assert await everything(store, Stream.DEAD) is not None


async def answer(value: object) -> object:
    return value


def test_the_users_can_do_nothing_else(redis_server: Server) -> None:
    for user, command in (
        ("pushd", ("SET", "pushd:x", "1")),
        ("pushd", ("HGET", "other", "x")),
        ("pushd", ("FLUSHALL",)),
        ("pushd", ("CONFIG", "SET", "maxmemory", "1")),
        ("pushd", ("PUBLISH", "other", "x")),
        ("service", ("HGETALL", "pushd:{0}:d:x")),
        ("service", ("XADD", "pushd:meta", "*", "a", "b")),
        ("service", ("EVAL", "return 1", "0")),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            redis_server.ask(*command, user=user, password="secret")
    added = redis_server.ask("XADD", "pushd:{0}:push", "*", "to", "all", "data", "1", user="service", password="secret")
    assert added
