"""What all parts of the store work with."""

import dataclasses
from collections.abc import Awaitable, Callable, Sequence

import trio

from pushd.errors import PushdError
from pushd.store.base import Control, Limits, Tally
from pushd.store.redis.keys import Keys
from pushd.store.redis.lease import Lease
from pushd.store.redis.scripts import Runner
from pushd.store.redis.topology import Client

WHOLE = 1_000_000  # microseconds in a second: the scripts' unit


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """One node's store."""

    client: Client
    runner: Runner
    keys: Keys
    lease: Lease
    control: Control
    limits: Limits
    tally: Tally
    together: bool  # can one command work on keys of all buckets? Not in a cluster, where each may be elsewhere


def micros(seconds: float) -> int:
    """Seconds as the scripts count them."""
    return round(seconds * WHOLE)


def node_of(incarnation: str) -> str:
    """The name of the node that an incarnation is a life of."""
    return incarnation.rpartition("~")[0]


async def side_by_side(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Carry calls out at the same time, all to their ends; then raise the first PushdError that one met with."""
    if len(calls) == 1:
        await calls[0]()
        return
    errors: list[PushdError] = []

    async def one(call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except PushdError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(one, call)
    if errors:
        raise errors[0]
