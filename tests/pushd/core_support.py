"""What the tests of the daemon's core share: a socket that notes what it is told, and a node over a real SQLite store.

Time is Trio's mock clock, and stands still: a test moves it. The store's thread runs in real time beside it, so what it
brings about is awaited with `until`, which looks again and again, in real time, whether something has come true.
"""

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import trio
import trio.testing

from engineio_trio.errors import CloseReason, Disconnected
from pushd.config.sections import Delivery
from pushd.device import Device
from pushd.errors import StoreUnavailable
from pushd.hub import Hub
from pushd.metrics import Metrics
from pushd.model import Bound, Entry, Identity, Push, Receipt, Stream
from pushd.node import Node
from pushd.store import open_store
from pushd.store.base import Limits, Store
from tests.patience import PATIENCE
from tests.pushd.stores import Clock


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds; real time passes, the mock clock stands."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        await trio.to_thread.run_sync(time.sleep, 0.001)


@dataclasses.dataclass
class Sent:
    """An event that was emitted; `ack` acknowledges it, as the client would."""

    event: str
    args: tuple[Any, ...]
    ack: Callable[..., None] | None = None

    @property
    def seq(self) -> int:
        return int(self.args[1]["seq"])

    @property
    def redelivered(self) -> bool:
        return bool(self.args[1]["redelivered"])


def _read(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of an event as the client has them, with bytes where they were."""
    return tuple(msgspec.json.decode(arg) if isinstance(arg, msgspec.Raw) else arg for arg in args)


class Peer:
    """Stands in for a connected socket: notes what is emitted, and acknowledges when told to."""

    def __init__(self, id: str = "c1") -> None:
        self.id = id
        self.seen = trio.current_time()
        self.closed: CloseReason | None = None
        self.sent: list[Sent] = []
        self.calls: list[str] = []
        self.flushes = 0
        self.awaited = 0  # acknowledgements that nobody has given up yet
        self.blocked = False  # flush waits: the client does not read
        self.on_disconnect: Callable[[CloseReason], None] = lambda reason: None

    def emit(self, event: str, *args: Any) -> None:
        if self.closed is None:
            self.sent.append(Sent(event, _read(args)))

    def emit_with_ack(self, event: str, *args: Any, on_ack: Callable[..., None]) -> Callable[[], None]:
        self.awaited += 1
        if self.closed is None:
            self.sent.append(Sent(event, _read(args), on_ack))
        return self._forget

    def _forget(self) -> None:
        self.awaited -= 1

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed is not None:
            raise Disconnected(self.closed)
        if self.blocked:
            await trio.sleep_forever()
        self.flushes += 1

    def disconnect(self, *, close: bool = False) -> None:
        self.calls.append("disconnect")
        self._closed(CloseReason.SERVER_DISCONNECT)

    def close(self, reason: CloseReason) -> None:
        self.calls.append(f"close {reason.value}")
        self._closed(reason)

    def drop(self) -> None:
        """The client's connection breaks."""
        self._closed(CloseReason.TRANSPORT_CLOSE)

    def _closed(self, reason: CloseReason) -> None:
        if self.closed is None:
            self.closed = reason
            self.on_disconnect(reason)

    @property
    def seqs(self) -> list[int]:
        return [sent.seq for sent in self.pushes]

    @property
    def pushes(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.event != "kicked"]

    def ack(self, *seqs: int) -> None:
        """Acknowledge these messages: the latest sending of each."""
        for seq in seqs:
            on_ack = [sent for sent in self.pushes if sent.seq == seq][-1].ack
            assert on_ack is not None
            on_ack()


async def say(device: Device, event: str, *args: Any) -> None:
    """Have a device say something; returns when it is acknowledged."""
    acknowledged = trio.Event()
    device.uplink(event, args, acknowledged.set)
    await acknowledged.wait()


class Outage:
    """A real store that goes away when told to: `away` names the methods that raise (`*` for all).

    With `late`, what is asked for happens, and the answer is lost.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.away: set[str] = set()
        self.late: set[str] = set()
        self.tried: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        name = name.removesuffix("_each")  # of many, or of one: it is the same call

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.tried.append(name)
            if name in self.away or "*" in self.away:
                await trio.lowlevel.checkpoint()
                raise StoreUnavailable("gone fishing")
            answer = await method(*args, **kwargs)
            if name in self.late:
                raise StoreUnavailable("the answer was lost")
            return answer

        return call


@dataclasses.dataclass
class World:
    """One node with its devices, and the clock."""

    node: Node
    store: Outage
    nursery: trio.Nursery
    clock: trio.testing.MockClock
    wall: Clock  # the store's, which stands still too
    conns: int = 0
    gone: list[Device] = dataclasses.field(default_factory=list)  # those that have ended and been logged out

    async def login(self, device: str = "d1", **identity: Any) -> tuple[Device, Peer]:
        """A device that connects, as the gateway would do it."""
        self.conns += 1
        peer = Peer(f"c{self.conns}")
        bound = await self.store.login(device, peer.id, identity.get("topics", ()))
        assert isinstance(bound, Bound), bound
        held = Device(Identity(device, **identity), bound, peer, self.node)
        peer.on_disconnect = held.disconnected
        self.node.hub.join(held)
        self.nursery.start_soon(self._run, held)
        return held, peer

    async def _run(self, device: Device) -> None:
        await device.run()
        self.gone.append(device)

    async def push(self, *ids: str, device: str = "d1", data: str = "1", ttl: float = 3600.0) -> list[Receipt]:
        """Push messages to a device."""
        return [
            receipt
            for id in ids
            for receipt in await self.store.enqueue(Push(f"device:{device}", data, id, ttl=ttl), [device])
        ]

    def only_wake(self) -> None:
        """From now on pushes are read from the inbox, as those are that come out of turn."""
        self.node.hub.deliver = lambda device, message, after: self.node.hub.wake(device)  # type: ignore[method-assign]

    async def entries(self, stream: Stream) -> list[Entry]:
        """Everything in a stream."""
        entries: list[Entry] = await self.store.read_stream(stream, "", 1_000)
        return entries

    async def told(self, stream: Stream, *names: str) -> list[tuple[str, ...]]:
        """These fields of everything in a stream."""
        return [tuple(entry.fields[name] for name in names) for entry in await self.entries(stream)]

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps, so that what begins meanwhile has its time too."""
        end = trio.current_time() + seconds
        while (left := end - trio.current_time()) > 1e-9:
            self.clock.jump(min(left, 1.0))
            await self.settle()

    async def settle(self) -> None:
        """Return when nothing moves: all tasks wait, and the store has done what it was asked for."""
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await self.store._store.ping()
        await trio.testing.wait_all_tasks_blocked()


@contextlib.asynccontextmanager
async def open_world(
    clock: trio.testing.MockClock, limits: Limits | None = None, **delivery: Any
) -> AsyncIterator[World]:
    """A node over a store in memory. Its devices are cancelled at the end."""
    hub, metrics, wall = Hub(), Metrics(), Clock()
    async with (
        open_store("sqlite:///:memory:", node="n1", control=hub, limits=limits or Limits(), clock=wall) as inner,
        trio.open_nursery() as nursery,
    ):
        store = Outage(inner)
        node = Node.over(store, "n1", hub, metrics, Delivery(**delivery), uplink_rate=1_000)  # type: ignore[arg-type]
        nursery.start_soon(node.goodbyes.run)
        nursery.start_soon(node.confirmations.run)
        await nursery.start(node.uplinks.run)
        yield World(node, store, nursery, clock, wall)
        nursery.cancel_scope.cancel()
