"""Any history of operations, against a model small enough to be believed: hypothesis looks for the one that differs.

The model knows devices, epochs, messages and time; after each step what the store answered must be what the model says,
and at the end the streams must tell the same story (I1 to I4).
"""

import dataclasses
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushd.errors import StaleEpoch
from pushd.model import Bound, Push, Receipt, ReceiptState, Stream, Throttled
from pushd.store.base import Limits, Store
from tests.pushd.stores import BACKENDS, DURABLE, Backend, push, told

LIMITS = Limits(takeovers=2, takeover_window=10, inbox_max=4, dedupe=60, stale_after=40)


@dataclasses.dataclass
class Waiting:
    """A message in the model."""

    id: str
    expires: float


@dataclasses.dataclass
class Device:
    """A device in the model: `epoch` is 0 while nobody holds it, `sent` the highest seq of what was given out."""

    epoch: int = 0
    highest: int = 0
    seen: float = 0.0
    seqs: list[int] = dataclasses.field(default_factory=lambda: [0])
    sent: int = 0
    conns: int = 0
    takeovers: list[float] = dataclasses.field(default_factory=list)
    inbox: dict[int, Waiting] = dataclasses.field(default_factory=dict)
    marks: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)


class History:
    """Carries out steps on a store and on the model, and compares."""

    def __init__(self, backend: Backend, durable: bool) -> None:
        self.backend = backend
        self.durable = durable
        self.devices = {name: Device() for name in ("a", "b")}
        self.status: list[tuple[str, str, str]] = []
        self.receipts: list[tuple[str, str, str, str]] = []
        self.stack = AsyncExitStack()
        self.store: Store

    @property
    def now(self) -> float:
        return self.backend.clock.now

    async def open(self) -> None:
        self.store = await self.stack.enter_async_context(self.backend.open(LIMITS))

    # ---- the steps: each takes the device's name and one small number ----

    async def login(self, name: str, number: int) -> None:
        device = self.devices[name]
        device.conns += 1
        answer = await self.store.login(name, f"{name}{device.conns}", [])
        recent = [then for then in device.takeovers if self.now - then < LIMITS.takeover_window]
        if device.epoch and len(recent) >= LIMITS.takeovers:
            assert answer == Throttled(recent[-LIMITS.takeovers] + LIMITS.takeover_window - self.now)
            return
        assert isinstance(answer, Bound)
        assert answer.epoch > device.highest
        assert (answer.previous.epoch if answer.previous else 0) == device.epoch
        assert await self.store.login(name, f"{name}{device.conns}", []) == answer
        if device.epoch:
            device.takeovers.append(self.now)
        self.status.append((name, "takeover" if device.epoch else "online", str(answer.epoch)))
        device.epoch = device.highest = answer.epoch
        device.seen = self.now

    async def logout(self, name: str, number: int) -> None:
        device, epoch = self.devices[name], self.epoch(name, number)
        assert await self.store.logout(name, epoch, "bye") == (device.epoch == epoch != 0)
        if device.epoch == epoch != 0:
            self.end(name)

    async def beat(self, name: str, number: int) -> None:
        device, epoch = self.devices[name], self.epoch(name, number)
        held = device.epoch == epoch != 0
        assert await self.store.beat([(name, epoch)]) == ([] if held else [name])
        if held:
            device.seen = self.now

    async def enqueue(self, name: str, number: int) -> None:
        one = self.push(number)
        (receipt,) = await self.store.enqueue(one, [name])
        self.queued(name, one, receipt)

    async def burst(self, name: str, number: int) -> None:
        """Several messages in one call, for both devices, one of them twice."""
        places = [(number, name), (number + 1, "b"), (number, name), (number + 2, name), (number + 1, "a")]
        parcels = [(self.push(each), whose) for each, whose in places]
        receipts = await self.store.enqueue_each(parcels)
        for (one, whose), receipt in zip(parcels, receipts, strict=True):
            self.queued(whose, one, receipt)

    def push(self, number: int) -> Push:
        return push(f"p{number}", ttl=15.0 if number % 2 else 600.0)

    def queued(self, name: str, one: Push, receipt: Receipt) -> None:
        device = self.devices[name]
        seq, until = device.marks.get(one.id, (0, 0.0))
        if until > self.now:
            expected = (ReceiptState.DUPLICATE, seq)
        elif len(device.inbox) >= LIMITS.inbox_max and not self.expire(name):
            expected = (ReceiptState.REFUSED, 0)
        else:
            expected = (ReceiptState.STORED, receipt.seq)
            assert receipt.seq > device.seqs[-1]
            device.seqs.append(receipt.seq)
            if device.epoch and device.sent >= max(device.inbox, default=0):
                device.sent = receipt.seq  # it is handed to the holder, who has been given all before it
            device.inbox[receipt.seq] = Waiting(one.id, self.now + one.ttl)
            # A seq may be a time, in microseconds, and then a mark counts from it.
            device.marks[one.id] = (receipt.seq, max(self.now, receipt.seq / 1_000_000) + LIMITS.dedupe)
        assert (receipt.state, receipt.seq) == expected
        self.note(name, one.id, *expected)

    async def fetch(self, name: str, number: int) -> None:
        device, epoch, after, limit = (
            self.devices[name],
            self.epoch(name, number),
            self.seq(name, number % 3),
            1 + number % 4,
        )
        if not device.epoch == epoch != 0:
            with pytest.raises(StaleEpoch):
                await self.store.fetch(name, epoch, after, limit)
            return
        answered = await self.store.fetch(name, epoch, after, limit)
        expected = []
        for seq, message in list(device.inbox.items()):
            if seq > after and len(expected) < limit:
                if message.expires <= self.now:
                    self.remove(name, seq, ReceiptState.EXPIRED)
                else:
                    expected.append((seq, message.id, seq <= device.sent))
        device.sent = max([device.sent, *(seq for seq, _, _ in expected)])
        assert [(message.seq, message.id, message.redelivered) for message in answered] == expected

    async def ack(self, name: str, number: int) -> None:
        device, epoch = self.devices[name], self.epoch(name, number)
        seqs = [self.seq(name, number), self.seq(name, number + 1)]
        if not device.epoch == epoch != 0:
            with pytest.raises(StaleEpoch):
                await self.store.ack(name, epoch, seqs, ReceiptState.ACKED)
            return
        await self.store.ack(name, epoch, seqs, ReceiptState.ACKED)
        for seq in seqs:
            if seq in device.inbox:
                self.remove(name, seq, ReceiptState.ACKED)

    async def sweep(self, name: str, number: int) -> None:
        stale = [name for name, device in self.devices.items() if device.epoch and self.now - device.seen > 40]
        stale.sort(key=lambda name: self.devices[name].seen)
        assert await self.store.sweep() == len(stale)
        for name in stale:
            self.end(name)
        self.expire_all()

    async def time(self, name: str, number: int) -> None:
        """Time passes in steps of the sweeper: what it does when it was away is tested by itself."""
        self.backend.clock.now += number
        await self.sweep(name, number)

    async def reopen(self, name: str, number: int) -> None:
        if not self.durable:
            return
        await self.stack.aclose()
        await self.open()
        await self.store.sweep()  # where opening has not ended them, the first sweep does
        for name, device in self.devices.items():
            if device.epoch:
                self.end(name)
        self.expire_all()

    # ---- the model ----

    def epoch(self, name: str, number: int) -> int:
        """Mostly the holder's, sometimes an old one, sometimes one that never was."""
        device = self.devices[name]
        return {0: device.highest - 1, 1: device.highest + 1}.get(number, device.highest)

    def seq(self, name: str, number: int) -> int:
        """Of the device's messages the one of that number, from 1; 0 and numbers too high are no message's."""
        seqs = self.devices[name].seqs
        return seqs[number] if number < len(seqs) else seqs[-1] + number

    def end(self, name: str) -> None:
        device = self.devices[name]
        self.status.append((name, "offline", str(device.epoch)))
        device.epoch = 0

    def expire_all(self) -> None:
        overdue = [
            (message.expires, order, name, seq)
            for order, (name, device) in enumerate(self.devices.items())
            for seq, message in device.inbox.items()
            if message.expires <= self.now
        ]
        for _, _, name, seq in sorted(overdue):
            self.remove(name, seq, ReceiptState.EXPIRED)

    def expire(self, name: str) -> bool:
        overdue = [seq for seq, message in self.devices[name].inbox.items() if message.expires <= self.now]
        for seq in overdue:
            self.remove(name, seq, ReceiptState.EXPIRED)
        return bool(overdue)

    def remove(self, name: str, seq: int, state: ReceiptState) -> None:
        self.note(name, self.devices[name].inbox.pop(seq).id, state, seq)

    def note(self, name: str, identity: str, state: ReceiptState, seq: int) -> None:
        self.receipts.append((name, identity, state.value, str(seq)))

    async def compare(self) -> None:
        """The streams and records tell the model's story."""
        assert sorted(await told(self.store, Stream.STATUS, "device", "event", "epoch")) == sorted(self.status)
        assert sorted(await told(self.store, Stream.RECEIPT, "device", "id", "state", "seq")) == sorted(self.receipts)
        for name, device in self.devices.items():
            record = await self.store.device(name)
            if record is None:
                assert device.highest == device.seqs[-1] == 0
            else:
                assert (record.online, record.inbox) == (device.epoch != 0, len(device.inbox))
        kicked = [kick[:2] for kick in self.backend.node.kicks]
        assert len(kicked) == len(set(kicked)), "nobody is told to close one connection twice"


# Most of what can go wrong needs several of them.
OFTEN = (History.enqueue, History.burst, History.fetch, History.login)
SELDOM = (History.ack, History.beat, History.logout, History.reopen, History.sweep, History.time)
STEPS: dict[str, Callable[[History, str, int], Awaitable[None]]] = {step.__name__: step for step in (*OFTEN, *SELDOM)}
names = st.sampled_from([step.__name__ for step in (*OFTEN, *OFTEN, *SELDOM)])
histories = st.lists(st.tuples(names, st.sampled_from("aab"), st.integers(0, 9)), min_size=20, max_size=80)


@pytest.mark.parametrize("make", BACKENDS, ids=lambda make: make.__name__)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=histories)
async def test_any_history_is_the_models_history(
    make: Callable[[Path], Backend], steps: list[tuple[str, str, int]]
) -> None:
    """I1, I2, I3, I4."""
    with tempfile.TemporaryDirectory() as directory:
        history = History(make(Path(directory)), durable=make in DURABLE)
        async with history.stack:
            await history.open()
            for step, name, number in steps:
                await STEPS[step](history, name, number)
            await history.compare()
