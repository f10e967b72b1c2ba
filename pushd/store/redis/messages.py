"""What goes to devices (enqueue, cast, fetch, ack, expiry) and what comes from them (uplink)."""

import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from pushd.errors import BadRequest, StaleEpoch
from pushd.model import Message, Push, Receipt, ReceiptState
from pushd.store.redis.context import WHOLE, Context, micros, side_by_side
from pushd.store.redis.control import pack_cast, tell
from pushd.store.redis.keys import Bucket
from pushd.store.redis.scripts import MOST, Script

ENQUEUE: Final = Script("enqueue")
CAST: Final = Script("cast")
FETCH: Final = Script("fetch")
ACK: Final = Script("ack")
EXPIRE: Final = Script("expire")
UPLINK: Final = Script("uplink")

_HEAD: Final = struct.Struct(">dd")  # of an inbox's entry: seq, expiry
_SIZE: Final = struct.Struct(">H")  # before a text in it
_HERE: Final = 10  # in the answer of enqueue: this node holds the device
_EXPIRED_INSIDE: Final = 4
_STATES: Final = {1: ReceiptState.STORED, 2: ReceiptState.DUPLICATE, 3: ReceiptState.REFUSED}


class Messages:
    """The part of `Store` that is about messages."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # To devices.

    async def enqueue(self, push: Push, devices: Sequence[str]) -> list[Receipt]:
        """See `Store.enqueue`."""
        if not push.id:
            raise BadRequest("id: must not be empty, every push without one would be taken for the same")
        entry = _pack(push.id, push.event, push.data)
        if len(devices) == 1:
            return await self._enqueue(self._context.keys.of(devices[0]), push, entry, devices)
        receipts: list[Receipt | None] = [None] * len(devices)

        async def some(bucket: Bucket, places: Sequence[int]) -> None:
            found = await self._enqueue(bucket, push, entry, [devices[place] for place in places])
            for place, receipt in zip(places, found, strict=True):
                receipts[place] = receipt

        await self._for_each_part(devices, some)
        return [receipt for receipt in receipts if receipt is not None]

    async def _enqueue(self, bucket: Bucket, push: Push, entry: bytes, devices: Sequence[str]) -> list[Receipt]:
        context, limits = self._context, self._context.limits
        keys = [bucket.receipt, bucket.all, bucket.expiries, bucket.waiting, bucket.floor]
        for device in devices:
            keys += (bucket.device(device), bucket.inbox(device), bucket.marks(device))
        message = (push.id, entry, micros(push.ttl), limits.inbox_max, micros(limits.dedupe))
        answer = await context.runner.run_confirmed(
            ENQUEUE, keys, context.lease.incarnation, *message, context.keys.channels, *devices
        )
        now, receipts = answer[0] / WHOLE, []
        for place, device in enumerate(devices):
            code, seq = answer[2 * place + 1], answer[2 * place + 2]
            if code >= _HERE:
                code -= _HERE
                if code <= 2:  # a duplicate too: the first answer may have been lost, and the wake-up with it
                    tell(context.control.wake, device)
            if code == _EXPIRED_INSIDE:
                await self.expire_of(bucket, device)
                receipts += await self._enqueue(bucket, push, entry, [device])
            else:
                reason = f"inbox full ({limits.inbox_max} messages wait)" if code == 3 else ""
                receipts.append(Receipt(push.id, device, _STATES[code], seq, now, reason))
        return receipts

    async def cast(self, push: Push, devices: Sequence[str]) -> list[Receipt]:
        """See `Store.cast`."""
        receipts: list[Receipt | None] = [None] * len(devices)

        async def some(bucket: Bucket, places: Sequence[int]) -> None:
            found = await self._cast(bucket, push, [devices[place] for place in places])
            for place, receipt in zip(places, found, strict=True):
                receipts[place] = receipt

        await self._for_each_part(devices, some)
        return [receipt for receipt in receipts if receipt is not None]

    async def _cast(self, bucket: Bucket, push: Push, devices: Sequence[str]) -> list[Receipt]:
        context = self._context
        keys = [bucket.receipt, *map(bucket.device, devices)]
        packed = pack_cast(push.id, push.event, push.data)
        answer = await context.runner.run(
            CAST, keys, context.lease.incarnation, push.id, packed, context.keys.channels, *devices
        )
        now, receipts, own = answer[0] / WHOLE, [], []
        message = Message(0, push.id, push.event, push.data, redelivered=False)
        for device, where in zip(devices, answer[1:], strict=True):
            sent = where == b"gone"
            if where == b"here":
                sent = context.lease.valid and bool(tell(context.control.cast, device, message))
            state, reason = (ReceiptState.DELIVERED, "") if sent else (ReceiptState.REFUSED, "offline")
            receipts.append(Receipt(push.id, device, state, 0, now, reason))
            if where == b"here":
                own.append(receipts[-1])
        await self._write_receipts(bucket, own)
        return receipts

    async def _write_receipts(self, bucket: Bucket, receipts: Sequence[Receipt]) -> None:
        key = bucket.receipt
        commands = [("XADD", key, "*", *_facts(receipt)) for receipt in receipts]
        await self._context.client.pipeline(key, commands)

    async def fetch(self, device: str, epoch: int, after: int, limit: int) -> list[Message]:
        """See `Store.fetch`."""
        context = self._context
        context.lease.check()
        bucket = context.keys.of(device)
        keys = _inbox_keys(bucket, device)
        messages: list[Message] = []
        while True:
            wanted = limit - len(messages)
            answer = await context.runner.run(FETCH, keys, context.lease.incarnation, epoch, device, after, wanted)
            if answer is None:
                raise _stale(device, epoch)
            sent, more = answer[0], answer[1]
            messages += [_unpack(entry, sent) for entry in answer[2:]]
            if not more:
                return messages
            after = messages[-1].seq if messages else after

    async def ack(self, device: str, epoch: int, seqs: Sequence[int], state: ReceiptState) -> None:
        """See `Store.ack`."""
        context = self._context
        context.lease.check()
        keys = _inbox_keys(context.keys.of(device), device)
        for start in range(0, max(len(seqs), 1), MOST):
            some = seqs[start : start + MOST]
            answer = await context.runner.run(ACK, keys, context.lease.incarnation, epoch, device, state.value, *some)
            if answer < 0:
                raise _stale(device, epoch)

    async def expire(self, bucket: Bucket) -> None:
        """Remove the messages of a bucket whose time is over."""
        while True:
            now = await self._context.runner.now(bucket.alive)
            names = await self._context.client.execute(
                bucket.alive, "ZRANGEBYSCORE", bucket.expiries, "-inf", micros(now), "LIMIT", 0, MOST
            )
            if not names:
                return
            await side_by_side([partial(self.expire_of, bucket, name.decode()) for name in names])

    async def expire_of(self, bucket: Bucket, device: str) -> None:
        """Remove the messages of one device whose time is over."""
        keys = (bucket.inbox(device), bucket.expiries, bucket.receipt, bucket.waiting)
        start, earliest = 0, b""
        while start >= 0:
            answer = await self._context.runner.run(EXPIRE, keys, device, start, MOST, earliest)
            _, start, earliest = answer

    # From devices.

    async def uplink(self, device: str, epoch: int, conn: str, entry: str, event: str, data: str) -> None:
        """See `Store.uplink`."""
        context = self._context
        context.lease.check()
        bucket = context.keys.of(device)
        keys = (bucket.device(device), bucket.uplink)
        facts = (context.lease.incarnation, epoch, device, conn, entry, event, data)
        if await context.runner.run_confirmed(UPLINK, keys, *facts) < 0:
            raise _stale(device, epoch)

    async def _for_each_part(
        self, devices: Sequence[str], deal: Callable[[Bucket, Sequence[int]], Awaitable[None]]
    ) -> None:
        """Deal with the devices of each bucket, side by side; those of one bucket in their order."""
        by_bucket: dict[Bucket, list[Sequence[int]]] = {}
        for bucket, places in self._context.keys.parts(devices, MOST):
            by_bucket.setdefault(bucket, []).append(places)

        async def in_order(bucket: Bucket, parts: list[Sequence[int]]) -> None:
            for places in parts:
                await deal(bucket, places)

        await side_by_side([partial(in_order, bucket, parts) for bucket, parts in by_bucket.items()])


def _inbox_keys(bucket: Bucket, device: str) -> tuple[str, ...]:
    """What fetch and ack work on."""
    return bucket.device(device), bucket.inbox(device), bucket.expiries, bucket.receipt, bucket.waiting


def _facts(receipt: Receipt) -> tuple[str | int, ...]:
    """A receipt as the fields of an entry."""
    about = ("id", receipt.id, "device", receipt.device, "state", receipt.state.value)
    return (*about, "seq", receipt.seq, "ts", f"{receipt.ts:.6f}", "reason", receipt.reason)


def _pack(id: str, event: str, data: str) -> bytes:
    """An inbox's entry without its head, which the script puts before it; see inbox.lua."""
    id_bytes, event_bytes = id.encode(), event.encode()
    return b"".join((_SIZE.pack(len(id_bytes)), id_bytes, _SIZE.pack(len(event_bytes)), event_bytes, data.encode()))


def _unpack(entry: bytes, sent: int) -> Message:
    """The message in an inbox's entry; `sent`: the highest seq that was sent before."""
    seq = int(_HEAD.unpack_from(entry)[0])
    id_end = 18 + _SIZE.unpack_from(entry, 16)[0]
    event_end = id_end + 2 + _SIZE.unpack_from(entry, id_end)[0]
    id, event, data = entry[18:id_end], entry[id_end + 2 : event_end], entry[event_end:]
    return Message(seq, id.decode(), event.decode(), data.decode(), redelivered=seq <= sent)


def _stale(device: str, epoch: int) -> StaleEpoch:
    return StaleEpoch(f"device {device} is not held with epoch {epoch} (any more)")
