"""What services write to `push`, taken many at once: in order, each by itself when one is bad (I1, I2, I6)."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from pushd import ingest
from pushd.errors import StoreUnavailable
from pushd.model import Parcel, Receipt, Stream
from pushd.requests import PushDefaults
from pushd.service import Service
from tests.pushd.core_support import World, open_world, until

Clock = trio.testing.MockClock


@contextlib.asynccontextmanager
async def taking_in(world: World) -> AsyncIterator[None]:
    """Ingest runs as long as the block does."""
    service = Service(world.node, PushDefaults(), lambda: 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ingest.run, service)
        yield
        nursery.cancel_scope.cancel()


async def write(world: World, *pushes: dict[str, str]) -> None:
    for push in pushes:
        await world.store.append(Stream.PUSH, {"data": "1"} | push)


async def nothing_left(world: World) -> None:
    """Return when the stream has been dealt with."""
    with trio.fail_after(1e6):
        while await world.entries(Stream.PUSH):
            await world.settle()


async def test_each_devices_pushes_keep_the_order_of_the_stream(mock_clock: Clock) -> None:
    """I2: whatever stands between them: other devices, a topic, the other `qos`, what makes no sense."""
    async with open_world(mock_clock) as world:
        _, peer = await world.login("d1", topics=("t",))
        await world.settle()
        await write(
            world,
            {"to": "device:d1", "id": "1"},
            {"to": "device:d2", "id": "2"},
            {"to": "device:d1", "id": "3"},
            {"to": "device:d1", "id": "4", "qos": "0"},
            {"to": "device:d1", "id": "5", "qos": "0"},
            {"to": "nobody", "id": "6"},
            {"to": "device:d1", "id": "7"},
            {"to": "topic:t", "id": "8"},
            {"to": "device:d1", "id": "9"},
            {"to": "device:d2", "id": "10", "ttl": "never"},
        )
        async with taking_in(world):
            await nothing_left(world)
            await until(lambda: len(peer.sent) == 7)
        assert [sent.args[1]["id"] for sent in peer.sent] == ["1", "3", "4", "5", "7", "8", "9"]
        assert [sent.redelivered for sent in peer.sent] == [False] * 7
        assert (await world.store.device("d2")).inbox == 1
        assert [reason.partition(":")[0] for (reason,) in await world.told(Stream.DEAD, "reason")] == ["to", "ttl"]
        assert ("10", "d2", "refused") in await world.told(Stream.RECEIPT, "id", "device", "state")


async def test_many_go_in_one_call(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        await write(world, *({"to": f"device:d{number % 7}", "id": str(number)} for number in range(150)))
        async with taking_in(world):
            await nothing_left(world)
        assert world.store.tried.count("enqueue") == 1
        assert await world.told(Stream.RECEIPT, "id", "state") == [(str(number), "stored") for number in range(150)]


async def test_one_that_cannot_be_carried_does_not_stop_the_others(
    mock_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """I6: it is dead, with the reason; the others are stored once."""
    async with open_world(mock_clock) as world:
        inner = world.store._store
        enqueue_each = inner.enqueue_each

        async def fussy(parcels: Sequence[Parcel]) -> list[Receipt]:
            if any(push.id == "bad" for push, _ in parcels):
                raise ZeroDivisionError
            return await enqueue_each(parcels)

        inner.enqueue_each = fussy  # type: ignore[method-assign]
        await write(world, *({"to": "device:d1", "id": id} for id in ("a", "bad", "b")))
        async with taking_in(world):
            await nothing_left(world)
        assert await world.told(Stream.DEAD, "id", "reason") == [("bad", "internal error: ZeroDivisionError")]
        states = await world.told(Stream.RECEIPT, "id", "state")
        assert sorted(states) == [("a", "stored"), ("b", "stored"), ("bad", "refused")]


async def test_an_answer_that_was_lost_stores_nothing_twice(mock_clock: Clock) -> None:
    """I1, F6: the call was carried out, and is made again."""
    async with open_world(mock_clock) as world:
        inner: Any = world.store._store
        enqueue_each, calls = inner.enqueue_each, 0

        async def deaf(parcels: Sequence[Parcel]) -> list[Receipt]:
            nonlocal calls
            calls += 1
            receipts: list[Receipt] = await enqueue_each(parcels)
            if calls == 1:
                raise StoreUnavailable("the answer was lost")
            return receipts

        inner.enqueue_each = deaf
        await write(world, *({"to": "device:d1", "id": id} for id in "abc"))
        async with taking_in(world):
            await nothing_left(world)
        assert (await world.store.device("d1")).inbox == 3
        states = await world.told(Stream.RECEIPT, "id", "state")
        assert [id for id, state in states if state == "stored"] == ["a", "b", "c"]
        assert {state for _, state in states} == {"stored", "duplicate"}
