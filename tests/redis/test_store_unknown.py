"""F6: replies are lost, hundreds of times. Whoever repeats a call until it succeeds has done it once.

A proxy cuts connections after a random number of bytes has gone to the server, so calls are lost before they were
carried out, in the middle, and after. `PUSHD_SEED` repeats a run.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

from pushd.errors import StaleEpoch, StoreUnavailable
from pushd.model import ReceiptState, Stream
from pushd.store.base import Deployment
from tests.patience import PATIENCE
from tests.pushd.stores import everything, push, told
from tests.redis.nodes import Peer, check_status, peer, status
from tests.redis.proxy import Proxy, proxied
from tests.redis.servers import FLAVOURS, Server, server

CALM = Deployment(lease=60.0, refresh=20.0)  # nobody dies here
DEVICES = 8
ROUNDS = 12
CUTS = 200


@pytest.fixture(params=FLAVOURS)
def redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server(request.param, tcp=True) as one:
        yield one


class Caller:
    """Repeats every call until it is answered, and counts how often one was not."""

    def __init__(self) -> None:
        self.lost = 0

    async def __call__(self, call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call()
            except StoreUnavailable:
                self.lost += 1
                await trio.sleep(0.005)


async def cut(proxy: Proxy, rng: random.Random) -> None:
    """Cut again and again, until cancelled."""
    while True:
        before = proxy.cuts
        proxy.cut_after(rng.randrange(1, 10_000))
        with trio.move_on_after(0.5):
            while proxy.cuts == before:  # noqa: ASYNC110 - the proxy counts, and says nothing
                await trio.sleep(0.001)


async def test_what_is_repeated_until_it_succeeds_happens_once(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """F6, I1, I2, I4, I7."""
    monkeypatch.setattr("pushd.backoff.FIRST", 0.01)  # else most of the time is spent on waiting to connect again
    monkeypatch.setattr("pushd.store.redis.link.LONGEST", 0.01)
    seed = int(os.environ.get("PUSHD_SEED", "0")) or random.randrange(1_000_000)
    print(f"PUSHD_SEED={seed}")
    rng = random.Random(seed)
    done = Done()
    async with peer(redis.url, "quiet", deployment=CALM) as quiet, proxied(redis) as proxy:
        await done.live(quiet, "d0", -1, rng)  # so that the server knows the scripts: they are longer than a cut
        async with peer(proxy.url, "n1", deployment=CALM) as one:
            with trio.fail_after(3 * PATIENCE):
                async with trio.open_nursery() as cutting:
                    cutting.start_soon(cut, proxy, rng)
                    turn = 0
                    while turn < ROUNDS or proxy.cuts < CUTS:
                        async with trio.open_nursery() as nursery:
                            for number in range(DEVICES):
                                nursery.start_soon(done.live, one, f"d{number}", turn, random.Random(rng.random()))
                        turn += 1
                    cutting.cancel_scope.cancel()
                proxy.cut_after(1_000_000_000)
                await done.caller(one.store.ping)  # connected, so that the node can say goodbye
        assert proxy.cuts >= CUTS
        assert done.caller.lost > CUTS / 4, "too few calls were hit to show anything"
        await done.check(quiet)


class Done:
    """What was done, by those who did it; and whether the streams say the same."""

    def __init__(self) -> None:
        self.caller = Caller()
        self.epochs: list[tuple[str, int]] = []
        self.logouts: set[tuple[str, int]] = set()
        self.stored: dict[str, list[int]] = defaultdict(list)
        self.acked: list[tuple[str, int]] = []
        self.uplinks: list[str] = []

    async def live(self, node: Peer, device: str, turn: int, rng: random.Random) -> None:
        """One connection: login, pushes, fetches, acks, uplinks, beats; perhaps a takeover; logout."""
        call, store = self.caller, node.store
        for attempt in range(rng.choice((1, 1, 2))):
            conn = f"{device}-{turn}-{attempt}"
            epoch = (await call(lambda conn=conn: store.login(device, conn, ["all"]))).epoch
            self.epochs.append((device, epoch))
        for number in range(rng.randrange(1, 4)):
            message = push(f"{conn}-{number}")
            (receipt,) = await call(lambda message=message: store.enqueue(message, [device]))
            self.stored[device].append(receipt.seq)
            entry = f"{conn}:{number}"
            await call(lambda entry=entry: store.uplink(device, epoch, conn, entry, "event", "1"))
            self.uplinks.append(entry)
            assert await call(lambda: store.beat([(device, epoch)])) == []
        messages = await call(lambda: store.fetch(device, epoch, 0, 100))
        seqs = [message.seq for message in messages][: rng.randrange(0, 4)]
        await call(lambda: store.ack(device, epoch, seqs, ReceiptState.ACKED))
        self.acked += [(device, seq) for seq in seqs]
        if rng.random() < 0.7:
            await call(lambda: store.logout(device, epoch, "bye"))
            self.logouts.add((device, epoch))
            with pytest.raises(StaleEpoch):
                await call(lambda: store.fetch(device, epoch, 0, 1))

    async def check(self, node: Peer) -> None:
        """Each thing is there once, and nothing else."""
        await node.store.sweep()
        entries = await status(node)
        starts = [(device, int(epoch)) for device, event, epoch, _ in entries if event != "offline"]
        assert sorted(starts) == sorted(self.epochs)
        check_status(entries, set())
        byes = Counter((device, int(epoch)) for device, event, epoch, reason in entries if reason == "bye")
        assert set(byes) == self.logouts
        assert set(byes.values()) <= {1}
        uplinks = [entry for (entry,) in await told(node.store, Stream.UPLINK, "id")]
        assert sorted(uplinks) == sorted(self.uplinks)
        receipts = await told(node.store, Stream.RECEIPT, "device", "seq", "state")
        for device, seqs in self.stored.items():
            assert seqs == sorted(set(seqs)), "a seq rises with each push"
            assert [int(seq) for name, seq, state in receipts if (name, state) == (device, "stored")] == seqs
        acked = [(device, int(seq)) for device, seq, state in receipts if state == "acked"]
        assert sorted(acked) == sorted(self.acked)
        for device, seqs in self.stored.items():
            epoch = await node.bind(device, "check")
            waiting = [message.seq for message in await node.store.fetch(device, epoch, 0, 10_000)]
            assert waiting == [seq for seq in seqs if (device, seq) not in set(acked)]
        assert (await node.store.counts()).inbox == sum(map(len, self.stored.values())) - len(acked)
        assert await everything(node.store, Stream.DEAD) == []
