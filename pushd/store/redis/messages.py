"""What goes to devices (enqueue, cast, fetch, ack, expiry) and what comes from them (uplink)."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from pushd.errors import BadRequest, StaleEpoch, StoreUnavailable
from pushd.model import Ack, Message, Outcome, Parcel, Receipt, ReceiptState, Uplink
from pushd.store.redis.context import WHOLE, Context, micros, side_by_side
from pushd.store.redis.control import hand_over, tell
from pushd.store.redis.entries import unpack_message
from pushd.store.redis.keys import Bucket
from pushd.store.redis.scripts import MOST, Script, packed

ENQUEUE: Final = Script("enqueue")
CAST: Final = Script("cast")
FETCH: Final = Script("fetch")
ACK: Final = Script("ack")
EXPIRE: Final = Script("expire")
UPLINK: Final = Script("uplink")

LANES: Final = 3  # calls that are under way for one batch: the server works on one while this node delivers the other's
LEAST: Final = 64  # parcels that are worth one more

_HERE: Final = 10  # in the answer of enqueue: this node holds the device
_SENT: Final = 20  # and: the message is marked as sent, so it is to be delivered
_EXPIRED_INSIDE: Final = 4
_STATES: Final = {
    1: ReceiptState.STORED,
    2: ReceiptState.DUPLICATE,
    3: ReceiptState.REFUSED,
    _EXPIRED_INSIDE: ReceiptState.REFUSED,
}

Item = TypeVar("Item", Ack, Uplink)


class Messages:
    """The part of `Store` that is about messages."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # To devices.

    async def enqueue(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """See `Store.enqueue_each`."""
        if not all(push.id for push, _ in parcels):
            raise BadRequest("id: must not be empty, every push without one would be taken for the same")
        return await self._in_parts(parcels, self._enqueue, LANES)

    async def _enqueue(self, bucket: Bucket, parcels: Sequence[Parcel]) -> list[Receipt]:
        context, limits = self._context, self._context.limits
        keys = [bucket.receipt, bucket.all, bucket.expiries, bucket.waiting, bucket.floor]
        messages: list[str | int] = []
        places: list[str | int] = []
        last, number = None, 0
        for push, device in parcels:
            keys += (bucket.device(device), bucket.inbox(device), bucket.marks(device))
            if push is not last:
                messages += (push.id, push.event, push.data, micros(push.ttl))
                last, number = push, number + 1
            places += (device, number)
        common = (limits.inbox_max, micros(limits.dedupe), limits.window, context.keys.channels)
        answer = await context.runner.run_confirmed(
            ENQUEUE, keys, context.lease.incarnation, *common, packed(messages), packed(places)
        )
        now, receipts, overdue = answer[0] / WHOLE, [], []
        certain = context.lease.valid
        with context.control.together():
            for place, (push, device) in enumerate(parcels):
                code, seq, tail = answer[3 * place + 1 : 3 * place + 4]
                sent, here = code >= _SENT, code % _SENT >= _HERE
                code %= _HERE
                if sent and here:
                    message = Message(seq, push.id, push.event, push.data, False)
                    hand_over(context.control, certain, device, message, tail)
                elif here and code <= 2:  # a duplicate too: the first answer, and the wake-up, may have been lost
                    tell(context.control.wake, device)
                if code == _EXPIRED_INSIDE:
                    overdue.append(place)
                reason = f"inbox full ({limits.inbox_max} messages wait)" if code >= 3 else ""
                receipts.append(Receipt(push.id, device, _STATES[code], seq, now, reason))
        for place in overdue:
            await self.expire_of(bucket, parcels[place][1])
            [receipts[place]] = await self._enqueue(bucket, [parcels[place]])
        return receipts

    async def cast(self, parcels: Sequence[Parcel]) -> list[Receipt]:
        """See `Store.cast_each`."""
        return await self._in_parts(parcels, self._cast, 1)

    async def _cast(self, bucket: Bucket, parcels: Sequence[Parcel]) -> list[Receipt]:
        """One call for all; what this node has the connections of is sent when it returns, so at most once."""
        context = self._context
        certain, holds = context.lease.valid, context.control.holds
        keys = [bucket.receipt]
        messages: list[str] = []
        places: list[str | int | bool] = []
        last, number = None, 0
        for push, device in parcels:
            keys.append(bucket.device(device))
            if push is not last:
                messages += (push.id, push.event, push.data)
                last, number = push, number + 1
            places += (device, number, certain and holds(device))
        facts = (context.keys.channels, packed(messages), packed(places))
        run, me = context.runner.run, context.lease.incarnation
        answer = await context.runner.in_time(bucket.alive, lambda until: run(CAST, keys, me, until, *facts))
        now, receipts = answer[0] / WHOLE, []
        delivered, refused = (ReceiptState.DELIVERED, ""), (ReceiptState.REFUSED, "offline")
        with context.control.together():
            for where, (push, device) in zip(answer[1:], parcels, strict=True):
                sent = where == b"gone"
                if where == b"here":
                    message = Message(0, push.id, push.event, push.data, False)
                    sent = bool(tell(context.control.cast, device, message))
                state, reason = delivered if sent else refused
                receipts.append(Receipt(push.id, device, state, 0, now, reason))
        return receipts

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
            messages += [unpack_message(entry, sent) for entry in answer[2:]]
            if not more:
                return messages
            after = messages[-1].seq if messages else after

    async def ack(self, ack: Ack) -> None:
        """See `Store.ack`."""
        self._context.lease.check()
        bucket = self._context.keys.of(ack.device)
        for start in range(0, max(len(ack.seqs), 1), MOST):
            (count,) = await self._ack(bucket, [ack._replace(seqs=ack.seqs[start : start + MOST])])
            if count < 0:
                raise _stale(ack.device, ack.epoch)

    async def ack_each(self, acks: Sequence[Ack]) -> list[Outcome]:
        """See `Store.ack_each`."""
        return await self._each(acks, self._ack)

    async def _ack(self, bucket: Bucket, acks: Sequence[Ack]) -> Sequence[int]:
        """For each how many of its messages were there, -1 if its epoch is stale."""
        keys = [bucket.expiries, bucket.receipt, bucket.waiting]
        for ack in acks:
            keys += (bucket.device(ack.device), bucket.inbox(ack.device))
        counts: list[int] = await self._context.runner.run(ACK, keys, self._context.lease.incarnation, packed(acks))
        return counts

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
        start, earliest, last = 0, b"", b""
        while start >= 0:
            answer = await self._context.runner.run(EXPIRE, keys, device, start, MOST, earliest, last)
            _, start, earliest, last = answer

    # From devices.

    async def uplink(self, uplink: Uplink) -> None:
        """See `Store.uplink`."""
        self._context.lease.check()
        (answer,) = await self._uplink(self._context.keys.of(uplink.device), [uplink])
        if answer < 0:
            raise _stale(uplink.device, uplink.epoch)

    async def uplink_each(self, uplinks: Sequence[Uplink]) -> list[Outcome]:
        """See `Store.uplink_each`."""
        return await self._each(uplinks, self._uplink)

    async def _uplink(self, bucket: Bucket, uplinks: Sequence[Uplink]) -> Sequence[int]:
        """For each -1 if its epoch is stale."""
        keys = [bucket.uplink, *[bucket.device(uplink.device) for uplink in uplinks]]
        runner, me = self._context.runner, self._context.lease.incarnation
        answer: list[int] = await runner.run_confirmed(UPLINK, keys, me, packed(uplinks))
        return answer

    # Of many devices.

    async def _each(
        self, items: Sequence[Item], deal: Callable[[Bucket, Sequence[Item]], Awaitable[Sequence[int]]]
    ) -> list[Outcome]:
        """Deal with what is of each bucket, side by side: what became of each. A negative answer is a stale epoch."""
        self._context.lease.check()
        outcomes = [Outcome.UNKNOWN] * len(items)

        stale, done = Outcome.STALE, Outcome.DONE

        async def some(bucket: Bucket, places: Sequence[int]) -> None:
            answers = await deal(bucket, [items[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                outcomes[place] = stale if answer < 0 else done

        parts = self._context.keys.parts([item.device for item in items], MOST)
        try:
            await side_by_side([partial(some, bucket, places) for bucket, places in parts])
        except StoreUnavailable:
            if len(parts) == 1:
                raise
        return outcomes

    async def _in_parts(
        self,
        parcels: Sequence[Parcel],
        deal: Callable[[Bucket, Sequence[Parcel]], Awaitable[list[Receipt]]],
        lanes: int,
    ) -> list[Receipt]:
        """Deal with each bucket, in up to so many lanes, side by side; with what is of one device in its order."""
        keys = self._context.keys
        if len(parcels) == 1:
            return await deal(keys.of(parcels[0][1]), parcels)
        receipts: dict[int, Receipt] = {}

        async def in_order(bucket: Bucket, places: Sequence[int]) -> None:
            for start in range(0, len(places), MOST):
                some = places[start : start + MOST]
                found = await deal(bucket, [parcels[place] for place in some])
                receipts.update(zip(some, found, strict=True))

        devices = [device for _, device in parcels]
        parts = keys.parts(devices, len(devices))
        calls = [partial(in_order, bucket, lane) for bucket, places in parts for lane in _lanes(devices, places, lanes)]
        await side_by_side(calls)
        return [receipts[place] for place in range(len(parcels))]


def _lanes(devices: Sequence[str], places: Sequence[int], most: int) -> list[Sequence[int]]:
    """The places in as many lists as are worth it, all of one device in the same."""
    count = min(most, 1 + len(places) // LEAST)
    if count == 1:
        return [places]
    lanes: list[list[int]] = [[] for _ in range(count)]
    of: dict[str, list[int]] = {}
    for place in places:
        of.setdefault(devices[place], lanes[len(of) % count]).append(place)
    return [lane for lane in lanes if lane]


def _inbox_keys(bucket: Bucket, device: str) -> tuple[str, ...]:
    """What fetch and ack work on."""
    return bucket.device(device), bucket.inbox(device), bucket.expiries, bucket.receipt, bucket.waiting


def _stale(device: str, epoch: int) -> StaleEpoch:
    return StaleEpoch(f"device {device} is not held with epoch {epoch} (any more)")
