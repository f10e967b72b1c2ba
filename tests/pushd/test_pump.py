"""The downlink: order, window, acknowledgements, sending again, and a store that goes away (I1, I2, F16-F20)."""

import trio
import trio.testing

from engineio_trio.errors import CloseReason
from pushd.device import Device
from pushd.model import Confirm, Identity, Message, Stream
from tests.pushd.core_support import Peer, open_world, until

Clock = trio.testing.MockClock


async def test_replay_and_live_are_one_stream_in_order(mock_clock: Clock) -> None:
    """I2, F17: what waited comes first, what is pushed meanwhile follows, all in rising seq, each with its meta."""
    async with open_world(mock_clock) as world:
        await world.push("a", "b", data='{"n":1}')
        _, peer = await world.login()
        await world.push("c")
        await until(lambda: len(peer.sent) == 3)
        assert peer.seqs == sorted(peer.seqs)
        assert [sent.args[1]["id"] for sent in peer.sent] == ["a", "b", "c"]
        assert peer.sent[0].event == "push"
        assert peer.sent[0].args == ({"n": 1}, {"id": "a", "seq": peer.seqs[0], "redelivered": False})


async def test_an_inbox_that_the_login_saw_empty_is_not_read(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        _, peer = await world.login()
        await world.settle()
        assert "fetch" not in world.store.tried
        await world.push("a")
        await until(lambda: peer.sent)
        assert "fetch" not in world.store.tried


async def test_a_message_that_comes_before_the_pump_runs_is_not_lost(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        bound = await world.store.login("d1", "c1", [])
        [receipt] = await world.push("a")
        peer = Peer("c1")
        device = Device(Identity("d1"), bound, peer, world.node)
        world.node.hub.join(device)
        world.node.hub.deliver("d1", Message(receipt.seq, "a", "push", "1", False), 0)
        assert peer.sent == []
        world.nursery.start_soon(device.run)
        await until(lambda: peer.sent)
        assert peer.seqs == [receipt.seq]


async def test_an_ack_removes_the_message_and_is_told(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        await world.push("a", "b")
        device, peer = await world.login()
        await until(lambda: len(peer.sent) == 2)
        peer.ack(peer.seqs[1])
        await until(lambda: device._pump.held == 1)
        record = await world.store.device("d1")
        assert record.inbox == 1
        assert ("b", "acked") in await world.told(Stream.RECEIPT, "id", "state")
        assert ("a", "acked") not in await world.told(Stream.RECEIPT, "id", "state")


async def test_a_second_ack_of_the_same_message_changes_nothing(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        await world.push("a")
        device, peer = await world.login()
        await until(lambda: peer.sent)
        peer.ack(peer.seqs[0])
        peer.ack(peer.seqs[0])
        await until(lambda: device._pump.held == 0)
        peer.ack(peer.seqs[0])
        await world.settle()
        assert [told for told in await world.told(Stream.RECEIPT, "state") if told == ("acked",)] == [("acked",)]
        assert world.store.tried.count("ack") == 1
        assert device._pump.held == 0


async def test_no_more_than_the_window_is_in_flight(mock_clock: Clock) -> None:
    """I5, F20: the next message goes out only when the store has the confirmation of an earlier one."""
    async with open_world(mock_clock, window=3) as world:
        await world.push(*"abcdefgh")
        device, peer = await world.login()
        await until(lambda: len(peer.sent) == 3)
        await world.settle()
        assert len(peer.sent) == 3
        world.store.away = {"ack"}
        peer.ack(*peer.seqs)
        await world.settle()
        assert len(peer.sent) == 3, "acknowledged, but not yet stored: still in memory, so still in the window"
        assert device._pump.held == 3
        world.store.away = set()
        await world.pass_time(1)
        await until(lambda: len(peer.sent) == 6)
        peer.ack(*peer.seqs[3:])
        await until(lambda: len(peer.sent) == 8)
        assert peer.seqs == sorted(set(peer.seqs))


async def test_what_was_not_acked_comes_again_first_after_a_reconnect(mock_clock: Clock) -> None:
    """I1, I2, F18: same id, same seq, marked."""
    async with open_world(mock_clock) as world:
        await world.push("a", "b")
        _, first = await world.login()
        await until(lambda: len(first.sent) == 2)
        first.ack(first.seqs[0])
        first.drop()
        await until(lambda: world.gone)
        await world.push("c")
        _, second = await world.login()
        await until(lambda: len(second.sent) == 2)
        assert [(sent.args[1]["id"], sent.redelivered) for sent in second.sent] == [("b", True), ("c", False)]
        assert second.seqs[0] == first.seqs[1]


async def test_an_unacked_message_is_sent_again_and_then_the_peer_is_closed(mock_clock: Clock) -> None:
    """F20: after 30 s, at most three times, marked; then close without DISCONNECT, so that the client comes back."""
    async with open_world(mock_clock, resend=30.0) as world:
        await world.push("a")
        _, peer = await world.login()
        await until(lambda: peer.sent)
        await world.pass_time(29)
        assert len(peer.sent) == 1
        await world.pass_time(2)
        assert [sent.redelivered for sent in peer.sent] == [False, True]
        await world.pass_time(60)
        assert len(peer.sent) == 4
        assert peer.closed is None
        await world.pass_time(31)
        assert len(peer.sent) == 4
        assert peer.calls == [f"close {CloseReason.POLICY.value}"]
        await until(lambda: world.gone)
        assert await world.told(Stream.STATUS, "event", "reason") == [
            ("online", "login"),
            ("offline", CloseReason.POLICY.value),
        ]
        assert (await world.store.device("d1")).inbox == 1


async def test_a_late_ack_of_a_resent_message_counts(mock_clock: Clock) -> None:
    async with open_world(mock_clock, resend=30.0) as world:
        await world.push("a")
        device, peer = await world.login()
        await until(lambda: peer.sent)
        await world.pass_time(31)
        first = peer.sent[0].ack
        assert first is not None
        first()
        await until(lambda: device._pump.held == 0)
        await world.pass_time(100)
        assert len(peer.sent) == 2


async def test_one_ack_of_a_message_sent_twice_is_enough(mock_clock: Clock) -> None:
    """I5: a client that remembers ids may ack once; the other sending's acknowledgement is awaited no longer."""
    async with open_world(mock_clock, resend=30.0) as world:
        await world.push("a")
        device, peer = await world.login()
        await until(lambda: peer.sent)
        await world.pass_time(31)
        assert peer.awaited == 2
        peer.ack(peer.seqs[0])
        await until(lambda: device._pump.held == 0)
        assert peer.awaited == 0


async def test_only_what_is_overdue_is_sent_again(mock_clock: Clock) -> None:
    async with open_world(mock_clock, resend=30.0) as world:
        await world.push("a")
        _, peer = await world.login()
        await until(lambda: peer.sent)
        await world.pass_time(20)
        await world.push("b")
        await until(lambda: len(peer.sent) == 2)
        await world.pass_time(11)
        assert [sent.args[1]["id"] for sent in peer.sent] == ["a", "b", "a"]


async def test_an_outage_of_the_store_loses_nothing_and_keeps_the_connection(mock_clock: Clock) -> None:
    """F2, F6: fetch and ack are tried again until the store is back; a lost answer is no harm."""
    async with open_world(mock_clock) as world:
        await world.push("a")
        device, peer = await world.login()
        await until(lambda: peer.sent)
        world.only_wake()
        world.store.away = {"fetch", "ack"}
        await world.push("b")
        peer.ack(peer.seqs[0])
        await world.pass_time(20)
        assert len(peer.sent) == 1
        assert peer.closed is None
        world.store.away = set()
        world.store.late = {"ack"}
        await world.pass_time(6)
        world.store.late = set()
        await world.pass_time(6)
        await until(lambda: len(peer.sent) >= 2)
        assert [sent.args[1]["id"] for sent in peer.sent] == ["a", "b"]
        peer.ack(peer.seqs[1])
        await until(lambda: device._pump.held == 0)
        assert (await world.store.device("d1")).inbox == 0
        assert world.store.tried.count("ack") > 3


async def test_a_lost_wake_up_is_made_good_by_the_tick(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        _, peer = await world.login()
        await world.settle()
        world.node.hub.deliver = lambda device, message, after: None  # type: ignore[method-assign]
        await world.push("a")
        await world.settle()
        assert peer.sent == []
        await world.pass_time(31)
        await until(lambda: peer.sent)


async def test_a_live_push_is_sent_without_reading_the_inbox(mock_clock: Clock) -> None:
    """I2: in order with what was read, not marked, and confirmed like it."""
    async with open_world(mock_clock) as world:
        await world.push("a")
        device, peer = await world.login()
        await until(lambda: peer.sent)
        await world.settle()
        fetches = world.store.tried.count("fetch")
        await world.push("b", "c")
        await until(lambda: len(peer.sent) == 3)
        assert world.store.tried.count("fetch") == fetches
        assert [(sent.args[1]["id"], sent.redelivered) for sent in peer.sent] == [
            ("a", False),
            ("b", False),
            ("c", False),
        ]
        peer.ack(*peer.seqs)
        await until(lambda: device._pump.held == 0)
        assert (await world.store.device("d1")).inbox == 0


async def test_what_comes_along_twice_late_or_out_of_turn_is_left_to_the_inbox(mock_clock: Clock) -> None:
    """I2, I5: hints may be lost and repeated; with no room for it, a message is read when there is."""
    async with open_world(mock_clock, window=2) as world:
        device, peer = await world.login()
        await world.settle()
        kept: list[tuple[Message, int]] = []
        world.node.hub.deliver = lambda device, message, after: kept.append((message, after))  # type: ignore[method-assign]
        await world.push("a", "b", "c")
        (first, second, _) = kept
        device.deliver(*second)
        assert peer.sent == [], "something stands before it"
        await until(lambda: len(peer.sent) == 2)
        device.deliver(*first)
        device.deliver(*second)
        device.deliver(Message(second[0].seq + 1, "c", "push", "1", redelivered=False), second[0].seq)
        assert len(peer.sent) == 2, "there is no room"
        peer.ack(*peer.seqs)
        await until(lambda: len(peer.sent) == 3)
        assert [sent.args[1]["id"] for sent in peer.sent] == ["a", "b", "c"]
        peer.drop()
        await until(lambda: world.gone)
        device.deliver(Message(second[0].seq + 2, "d", "push", "1", redelivered=False), 0)
        assert len(peer.sent) == 3, "it is over"


async def test_confirmed_by_write_needs_no_ack(mock_clock: Clock) -> None:
    """Old fleets: no acknowledgement is asked for, the completed write removes the message, `delivered` is told."""
    async with open_world(mock_clock, confirm=Confirm.WRITE) as world:
        await world.push("a", "b")
        device, peer = await world.login()
        await until(lambda: len(peer.sent) == 2 and device._pump.held == 0)
        assert all(sent.ack is None for sent in peer.sent)
        assert (await world.store.device("d1")).inbox == 0
        states = await world.told(Stream.RECEIPT, "id", "state")
        assert [state for state in states if state[1] == "delivered"] == [("a", "delivered"), ("b", "delivered")]
        await world.push("live")
        await until(lambda: len(peer.sent) == 3 and device._pump.held == 0)


async def test_an_identity_may_override_what_confirms(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        await world.push("a")
        device, peer = await world.login(confirm=Confirm.WRITE)
        await until(lambda: peer.sent and device._pump.held == 0)
        assert peer.sent[0].ack is None


async def test_a_write_that_does_not_complete_confirms_nothing(mock_clock: Clock) -> None:
    async with open_world(mock_clock, confirm=Confirm.WRITE) as world:
        _, peer = await world.login()
        peer.blocked = True
        await world.push("a")
        await until(lambda: peer.sent)
        await world.settle()
        assert (await world.store.device("d1")).inbox == 1
        peer.drop()
        await until(lambda: world.gone)
        _, second = await world.login()
        await until(lambda: second.sent)
        assert second.sent[0].redelivered


async def test_what_was_sent_to_a_socket_that_had_left_is_not_confirmed(mock_clock: Clock) -> None:
    """I1: a socket that has left drops what it is given, while the connection under it can still be flushed."""
    async with open_world(mock_clock, confirm=Confirm.WRITE) as world:
        _, peer = await world.login()
        await world.settle()
        peer.closed, peer.flush = CloseReason.CLIENT_DISCONNECT, trio.lowlevel.checkpoint  # type: ignore[method-assign]
        await world.push("a")
        await until(lambda: world.gone)
        assert (await world.store.device("d1")).inbox == 1
        assert (await world.told(Stream.STATUS, "reason"))[-1] == (CloseReason.CLIENT_DISCONNECT.value,)


async def test_a_big_replay_waits_for_a_slow_reader(mock_clock: Clock) -> None:
    """W8: the pump does not fill a peer's outbox; it waits for what it has sent to be written."""
    big = '"' + "x" * 60_000 + '"'
    async with open_world(mock_clock) as world:
        await world.push(*"abcdef", data=big)
        _, peer = await world.login()
        peer.blocked = True
        await until(lambda: len(peer.sent) == 2)
        await world.settle()
        assert len(peer.sent) == 2


async def test_a_message_that_cannot_be_sent_does_not_stop_the_next(mock_clock: Clock) -> None:
    """I6, F19: text in the store that is no JSON (somebody else's write) is refused, and the next one goes out."""
    async with open_world(mock_clock) as world:
        await world.push("bad", data="{oops")
        await world.push("good")
        device, peer = await world.login()
        await until(lambda: peer.sent and device._pump.held == 1)
        assert [sent.args[1]["id"] for sent in peer.sent] == ["good"]
        assert ("bad", "refused") in await world.told(Stream.RECEIPT, "id", "state")


async def test_binary_goes_out_as_binary(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        await world.push("a", data='{"raw":{"$bytes":"AAH/"}}')
        _, peer = await world.login()
        await until(lambda: peer.sent)
        assert peer.sent[0].args[0] == {"raw": b"\x00\x01\xff"}


async def test_expired_messages_are_not_sent(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        await world.push("dead", ttl=5)
        await world.push("alive")
        world.wall.now += 6
        _, peer = await world.login()
        await until(lambda: peer.sent)
        assert [sent.args[1]["id"] for sent in peer.sent] == ["alive"]
