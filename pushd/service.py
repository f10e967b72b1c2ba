"""What services can ask of the daemon: the one place behind the admin interface and the streams."""

import collections
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

import trio

from engineio_trio.workers import Worker
from pushd import __version__
from pushd.hub import ADMIN
from pushd.metrics import Metrics
from pushd.model import Parcel, Push, Receipt, ReceiptState, Stream, as_json
from pushd.node import Node
from pushd.reconcile import reconcile
from pushd.requests import PushDefaults
from pushd.store.base import Store

log = logging.getLogger(__name__)

PAGE: Final = 500  # devices in one call of the store
RECEIPTS_MAX: Final = 10_000  # receipts in one answer; the receipt stream has them all
READ_WAIT: Final = 30.0  # seconds that one read of the receipt stream waits
STATS: Final = b"stats"  # the question of one worker to another
WAITING: Final = frozenset({ReceiptState.STORED})  # not final: the device has not confirmed it yet


class Service:
    """Pushing, kicking, reconciling, counting. May be used by many tasks at once."""

    def __init__(
        self, node: Node, defaults: PushDefaults, connections: Callable[[], int], worker: Worker | None = None
    ) -> None:
        """`connections` says how many connections are open, with or without a device.

        `worker`: the node is one of several on the same listeners, and speaks for all of them.
        """
        self.store: Store = node.store
        self.worker = worker
        self.metrics: Metrics = node.metrics
        self.defaults = defaults
        self._node = node
        self._connections = connections
        self._started = trio.current_time()
        self._not_ready: str | None = "starting"

    async def push(self, push: Push, wait: float = 0.0) -> list[Receipt]:
        """Put a push on its way; a receipt for each device, at most the first 10,000 (the stream has them all).

        With `wait` seconds, stored ones are waited for until the device has confirmed them, they expired, or the time
        is over: the receipts say how far each has come. Raises StoreUnavailable, when an unknown part has been done;
        the same push with the same id may be repeated.
        """
        position = await self.store.newest(Stream.RECEIPT) if wait > 0 else ""
        receipts: list[Receipt] = []
        async for page in self._spread(push):
            receipts += page[: RECEIPTS_MAX - len(receipts)]
        if wait > 0:
            with trio.move_on_after(wait):
                await self._follow(push.id, receipts, position)
        return receipts

    async def carry(self, push: Push) -> None:
        """As `push`, for a caller that has no use for the receipts."""
        async for _ in self._spread(push):
            pass

    async def carry_each(self, parcels: Sequence[Parcel]) -> None:
        """Carry pushes of one `qos` to one device each, in their order. Raises StoreUnavailable, as `push`."""
        qos = parcels[0][0].qos
        send, operation = (self.store.enqueue_each, "enqueue") if qos else (self.store.cast_each, "cast")
        with self.metrics.store_call(operation):
            receipts = await send(parcels)
        self._count(receipts)

    async def kick(self, device: str, reason: str, by: str = ADMIN) -> bool:
        """Disconnect a device for good: a stock client does not come back by itself. False if it is not connected."""
        with self.metrics.store_call("kick"):
            return await self.store.kick(device, reason, by)

    async def reconcile(self, id: str, devices: Sequence[str]) -> list[str]:
        """Those of the devices that are not alive, in order; also answered on the `reconciled` stream."""
        return await reconcile(self._node, id, devices, time.time())

    async def stats(self) -> dict[str, Any]:
        """What the node says of itself, and the store's totals under `store`. Raises StoreUnavailable.

        One of several workers says it of all of them together, and of each under `workers`.
        """
        counts = await self.store.counts()
        return {**await self._own_and_others(), "store": as_json(counts)}

    def own_stats(self) -> dict[str, Any]:
        """What the node says of itself alone."""
        return {
            "node": self._node.name,
            "pid": os.getpid(),
            "version": __version__,
            "uptime": round(trio.current_time() - self._started, 3),
            "connections": self._connections(),
            "devices": len(self._node.hub),
            "owed_logouts": len(self._node.goodbyes),
        }

    async def _own_and_others(self) -> dict[str, Any]:
        own = self.own_stats()
        if self.worker is None:
            return own
        answers = {self.worker.number: own}
        for number, answer in (await self.worker.ask(STATS)).items():
            answers[number] = json.loads(answer)
        workers = [answers[number] for number in sorted(answers)]
        sums = {name: sum(each[name] for each in workers) for name in ("connections", "devices", "owed_logouts")}
        common = {"node": own["node"].removesuffix(f"-{self.worker.number}"), "pid": os.getppid()}
        return {**own, **common, "uptime": max(each["uptime"] for each in workers), **sums, "workers": workers}

    def ready(self) -> str | None:
        """Why this node wants no work now (it is starting, or shutting down), or None."""
        return self._not_ready

    def set_ready(self, why_not: str | None) -> None:
        """From now on `ready` answers this."""
        self._not_ready = why_not

    async def _spread(self, push: Push) -> AsyncIterator[list[Receipt]]:
        """Give the push to its devices, page by page; what the store answered for each page."""
        send, operation = (self.store.enqueue, "enqueue") if push.qos else (self.store.cast, "cast")
        async for devices in self._targets(push.target):
            with self.metrics.store_call(operation):
                receipts = await send(push, devices)
            self._count(receipts)
            yield receipts

    def _count(self, receipts: Sequence[Receipt]) -> None:
        for state, count in collections.Counter(receipt.state for receipt in receipts).items():
            self.metrics.receipts(state, count)

    async def _targets(self, target: str) -> AsyncIterator[list[str]]:
        kind, _, name = target.partition(":")
        if kind == "device":
            yield [name]
            return
        after = ""
        while True:
            with self.metrics.store_call("members"):
                page = await self.store.members(name if kind == "topic" else None, after, PAGE)
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1]

    async def _follow(self, id: str, receipts: list[Receipt], position: str) -> None:
        """Replace the stored receipts by what becomes of them; returns when none is left."""
        waiting = {receipt.device: index for index, receipt in enumerate(receipts) if receipt.state in WAITING}
        while waiting:
            entries = await self.store.read_stream(Stream.RECEIPT, position, PAGE, READ_WAIT)
            for entry in entries:
                position = entry.id
                receipt = receipt_of(entry.fields)
                if receipt.id == id and receipt.state not in WAITING and receipt.device in waiting:
                    receipts[waiting.pop(receipt.device)] = receipt


def receipt_of(fields: Mapping[str, str]) -> Receipt:
    """The receipt in an entry of the receipt stream."""
    return Receipt(
        id=fields["id"],
        device=fields["device"],
        state=ReceiptState(fields["state"]),
        seq=int(fields["seq"]),
        ts=float(fields["ts"]),
        reason=fields.get("reason", ""),
    )


def fields_of(receipt: Receipt) -> dict[str, str]:
    """A receipt as the fields of an entry of the receipt stream."""
    return {name: str(value) for name, value in as_json(receipt).items()}
