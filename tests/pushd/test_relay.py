"""The uplink: stored before it is acknowledged, in order, once, whatever the store does meanwhile (I7)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from engineio_trio import CloseReason
from pushd import jsonbytes
from pushd.errors import StoreUnavailable
from pushd.model import Outcome, Stream, Uplink
from pushd.relay import as_data
from tests.pushd.core_support import open_world, say, until

Clock = trio.testing.MockClock


def ignored() -> None:
    """Nobody waits for this acknowledgement."""


async def test_an_event_is_in_the_stream_when_it_is_acknowledged(mock_clock: Clock) -> None:
    """I7."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        await say(device, "reading", {"t": 21.5})
        (entry,) = await world.entries(Stream.UPLINK)
        assert set(entry.fields) == {"device", "event", "data", "id", "ts", "conn", "epoch", "node"}
        assert (entry.fields["device"], entry.fields["event"]) == ("d1", "reading")
        assert entry.fields["data"] == '{"t":21.5}'
        assert entry.fields["conn"] == peer.id
        assert entry.fields["epoch"] == str(device.epoch)


async def test_events_keep_their_order(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        device, _ = await world.login()
        answered: list[int] = []
        for number in range(20):
            device.uplink("n", (number,), partial(answered.append, number))
        await world.settle()
        await until(lambda: len(answered) == 20)
        assert answered == list(range(20))
        assert await world.told(Stream.UPLINK, "data") == [(str(number),) for number in range(20)]


async def test_an_outage_delays_but_stores_once(mock_clock: Clock) -> None:
    """F2, F6, I7: not acknowledged before it is stored; the answer that was lost does not make a second entry."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        answered: list[int] = []
        world.store.away = {"uplink"}
        for number in range(3):
            device.uplink("reading", (number,), partial(answered.append, number))
        await world.pass_time(10)
        assert not answered
        assert world.store.tried.count("uplink") > 2
        world.store.away, world.store.late = set(), {"uplink"}
        await world.pass_time(6)
        assert len(await world.entries(Stream.UPLINK)) == 1
        assert not answered
        world.store.late = set()
        await world.pass_time(6)
        await until(lambda: answered == [0, 1, 2])
        assert await world.told(Stream.UPLINK, "data") == [("0",), ("1",), ("2",)]
        assert peer.closed is None


async def test_what_was_received_is_stored_when_the_connection_breaks(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        world.store.away = {"uplink"}
        device.uplink("first", (), ignored)
        device.uplink("last", (1,), ignored)
        await world.settle()
        peer.drop()
        await world.settle()
        device.uplink("too late", (), ignored)
        world.store.away = set()
        await world.pass_time(1)
        await until(lambda: world.gone)
        assert await world.told(Stream.UPLINK, "event", "data") == [("first", "null"), ("last", "1")]


@pytest.mark.parametrize("fate", ["written", "not written", "node cancelled"])
async def test_what_is_on_its_way_when_the_connection_breaks_is_stored_once(mock_clock: Clock, fate: str) -> None:
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        inner: Any = world.store._store
        each, one, begun, go = inner.uplink_each, inner.uplink, trio.Event(), trio.Event()
        calls: list[str] = []

        async def slowly(uplinks: Sequence[Uplink]) -> list[Outcome]:
            calls.append("each")
            begun.set()
            await go.wait()
            if fate == "written":
                return await each(uplinks)
            raise StoreUnavailable("gone")

        async def alone(*args: Any) -> None:
            calls.append("one")
            await one(*args)

        inner.uplink_each, inner.uplink = slowly, alone
        device.uplink("first", (), ignored)
        device.uplink("last", (), ignored)
        await begun.wait()
        peer.drop()
        await world.settle()
        assert calls == ["each"], "who ends waits for what is on its way, or a late one would be written twice"
        if fate == "node cancelled":
            world.node.uplinks._nursery.cancel_scope.cancel()
        go.set()
        await until(lambda: world.gone)
        assert await world.told(Stream.UPLINK, "event") == [("first",), ("last",)]
        assert calls.count("one") == (1 if fate == "written" else 2)


async def test_an_old_connection_can_say_nothing_any_more(mock_clock: Clock) -> None:
    """I3: refused by its epoch; it is not acknowledged, and the connection ends."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        world.node.hub.kick = lambda *args: None  # type: ignore[method-assign]
        newer = await world.store.login("d1", "elsewhere", ())
        answered: list[int] = []
        for number in range(3):
            device.uplink("reading", (number,), partial(answered.append, number))
        await until(lambda: world.gone)
        assert not answered
        assert await world.entries(Stream.UPLINK) == []
        assert peer.sent[-1].event == "kicked"
        assert peer.sent[-1].args == ({"reason": "takeover", "by": "elsewhere"},)
        assert (await world.store.device("d1")).epoch == newer.epoch


async def test_arguments_without_a_json_form_end_the_connection(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        device.uplink("good", (), ignored)
        device.uplink("bad", ("\ud800",), ignored)
        await until(lambda: world.gone)
        assert peer.closed is CloseReason.POLICY
        assert await world.told(Stream.UPLINK, "event") == [("good",)]


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
