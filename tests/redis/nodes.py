"""Several nodes on one Redis, in one process: each a store of its own, with what it was told."""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from pushd.model import Bound, Stream
from pushd.store.base import Deployment, Limits
from pushd.store.redis.store import RedisStore, open_redis
from tests.patience import PATIENCE
from tests.pushd.stores import Node, told

BRISK = Deployment(lease=1.5, refresh=0.2)  # real seconds


@dataclasses.dataclass
class Peer:
    """One node: its store, and what the store told it."""

    store: RedisStore
    node: Node

    async def bind(self, device: str, conn: str, *topics: str) -> int:
        """Log a device in and answer its epoch."""
        bound = await self.store.login(device, conn, topics)
        assert isinstance(bound, Bound), bound
        return bound.epoch


@asynccontextmanager
async def peer(
    url: str, name: str = "n1", *, deployment: Deployment = BRISK, limits: Limits | None = None
) -> AsyncIterator[Peer]:
    """A node on the server's own time, as long as the block lasts; then it says goodbye."""
    node = Node()
    many = Limits(takeovers=1_000_000, inbox_max=1_000_000)
    async with open_redis(url, node=name, control=node, limits=limits or many, deployment=deployment) as store:
        yield Peer(store, node)


async def until(question: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer that is true."""
    with trio.fail_after(PATIENCE):
        while not (answer := await question()):  # noqa: ASYNC110 - it is about another process
            await trio.sleep(0.01)
        return answer


async def status(peer: Peer) -> list[tuple[str, ...]]:
    """Device, event, epoch and reason of each status entry."""
    return await told(peer.store, Stream.STATUS, "device", "event", "epoch", "reason")


def check_status(entries: list[tuple[str, ...]], holders: set[str]) -> None:
    """I3, I4: each device starts and ends in turn, epochs rise, each epoch has one start and one end."""
    held: dict[str, int] = {}
    highest: dict[str, int] = {}
    for device, event, text, _ in entries:
        epoch = int(text)
        if event == "offline":
            assert held.pop(device) == epoch, "an offline that is not its start's"
            continue
        assert (device in held) == (event == "takeover")
        assert epoch > highest.get(device, 0)
        held[device] = highest[device] = epoch
    assert set(held) == holders
