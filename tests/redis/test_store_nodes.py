"""Nodes that share a store: who is told what, who is dead, and who finds out."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from pushd.errors import StaleEpoch, StoreUnavailable
from pushd.model import Message, ReceiptState, Stream
from pushd.store.base import Deployment, Limits
from pushd.store.redis.lease import LEASE
from pushd.store.redis.messages import EXPIRE, LANES
from pushd.store.redis.replies import Argument
from pushd.store.redis.scripts import Runner, Script
from pushd.store.redis.topology import Client
from tests.patience import PATIENCE
from tests.pushd.stores import Backend, bind, everything, push, told
from tests.redis.clients import eventually
from tests.redis.nodes import Peer, check_status, peer, status, until
from tests.redis.proxy import Proxy, proxied
from tests.redis.servers import FLAVOURS, Server, server

SILENT = Deployment(lease=30.0, refresh=10.0)


@pytest.fixture(params=FLAVOURS)
def redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server(request.param, tcp=True) as one:
        yield one


@pytest.fixture
async def one(redis: Server) -> AsyncIterator[Peer]:
    async with peer(redis.url, "n1") as it:
        yield it


@pytest.fixture
async def two(redis: Server) -> AsyncIterator[Peer]:
    async with peer(redis.url, "n2") as it:
        yield it


# ---- one hop to the owner ----


async def test_a_push_is_given_to_the_node_that_holds_the_device_and_no_other(one: Peer, two: Peer) -> None:
    """The message comes along, marked as sent; what comes when the window is full is but a wake-up."""
    epoch = await one.bind("d", "c1")
    first, _ = await two.store.enqueue(push("p", data='"\u00fc\0"'), ["d", "nobody"])
    await until(lambda: answer(one.node.deliveries))
    (second,) = await one.store.enqueue(push("q"), ["d"])
    assert one.node.deliveries == [
        ("d", Message(first.seq, "p", "push", '"\u00fc\0"', redelivered=False), 0),
        ("d", Message(second.seq, "q", "push", '"x"', redelivered=False), first.seq),
    ], "its own it has at once"
    parcels = [(push(f"more {number}"), "d") for number in range(Limits().window)]
    await two.store.enqueue_each(parcels)
    await until(lambda: answer(one.node.wakes))
    assert one.node.wakes == ["d", "d"]
    assert [message.id for _, message, _ in one.node.deliveries[2:]] == [it.id for it, _ in parcels[:-2]]
    messages = await one.store.fetch("d", epoch, second.seq, 100)
    assert [message.id for message in messages] == [it.id for it, _ in parcels]
    assert [message.redelivered for message in messages] == [True] * 14 + [False] * 2
    assert (two.node.wakes, two.node.deliveries) == ([], [])


async def test_what_is_for_many_devices_of_a_node_comes_in_one_message(one: Peer, two: Peer, redis: Server) -> None:
    for number in range(50):
        await one.bind(f"d{number}", "c")
    await two.store.enqueue(push("p"), [f"d{number}" for number in range(50)])
    await until(lambda: answer(len(one.node.deliveries) == 50))
    assert redis.info("commandstats")["cmdstat_publish"].startswith("calls=1,")
    assert one.node.rounds == [50]


async def test_a_large_batch_goes_in_several_calls_and_each_device_keeps_its_order(
    one: Peer, two: Peer, redis: Server
) -> None:
    """Devices stand in it unevenly, and one of them is another node's."""
    devices = [f"d{number * number % 17}" for number in range(300)]
    epochs = {device: await one.bind(device, "c") for device in sorted(set(devices))}
    epochs["d1"] = await two.bind("d1", "c")
    redis.ask("CONFIG", "RESETSTAT")
    parcels = [(push(f"p{number}"), device) for number, device in enumerate(devices)]
    receipts = await one.store.enqueue_each(parcels)
    assert [(receipt.id, receipt.device) for receipt in receipts] == [(it.id, device) for it, device in parcels]
    calls = int(redis.info("commandstats")["cmdstat_incrby"].split(",")[0].removeprefix("calls="))
    assert calls == LANES
    for device, epoch in epochs.items():
        seqs = [receipt.seq for receipt in receipts if receipt.device == device]
        assert seqs == sorted(set(seqs))
        found = await (two if device == "d1" else one).store.fetch(device, epoch, 0, 300)
        assert [message.id for message in found] == [it.id for it, to in parcels if to == device]


@pytest.mark.parametrize("qos", [0, 1])
async def test_what_one_call_gives_to_devices_is_written_together(one: Peer, two: Peer, qos: int) -> None:
    devices = [f"d{number}" for number in range(50)]
    for device in devices:
        await one.bind(device, "c")
    for store in (one.store, two.store):
        await (store.enqueue if qos else store.cast)(push(f"by {store.incarnation}"), devices)
    await until(lambda: answer(len(one.node.rounds) == 2))
    assert one.node.rounds == [50, 50]


async def test_a_takeover_kicks_at_the_other_node_and_fences_it(one: Peer, two: Peer) -> None:
    """I3."""
    old = await one.bind("d", "c1")
    new = await two.store.login("d", "c2", [])
    assert new.previous is not None
    assert (new.previous.node, new.previous.conn, new.previous.epoch) == ("n1", "c1", old)
    await until(lambda: answer(one.node.kicks))
    assert one.node.kicks == [("d", old, "takeover", "c2")]
    assert two.node.kicks == []
    with pytest.raises(StaleEpoch):
        await one.store.fetch("d", old, 0, 1)
    with pytest.raises(StaleEpoch):
        await one.store.fetch("d", new.epoch, 0, 1)  # the right epoch at the wrong node
    assert await one.store.beat([("d", old)]) == ["d"]
    assert not await one.store.logout("d", old, "kicked")
    assert await two.store.logout("d", new.epoch, "bye")
    check_status(await status(one), set())


async def test_a_kick_and_a_cast_reach_the_other_node(one: Peer, two: Peer) -> None:
    epoch = await one.bind("d", "c1")
    await two.bind("mine", "c2")
    receipts = await two.store.cast(push("now", data='"\u00fc"'), ["d", "mine", "nobody"])
    assert [receipt.state for receipt in receipts] == [
        ReceiptState.DELIVERED,
        ReceiptState.DELIVERED,
        ReceiptState.REFUSED,
    ]
    await until(lambda: answer(one.node.casts))
    ((device, message),) = one.node.casts
    assert (device, message.id, message.event, message.data, message.seq) == ("d", "now", "push", '"\u00fc"', 0)
    assert [device for device, _ in two.node.casts] == ["mine"]
    assert await two.store.kick("d", "operator", "admin")
    await until(lambda: answer(one.node.kicks))
    assert one.node.kicks == [("d", epoch, "operator", "admin")]
    assert not await one.store.kick("d", "again", "admin")


async def answer(value: object) -> object:
    """A value as the answer of a call."""
    return value


async def test_the_set_of_a_nodes_devices_forgets_those_that_moved(one: Peer, two: Peer, redis: Server) -> None:
    old = await one.bind("d", "c1")
    await two.bind("d", "c2")
    assert redis.ask("SCARD", bound(one)) == 1
    await one.store.logout("d", old, "kicked")
    assert (redis.ask("SCARD", bound(one)), redis.ask("SCARD", bound(two))) == (0, 1)


def bound(node: Peer) -> str:
    return f"pushd:{{0}}:n:{node.store.incarnation}"


# ---- dead nodes ----


async def test_a_node_that_says_goodbye_is_swept_at_once(redis: Server, two: Peer) -> None:
    async with peer(redis.url, "n1", deployment=SILENT) as gone:
        for number in range(450):
            await gone.bind(f"d{number}", "c")
    assert await two.store.sweep() == 450
    assert await two.store.sweep() == 0
    assert {reason for _, event, _, reason in await status(two) if event == "offline"} == {"node lost"}
    check_status(await status(two), set())


async def test_a_dead_nodes_devices_end_once_whoever_races(redis: Server) -> None:
    """F8, I4: it has stopped renewing its lease; three sweepers, devices that come back elsewhere meanwhile."""
    async with (
        peer(redis.url, "s1") as one,
        peer(redis.url, "s2") as two,
        peer(redis.url, "s3") as three,
        proxied(redis) as proxy,
        peer(proxy.url, "dead") as dead,
    ):
        for number in range(300):
            await dead.bind(f"d{number}", "c")
        proxy.black_hole = True
        ended: list[int] = []

        async def sweep(node: Peer) -> None:
            while sum(ended) < 300 - 30:
                ended.append(await node.store.sweep())
                await trio.sleep(0.01)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for node in (one, two, three):
                    nursery.start_soon(sweep, node)
                for number in range(30):  # the others may be ended before or after they come back
                    await one.bind(f"d{number * 10}", "again")
        entries = await until(lambda: no_sooner(one, two))
        check_status(entries, {f"d{number * 10}" for number in range(30)})
        assert len([1 for _, event, *_ in entries if event == "offline"]) == sum(ended)


async def no_sooner(one: Peer, two: Peer) -> list[tuple[str, ...]]:
    """The status entries when sweeping changes nothing any more."""
    if await one.store.sweep() or await two.store.sweep():
        return []
    return await status(one)


async def test_a_node_thought_dead_knows_it_before_it_does_anything_else(redis: Server, two: Peer) -> None:
    """F9, F10: cut off for longer than its lease, and back: it changes nothing with an old epoch, and starts anew."""
    async with proxied(redis) as proxy, peer(proxy.url, "n1") as one:
        first = one.store.incarnation
        epoch = await one.bind("d", "c1")
        await one.store.enqueue(push("p"), ["d"])
        proxy.black_hole = True
        assert await until(two.store.sweep) == 1
        with pytest.raises(StoreUnavailable):
            await one.store.fetch("d", epoch, 0, 1)
        proxy.black_hole = False
        proxy.reset()
        await until(lambda: answer(one.node.losses))
        for act in (
            lambda: one.store.fetch("d", epoch, 0, 1),
            lambda: one.store.ack("d", epoch, [1], ReceiptState.ACKED),
            lambda: one.store.uplink("d", epoch, "c1", "u1", "event", "1"),
        ):
            with pytest.raises(StaleEpoch):
                await until(lambda act=act: or_none(act))
        assert await one.store.beat([("d", epoch)]) == ["d"]
        assert not await one.store.logout("d", epoch, "late")
        assert one.store.incarnation != first
        again = await one.bind("d", "c2")
        assert [message.id for message in await one.store.fetch("d", again, 0, 5)] == ["p"]
        await two.store.enqueue(push("q"), ["d"])
        await until(lambda: answer([message.id for _, message, _ in one.node.deliveries] == ["p", "q"]))
        assert one.node.losses == 1
        check_status(await status(two), {"d"})
        assert await two.store.sweep() == 0


async def or_none(act: object) -> object:
    """What a call answers, None while the store is away."""
    try:
        return await act()
    except StoreUnavailable:
        return None


async def test_an_outage_for_everybody_kills_nobody(redis: Server) -> None:
    """F2, I4: the store is away for longer than leases last; when it is back all nodes live on with their devices."""
    calm = Deployment(lease=2.0, refresh=0.5)  # longer than it takes to notice that the store is back
    async with peer(redis.url, "n1", deployment=calm) as one, peer(redis.url, "n2", deployment=calm) as two:
        epochs = [await one.bind("a", "c1"), await two.bind("b", "c1")]
        await trio.sleep(calm.lease)  # so that both may judge
        redis.kill()
        with pytest.raises(StoreUnavailable):
            await one.store.sweep()
        await trio.sleep(1.1 * calm.lease)
        with pytest.raises(StoreUnavailable):
            await one.bind("c", "c1")
        redis.start()
        for _ in range(10):
            assert await until(lambda: swept(one)) == "0"
            assert await until(lambda: swept(two)) == "0"
            await trio.sleep(calm.lease / 8)
        assert await one.store.beat([("a", epochs[0])]) == []
        assert await two.store.beat([("b", epochs[1])]) == []
        assert (one.node.losses, two.node.losses) == (0, 0)
        assert one.node.alarms == two.node.alarms == 1, "hints may have been lost"
        check_status(await status(one), {"a", "b"})


async def swept(node: Peer) -> str:
    """How many a sweep ended, in digits; empty while the store is away."""
    ended = await or_none(node.store.sweep)
    return "" if ended is None else str(ended)


async def test_two_nodes_of_one_name_are_two(redis: Server) -> None:
    """F27: several workers of a host have its name; each has its own incarnation."""
    async with peer(redis.url, "same") as one, peer(redis.url, "same") as two:
        old = await one.bind("d", "c1")
        bound_again = await two.store.login("d", "c2", [])
        assert bound_again.previous.node == "same"
        await until(lambda: answer(one.node.kicks))
        assert one.node.kicks == [("d", old, "takeover", "c2")]


# ---- what a network delivers late ----


@asynccontextmanager
async def parted(redis: Server) -> AsyncIterator[tuple[Proxy, Peer, Peer]]:
    """Two nodes, the first of them behind a proxy."""
    async with (
        proxied(redis) as proxy,
        peer(proxy.url, "n1", deployment=SILENT) as one,
        peer(redis.url, "n2", deployment=SILENT) as two,
    ):
        yield proxy, one, two


async def test_a_login_that_comes_too_late_takes_nobody_over(redis: Server) -> None:
    """I3: its node has given it up, and the device is elsewhere by now. Meant again, the same login is a takeover."""
    async with parted(redis) as (proxy, one, two):
        await one.bind("other", "c0")
        proxy.black_hole = True
        with pytest.raises(StoreUnavailable, match="no reply within"):
            await one.store.login("d", "c1", [])
        epoch = await two.bind("d", "c2")
        await one_script_more(redis, partial(setattr, proxy, "black_hole", False))
        assert await two.store.beat([("d", epoch)]) == []
        assert (one.node.kicks, two.node.kicks) == ([], [])
        check_status(await status(two), {"other", "d"})
        bound_again = await until(lambda: or_none(lambda: one.store.login("d", "c1", [])))
        assert bound_again.previous is not None
        assert bound_again.previous.epoch == epoch
        assert (await one.store.login("d", "c1", [])) == bound_again
        await until(lambda: answer(two.node.kicks))
        check_status(await status(two), {"other", "d"})


async def one_script_more(redis: Server, act: Callable[[], object]) -> None:
    """Do something, and wait until the server has run a script: nodes whose leases are long run none by themselves."""

    def calls() -> int:
        fields = redis.info("commandstats")["cmdstat_evalsha"].split(",")
        return int(fields[0].removeprefix("calls="))

    before = calls()
    act()
    await eventually(lambda: calls() > before)


async def test_a_kick_that_comes_too_late_ends_no_newer_login(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """I3: an operator meant the connection that was there then."""
    async with parted(redis) as (proxy, one, two):
        await two.bind("d", "c1")
        execute = Client.execute

        async def and_part(client: Client, key: str, *command: Argument) -> object:
            reply = await execute(client, key, *command)
            proxy.black_hole = command[0] == "HMGET"
            return reply

        with monkeypatch.context() as patch:
            patch.setattr(Client, "execute", and_part)
            with pytest.raises(StoreUnavailable, match="no reply within"):
                await one.store.kick("d", "operator", "admin")
        epoch = await two.bind("d", "c2")
        await one_script_more(redis, partial(setattr, proxy, "black_hole", False))
        assert await two.store.beat([("d", epoch)]) == []
        check_status(await status(two), {"d"})


@pytest.mark.parametrize("newer", ["new", None])
async def test_a_token_that_comes_too_late_replaces_no_newer_one(redis: Server, newer: str | None) -> None:
    """A token that was taken away would open the door again."""
    async with parted(redis) as (proxy, one, two):
        await one.store.permit("other", "x")
        proxy.black_hole = True
        with pytest.raises(StoreUnavailable, match="no reply within"):
            await one.store.permit("d", "old")
        await two.store.permit("d", newer)
        await one_script_more(redis, partial(setattr, proxy, "black_hole", False))
        assert await two.store.token_of("d") == newer


async def test_a_cast_that_comes_too_late_is_not_sent(redis: Server) -> None:
    """Now or never, and who was told that it failed may have said it again."""
    async with parted(redis) as (proxy, one, two):
        await two.bind("d", "c1")
        assert [receipt.state for receipt in await one.store.cast(push("first"), ["d"])] == [ReceiptState.DELIVERED]
        proxy.black_hole = True
        with pytest.raises(StoreUnavailable, match="no reply within"):
            await one.store.cast(push("late"), ["d"])
        await one_script_more(redis, partial(setattr, proxy, "black_hole", False))
        await two.store.cast(push("last"), ["d"])
        assert await told(two.store, Stream.RECEIPT, "id") == [("first",), ("last",)]


async def test_a_lease_that_comes_too_late_brings_no_dead_node_back(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3: its node took it again, was cut off, and swept: it must learn that its devices are not its any more."""
    execute, releases = Client.execute, []

    async def and_hold(client: Client, key: str, *command: Argument) -> object:
        if LEASE.sha in command and not releases:
            releases.append(proxy.hold())
        return await execute(client, key, *command)

    async with peer(redis.url, "n2") as two, proxied(redis) as proxy:
        await two.store.ping()
        with monkeypatch.context() as patch:
            patch.setattr(Client, "execute", and_hold)
            async with peer(proxy.url, "n1") as one:
                await until(lambda: or_none(lambda: one.bind("d", "c1")))
                proxy.black_hole = True
                await until(two.store.sweep)
                before = proxy.forwarded
                releases[0]()
                await eventually(lambda: proxy.forwarded > before)
                await two.store.sweep()  # the server has read it by now
                proxy.black_hole = False
                await until(lambda: answer(one.node.losses))
                check_status(await status(two), set())


async def test_no_message_is_passed_over_while_an_inbox_is_looked_through(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is acknowledged between two parts moves the others up; a part that comes late finds them so, too."""
    monkeypatch.setattr("pushd.store.redis.messages.MOST", 2)
    backend, run, acked = Backend(redis.url), Runner.run, []

    async def and_ack(runner: Runner, script: Script, keys: Sequence[str], *args: Argument) -> object:
        answer = await run(runner, script, keys, *args)
        if script is EXPIRE and not acked:
            acked.extend(receipts[:2])
            await store.ack("d", epoch, [receipt.seq for receipt in acked], ReceiptState.ACKED)
        return answer

    async with backend.open() as store:
        epoch = await bind(store, "d", "c1")
        lives = {"a": 1_000, "b": 1_000, "c": 10, "d": 1_000, "e": 5}
        receipts = [(await store.enqueue(push(id, ttl=life), ["d"]))[0] for id, life in lives.items()]
        monkeypatch.setattr(Runner, "run", and_ack)
        for expired in ({"e"}, {"c", "e"}):
            backend.clock.now += 6
            await store.sweep()
            states = await told(store, Stream.RECEIPT, "state", "id")
            assert {id for state, id in states if state == "expired"} == expired
        assert acked


# ---- consumer groups ----


async def test_entries_are_shared_out_and_each_is_done_once(one: Peer, two: Peer) -> None:
    for number in range(40):
        await one.store.append(Stream.PUSH, {"n": str(number)})
    taken: list[str] = []

    async def work(node: Peer) -> None:
        while True:
            entries = await node.store.take(Stream.PUSH, 3)
            taken.extend(entry.fields["n"] for entry in entries)
            await node.store.done(Stream.PUSH, [entry.id for entry in entries])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, one)
        nursery.start_soon(work, two)
        await until(lambda: answer(len(taken) == 40))
        nursery.cancel_scope.cancel()
    assert sorted(map(int, taken)) == list(range(40))
    assert await everything(one.store, Stream.PUSH) == []


async def test_a_reply_that_was_lost_is_asked_for_again(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """F6: the server thinks the entries taken, and this node has not heard of them."""
    monkeypatch.setattr("pushd.backoff.FIRST", 0.01)
    monkeypatch.setattr("pushd.store.redis.link.LONGEST", 0.01)
    key, lost, number = "pushd:{0}:push", 0, 0
    async with (
        peer(redis.url, "producer") as producer,
        proxied(redis) as proxy,
        peer(proxy.url, "n1", deployment=SILENT) as one,
    ):
        await producer.store.append(Stream.PUSH, {"n": "0"})
        while lost < 5:  # most of the time it is; a cut may also come too early, or too late
            number += 1
            proxy.cut_after(1_000_000)
            await until(lambda: or_none(lambda: one.store.take(Stream.PUSH, 100)))
            before = proxy.forwarded
            assert len(await until(lambda: or_none(lambda: one.store.take(Stream.PUSH, 100)))) == number
            await producer.store.append(Stream.PUSH, {"n": str(number)})
            proxy.cut_after(proxy.forwarded - before)  # right behind the whole command
            answered = await or_none(lambda: one.store.take(Stream.PUSH, 100))
            carried_out = redis.ask("XPENDING", key, "pushd")[0] == number + 1
            lost += carried_out and answered is None
        entries = await until(lambda: or_none(lambda: one.store.take(Stream.PUSH, 100)))
        assert [entry.fields["n"] for entry in entries] == [str(each) for each in range(number + 1)]


async def test_what_was_taken_by_a_call_that_came_late_is_found(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: the node has asked since what it has, and there is no other node that would claim the entry."""
    monkeypatch.setattr("pushd.store.redis.groups.BLOCK", 0.1)
    monkeypatch.setattr("pushd.store.redis.groups.IDLE", 1.0)
    blocking, releases = Client.blocking, []

    async def and_hold(client: Client, *command: Argument, **options: float) -> object:
        if not releases:
            releases.append(proxy.hold())
        return await blocking(client, *command, **options)

    async def next_one() -> str:
        [entry] = await until(lambda: or_none(lambda: one.store.take(Stream.PUSH, 100)))
        await one.store.done(Stream.PUSH, [entry.id])
        return str(entry.fields["n"])

    async with parted(redis) as (proxy, one, two):
        await two.store.append(Stream.PUSH, {"n": "first"})
        assert await next_one() == "first"
        with monkeypatch.context() as patch:
            patch.setattr(Client, "blocking", and_hold)
            with pytest.raises(StoreUnavailable, match="no reply within"):
                await one.store.take(Stream.PUSH, 100)
        await two.store.append(Stream.PUSH, {"n": "second"})
        assert await next_one() == "second"
        await two.store.append(Stream.PUSH, {"n": "third"})
        releases[0]()
        await eventually(lambda: redis.ask("XPENDING", "pushd:{0}:push", "pushd")[0] == 1)
        assert await next_one() == "third"


async def test_what_a_dead_node_has_taken_goes_to_another_and_poison_to_dead(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19: an entry that kills every node that takes it ends after the fifth; the next one proceeds."""
    monkeypatch.setattr("pushd.store.redis.groups.IDLE", 0.0)
    async with peer(redis.url, "watch") as watch:
        await watch.store.append(Stream.PUSH, {"to": "all", "reason": "its own"})
        good = await watch.store.append(Stream.PUSH, {"to": "device:x"})
        for number in range(5):
            async with peer(redis.url, f"n{number}") as doomed:
                entries = await doomed.store.take(Stream.PUSH, 1)
                assert [entry.fields["to"] for entry in entries] == ["all"]
        async with peer(redis.url, "last") as last:
            assert [entry.id for entry in await last.store.take(Stream.PUSH, 5)] == [good]
            (dead,) = await everything(watch.store, Stream.DEAD)
            assert dead.fields["to"] == "all"
            assert dead.fields["reason"] == "taken 5 times, and never done"
            assert last.store.tally.poison == 1
            await last.store.done(Stream.PUSH, [good])
        assert await everything(watch.store, Stream.PUSH) == []


async def test_entries_that_somebody_trimmed_away_do_not_stay_pending(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F28."""
    monkeypatch.setattr("pushd.store.redis.groups.IDLE", 0.0)
    async with peer(redis.url, "n1", deployment=SILENT) as one:
        await one.store.append(Stream.PUSH, {"n": "0"})
        assert len(await one.store.take(Stream.PUSH, 1)) == 1
    redis.ask("XTRIM", "pushd:{0}:push", "MAXLEN", 0)
    async with peer(redis.url, "n2", deployment=SILENT) as two:
        await two.store.append(Stream.PUSH, {"n": "1"})
        (entry,) = await two.store.take(Stream.PUSH, 1)
        assert entry.fields["n"] == "1"
        assert two.store.tally.lost_by_trim == 1
    assert redis.ask("XPENDING", "pushd:{0}:push", "pushd")[0] == 1


async def test_trimming_stops_at_what_a_group_has_not_read_or_not_acknowledged(
    redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """F28, I5."""
    key = "pushd:{0}:status"
    async with peer(redis.url, "n1", limits=Limits(stream_max=10)) as one:
        redis.ask("XGROUP", "CREATE", key, "service", "0", "MKSTREAM")
        for number in range(60):
            await one.store.append(Stream.STATUS, {"n": str(number)})
        await one.store.sweep()
        assert redis.ask("XLEN", key) == 60
        assert "a consumer group has not read them" in caplog.text
        redis.ask("XREADGROUP", "GROUP", "service", "me", "COUNT", 30, "STREAMS", key, ">")
        await one.store.sweep()
        assert redis.ask("XLEN", key) == 60, "read, but not acknowledged"
        pending = [row[0] for row in redis.ask("XPENDING", key, "service", "-", "+", 30)]
        redis.ask("XACK", key, "service", *pending[:20], *pending[21:])
        await one.store.sweep()
        assert redis.ask("XLEN", key) == 40, "to the one that is not acknowledged"
        redis.ask("XACK", key, "service", pending[20])
        redis.ask("XREADGROUP", "GROUP", "service", "me", "NOACK", "STREAMS", key, ">")
        await one.store.sweep()
        assert redis.ask("XLEN", key) == 10
        assert one.store.tally.held_back == 3
