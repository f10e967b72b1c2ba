"""Who holds a device: login, takeover, alive times and every way to end."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import trio

from pushd.errors import StoreUnavailable
from pushd.model import Binding, Bound, Throttled
from pushd.store.redis.context import WHOLE, Context, micros, node_of, side_by_side
from pushd.store.redis.control import tell
from pushd.store.redis.keys import Bucket
from pushd.store.redis.replies import Argument
from pushd.store.redis.rounds import Rounds
from pushd.store.redis.scripts import MOST, Script
from pushd.store.staleness import Staleness

ADMITS: Final = Script("admits")
LOGIN: Final = Script("login")
END: Final = Script("end")
BEAT: Final = Script("beat")
STALE: Final = Script("stale")

LOGINS: Final = 64  # in one call: each changes half a dozen keys there, and wakes a task here that has much to do


class _Login(NamedTuple):
    """What a login asks for. Topics are joined by commas; `old`: those that the device is assumed to have."""

    device: str
    conn: str
    new: str
    old: str


class Bindings:
    """The part of `Store` that is about bindings. Logins of many tasks go in rounds, as does the question before."""

    def __init__(self, context: Context, nursery: trio.Nursery) -> None:
        self._context = context
        buckets = context.keys.buckets
        self._asked = [Rounds(partial(self._ask, bucket), nursery, LOGINS) for bucket in buckets]
        self._logins = [Rounds(partial(self._log_in, bucket), nursery, LOGINS) for bucket in buckets]
        self._staleness: dict[int, Staleness] = {}  # each bucket's server has a clock of its own

    async def begin(self) -> None:
        """From now on it counts how long devices are silent. Raises StoreUnavailable."""

        async def one(bucket: Bucket) -> None:
            now = await self._context.runner.now(bucket.alive)
            self._staleness[bucket.number] = Staleness(self._context.limits.stale_after, now)

        await side_by_side([partial(one, bucket) for bucket in self._context.keys.buckets])

    async def admits(self, device: str) -> Throttled | None:
        """See `Store.admits`."""
        wait = await self._asked[self._context.keys.of(device).number].call(device)
        return None if wait is None else Throttled(int(wait) / WHOLE)

    async def _ask(self, bucket: Bucket, devices: Sequence[str]) -> Sequence[bytes | None]:
        limits = self._context.limits
        window = micros(limits.takeover_window)
        keys = [bucket.device(device) for device in devices]
        answer: list[bytes | None] = await self._context.runner.run(ADMITS, keys, limits.takeovers, window)
        return answer

    async def login(self, device: str, conn: str, topics: Sequence[str]) -> Bound | Throttled:
        """See `Store.login`."""
        self._context.lease.check()
        rounds = self._logins[self._context.keys.of(device).number]
        new, old = ",".join(sorted(set(topics))), ""
        while True:
            outcome = await rounds.call(_Login(device, conn, new, old))
            if not isinstance(outcome, str):
                return outcome
            old = outcome

    async def _log_in(self, bucket: Bucket, logins: Sequence["_Login"]) -> Sequence[Bound | Throttled | str]:
        """For each what came of it, or the topics that the device has had if the assumption about them was wrong."""
        context, limits = self._context, self._context.limits
        context.lease.check()
        me = context.lease.incarnation
        keys = [bucket.alive, bucket.bound(me), bucket.status, bucket.all, bucket.floor]
        facts: list[Argument] = []
        for login in logins:
            keys += (bucket.device(login.device), bucket.inbox(login.device))
            if login.new or login.old:
                keys += [bucket.topic(topic) for topic in (*login.new.split(","), *login.old.split(",")) if topic]
            facts += login
        common = (limits.takeovers, micros(limits.takeover_window), context.keys.channels)
        run = context.runner.run_confirmed
        _, *answers = await context.runner.in_time(
            bucket.alive, lambda until: run(LOGIN, keys, me, until, *common, *facts)
        )
        return [self._outcome(login, answer, me) for login, answer in zip(logins, answers, strict=True)]

    def _outcome(self, login: "_Login", answer: Sequence[Any], me: str) -> Bound | Throttled | str:
        kind, value = answer[0], answer[1].decode()
        if kind == b"throttled":
            return Throttled(int(value) / WHOLE)
        if kind == b"topics":
            return str(value)
        previous = _previous(login.device, answer[2].decode())
        if kind == b"bound" and previous is not None and previous[0] == me:
            tell(self._context.control.kick, login.device, previous[1].epoch, "takeover", login.conn)
        return Bound(int(value), previous[1] if previous else None, answer[3] > 0)

    async def logout(self, device: str, epoch: int, reason: str) -> bool:
        """See `Store.logout`."""
        me = self._context.lease.incarnation
        return bool(await self._end(self._context.keys.of(device), [device], me, ("epoch", epoch), reason))

    async def kick(self, device: str, reason: str, by: str) -> bool:
        """See `Store.kick`."""
        bucket = self._context.keys.of(device)
        while True:
            key = bucket.device(device)
            epoch, holder = await self._context.client.execute(bucket.alive, "HMGET", key, "e", "n")
            if holder is None:
                return False
            if await self._end(bucket, [device], holder.decode(), ("epoch", epoch), reason, by):
                return True  # else another login was faster

    async def beat(self, alive: Sequence[tuple[str, int]]) -> list[str]:
        """See `Store.beat`."""
        context = self._context
        context.lease.check()
        lost: list[str] = []
        for bucket, places in context.keys.parts([device for device, _ in alive], MOST):
            some = [alive[place] for place in places]
            keys = [bucket.alive, *[bucket.device(device) for device, _ in some]]
            facts = [fact for pair in some for fact in pair]
            lost += [name.decode() for name in await context.runner.run(BEAT, keys, context.lease.incarnation, *facts)]
        return lost

    async def reconcile(self, devices: Sequence[str]) -> list[str]:
        """See `Store.reconcile`."""
        gone: set[str] = set()
        for bucket, places in self._context.keys.parts(devices, MOST):
            some = [devices[place] for place in places]
            before = await self._stale_before(bucket)
            seen = await self._context.client.execute(bucket.alive, "ZMSCORE", bucket.alive, *some)
            gone.update(device for device, when in zip(some, seen, strict=True) if when is None)
            stale = [device for device, when in zip(some, seen, strict=True) if when is not None and when < before]
            gone.update(await self._end_stale(bucket, stale, before))
        return [device for device in devices if device in gone]

    # What the sweeper does.

    async def end_dead(self, bucket: Bucket, incarnation: str) -> int:
        """End all that a dead incarnation holds in a bucket; answers how many. When it returns, nothing is left."""
        ended = 0
        while True:
            key = bucket.bound(incarnation)
            names = await self._context.client.execute(bucket.alive, "SRANDMEMBER", key, MOST)
            if not names:
                return ended
            devices = [name.decode() for name in names]
            ended += len(await self._end(bucket, devices, incarnation, ("node", incarnation), "node lost"))

    async def end_stale(self, bucket: Bucket) -> int:
        """End bindings of a bucket that have not been heard of for too long; answers how many."""
        now = await self._context.runner.now(bucket.alive)
        staleness = self._staleness_of(bucket)
        before = staleness.before(now) * 1_000
        ended = 0
        while True:
            limit = "-inf" if before < 0 else int(before)
            names = await self._context.runner.run(STALE, (bucket.alive,), limit, MOST)
            if before < 0 or not names:
                break
            ended += len(await self._end_stale(bucket, [name.decode() for name in names], before))
        staleness.swept(now)
        return ended

    async def _stale_before(self, bucket: Bucket) -> float:
        """Unix milliseconds: who was not seen since is stale. Minus infinity: nobody can be called so."""
        now = await self._context.runner.now(bucket.alive)
        return self._staleness_of(bucket).before(now) * 1_000

    def _staleness_of(self, bucket: Bucket) -> Staleness:
        if bucket.number not in self._staleness:
            raise StoreUnavailable("this node has not begun yet, and cannot judge")
        return self._staleness[bucket.number]

    async def _end_stale(self, bucket: Bucket, devices: Sequence[str], before: float) -> list[str]:
        """End those that are stale still, and have their nodes close them; those that nobody holds any more."""
        if not devices:
            return []
        commands = [("HGET", bucket.device(device), "n") for device in devices]
        holders = await self._context.client.pipeline(bucket.alive, commands)
        gone: list[str] = []
        for holder in dict.fromkeys(holders):
            theirs = [device for device, held in zip(devices, holders, strict=True) if held == holder]
            name = (holder or b"").decode()
            by = node_of(self._context.lease.incarnation)
            gone += await self._end(bucket, theirs, name, ("stale", int(before)), "stale", by, or_free=True)
        return gone

    async def _end(
        self,
        bucket: Bucket,
        devices: Sequence[str],
        holder: str,
        condition: tuple[str, Argument],
        reason: str,
        by: str = "",
        *,
        or_free: bool = False,
    ) -> list[str]:
        """Those of the devices whose bindings ended now (`or_free`: or before). With `by`, their nodes are told."""
        context, me = self._context, self._context.lease.incarnation
        keys = [bucket.alive, bucket.bound(holder), bucket.status, *map(bucket.device, devices)]
        head = (me, holder, *condition, reason, by, context.keys.channels)
        answers = await context.runner.run(END, keys, *head, *devices)
        gone: list[str] = []
        for device, answer in zip(devices, answers, strict=True):
            if answer not in (b"kept", b"free"):
                epoch, _, incarnation = answer.decode().partition(" ")
                gone.append(device)
                if by and incarnation == me:
                    tell(context.control.kick, device, int(epoch), reason, by)
            elif or_free and answer == b"free":
                gone.append(device)
        return gone


def _previous(device: str, text: str) -> tuple[str, Binding] | None:
    """The incarnation and the binding that a login took over."""
    if not text:
        return None
    epoch, incarnation, conn = text.split(" ", 2)
    return incarnation, Binding(device, node_of(incarnation), conn, int(epoch))
