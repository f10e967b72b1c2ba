"""One device from login to logout: takeover, kicks, the end of a token, faults; and its status entries (I3, I4, I6)."""

import time

import pytest
import trio.testing

from engineio_trio.errors import CloseReason
from pushd import goodbye
from pushd.model import Message, Push, Receipt, ReceiptState, Stream
from tests.pushd.core_support import open_world, until

Clock = trio.testing.MockClock


async def test_a_newer_login_kicks_the_old_connection(mock_clock: Clock) -> None:
    """I3, I4: `kicked`, then DISCONNECT; one start and one end for each epoch; the late logout changes nothing."""
    async with open_world(mock_clock) as world:
        old, peer = await world.login()
        new, newer = await world.login()
        await until(lambda: world.gone)
        assert world.gone == [old]
        assert peer.sent[-1].event == "kicked"
        assert peer.sent[-1].args[0]["reason"] == "takeover"
        assert peer.calls == ["disconnect"]
        assert newer.closed is None
        assert world.node.hub.get("d1") is new
        record = await world.store.device("d1")
        assert (record.online, record.conn, record.epoch) == (True, newer.id, new.epoch)
        newer.drop()
        await until(lambda: len(world.gone) == 2)
        assert await world.told(Stream.STATUS, "event", "epoch") == [
            ("online", str(old.epoch)),
            ("takeover", str(new.epoch)),
            ("offline", str(new.epoch)),
        ]


async def test_a_takeover_loses_no_push(mock_clock: Clock) -> None:
    """F16: what the old connection had in flight comes again on the new one."""
    async with open_world(mock_clock) as world:
        _, old = await world.login()
        await world.push("a", "b")
        await until(lambda: len(old.sent) == 2)
        _, new = await world.login()
        old.ack(*old.seqs)  # too late
        await world.push("c")
        await until(lambda: len(new.sent) == 3)
        assert [sent.args[1]["id"] for sent in new.sent] == ["a", "b", "c"]


async def test_a_takeover_from_another_node_is_noticed_without_a_kick(mock_clock: Clock) -> None:
    """A lost kick: the first call that the store refuses shows it."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        await world.settle()
        world.node.hub.kick = lambda *args: None  # type: ignore[method-assign]
        await world.store.login("d1", "elsewhere", ())
        device.wake()
        await until(lambda: world.gone)
        assert peer.sent[-1].args == ({"reason": "takeover", "by": "elsewhere"},)
        assert peer.calls == ["disconnect"]


async def test_a_binding_that_was_swept_away_closes_so_that_the_client_returns(mock_clock: Clock) -> None:
    """Thought dead by mistake: nobody else has the device, so no DISCONNECT."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        await world.settle()
        await world.store.logout("d1", device.epoch, "stale")
        device.wake()
        await until(lambda: world.gone)
        assert peer.calls == [f"close {CloseReason.SERVER_CLOSE.value}"]
        assert await world.told(Stream.STATUS, "event", "reason") == [("online", "login"), ("offline", "stale")]


async def test_logins_whose_answers_crossed_leave_the_newest(mock_clock: Clock) -> None:
    """The store bound A, then B; the answer for A came last."""
    async with open_world(mock_clock) as world:
        new, _ = await world.login()
        hub, stale = world.node.hub, FakeHolder(epoch=new.epoch - 1)
        hub.join(stale)
        assert stale.kicked == [("takeover", new.conn)]
        assert hub.get("d1") is new
        hub.leave(stale)
        assert hub.get("d1") is new


class FakeHolder:
    """A holder of d1 that notes its kicks."""

    device, conn, seen = "d1", "crossed", 0.0

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.kicked: list[tuple[str, str]] = []

    def kick(self, reason: str, by: str) -> None:
        self.kicked.append((reason, by))

    def wake(self) -> None:
        raise AssertionError("not the holder")

    lost = shut = wake

    def cast(self, message: Message) -> bool:
        raise AssertionError("not the holder")


@pytest.mark.parametrize("reason", ["maintenance", "stale", "takeover", "lost"])
async def test_a_kick_by_an_operator(mock_clock: Clock, reason: str) -> None:
    """Whatever the reason is called: the device is told, and stays away."""
    async with open_world(mock_clock) as world:
        _, peer = await world.login()
        assert await world.store.kick("d1", reason, "admin")
        await until(lambda: world.gone)
        assert peer.sent[-1].args == ({"reason": reason, "by": "admin"},)
        assert peer.calls == ["disconnect"]
        assert await world.told(Stream.STATUS, "event", "reason") == [("online", "login"), ("offline", reason)]
        assert not await world.store.kick("d1", "again", "admin")


async def test_a_kick_of_a_newer_epoch_is_not_for_an_old_message(mock_clock: Clock) -> None:
    """A kick that comes late names an epoch that is over."""
    async with open_world(mock_clock) as world:
        device, peer = await world.login()
        world.node.hub.kick("d1", device.epoch - 1, "takeover", "x")
        await world.settle()
        assert peer.closed is None


async def test_a_token_that_expires_ends_the_connection(mock_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = trio.current_time()
    monkeypatch.setattr(time, "time", lambda: 1e9 + trio.current_time() - begin)
    async with open_world(mock_clock) as world:
        _, peer = await world.login(expires=1e9 + 60)
        await world.pass_time(59)
        assert peer.closed is None
        await world.pass_time(2)
        assert peer.sent[-1].args == ({"reason": "token expired", "by": "server"},)
        assert peer.calls == ["disconnect"]
        await until(lambda: world.gone)
        assert (await world.told(Stream.STATUS, "event", "reason"))[-1] == ("offline", "token expired")


async def test_acks_that_came_before_the_end_are_kept(mock_clock: Clock) -> None:
    """A client that acknowledges and leaves does not get the message again."""
    async with open_world(mock_clock) as world:
        await world.push("a")
        _, peer = await world.login()
        await until(lambda: peer.sent)
        peer.ack(*peer.seqs)
        peer.drop()
        await until(lambda: world.gone)
        assert (await world.store.device("d1")).inbox == 0


async def test_a_logout_waits_for_the_store(mock_clock: Clock) -> None:
    """I4: one `offline`, neither missing nor false, when the store comes back."""
    async with open_world(mock_clock) as world:
        _, peer = await world.login()
        await world.settle()
        world.store.away = {"*"}
        peer.drop()
        await until(lambda: world.gone)
        assert len(world.node.goodbyes) == 1
        await world.pass_time(20)
        world.store.away = set()
        await world.pass_time(6)
        await until(lambda: not len(world.node.goodbyes))
        assert await world.told(Stream.STATUS, "event", "reason") == [
            ("online", "login"),
            ("offline", CloseReason.TRANSPORT_CLOSE.value),
        ]


async def test_a_logout_that_was_owed_does_not_end_the_next_login(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        _, first = await world.login()
        await world.settle()
        world.store.away = {"logout"}
        first.drop()
        await until(lambda: world.gone)
        _, second = await world.login()
        world.store.away = set()
        await world.pass_time(10)
        await until(lambda: not len(world.node.goodbyes))
        assert second.closed is None
        assert await world.told(Stream.STATUS, "event") == [("online",), ("takeover",)]


async def test_owed_logouts_are_bounded(mock_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: the oldest is forgotten; its binding is ended by the sweep, late, and never falsely."""
    monkeypatch.setattr(goodbye, "OWED_MAX", 2)
    async with open_world(mock_clock) as world:
        world.store.away = {"logout"}
        for number in range(1, 5):
            _, peer = await world.login(f"d{number}")
            peer.drop()
            await until(lambda number=number: len(world.gone) == number)  # type: ignore[misc]
        assert len(world.node.goodbyes) == 2
        world.store.away = set()
        await world.pass_time(10)
        await until(lambda: not len(world.node.goodbyes))
        online = [(await world.store.device(f"d{number}")).online for number in range(1, 5)]
        assert online == [False, True, False, False], "the first was in hand, the second was the oldest that waited"


async def test_a_fault_in_saying_goodbye_ends_that_one_alone(mock_clock: Clock) -> None:
    """I6."""
    async with open_world(mock_clock) as world:
        faulty, peer = await world.login("faulty")
        _, neighbour = await world.login("neighbour")

        async def broken(*args: object) -> None:
            raise ZeroDivisionError("a bug")

        faulty._pump.finish = broken  # type: ignore[method-assign]
        peer.drop()
        await until(lambda: world.gone)
        assert neighbour.closed is None


async def test_a_fault_in_one_device_ends_that_one_alone(mock_clock: Clock) -> None:
    """I6: whatever goes wrong is logged, and the neighbour does not notice."""
    async with open_world(mock_clock) as world:
        faulty, peer = await world.login("faulty")
        _, neighbour = await world.login("neighbour")

        async def broken(*args: object) -> None:
            raise ZeroDivisionError("a bug")

        faulty._pump._fetch = broken  # type: ignore[method-assign, assignment]
        faulty.wake()
        await until(lambda: world.gone)
        assert peer.calls == [f"close {CloseReason.INTERNAL_ERROR.value}"]
        await world.push("a", device="neighbour")
        await until(lambda: neighbour.sent)
        assert ("faulty", "offline") in await world.told(Stream.STATUS, "device", "event")


async def test_a_cast_reaches_who_is_there_and_no_one_else(mock_clock: Clock) -> None:
    """qos 0: at once, not stored, and not acknowledged."""
    async with open_world(mock_clock) as world:
        _, peer = await world.login()
        push = Push("topic:t", '{"n":1}', "cast-1", event="news", qos=0)
        here, away = await world.store.cast(push, ["d1", "d2"])
        assert (states := (here.state, away.state)) == (ReceiptState.DELIVERED, ReceiptState.REFUSED), states
        assert isinstance(here, Receipt)
        (sent,) = peer.sent
        assert sent.event == "news"
        assert sent.args == ({"n": 1}, {"id": "cast-1", "seq": 0, "redelivered": False})
        assert sent.ack is None
        peer.drop()
        await until(lambda: world.gone)
        (gone,) = await world.store.cast(push, ["d1"])
        assert gone.state is ReceiptState.REFUSED
