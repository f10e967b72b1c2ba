"""The domain interface over Redis: its parts put together, what happens in the background, and the checks at the start.

One life of the node after another (see lease.py): listen to the control channel, take the lease, keep it. When it is
lost, every device of this node is, and the next life begins.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import trio
from redis.exceptions import OutOfMemoryError, ResponseError

from pushd.backoff import Backoff, persist
from pushd.errors import ConfigError, StoreBusy, StoreUnavailable
from pushd.model import (
    Ack,
    Bound,
    Counts,
    DeviceRecord,
    Entry,
    Message,
    Outcome,
    Parcel,
    Push,
    Receipt,
    ReceiptState,
    Stream,
    Throttled,
    Uplink,
)
from pushd.store.base import Control, Deployment, Limits, Tally
from pushd.store.redis.address import Kind, parse_address
from pushd.store.redis.bindings import Bindings
from pushd.store.redis.context import Context, side_by_side
from pushd.store.redis.control import Listener, tell
from pushd.store.redis.devices import Directory
from pushd.store.redis.groups import Group
from pushd.store.redis.keys import Bucket, Keys
from pushd.store.redis.lease import Lease
from pushd.store.redis.messages import Messages
from pushd.store.redis.replies import AccessDenied, Misconfigured
from pushd.store.redis.scripts import Runner, Script
from pushd.store.redis.streams import TAKEN, Streams
from pushd.store.redis.topology import Client, LateClient, open_client

log = logging.getLogger(__name__)

CONDEMN: Final = Script("condemn")
VERSION: Final = 1  # of what is kept under our keys
BURIED: Final = 600.0  # seconds after its death until nobody looks for what a node has left any more
SHORTEST: Final = 0.1  # seconds between two signs that entries which were taken are being worked on, at least
PATIENCE: Final = 2.0  # seconds for the store to be there; then the node begins without it, and waits
LONGEST: Final = 0.5  # seconds between two tries to begin with a store that is there
FAREWELL: Final = 2.0  # seconds for the goodbye of a node


@contextlib.asynccontextmanager
async def open_redis(
    url: str,
    *,
    node: str,
    control: Control,
    limits: Limits,
    deployment: Deployment,
    clock: Callable[[], float] | None = None,
) -> AsyncIterator["RedisStore"]:
    """The store behind a Redis URL, for one node, as long as the context lasts; see `open_store`."""
    address = parse_address(url)
    async with open_client(address, patience=0) as servers:
        client = LateClient(servers)
        keys = Keys(deployment.prefix, deployment.partitions)
        runner = Runner(client, clock, deployment.wait_replicas, keys.channels)
        lease = Lease(runner, keys, node, deployment.lease, deployment.refresh)
        together = address.kind is not Kind.CLUSTER or deployment.partitions == 1
        context = Context(client, runner, keys, lease, control, limits, Tally(), together)
        try:
            async with trio.open_nursery() as nursery:
                store = RedisStore(context, deployment, nursery)
                nursery.start_soon(_live, store, servers, client)
                with trio.move_on_after(PATIENCE) as waiting:
                    await store.begun.wait()
                if waiting.cancelled_caught:
                    log.warning("the store is away, this node waits for it: %s", servers.trouble())
                yield store
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from group.exceptions[0].__cause__
        finally:
            await _say_goodbye(lease)


async def _live(store: "RedisStore", servers: Client, client: LateClient) -> None:
    """Be a node as soon as the servers are there. Raises ConfigError or StoreBusy if they are not as they must be."""
    backoff = Backoff(LONGEST)
    while True:
        try:
            await servers.wait_up()
            await _check_server(servers)
            await store.check_settings(servers)
            break
        except Misconfigured as error:
            raise ConfigError([f"store.url: {error}"]) from None
        except StoreUnavailable as error:
            log.info("the store is not ready yet: %s", error)
            await backoff.sleep()
    client.open()
    await store.live()


async def _say_goodbye(lease: Lease) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + FAREWELL):
        try:
            await lease.leave()
        except StoreUnavailable as error:
            log.info("no goodbye, the others find out by themselves: %s", error)


async def _check_server(client: Client) -> None:
    """Raise ConfigError if a server would rather throw our data away than refuse to take more.

    The log says it if one keeps nothing on disk as it goes: a standard server does not.
    """
    for master in client.masters():
        try:
            # One by one: several in one question are for Redis 7.
            (policy,) = (await client.execute(master.slot_key, "CONFIG", "GET", "maxmemory-policy")).values()
            (log_kept,) = (await client.execute(master.slot_key, "CONFIG", "GET", "appendonly")).values()
        except (AccessDenied, ResponseError) as error:
            wanted = "whether its maxmemory-policy is noeviction, and appendonly yes, cannot be seen"
            log.warning("%s: %s: %s", master.address, wanted, error)
            continue
        if policy != b"noeviction":
            danger = "with its memory full it would throw pushd's data away; set it to noeviction"
            raise ConfigError([f"store.url: {master.address} has maxmemory-policy {policy.decode()}: {danger}"])
        if log_kept == b"no":
            danger = "what was accepted since its last snapshot, if it makes any, is gone when it dies; set it to yes"
            log.warning("%s has appendonly no: %s", master.address, danger)


class RedisStore:
    """`Store` on Redis, for one node among others."""

    def __init__(self, context: Context, deployment: Deployment, nursery: trio.Nursery) -> None:
        self.tally = context.tally
        self._context = context
        self._deployment = deployment
        self._bindings = Bindings(context, nursery)
        self._messages = Messages(context)
        self._streams = Streams(context, nursery)
        self._directory = Directory(context)
        self._groups = {stream: Group(context, stream) for stream in TAKEN}
        self._full: StoreUnavailable | None = None
        self.begun = trio.Event()  # its first life has

    @property
    def incarnation(self) -> str:
        """The present life of this node."""
        return self._context.lease.incarnation

    # ---- one life after another ----

    async def live(self) -> None:
        """Be a node, for ever. Raises StoreBusy if, after the store lost its memory, the settings differ."""
        lease, control = self._context.lease, self._context.control
        await persist(self._bindings.begin)
        await self._live_once(partial(persist, lease.take))
        while True:
            old = lease.begin_again()
            log.error("the lease of %s is lost: all its devices are; they are closed, and may come back", old)
            tell(control.lost_all)
            await self._live_once(partial(self._begin_again, old))

    async def _live_once(self, begin: Callable[[], Awaitable[None]]) -> None:
        """One incarnation; returns when its lease is lost."""
        lease = self._context.lease
        async with trio.open_nursery() as nursery:
            listener = Listener(self._context.client, self._context.control, lease)
            await nursery.start(listener.run, self._context.keys.channels + lease.incarnation)
            await begin()
            for group in self._groups.values():
                nursery.start_soon(self._tend, group)
            self.begun.set()
            await lease.keep()
            nursery.cancel_scope.cancel()

    async def _begin_again(self, old: str) -> None:
        await persist(partial(self.check_settings, self._context.client))
        await persist(partial(self._context.lease.bury, old))
        await persist(self._context.lease.take)

    async def check_settings(self, client: Client) -> None:
        """Make sure that all nodes count buckets alike. Raises StoreBusy."""
        key = self._context.keys.meta
        for field, ours in (("version", VERSION), ("partitions", self._deployment.partitions)):
            await client.execute(key, "HSETNX", key, field, ours)
            theirs = int(await client.execute(key, "HGET", key, field))
            if theirs != ours:
                raise StoreBusy(
                    f"{key} says that this store was set up with {field} = {theirs}, and here it is {ours}: "
                    + _ADVICE[field].format(theirs=theirs)
                )

    async def _tend(self, group: Group) -> None:
        """Keep what was taken from being taken by others."""
        while True:
            await trio.sleep(max(group.pause, SHORTEST))
            try:
                await group.touch()
            except (StoreUnavailable, ResponseError) as error:
                log.debug("entries at hand cannot be kept: %s", error)

    # ---- bindings ----

    async def admits(self, device: str) -> Throttled | None:
        self._context.lease.check()
        if self._full is not None:  # a full server answers, but nobody can log in
            await self.ping()
        return await self._bindings.admits(device)

    async def login(self, device: str, conn: str, topics: Sequence[str]) -> Bound | Throttled:
        if not conn:
            raise ValueError("a connection must have an id")
        with self._noting_fullness():
            return await self._bindings.login(device, conn, topics)

    async def logout(self, device: str, epoch: int, reason: str) -> bool:
        return await self._bindings.logout(device, epoch, reason)

    async def kick(self, device: str, reason: str, by: str) -> bool:
        return await self._bindings.kick(device, reason, by)

    async def beat(self, alive: Sequence[tuple[str, int]]) -> list[str]:
        return await self._bindings.beat(alive)

    async def reconcile(self, devices: Sequence[str]) -> list[str]:
        return await self._bindings.reconcile(devices)

    async def sweep(self) -> int:
        context = self._context
        lease = context.lease
        flat = await context.runner.run(CONDEMN, (context.keys.nodes,), lease.incarnation, lease.judges_until)
        dead = {name.decode(): int(age) / 1_000 for name, age in zip(flat[::2], flat[1::2], strict=True)}
        ended = 0

        async def one(bucket: Bucket) -> None:
            nonlocal ended
            for incarnation in dead:
                ended += await self._bindings.end_dead(bucket, incarnation)
            ended += await self._bindings.end_stale(bucket)
            await self._messages.expire(bucket)
            await self._streams.trim(bucket)
            await self._directory.forget(bucket)

        await side_by_side([partial(one, bucket) for bucket in context.keys.buckets])
        for incarnation, age in dead.items():
            if age > BURIED and await self._dismiss(incarnation):
                await context.client.execute(context.keys.nodes, "ZREM", context.keys.nodes, incarnation)
        return ended

    async def _dismiss(self, incarnation: str) -> bool:
        """Take a dead node off the consumer groups; False if it has left something there."""
        buckets = self._context.keys.buckets
        return all([await group.dismiss(each, incarnation) for group in self._groups.values() for each in buckets])

    # ---- messages ----

    async def enqueue(self, push: Push, devices: Sequence[str]) -> list[Receipt]:
        return await self.enqueue_each([(push, device) for device in devices])

    async def enqueue_each(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        with self._noting_fullness():
            return await self._messages.enqueue(parcels)

    async def cast(self, push: Push, devices: Sequence[str]) -> list[Receipt]:
        return await self._messages.cast([(push, device) for device in devices])

    async def cast_each(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        return await self._messages.cast(parcels)

    async def fetch(self, device: str, epoch: int, after: int, limit: int) -> list[Message]:
        return await self._messages.fetch(device, epoch, after, limit)

    async def ack(self, device: str, epoch: int, seqs: Sequence[int], state: ReceiptState) -> None:
        await self._messages.ack(Ack(device, epoch, seqs, state))

    async def ack_each(self, acks: Sequence[Ack]) -> list[Outcome]:
        return await self._messages.ack_each(acks)

    async def uplink(self, device: str, epoch: int, conn: str, entry: str, event: str, data: str) -> None:
        await self._messages.uplink(Uplink(device, epoch, conn, entry, event, data))

    async def uplink_each(self, uplinks: Sequence[Uplink]) -> list[Outcome]:
        return await self._messages.uplink_each(uplinks)

    # ---- streams ----

    async def append(self, stream: Stream, fields: Mapping[str, str]) -> str:
        return await self._streams.append(stream, fields)

    async def take(self, stream: Stream, limit: int) -> list[Entry]:
        return await self._group(stream).take(limit)

    async def done(self, stream: Stream, ids: Sequence[str]) -> None:
        await self._group(stream).done(ids)

    def _group(self, stream: Stream) -> Group:
        if stream not in self._groups:
            raise ValueError(f"{stream} is not a stream that pushd takes from")
        return self._groups[stream]

    async def read_stream(self, stream: Stream, after: str, limit: int, wait: float = 0.0) -> list[Entry]:
        return await self._streams.read(stream, after, limit, wait)

    async def newest(self, stream: Stream) -> str:
        return await self._streams.newest(stream)

    # ---- what is known ----

    async def members(self, topic: str | None, after: str, limit: int) -> list[str]:
        return await self._directory.members(topic, after, limit)

    async def device(self, device: str) -> DeviceRecord | None:
        return await self._directory.device(device)

    async def devices(self, after: str, limit: int, online: bool) -> list[DeviceRecord]:
        return await self._directory.devices(after, limit, online)

    async def permit(self, device: str, token: str | None) -> None:
        await self._directory.permit(device, token)

    async def token_of(self, device: str) -> str | None:
        return await self._directory.token_of(device)

    async def counts(self) -> Counts:
        known, online, waiting = await self._directory.totals()
        return Counts(known, online, waiting, await self._streams.lengths())

    async def ping(self) -> None:
        key = self._context.keys.meta
        with self._noting_fullness():
            await self._context.client.execute(key, "HINCRBY", key, "ping", 1)
        self._context.lease.check()

    @contextlib.contextmanager
    def _noting_fullness(self) -> Iterator[None]:
        """Around a write that makes the store grow: remember whether it is full."""
        try:
            yield
        except StoreUnavailable as error:
            self._full = error if isinstance(error.__cause__, OutOfMemoryError) else None
            raise
        self._full = None


_ADVICE: Final = {
    "version": "all nodes must be of releases that understand each other; upgrade the older ones",
    "partitions": "set store.partitions = {theirs}, or choose another store.prefix for a new deployment",
}
