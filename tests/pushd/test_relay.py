"""The uplink: stored before it is acknowledged, in order, once, whatever the store does meanwhile (I7)."""

import pytest
import trio
import trio.testing

from pushd import jsonbytes
from pushd.model import Stream
from pushd.relay import as_data
from tests.pushd.core_support import open_world, until

Clock = trio.testing.MockClock


async def test_an_event_is_in_the_stream_when_uplink_returns(mock_clock: Clock) -> None:
    """I7."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        await device.uplink("reading", ({"t": 21.5},))
        (entry,) = await world.entries(Stream.UPLINK)
        assert set(entry.fields) == {"device", "event", "data", "id", "ts", "conn", "epoch", "node"}
        assert (entry.fields["device"], entry.fields["event"]) == ("d1", "reading")
        assert entry.fields["data"] == '{"t":21.5}'
        assert entry.fields["conn"] == peer.id
        assert entry.fields["epoch"] == str(device.epoch)


async def test_events_keep_their_order(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        device, _ = await world.login()
        for number in range(20):
            await device.uplink("n", (number,))
        assert await world.told(Stream.UPLINK, "data") == [(str(number),) for number in range(20)]


async def test_an_outage_delays_but_stores_once(mock_clock: Clock) -> None:
    """F2, F6, I7: not acknowledged before it is stored; the answer that was lost does not make a second entry."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        returned = trio.Event()

        async def uplink() -> None:
            await device.uplink("reading", (1,))
            returned.set()

        world.store.away = {"uplink"}
        world.nursery.start_soon(uplink)
        await world.pass_time(10)
        assert not returned.is_set()
        assert world.store.tried.count("uplink") > 2
        world.store.away, world.store.late = set(), {"uplink"}
        await world.pass_time(6)
        assert len(await world.entries(Stream.UPLINK)) == 1
        assert not returned.is_set()
        world.store.late = set()
        await world.pass_time(6)
        await until(returned.is_set)
        assert len(await world.entries(Stream.UPLINK)) == 1
        assert peer.closed is None


async def test_the_event_at_hand_is_stored_when_the_connection_breaks(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        world.store.away = {"uplink"}
        handler = trio.CancelScope()

        async def uplink() -> None:
            with handler:
                await device.uplink("last", ())

        world.nursery.start_soon(uplink)
        await world.settle()
        handler.cancel()
        await world.settle()
        world.store.away = set()
        peer.drop()
        await until(lambda: world.gone)
        assert await world.told(Stream.UPLINK, "event", "data") == [("last", "null")]


async def test_an_old_connection_can_say_nothing_any_more(mock_clock: Clock) -> None:
    """I3: refused by its epoch; it is not acknowledged, and the connection ends."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        world.node.hub.kick = lambda *args: None  # type: ignore[method-assign]
        newer = await world.store.login("d1", "elsewhere", ())
        returned = trio.Event()

        async def uplink() -> None:
            await device.uplink("reading", (1,))
            returned.set()

        world.nursery.start_soon(uplink)
        await until(lambda: world.gone)
        assert not returned.is_set()
        assert await world.entries(Stream.UPLINK) == []
        assert peer.sent[-1].event == "kicked"
        assert peer.sent[-1].args == ({"reason": "takeover", "by": "elsewhere"},)
        assert (await world.store.device("d1")).epoch == newer.epoch


@pytest.mark.parametrize(
    ("args", "data"),
    [
        ((), "null"),
        (([1, 2],), "[1,2]"),
        ((1, "two", None), '[1,"two",null]'),
        ((b"\x00\xff",), '{"$bytes":"AP8="}'),
        (({"$bytes": "mine", "$$bytes": 1},), '{"$$bytes":"mine","$$$bytes":1}'),
    ],
)
def test_the_data_of_an_event(args: tuple[object, ...], data: str) -> None:
    assert as_data(args) == data
    value = args[0] if len(args) == 1 else list(args) or None
    assert jsonbytes.loads(data) == value
