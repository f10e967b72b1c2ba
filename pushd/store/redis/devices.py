"""What is known of devices: records, members of topics, totals, and forgetting."""

import heapq
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Final

from pushd.model import DeviceRecord
from pushd.store.redis.context import Context, node_of, side_by_side
from pushd.store.redis.keys import Bucket
from pushd.store.redis.scripts import Script

FORGET: Final = Script("forget")
PERMIT: Final = Script("permit")
STEP: Final = 500  # devices looked at together
_FACTS: Final = ("e", "n", "c", "t", "o", "s")  # the last, its highest seq, may be all there is of a device


class Directory:
    """The part of `Store` that lists and forgets."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._forgetting: dict[int, str] = {}  # bucket -> the device looked at last

    async def members(self, topic: str | None, after: str, limit: int) -> list[str]:
        """See `Store.members`."""
        pages: list[list[str]] = []

        async def one(bucket: Bucket) -> None:
            pages.append(await self._page(bucket, bucket.all if topic is None else bucket.topic(topic), after, limit))

        await side_by_side([partial(one, bucket) for bucket in self._context.keys.buckets])
        return list(islice(heapq.merge(*pages), limit))

    async def _page(self, bucket: Bucket, key: str, after: str, limit: int) -> list[str]:
        start = f"({after}" if after else "-"
        names = await self._context.client.execute(key, "ZRANGEBYLEX", key, start, "+", "LIMIT", 0, limit)
        return [name.decode() for name in names]

    async def device(self, device: str) -> DeviceRecord | None:
        """See `Store.device`."""
        bucket = self._context.keys.of(device)
        [record] = await self._records(bucket, [device])
        return record

    async def devices(self, after: str, limit: int, online: bool) -> list[DeviceRecord]:
        """See `Store.devices`."""
        found: list[DeviceRecord] = []
        while len(found) < limit:
            names = await self.members(None, after, STEP if online else limit - len(found))
            found += [record for record in await self._all_records(names) if record.online or not online]
            if not names:
                break
            after = names[-1]
        return found[:limit]

    async def _all_records(self, devices: Sequence[str]) -> list[DeviceRecord]:
        records: list[DeviceRecord | None] = [None] * len(devices)

        async def some(bucket: Bucket, places: Sequence[int]) -> None:
            found = await self._records(bucket, [devices[place] for place in places])
            for place, record in zip(places, found, strict=True):
                records[place] = record

        parts = self._context.keys.parts(devices, STEP)
        await side_by_side([partial(some, bucket, places) for bucket, places in parts])
        return [record for record in records if record is not None]

    async def _records(self, bucket: Bucket, devices: Sequence[str]) -> list[DeviceRecord | None]:
        commands: list[tuple[str, ...]] = []
        for device in devices:
            commands.append(("HMGET", bucket.device(device), *_FACTS))
            commands.append(("ZSCORE", bucket.alive, device))
            commands.append(("LLEN", bucket.inbox(device)))
        replies = await self._context.client.pipeline(bucket.alive, commands)
        return [
            _record(device, *facts)
            for device, *facts in zip(devices, replies[::3], replies[1::3], replies[2::3], strict=True)
        ]

    async def permit(self, device: str, token: str | None) -> None:
        """See `Store.permit`."""
        bucket, runner = self._context.keys.of(device), self._context.runner
        facts = (device,) if token is None else (device, token)
        await runner.in_time(bucket.alive, lambda until: runner.run(PERMIT, (bucket.legal,), until, *facts))

    async def token_of(self, device: str) -> str | None:
        """See `Store.token_of`."""
        key = self._context.keys.of(device).legal
        token: bytes | None = await self._context.client.execute(key, "HGET", key, device)
        return None if token is None else token.decode(errors="replace")

    async def totals(self) -> tuple[int, int, int]:
        """How many devices are known, how many are online, how many messages wait."""
        sums = [0, 0, 0]

        async def one(bucket: Bucket) -> None:
            commands = [("ZCARD", bucket.all), ("ZCARD", bucket.alive), ("GET", bucket.waiting)]
            for place, count in enumerate(await self._context.client.pipeline(bucket.all, commands)):
                sums[place] += int(count or 0)

        await side_by_side([partial(one, bucket) for bucket in self._context.keys.buckets])
        return sums[0], sums[1], sums[2]

    async def forget(self, bucket: Bucket) -> None:
        """Look at the next devices of a bucket, and forget those long idle."""
        after = self._forgetting.get(bucket.number, "")
        devices = await self._page(bucket, bucket.all, after, STEP)
        self._forgetting[bucket.number] = devices[-1] if len(devices) == STEP else ""
        limits = self._context.limits
        now = await self._context.runner.now(bucket.all)
        before = int((now - max(limits.forget_after, limits.dedupe)) * 1_000)
        commands = [("HMGET", bucket.device(device), "n", "t", "s", "o") for device in devices]
        replies = await self._context.client.pipeline(bucket.all, commands)
        for device, (holder, changed, seq, topics) in zip(devices, replies, strict=True):
            touched = max(int(changed or 0), int(seq or 0) // 1_000)
            if holder is None and touched < before:
                await self._forget(bucket, device, before, (topics or b"").decode())

    async def _forget(self, bucket: Bucket, device: str, before: int, topics: str) -> None:
        keys = [bucket.device(device), bucket.inbox(device), bucket.marks(device), bucket.all, bucket.floor]
        keys += [bucket.topic(topic) for topic in topics.split(",") if topic]
        await self._context.runner.run(FORGET, keys, device, before, topics)


def _record(device: str, facts: Sequence[bytes | None], seen: float | None, inbox: int) -> DeviceRecord | None:
    if not any(facts) and not inbox:
        return None
    epoch, holder, conn, since, topics, _ = [(fact or b"").decode() for fact in facts]
    begun = int(since or 0) / 1_000
    return DeviceRecord(
        device=device,
        online=bool(holder),
        node=node_of(holder),
        conn=conn,
        epoch=int(epoch or 0),
        since=begun,
        seen=begun if seen is None else seen / 1_000,
        inbox=inbox,
        topics=tuple(topics.split(",")) if topics else (),
    )
