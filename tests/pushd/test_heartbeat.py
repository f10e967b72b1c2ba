"""Alive times: batched, nothing lost in an outage, and the sweeper never judges by old ones (F2, F9, I4)."""

import trio
import trio.testing

from pushd import sweeper
from pushd.heartbeat import CHUNK, Flush, Heartbeat
from tests.pushd.core_support import World, open_world, until

Clock = trio.testing.MockClock


def note_beats(world: World) -> list[list[str]]:
    """From now on, the devices of each call of `beat` are noted here."""
    calls: list[list[str]] = []
    beat = world.store._store.beat

    async def noted(alive: list[tuple[str, int]]) -> list[str]:
        calls.append([device for device, _ in alive])
        return await beat(alive)

    world.store._store.beat = noted  # type: ignore[method-assign]
    return calls


async def test_only_who_was_heard_is_written_and_in_one_call(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        peers = [(await world.login(f"d{number}"))[1] for number in range(5)]
        heartbeat = Heartbeat(world.node, 10.0)
        calls = note_beats(world)
        mock_clock.jump(1)
        assert await heartbeat.flush() is Flush.DONE
        assert calls == [["d0", "d1", "d2", "d3", "d4"]]
        mock_clock.jump(10)
        peers[1].seen = peers[3].seen = trio.current_time()
        mock_clock.jump(1)
        await heartbeat.flush()
        assert calls[1:] == [["d1", "d3"]]
        mock_clock.jump(5)
        await heartbeat.flush()
        assert calls[2:] == []


async def test_many_devices_are_written_in_chunks(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        for number in range(CHUNK + 1):
            await world.login(f"d{number}")
        calls = note_beats(world)
        await Heartbeat(world.node, 10.0).flush()
        assert [len(call) for call in calls] == [CHUNK, 1]


async def test_an_outage_forgets_nobody(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        _, peer = await world.login()
        heartbeat = Heartbeat(world.node, 10.0)
        await heartbeat.flush()
        mock_clock.jump(5)
        peer.seen = trio.current_time()
        world.store.away = {"beat"}
        mock_clock.jump(5)
        assert await heartbeat.flush() is Flush.STORE_AWAY
        mock_clock.jump(10)
        world.store.away = set()
        calls = note_beats(world)
        await heartbeat.flush()
        assert calls == [["d1"]]


async def test_after_a_gap_everybody_who_is_connected_is_written(mock_clock: Clock) -> None:
    """F9: a process that was suspended has heard nobody for long, and its open connections are alive all the same."""
    async with open_world(mock_clock) as world:
        await world.login()
        heartbeat = Heartbeat(world.node, 10.0)
        mock_clock.jump(1)
        await heartbeat.flush()
        mock_clock.jump(100)
        assert heartbeat.stale
        calls = note_beats(world)
        await heartbeat.flush()
        assert calls == [["d1"]]
        assert not heartbeat.stale


async def test_the_sweeper_waits_for_a_heartbeat_after_a_gap(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        heartbeat = Heartbeat(world.node, 10.0)
        await heartbeat.flush()
        world.nursery.start_soon(sweeper.run, world.node, heartbeat, 90.0)
        await world.settle()
        mock_clock.jump(60)
        await world.settle()
        assert "sweep" not in world.store.tried
        await heartbeat.flush()
        await world.pass_time(sweeper.INTERVAL + 1)
        assert "sweep" in world.store.tried


async def test_a_device_that_the_store_does_not_know_as_ours_is_lost(mock_clock: Clock) -> None:
    """F3, I3: the answer of the heartbeat makes a lost kick good."""
    async with open_world(mock_clock) as world:
        _, peer = await world.login()
        await world.settle()
        world.node.hub.kick = lambda *args: None  # type: ignore[method-assign]
        await world.store.login("d1", "elsewhere", ())
        await Heartbeat(world.node, 10.0).flush()
        await until(lambda: world.gone)
        assert peer.sent[-1].event == "kicked"
