"""What every store promises, in the words of the domain. The same tests for each implementation."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from pushd.errors import BadRequest, StaleEpoch
from pushd.model import Binding, Bound, Message, Outcome, ReceiptState, Stream, Throttled, Uplink
from pushd.store.base import Limits, Store
from tests.patience import PATIENCE
from tests.pushd.stores import BACKENDS, DURABLE, Backend, bind, everything, pass_time, push, told

ACKED = ReceiptState.ACKED


@pytest.fixture(params=BACKENDS, ids=lambda make: make.__name__)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return request.param(tmp_path)


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    async with backend.open() as store:
        yield store


async def states(store: Store) -> list[tuple[str, ...]]:
    """All receipts: device, push id, state, and which of the device's messages it was (1: the first; 0: none)."""
    receipts = await told(store, Stream.RECEIPT, "device", "id", "state", "seq")
    seqs = {
        device: sorted({int(seq) for name, _, _, seq in receipts if name == device} | {0}) for device, *_ in receipts
    }
    return [(device, id, state, str(seqs[device].index(int(seq)))) for device, id, state, seq in receipts]


async def stored(store: Store, device: str, *ids: str) -> list[int]:
    """Put pushes into an inbox, and answer their seqs, which rise."""
    receipts = [(await store.enqueue(push(id), [device]))[0] for id in ids]
    seqs = [receipt.seq for receipt in receipts]
    assert seqs == sorted(set(seqs))
    assert {receipt.state for receipt in receipts} == {ReceiptState.STORED}
    return seqs


# ---- bindings ----


async def test_login_binds_and_tells_the_status_stream_every_field(store: Store, backend: Backend) -> None:
    bound = await store.login("d", "c1", ["news", "all"])
    assert bound == Bound(int(backend.clock.now * 1_000), None, waiting=False)
    (entry,) = await everything(store, Stream.STATUS)
    assert entry.fields == {
        "device": "d",
        "event": "online",
        "reason": "login",
        "conn": "c1",
        "epoch": str(bound.epoch),
        "node": "n1",
        "ts": f"{backend.clock.now:.6f}",
    }
    record = await store.device("d")
    assert record is not None
    assert (record.online, record.node, record.conn, record.epoch) == (True, "n1", "c1", bound.epoch)
    assert (record.since, record.seen, record.inbox, record.topics) == (
        1_700_000_000.0,
        1_700_000_000.0,
        0,
        ("all", "news"),
    )


async def test_takeover_kicks_the_previous_connection_and_fences_it(store: Store, backend: Backend) -> None:
    old = await bind(store, "d", "c1")
    await store.enqueue(push("p"), ["d"])
    new = await store.login("d", "c2", [])
    assert isinstance(new, Bound)
    assert new.epoch == old + 1, "a frozen clock still gives a greater epoch"
    assert new.previous == Binding("d", "n1", "c1", old)
    assert backend.node.kicks == [("d", old, "takeover", "c2")]
    assert not await store.logout("d", old, "transport close")
    assert await store.beat([("d", old)]) == ["d"]
    with pytest.raises(StaleEpoch):
        await store.fetch("d", old, 0, 10)
    with pytest.raises(StaleEpoch):
        await store.ack("d", old, [1], ACKED)
    with pytest.raises(StaleEpoch):
        await store.uplink("d", old, "c1", "u1", "report", "1")
    assert [message.id for message in await store.fetch("d", new.epoch, 0, 10)] == ["p"]
    assert await told(store, Stream.UPLINK, "id") == []
    assert await told(store, Stream.STATUS, "event", "conn") == [("online", "c1"), ("takeover", "c2")]


async def test_login_again_with_the_same_connection_answers_the_same(store: Store, backend: Backend) -> None:
    """F6: the outcome of the first try was unknown."""
    await bind(store, "d", "c1")
    first = await store.login("d", "c2", ["t"])
    backend.clock.now += 1
    assert await store.login("d", "c2", ["t"]) == first
    assert len(await everything(store, Stream.STATUS)) == 2
    assert len(backend.node.kicks) == 1


async def test_login_says_whether_messages_wait(store: Store) -> None:
    await stored(store, "d", "p")
    first = await store.login("d", "c1", [])
    assert isinstance(first, Bound)
    assert first.waiting
    assert await store.login("d", "c1", []) == first
    [message] = await store.fetch("d", first.epoch, 0, 10)
    await store.ack("d", first.epoch, [message.seq], ACKED)
    second = await store.login("d", "c2", [])
    assert isinstance(second, Bound)
    assert not second.waiting
    assert await store.login("d", "c2", []) == second


async def test_many_logins_at_once_are_as_many_logins_one_by_one(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """Each with its own outcome: new, with new topics, after others, taken over, over and over, refused."""
    async with backend.open(limits=Limits(takeovers=1)) as store:
        topical = {f"topical{number}" for number in range(3)}
        for name in topical:
            await store.login(name, "c0", [f"old-{name}", "both"])
        await bind(store, "busy", "c0")
        assert isinstance(await store.login("busy", "c1", []), Bound)
        await stored(store, "waiting", "p")
        await bind(store, "same", "c1")
        outcomes: dict[str, Bound | Throttled] = {}
        throttled: dict[str, Throttled | None] = {}
        names = (*topical, "busy", "waiting", "same", *(f"d{number}" for number in range(150)))

        async def come(device: str) -> None:
            throttled[device] = await store.admits(device)
            outcomes[device] = await store.login(device, "c1" if device == "same" else "c2", ["new", "both", device])

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(come, name)
        refused = {name for name, outcome in outcomes.items() if isinstance(outcome, Throttled)}
        assert refused == {name for name, answer in throttled.items() if answer is not None} == {"busy"}
        bound = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Bound)}
        assert {name for name, one in bound.items() if one.waiting} == {"waiting"}
        assert {name for name, one in bound.items() if one.previous is not None} == topical
        for name, one in bound.items():
            record = await store.device(name)
            assert record is not None
            wanted = () if name == "same" else tuple(sorted({"both", "new", name}))
            assert (record.epoch, record.topics) == (one.epoch, wanted)
            assert await store.members(name, "", 10) == ([] if name == "same" else [name])
        for name in topical:
            assert await store.members(f"old-{name}", "", 10) == []
        assert await store.members("both", "", 200) == sorted(bound.keys() - {"same"})
        begun = [name for name, conn in await told(store, Stream.STATUS, "device", "conn") if conn == "c2"]
        assert sorted(begun) == sorted(bound.keys() - {"same"})
        assert "one by one" not in caplog.text, "the server did not like what they asked for together"


async def test_logout_ends_an_epoch_once(store: Store) -> None:
    epoch = await bind(store, "d", "c1")
    assert not await store.logout("d", epoch + 1, "too new")
    assert await store.logout("d", epoch, "transport close")
    assert not await store.logout("d", epoch, "again")
    events = await told(store, Stream.STATUS, "event", "epoch", "conn", "node", "reason")
    assert events[1:] == [("offline", str(epoch), "c1", "n1", "transport close")]
    record = await store.device("d")
    assert record is not None
    assert not record.online
    with pytest.raises(StaleEpoch):
        await store.fetch("d", epoch, 0, 10)


async def test_epochs_rise_through_logouts_and_a_clock_set_back(store: Store, backend: Backend) -> None:
    """F12."""
    epochs = [await bind(store, "d", "c0")]
    for turn in range(1, 4):
        await store.logout("d", epochs[-1], "bye")
        backend.clock.now -= 3_600
        epochs.append(await bind(store, "d", f"c{turn}"))
    assert epochs == sorted(set(epochs))


async def test_kick_ends_whoever_holds_the_device(store: Store, backend: Backend) -> None:
    assert not await store.kick("d", "operator", "admin")
    epoch = await bind(store, "d", "c1")
    assert await store.kick("d", "operator", "admin")
    assert not await store.kick("d", "operator", "admin")
    assert backend.node.kicks == [("d", epoch, "operator", "admin")]
    assert await told(store, Stream.STATUS, "event", "reason") == [("online", "login"), ("offline", "operator")]


async def test_the_fourth_takeover_in_the_window_is_refused_and_the_holder_stays(
    store: Store, backend: Backend
) -> None:
    start = backend.clock.now
    for turn in range(4):  # the first is no takeover
        backend.clock.now = start + turn
        epoch = await bind(store, "d", f"c{turn}")
    before = await everything(store, Stream.STATUS)
    backend.clock.now = start + 5
    refused = await store.login("d", "late", ["t"])
    assert refused == Throttled(6.0), "the takeover at 1 s leaves the window at 11 s"
    assert await store.admits("d") == refused
    assert await everything(store, Stream.STATUS) == before
    assert await store.members("t", "", 10) == []
    assert await store.fetch("d", epoch, 0, 1) == [], "the holder still holds it"
    backend.clock.now = start + 10.9
    assert isinstance(await store.login("d", "late", []), Throttled), "the refusal has not made the window longer"
    backend.clock.now = start + 11
    assert await store.admits("d") is None
    assert isinstance(await store.login("d", "late", []), Bound)
    assert isinstance(await store.login("d", "later", []), Throttled), "those at 2, 3 and 11 s are in the window"


async def test_logins_of_a_device_that_nobody_holds_are_not_throttled(store: Store) -> None:
    for turn in range(10):
        epoch = await bind(store, "d", f"c{turn}")
        assert await store.logout("d", epoch, "bye")
    assert await store.admits("d") is None
    assert await store.admits("unknown") is None


async def test_a_clock_set_back_does_not_lock_a_device_out(store: Store, backend: Backend) -> None:
    """F12: takeovers that lie in the future do not count, and a refusal never lasts longer than the window."""
    for turn in range(4):
        await bind(store, "d", f"c{turn}")
    backend.clock.now -= 86_400
    for turn in range(4, 7):
        await bind(store, "d", f"c{turn}")
    refused = await store.login("d", "late", [])
    assert isinstance(refused, Throttled)
    assert refused.retry_after <= 10


async def test_racing_logins_get_unique_rising_epochs_with_one_start_and_one_end_each(backend: Backend) -> None:
    """I3, I4, F16: many connections of one device at once, each also logging out; somebody holds it at most once."""
    async with backend.open(Limits(takeovers=1_000)) as store:
        epochs: list[int] = []

        async def come_and_go(number: int) -> None:
            epochs.append(epoch := await bind(store, "d", f"c{number}"))
            if number % 2:
                await store.logout("d", epoch, "bye")

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(come_and_go, number)
        assert len(set(epochs)) == 200
        await check_history(store, holders={"d"} if (await store.counts()).online else set())


async def check_history(store: Store, holders: set[str]) -> None:
    """I4: along the status stream each device starts and ends in turn, epochs rise, `holders` alone are left."""
    held: dict[str, int] = {}
    highest: dict[str, int] = {}
    for device, event, epoch in await told(store, Stream.STATUS, "device", "event", "epoch"):
        if event == "offline":
            assert held.pop(device) == int(epoch), "an offline that is not its start's"
            continue
        assert (device in held) == (event == "takeover")
        assert int(epoch) > highest.get(device, 0)
        held[device] = highest[device] = int(epoch)
    assert set(held) == holders
    for device, epoch in held.items():
        record = await store.device(device)
        assert record is not None
        assert (record.online, record.epoch) == (True, epoch)


# ---- the sweeper ----


async def test_a_device_not_heard_of_goes_offline_once_and_is_closed(store: Store, backend: Backend) -> None:
    silent = await bind(store, "silent", "c1")
    alive = await bind(store, "alive", "c2")
    for _ in range(9):
        assert await pass_time(store, backend.clock, 10) == 0
        assert await store.beat([("alive", alive)]) == []
    assert await pass_time(store, backend.clock, 10) == 1
    assert await pass_time(store, backend.clock, 10) == 0
    assert backend.node.kicks == [("silent", silent, "stale", "n1")]
    assert ("silent", "offline", "stale") in await told(store, Stream.STATUS, "device", "event", "reason")
    assert await store.beat([("silent", silent), ("alive", alive), ("alive", alive - 1), ("no", 1)]) == [
        "silent",
        "alive",
        "no",
    ]
    await check_history(store, holders={"alive"})


async def test_nobody_goes_offline_because_the_sweeper_was_away(store: Store, backend: Backend) -> None:
    """I4, F9: a process stopped for an hour, or a clock set forward, looks like silent devices; it is not."""
    epoch = await bind(store, "d", "c1")
    backend.clock.now += 3_600
    assert await store.reconcile(["d"]) == []
    assert await store.sweep() == 0
    assert await store.reconcile(["d"]) == []
    assert await pass_time(store, backend.clock, 80) == 0
    assert await store.beat([("d", epoch)]) == []
    assert await pass_time(store, backend.clock, 80) == 0
    assert await pass_time(store, backend.clock, 20) == 1


async def test_a_clock_set_back_neither_ends_a_device_nor_keeps_it_for_ever(store: Store, backend: Backend) -> None:
    await bind(store, "d", "c1")
    backend.clock.now -= 86_400
    assert await pass_time(store, backend.clock, 90) == 0
    assert await pass_time(store, backend.clock, 30) == 1


async def test_reconcile_names_those_not_alive_in_order_and_ends_the_stale(store: Store, backend: Backend) -> None:
    await bind(store, "stale", "c1")
    left = await bind(store, "left", "c2")
    await store.logout("left", left, "bye")
    assert await pass_time(store, backend.clock, 90) == 0
    fresh = await bind(store, "fresh", "c3")
    backend.clock.now += 1
    assert await store.reconcile(["fresh", "unknown", "stale", "left"]) == ["unknown", "stale", "left"]
    assert await store.reconcile(["stale", "fresh"]) == ["stale"]
    assert [kick[0] for kick in backend.node.kicks] == ["stale"]
    assert await store.beat([("fresh", fresh)]) == []
    await check_history(store, holders={"fresh"})


async def test_long_idle_devices_are_forgotten_but_their_epochs_never_come_back(store: Store, backend: Backend) -> None:
    epoch = await bind(store, "d", "c1", "news")
    await store.logout("d", epoch, "bye")
    await store.enqueue(push("waits", ttl=1e9), ["other"])
    backend.clock.now += 31 * 86_400
    await store.sweep()
    assert await store.device("d") is None
    assert await store.members("news", "", 10) == []
    assert await store.members(None, "", 10) == ["other"], "what waits keeps its device"
    backend.clock.now -= 32 * 86_400
    assert await bind(store, "d", "c2") > epoch


# ---- pushes ----


async def test_enqueue_answers_and_writes_a_receipt_and_tells_holders(store: Store, backend: Backend) -> None:
    await bind(store, "here", "c1")
    receipts = await store.enqueue(push("p1"), ["here", "away"])
    assert [(receipt.device, receipt.state, receipt.seq > 0) for receipt in receipts] == [
        ("here", ReceiptState.STORED, True),
        ("away", ReceiptState.STORED, True),
    ]
    message = Message(receipts[0].seq, "p1", "push", '"x"', redelivered=False)
    assert (backend.node.deliveries, backend.node.wakes) == ([("here", message, 0)], [])
    entries = {entry.fields["device"]: entry for entry in await everything(store, Stream.RECEIPT)}
    assert entries["here"].fields == {
        "id": "p1",
        "device": "here",
        "state": "stored",
        "seq": str(receipts[0].seq),
        "ts": f"{backend.clock.now:.6f}",
        "reason": "",
    }
    assert (await store.counts()).inbox == 2


async def test_an_id_is_stored_once_per_device_even_after_its_ack(store: Store, backend: Backend) -> None:
    """F15."""
    epoch = await bind(store, "d", "c1")
    first, second = await stored(store, "d", "other", "p")
    await store.fetch("d", epoch, 0, 10)
    await store.ack("d", epoch, [first, second], ACKED)
    (again,) = await store.enqueue(push("p"), ["d"])
    assert (again.state, again.seq) == (ReceiptState.DUPLICATE, second)
    assert await store.fetch("d", epoch, 0, 10) == []
    (elsewhere,) = await store.enqueue(push("p"), ["e"])
    assert elsewhere.state is ReceiptState.STORED
    backend.clock.now += 86_401
    (later,) = await stored(store, "d", "p")
    assert later > second, "seq rises, though the inbox has been empty"


async def test_one_push_sent_many_times_at_once_is_stored_once(store: Store) -> None:
    """F15."""
    found: list[tuple[ReceiptState, int]] = []

    async def send() -> None:
        (receipt,) = await store.enqueue(push("p"), ["d"])
        found.append((receipt.state, receipt.seq))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(send)
    assert len({seq for _, seq in found}) == 1
    assert sorted(state for state, _ in found) == 19 * [ReceiptState.DUPLICATE] + [ReceiptState.STORED]


async def test_a_push_without_an_id_is_refused(store: Store) -> None:
    with pytest.raises(BadRequest, match="id"):
        await store.enqueue(push(""), ["d"])


async def test_a_full_inbox_refuses_and_expired_messages_do_not_fill_it(backend: Backend) -> None:
    """F20, I1: refused with a receipt, not dropped."""
    async with backend.open(Limits(inbox_max=2)) as store:
        await store.enqueue(push("short", ttl=10), ["d"])
        (long,) = await stored(store, "d", "long")
        (refused,) = await store.enqueue(push("more"), ["d"])
        assert (refused.state, refused.seq) == (ReceiptState.REFUSED, 0)
        assert "full" in refused.reason
        backend.clock.now += 11
        (more,) = await stored(store, "d", "more")
        assert (await states(store))[-2:] == [("d", "short", "expired", "1"), ("d", "more", "stored", "3")]
        epoch = await bind(store, "d", "c1")
        assert [message.seq for message in await store.fetch("d", epoch, 0, 10)] == [long, more]


async def test_an_inbox_that_was_full_of_expired_messages_takes_one_for_a_connected_device(backend: Backend) -> None:
    """F20: also where all that stood before it is gone."""
    async with backend.open(Limits(inbox_max=2)) as store:
        epoch = await bind(store, "d", "c1")
        for id in ("one", "two"):
            await store.enqueue(push(id, ttl=10), ["d"])
        backend.clock.now += 11
        (more,) = await stored(store, "d", "more")
        assert [message.seq for message in await store.fetch("d", epoch, 0, 10)] == [more]


async def test_fetch_is_in_order_after_the_cursor_and_marks_what_was_sent(store: Store) -> None:
    """I2: redelivered is what an earlier fetch has answered with, of this connection or another; nothing else."""
    seqs = [0]
    for number in range(1, 6):
        (receipt,) = await store.enqueue(push(f"p{number}", data=f'{{"n": {number}}}'), ["d"])
        seqs.append(receipt.seq)
    first = await bind(store, "d", "c1")

    async def fetch(epoch: int, after: int, limit: int) -> list[tuple[int, bool]]:
        messages = await store.fetch("d", epoch, seqs[after], limit)
        return [(seqs.index(message.seq), message.redelivered) for message in messages]

    assert await fetch(first, 0, 2) == [(1, False), (2, False)]
    assert await fetch(first, 2, 2) == [(3, False), (4, False)]
    assert await fetch(first, 1, 2) == [(2, True), (3, True)]
    await store.ack("d", first, [seqs[1], seqs[3]], ACKED)
    await store.logout("d", first, "bye")
    second = await bind(store, "d", "c2")
    assert await fetch(second, 0, 10) == [(2, True), (4, True), (5, False)]
    (message, *_) = await store.fetch("d", second, seqs[4], 1)
    assert (message.id, message.event, message.data) == ("p5", "push", '{"n": 5}')


async def test_ack_removes_with_a_receipt_and_ignores_the_unknown(store: Store) -> None:
    epoch = await bind(store, "d", "c1")
    first, second, third = await stored(store, "d", "p1", "p2", "p3")
    await store.ack("d", epoch, [second, second, 99, first], ACKED)
    await store.ack("d", epoch, [first], ACKED)
    await store.ack("d", epoch, [third], ReceiptState.DELIVERED)
    assert (await states(store))[3:] == [
        ("d", "p2", "acked", "2"),
        ("d", "p1", "acked", "1"),
        ("d", "p3", "delivered", "3"),
    ]
    assert (await store.counts()).inbox == 0


async def test_a_message_comes_along_only_with_nothing_unread_before_it_and_room(backend: Backend) -> None:
    """I2: what was handed over counts as sent, so it must be the next one; the others are read from the inbox."""
    async with backend.open(limits=Limits(window=3)) as store:
        await store.enqueue(push("before"), ["d"])
        epoch = await bind(store, "d", "c1")
        await store.enqueue(push("unread before it"), ["d"])
        assert (backend.node.deliveries, backend.node.wakes) == ([], ["d"])
        first, second = await store.fetch("d", epoch, 0, 10)
        parcels = [(push("next"), "d"), (push("no room"), "d"), (push("away"), "e")]
        third, fourth, _ = await store.enqueue_each(parcels)
        ((device, message, after),) = backend.node.deliveries
        assert (device, message.id, message.seq, message.redelivered) == ("d", "next", third.seq, False)
        assert after == second.seq
        assert backend.node.wakes == ["d", "d"]
        await store.ack("d", epoch, [first.seq, second.seq, third.seq], ReceiptState.ACKED)
        await store.enqueue(push("unread before it too"), ["d"])
        assert len(backend.node.deliveries) == 1
        messages = await store.fetch("d", epoch, 0, 10)
        assert [(message.id, message.redelivered) for message in messages] == [
            ("no room", False),
            ("unread before it too", False),
        ]
        assert messages[0].seq == fourth.seq
        again = await bind(store, "d", "c2")
        assert [message.redelivered for message in await store.fetch("d", again, 0, 10)] == [True, True]


async def test_what_was_handed_over_and_lost_is_fetched_as_sent_before(store: Store, backend: Backend) -> None:
    """I1: the hint may be lost; the inbox has it."""
    epoch = await bind(store, "d", "c1")
    await store.enqueue_each([(push("a"), "d"), (push("b"), "d")])
    assert [(message.id, after > 0) for _, message, after in backend.node.deliveries] == [("a", False), ("b", True)]
    messages = await store.fetch("d", epoch, 0, 10)
    assert [(message.id, message.redelivered) for message in messages] == [("a", True), ("b", True)]


async def test_many_pushes_at_once_keep_their_order_and_answer_each(store: Store, backend: Backend) -> None:
    epochs = {device: await bind(store, device, "c") for device in ("a", "b", "c")}
    parcels = [(push(f"p{number}"), "abc"[number % 3]) for number in range(450)]
    receipts = await store.enqueue_each([*parcels, parcels[0]])
    assert [receipt.state for receipt in receipts] == [ReceiptState.STORED] * 450 + [ReceiptState.DUPLICATE]
    assert [(receipt.id, receipt.device) for receipt in receipts] == [(it.id, to) for it, to in [*parcels, parcels[0]]]
    for device, epoch in epochs.items():
        messages = await store.fetch(device, epoch, 0, 1_000)
        assert [message.id for message in messages] == [it.id for it, to in parcels if to == device]


async def test_many_casts_at_once(store: Store, backend: Backend) -> None:
    await bind(store, "here", "c")
    parcels = [(push(f"p{number}"), ("here", "away")[number % 2]) for number in range(250)]
    receipts = await store.cast_each(parcels)
    assert [receipt.state.value for receipt in receipts] == ["delivered", "refused"] * 125
    assert [message.id for _, message in backend.node.casts] == [it.id for it, to in parcels if to == "here"]
    told_of = await told(store, Stream.RECEIPT, "id", "state")
    assert sorted(told_of) == sorted((receipt.id, receipt.state.value) for receipt in receipts)


async def test_expired_messages_go_with_a_receipt_by_fetch_and_by_sweep(store: Store, backend: Backend) -> None:
    """I1."""
    epoch = await bind(store, "d", "c1")
    for number, ttl in enumerate((5, 5, 60, 5, 60)):
        await store.enqueue(push(f"p{number}", ttl=ttl), ["d"])
    assert len(await states(store)) == 5
    await store.enqueue(push("q", ttl=5), ["away"])
    backend.clock.now += 6
    assert [message.id for message in await store.fetch("d", epoch, 0, 2)] == ["p2", "p4"], "a whole page of the living"
    assert [state for state in await states(store) if state[2] == "expired"] == [
        ("d", "p0", "expired", "1"),
        ("d", "p1", "expired", "2"),
        ("d", "p3", "expired", "4"),
    ]
    await store.sweep()
    assert ("away", "q", "expired", "1") in await states(store)
    await store.sweep()
    assert len([state for state in await states(store) if state[2] == "expired"]) == 4
    assert (await store.counts()).inbox == 2


async def test_a_sweep_clears_more_than_one_step(backend: Backend) -> None:
    async with backend.open(Limits(dedupe=10)) as store:
        many = [f"d{number:04}" for number in range(1_200)]
        await store.enqueue(push("p", ttl=5), many)
        backend.clock.now += 11
        await store.sweep()
        assert (await store.counts()).inbox == 0
        assert len([state for state in await states(store) if state[2] == "expired"]) == 1_200
        assert {receipt.state for receipt in await store.enqueue(push("p"), many)} == {ReceiptState.STORED}


async def test_cast_goes_to_the_connected_only(store: Store, backend: Backend) -> None:
    await bind(store, "here", "c1")
    await bind(store, "deaf", "c2")
    backend.node.deaf.add("deaf")
    receipts = await store.cast(push("p", data='"now"'), ["here", "away", "deaf"])
    assert [(receipt.device, receipt.state.value, receipt.reason) for receipt in receipts] == [
        ("here", "delivered", ""),
        ("away", "refused", "offline"),
        ("deaf", "refused", "offline"),
    ]
    casts = [(device, message.data, message.seq) for device, message in backend.node.casts if device != "deaf"]
    assert casts == [("here", '"now"', 0)]
    assert sorted(await states(store)) == [
        ("away", "p", "refused", "0"),
        ("deaf", "p", "refused", "0"),
        ("here", "p", "delivered", "0"),
    ]
    assert (await store.counts()).inbox == 0


async def test_racing_pushes_keep_order_and_lose_nothing_through_takeovers(backend: Backend) -> None:
    """F16, F17, I1, I2: pushes, takeovers and acks at once; each message gets exactly one ack, seqs have no gap."""
    async with backend.open(Limits(takeovers=10_000)) as store:
        done = trio.Event()
        acked: list[int] = []

        async def produce() -> None:
            for number in range(100):
                await store.enqueue(push(f"p{number}"), ["d"])
            done.set()

        async def consume(name: str) -> None:
            turn = 0
            while not (done.is_set() and (await store.counts()).inbox == 0):
                epoch, cursor, turn = await bind(store, "d", f"{name}-{turn}"), 0, turn + 1
                try:
                    while messages := await store.fetch("d", epoch, cursor, 4):
                        seqs = [message.seq for message in messages]
                        assert seqs == sorted(seqs)
                        assert seqs[0] > cursor
                        cursor = seqs[-1]
                        await store.ack("d", epoch, seqs, ACKED)
                        acked.extend(seqs)
                except StaleEpoch:
                    continue

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            nursery.start_soon(consume, "a")
            nursery.start_soon(consume, "b")
        assert len(acked) == len(set(acked)) == 100
        ends = [state for state in await states(store) if state[2] == "acked"]
        assert sorted(int(seq) for _, _, _, seq in ends) == list(range(1, 101))
        await check_history(store, holders={"d"})


# ---- streams ----


async def test_uplink_has_every_field_and_is_written_once(store: Store, backend: Backend) -> None:
    """I7, F6."""
    epoch = await bind(store, "d", "c1")
    await store.uplink("d", epoch, "c1", "u1", "report", '["ü\\u0000", {"a": 1.50}]')
    await store.uplink("d", epoch, "c1", "u1", "report", "again")
    await store.uplink("d", epoch, "c1", "u2", "report", "2")
    first, second = await everything(store, Stream.UPLINK)
    assert first.fields == {
        "device": "d",
        "event": "report",
        "data": '["ü\\u0000", {"a": 1.50}]',
        "id": "u1",
        "ts": f"{backend.clock.now:.6f}",
        "conn": "c1",
        "epoch": str(epoch),
        "node": "n1",
    }
    assert second.fields["id"] == "u2"


async def test_an_uplink_that_was_on_its_way_for_long_is_not_written_again(store: Store) -> None:
    """I7, F10: one that was given up and repeated, and arrives behind those that came after it."""
    epoch = await bind(store, "d", "c1")
    for number in (8, 9, 10, 9, 8, 10, 11):
        await store.uplink("d", epoch, "c1", f"c1:{number}", "report", str(number))
    epoch = await bind(store, "d", "c2")
    await store.uplink("d", epoch, "c2", "c2:1", "report", "1")
    entries = await everything(store, Stream.UPLINK)
    assert [entry.fields["data"] for entry in entries] == ["8", "9", "10", "11", "1"]


async def test_uplinks_of_many_devices_each_go_their_way(store: Store) -> None:
    """I3, I7: a device that is somebody else's does not stop the others; a repetition writes nothing twice."""
    uplinks = []
    for number in range(250):
        epoch = await bind(store, f"d{number}", "c1")
        uplinks.append(Uplink(f"d{number}", epoch, "c1", f"u{number}", "report", str(number)))
    await bind(store, "d7", "c2")
    outcomes = [Outcome.DONE] * 250
    outcomes[7] = Outcome.STALE
    for _ in range(2):
        assert await store.uplink_each(uplinks) == outcomes
        entries = await everything(store, Stream.UPLINK)
        assert sorted(entry.fields["id"] for entry in entries) == sorted(f"u{n}" for n in range(250) if n != 7)
    assert all(entry.fields["device"] == f"d{entry.fields['data']}" for entry in entries)
    assert await store.uplink_each([]) == []


async def test_reading_a_stream_from_its_start_an_id_and_its_end(store: Store) -> None:
    assert await store.newest(Stream.DEAD) == ""
    assert await store.read_stream(Stream.DEAD, "", 10) == []
    ids = [await store.append(Stream.DEAD, {"n": str(number)}) for number in range(12)]
    assert [entry.id for entry in await store.read_stream(Stream.DEAD, "", 5)] == ids[:5]
    assert [entry.fields["n"] for entry in await store.read_stream(Stream.DEAD, ids[9], 5)] == ["10", "11"]
    assert await store.read_stream(Stream.DEAD, "$", 5) == []
    assert await store.newest(Stream.DEAD) == ids[-1]
    assert await store.read_stream(Stream.UPLINK, "", 5) == []
    for bad in ("x", "1 ", "-1", "1e3", "9" * 30, "１"):
        with pytest.raises(BadRequest, match="id"):
            await store.read_stream(Stream.DEAD, bad, 5)
        with pytest.raises(BadRequest, match="id"):
            await store.done(Stream.PUSH, [bad])


@pytest.mark.parametrize("after", ["", "$", "newest"])
async def test_a_waiting_reader_wakes_for_the_first_entry(store: Store, after: str) -> None:
    """No polling: it comes long before the wait is over, and an entry between `newest` and the read is not lost."""
    if after != "":
        await store.append(Stream.DEAD, {"n": "old"})
    where = await store.newest(Stream.DEAD) if after == "newest" else after
    found: list[str] = []

    async def read() -> None:
        found.extend(entry.fields["n"] for entry in await store.read_stream(Stream.DEAD, where, 10, wait=3_600))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while (await store.counts()).streams["dead"] < 1 + (after != ""):
                await trio.testing.wait_all_tasks_blocked(0.02)
                await store.append(Stream.STATUS, {"n": "of another stream"})
                await store.append(Stream.DEAD, {"n": "new"})
    assert found == ["new"]


async def test_a_reader_waits_no_longer_than_asked_and_may_be_cancelled(store: Store) -> None:
    begin = trio.current_time()
    assert await store.read_stream(Stream.DEAD, "$", 10, wait=0.05) == []
    assert trio.current_time() - begin >= 0.05
    with trio.move_on_after(0.05) as scope:
        await store.take(Stream.PUSH, 1)
    assert scope.cancelled_caught
    await store.append(Stream.PUSH, {"to": "all"})
    assert len(await store.take(Stream.PUSH, 1)) == 1, "a cancelled reader takes nothing with it"


async def test_services_streams_are_taken_until_done(store: Store) -> None:
    first = await store.append(Stream.PUSH, {"to": "device:a"})
    second = await store.append(Stream.PUSH, {"to": "device:b"})
    assert [entry.id for entry in await store.take(Stream.PUSH, 1)] == [first]
    assert [entry.id for entry in await store.take(Stream.PUSH, 10)] == [first, second], "not done, so still there"
    await store.done(Stream.PUSH, [first, first])
    assert [entry.fields["to"] for entry in await store.take(Stream.PUSH, 10)] == ["device:b"]
    await store.done(Stream.PUSH, [second])
    third = await store.append(Stream.PUSH, {"to": "device:c"})
    assert third not in (first, second), "an id never comes back, though the stream was empty"
    with pytest.raises(ValueError, match="uplink"):
        await store.take(Stream.UPLINK, 1)


async def test_streams_keep_their_newest_entries_and_never_trim_what_is_not_done(backend: Backend) -> None:
    """I5."""
    async with backend.open(Limits(stream_max=20)) as store:
        for number in range(100):
            await store.append(Stream.STATUS, {"n": str(number)})
            await store.append(Stream.PUSH, {"n": str(number)})
        await store.sweep()
        kept = [int(n) for (n,) in await told(store, Stream.STATUS, "n")]
        assert kept == list(range(100 - len(kept), 100))
        assert 20 <= len(kept) <= 22, "a tenth more, so that trimming is rare"
        counts = await store.counts()
        assert (counts.streams["status"], counts.streams["push"]) == (len(kept), 100)


# ---- what is known ----


async def test_a_device_that_never_came_is_known_when_its_message_has_expired(backend: Backend) -> None:
    async with backend.open(Limits()) as store:
        await store.enqueue(push("p", ttl=10), ["d"])
        backend.clock.now += 11
        await store.sweep()
        record = await store.device("d")
        assert record is not None
        assert (record.online, record.inbox) == (False, 0)
        assert await store.devices("", 10, online=False) == [record]


async def test_members_and_devices_are_listed_in_pages(store: Store) -> None:
    for name, topics in (("c", ["x"]), ("a", ["x", "y"]), ("b", ["y"])):
        await bind(store, name, f"conn-{name}", *topics)
    await store.enqueue(push("p"), ["d"])
    assert await store.members("x", "", 10) == ["a", "c"]
    assert await store.members("x", "a", 10) == ["c"]
    assert await store.members(None, "", 3) == ["a", "b", "c"]
    assert await store.members(None, "c", 3) == ["d"]
    assert [record.device for record in await store.devices("", 10, online=False)] == ["a", "b", "c", "d"]
    assert [record.device for record in await store.devices("a", 10, online=True)] == ["b", "c"]
    epoch = await bind(store, "a", "again", "y", "z")
    assert await store.members("x", "", 10) == ["c"]
    assert await store.members("z", "", 10) == ["a"]
    await store.logout("a", epoch, "bye")
    assert await store.members("z", "", 10) == ["a"], "topics are remembered while the device is away"
    counts = await store.counts()
    assert (counts.devices, counts.online, counts.inbox) == (4, 2, 1)
    assert counts.streams["status"] == 5
    assert await store.device("unknown") is None
    await store.ping()


async def test_the_table_of_legal_devices(store: Store) -> None:
    assert await store.token_of("d") is None
    await store.permit("d", "a token: \u00fc")
    await store.permit("e", "")
    assert (await store.token_of("d"), await store.token_of("e")) == ("a token: \u00fc", "")
    await store.permit("d", "another")
    assert await store.token_of("d") == "another"
    await store.permit("d", None)
    await store.permit("d", None)
    assert await store.token_of("d") is None
    assert await store.device("e") is None, "legal, but never seen"


# ---- being cancelled, being opened again ----


async def test_a_cancelled_call_leaves_nothing_half_done_and_disturbs_nobody(backend: Backend) -> None:
    async with backend.open(Limits(takeovers=10_000)) as store:

        async def login(number: int) -> None:
            with trio.CancelScope() as scope:
                if number % 3 == 0:
                    scope.cancel()
                elif number % 3 == 1:
                    trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)
                await store.login(f"d{number % 7}", f"c{number}", ["t"])
            if number % 3 == 2:
                assert not scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(login, number)
        records = await store.devices("", 100, online=True)
        await check_history(store, holders={record.device for record in records})
        assert await store.members("t", "", 100) == [record.device for record in records]


@pytest.mark.parametrize("backend", DURABLE, indirect=True)
async def test_everything_is_there_when_it_is_opened_again(backend: Backend) -> None:
    """F8, I1, I4: what was lost with the process is offline once, before anybody can log in; the rest is as it was."""
    async with backend.open(limits=Limits(window=0)) as store:
        lost = [await bind(store, f"d{number:04}", "c1", "t") for number in range(700)]
        seqs = await stored(store, "d0000", "p0", "p1", "p2")
        await store.fetch("d0000", lost[0], 0, 2)
        await store.uplink("d0000", lost[0], "c1", "u1", "report", "1")
        entry = await store.append(Stream.PUSH, {"to": "all"})
    backend.node.kicks.clear()
    async with backend.open(name="n2") as store:
        await store.sweep()
        assert (await store.counts()).online == 0
        ended = [
            (device, int(epoch), reason, conn, node)
            for device, event, epoch, reason, conn, node in await told(
                store, Stream.STATUS, "device", "event", "epoch", "reason", "conn", "node"
            )
            if event == "offline"
        ]
        assert sorted(ended) == [(f"d{number:04}", epoch, "node lost", "c1", "n1") for number, epoch in enumerate(lost)]
        assert backend.node.kicks == []
        epoch = await bind(store, "d0000", "c2")
        messages = await store.fetch("d0000", epoch, 0, 10)
        assert [message.seq for message in messages] == seqs
        assert [message.redelivered for message in messages] == [True, True, False]
        (again,) = await store.enqueue(push("p1"), ["d0000"])
        assert (again.state, again.seq) == (ReceiptState.DUPLICATE, seqs[1])
        await store.uplink("d0000", epoch, "c2", "u1", "report", "1")
        assert len(await everything(store, Stream.UPLINK)) == 1
        assert [taken.id for taken in await store.take(Stream.PUSH, 5)] == [entry]
        assert len(await store.members("t", "", 1_000)) == 699, "the login without topics has replaced one device's"
        assert isinstance(await store.login("d0001", "new", []), Bound)
        await check_history(store, holders={"d0000", "d0001"})


@pytest.mark.parametrize("backend", DURABLE, indirect=True)
async def test_a_dead_nodes_binding_does_not_count_as_taken_over(backend: Backend) -> None:
    for turn in range(6):
        async with backend.open() as store:
            await store.sweep()
            bound = await store.login("d", f"c{turn}", [])
            assert isinstance(bound, Bound)
            assert bound.previous is None
