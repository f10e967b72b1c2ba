"""What stores are tested with: a clock that tests move, a node that notes what it is told, the implementations."""

import atexit
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path

from pushd.model import Bound, Entry, Message, Push, Stream
from pushd.store import open_store
from pushd.store.base import Deployment, Limits, Store
from tests.redis import servers


class Clock:
    """Unix seconds that pass only when a test says so."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Node:
    """A `Control` that notes everything. `casts` to the devices in `deaf` do not go out."""

    wakes: list[str] = dataclasses.field(default_factory=list)
    deliveries: list[tuple[str, Message, int]] = dataclasses.field(default_factory=list)
    kicks: list[tuple[str, int, str, str]] = dataclasses.field(default_factory=list)
    casts: list[tuple[str, Message]] = dataclasses.field(default_factory=list)
    rounds: list[int] = dataclasses.field(default_factory=list)  # how many of these each `together` had
    losses: int = 0
    alarms: int = 0
    deaf: set[str] = dataclasses.field(default_factory=set)

    def wake(self, device: str) -> None:
        self.wakes.append(device)

    def deliver(self, device: str, message: Message, after: int) -> None:
        self.deliveries.append((device, message, after))

    def holds(self, device: str) -> bool:
        return device not in self.deaf

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        before = len(self.deliveries) + len(self.casts)
        yield
        self.rounds.append(len(self.deliveries) + len(self.casts) - before)

    def wake_all(self) -> None:
        self.alarms += 1

    def lost_all(self) -> None:
        self.losses += 1

    def kick(self, device: str, epoch: int, reason: str, by: str) -> None:
        self.kicks.append((device, epoch, reason, by))

    def cast(self, device: str, message: Message) -> bool:
        self.casts.append((device, message))
        return device not in self.deaf


@dataclasses.dataclass
class Backend:
    """One implementation, as often as a test opens it: always the same state, if it is one of the DURABLE.

    `open(node_name, limits)` gives a context manager with a store; what it tells its node is in `node`.
    """

    url: str
    clock: Clock = dataclasses.field(default_factory=Clock)
    node: Node = dataclasses.field(default_factory=Node)
    deployment: Deployment = dataclasses.field(default_factory=Deployment)

    def open(self, limits: Limits | None = None, name: str = "n1") -> AbstractAsyncContextManager[Store]:
        return open_store(
            self.url,
            node=name,
            control=self.node,
            limits=limits or Limits(),
            deployment=self.deployment,
            clock=self.clock,
        )


def sqlite_file(directory: Path) -> Backend:
    return Backend(f"sqlite:///{directory}/pushd.db")


def sqlite_memory(directory: Path) -> Backend:
    return Backend("sqlite:///:memory:")


_running = ExitStack()
_numbers = itertools.count()
atexit.register(_running.close)


@functools.cache
def alone(flavour: str) -> servers.Server:
    """A server for all tests of this process; each has a prefix of its own."""
    return _running.enter_context(servers.server(flavour))


@functools.cache
def cluster() -> servers.Cluster:
    """F26: a cluster of one node: it finds every command with keys of more than one slot."""
    return _running.enter_context(servers.cluster(masters=1))


def _redis(url: str, partitions: int = 1) -> Backend:
    return Backend(url, deployment=Deployment(prefix=f"t{next(_numbers)}", partitions=partitions))


def valkey(directory: Path) -> Backend:
    return _redis(alone("valkey").url)


def redis(directory: Path) -> Backend:
    return _redis(alone("redis").url)


def valkey_in_four(directory: Path) -> Backend:
    return _redis(alone("valkey").url, partitions=4)


def redis_cluster(directory: Path) -> Backend:
    return _redis(cluster().url)


def redis_cluster_in_four(directory: Path) -> Backend:
    return _redis(cluster().url, partitions=4)


Make = Callable[[Path], Backend]
OWNED: tuple[Make, ...] = (sqlite_file,)  # of one process: opening it finds what a former one has left
REDIS: tuple[Make, ...] = (valkey, redis, valkey_in_four, redis_cluster, redis_cluster_in_four)
DURABLE: tuple[Make, ...] = (*OWNED, *REDIS)
BACKENDS = (*DURABLE, sqlite_memory)


async def bind(store: Store, device: str, conn: str, *topics: str) -> int:
    """Log a device in and answer its epoch."""
    bound = await store.login(device, conn, topics)
    assert isinstance(bound, Bound), bound
    return bound.epoch


def push(identity: str, data: str = '"x"', ttl: float = 3_600.0) -> Push:
    return Push("device:any", data, identity, ttl=ttl)


async def everything(store: Store, stream: Stream) -> list[Entry]:
    """All entries of a stream, read in pages."""
    entries: list[Entry] = []
    while page := await store.read_stream(stream, entries[-1].id if entries else "", 100):
        entries += page
    return entries


async def told(store: Store, stream: Stream, *names: str) -> list[tuple[str, ...]]:
    """These fields of all entries of a stream."""
    return [tuple(entry.fields[name] for name in names) for entry in await everything(store, stream)]


async def pass_time(store: Store, clock: Clock, seconds: float, step: float = 10.0) -> int:
    """Let time pass with a sweeper at work; answers how many bindings it ended."""
    end, ended = clock.now + seconds, 0
    while clock.now < end:
        clock.now = min(end, clock.now + step)
        ended += await store.sweep()
    return ended
