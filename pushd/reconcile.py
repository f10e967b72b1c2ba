"""Which of the devices that a service thinks online are not: the store is asked, `reconciled` has the answer."""

from collections.abc import Sequence
from typing import Final

import trio

from pushd import jsonbytes
from pushd.model import Stream
from pushd.node import Node

PAGE: Final = 500  # devices in one call of the store


async def reconcile(node: Node, id: str, devices: Sequence[str], now: float) -> list[str]:
    """Those of the devices that are not alive, in the given order; stale bindings among them are ended.

    Also appends `id offline ts` to the `reconciled` stream; `now` is Unix seconds. Raises StoreUnavailable; it may be
    asked again.
    """
    offline: list[str] = []
    for start in range(0, len(devices), PAGE):
        await trio.lowlevel.checkpoint()
        with node.metrics.store_call("reconcile"):
            offline += await node.store.reconcile(devices[start : start + PAGE])
    with node.metrics.store_call("append"):
        await node.store.append(Stream.RECONCILED, {"id": id, "offline": jsonbytes.encode(offline), "ts": f"{now:.3f}"})
    return offline
