"""Events of many devices in one call: nobody is held up, or ended, by another (I6)."""

from collections.abc import Sequence
from typing import Any

import trio
import trio.testing

from pushd.device import Device
from pushd.model import Outcome, Stream, Uplink
from tests.pushd.core_support import World, open_world, until

Clock = trio.testing.MockClock


class Sayers:
    """So many devices, and how often each was answered."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = devices
        self.answered = [0] * len(devices)

    @classmethod
    async def of(cls, world: World, count: int) -> "Sayers":
        return cls([(await world.login(f"d{number}"))[0] for number in range(count)])

    def say(self, event: str) -> None:
        """Each of them says it."""
        for number, device in enumerate(self._devices):
            self.one_says(number, device, event)

    def one_says(self, number: int, device: Device, event: str) -> None:
        def answer() -> None:
            self.answered[number] += 1

        device.uplink(event, (), answer)


async def test_those_of_one_moment_go_in_one_call(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        sayers = await Sayers.of(world, 30)
        sayers.say("one")
        sayers.say("two")
        await until(lambda: sayers.answered == [2] * 30)
        assert world.store.tried.count("uplink") == 2, "one event of each device at a time"
        told = await world.told(Stream.UPLINK, "event")
        assert told == [("one",)] * 30 + [("two",)] * 30


async def test_a_device_that_was_taken_over_does_not_stop_the_others(mock_clock: Clock) -> None:
    """I3."""
    async with open_world(mock_clock) as world:
        sayers = await Sayers.of(world, 3)
        world.node.hub.kick = lambda *args: None  # type: ignore[method-assign]
        await world.store.login("d1", "elsewhere", ())
        sayers.say("hello")
        await until(lambda: world.gone)
        assert [device.device for device in world.gone] == ["d1"]
        assert sayers.answered == [1, 0, 1]


async def test_who_is_in_a_part_of_the_store_that_is_away_waits_alone(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        inner: Any = world.store._store
        each, away = inner.uplink_each, True

        async def partly(uplinks: Sequence[Uplink]) -> list[Outcome]:
            reached = [one for one in uplinks if one.device != "d0" or not away]
            done = dict(zip([one.device for one in reached], await each(reached), strict=True))
            return [done.get(one.device, Outcome.UNKNOWN) for one in uplinks]

        inner.uplink_each = partly
        sayers = await Sayers.of(world, 3)
        for event in ("one", "two"):
            sayers.say(event)
            await world.settle()
        assert sayers.answered == [0, 2, 2]
        await world.pass_time(20)
        assert sayers.answered == [0, 2, 2]
        away = False
        await world.pass_time(6)
        assert sayers.answered == [2, 2, 2]


async def test_a_part_of_the_store_that_does_not_answer_holds_up_its_own_devices_alone(mock_clock: Clock) -> None:
    """The first call waits for it; what others say meanwhile goes with calls of its own, a moment later."""
    async with open_world(mock_clock) as world:
        inner: Any = world.store._store
        each, go = inner.uplink_each, trio.Event()

        async def slow(uplinks: Sequence[Uplink]) -> list[Outcome]:
            if any(one.device == "d0" for one in uplinks):
                await go.wait()
            return list(await each(uplinks))

        inner.uplink_each = slow
        sayers = await Sayers.of(world, 3)
        sayers.one_says(0, sayers._devices[0], "one")
        await world.settle()
        sayers.one_says(1, sayers._devices[1], "one")
        await world.settle()
        assert sayers.answered == [0, 0, 0], "for a moment it is waited for"
        await world.pass_time(1)
        sayers.one_says(2, sayers._devices[2], "one")
        await world.settle()
        assert sayers.answered == [0, 1, 1]
        go.set()
        await until(lambda: sayers.answered == [1, 1, 1])


async def test_one_that_cannot_be_written_ends_its_own_connection(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        inner: Any = world.store._store
        each = inner.uplink_each

        async def broken(uplinks: Sequence[Uplink]) -> list[Outcome]:
            if any(one.device == "d0" for one in uplinks):
                raise ZeroDivisionError
            return list(await each(uplinks))

        inner.uplink_each = broken
        sayers = await Sayers.of(world, 3)
        sayers.say("hello")
        await until(lambda: world.gone)
        await world.settle()
        assert [device.device for device in world.gone] == ["d0"]
        assert sayers.answered == [0, 1, 1]


async def test_after_an_outage_the_first_try_comes_soon(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        sayers = await Sayers.of(world, 300)  # more than go in one call
        for _ in range(2):
            world.store.away = {"uplink"}
            sayers.say("hello")
            before = world.store.tried.count("uplink")
            await world.pass_time(4)
            assert world.store.tried.count("uplink") - before >= 8
            await world.pass_time(56)
            assert world.store.tried.count("uplink") - before < 60, "all that wait are tried together"
            world.store.away = set()
            await world.pass_time(6)
        assert sayers.answered == [2] * 300


async def test_an_outage_is_no_reason_to_forget(mock_clock: Clock) -> None:
    """A call whose outcome is not known is repeated with the same entry id."""
    async with open_world(mock_clock) as world:
        sayers = await Sayers.of(world, 3)
        world.store.late = {"uplink"}
        sayers.say("hello")
        await world.pass_time(1)
        assert sayers.answered == [0, 0, 0]
        world.store.late = set()
        await world.pass_time(6)
        assert sayers.answered == [1, 1, 1]
        assert len(await world.entries(Stream.UPLINK)) == 3
