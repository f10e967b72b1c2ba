"""Confirmations of many devices in one call: nobody is held up, or ended, by another (I2, I3, I6)."""

from collections.abc import Sequence
from typing import Any

import trio.testing

from pushd.errors import StoreUnavailable
from pushd.model import Ack, Outcome
from tests.pushd.core_support import Peer, World, open_world, until

Clock = trio.testing.MockClock


async def with_a_push_each(world: World, count: int) -> list[Peer]:
    """So many devices, each with one message that it has not acknowledged yet."""
    peers = []
    for number in range(count):
        await world.push("p", device=f"d{number}")
        _, peer = await world.login(f"d{number}")
        peers.append(peer)
    await until(lambda: all(peer.sent for peer in peers))
    await world.settle()
    return peers


def ack_all(peers: Sequence[Peer]) -> None:
    for peer in peers:
        peer.ack(*peer.seqs)


async def test_those_of_one_moment_go_in_one_call(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        ack_all(await with_a_push_each(world, 30))
        await world.settle()
        assert (await world.store.counts()).inbox == 0
        assert world.store.tried.count("ack") == 1


async def test_a_device_that_was_taken_over_does_not_stop_the_others(mock_clock: Clock) -> None:
    """I3: its acknowledgement changes nothing; its connection ends."""
    async with open_world(mock_clock) as world:
        peers = await with_a_push_each(world, 3)
        world.node.hub.kick = lambda *args: None  # type: ignore[method-assign]
        await world.store.login("d1", "elsewhere", ())
        ack_all(peers)
        await until(lambda: world.gone)
        assert [device.device for device in world.gone] == ["d1"]
        assert [(await world.store.device(f"d{number}")).inbox for number in range(3)] == [0, 1, 0]
        assert peers[1].sent[-1].event == "kicked"


async def test_who_is_in_a_part_of_the_store_that_is_away_waits_alone(mock_clock: Clock) -> None:
    """I6: a cluster may lack one of its servers."""
    async with open_world(mock_clock) as world:
        inner: Any = world.store._store
        ack_each, ack = inner.ack_each, inner.ack
        away = True

        async def partly(acks: Sequence[Ack]) -> list[Outcome]:
            reached = [one for one in acks if one.device != "d0" or not away]
            done = dict(zip([one.device for one in reached], await ack_each(reached), strict=True))
            return [done.get(one.device, Outcome.UNKNOWN) for one in acks]

        async def alone(device: str, *args: Any) -> None:
            if device == "d0" and away:
                raise StoreUnavailable("its server is away")
            await ack(device, *args)

        inner.ack_each, inner.ack = partly, alone
        peers = await with_a_push_each(world, 3)
        ack_all(peers)
        await world.settle()
        assert [(await world.store.device(f"d{number}")).inbox for number in range(3)] == [1, 0, 0]
        assert peers[0].closed is None
        away = False
        await world.pass_time(6)
        assert (await world.store.device("d0")).inbox == 0


async def test_one_that_cannot_be_written_ends_its_own_connection(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        inner: Any = world.store._store
        ack = inner.ack

        async def broken(acks: Sequence[Ack]) -> list[Outcome]:
            raise ZeroDivisionError

        async def alone(device: str, *args: Any) -> None:
            if device == "d0":
                raise ZeroDivisionError
            await ack(device, *args)

        inner.ack_each, inner.ack = broken, alone
        ack_all(await with_a_push_each(world, 3))
        await until(lambda: world.gone)
        await world.settle()
        assert [device.device for device in world.gone] == ["d0"]
        assert [(await world.store.device(f"d{number}")).inbox for number in range(3)] == [1, 0, 0]
