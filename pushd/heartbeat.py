"""Alive times: collected from all connections of the node and written in batches, never one write per ping."""

import enum
import logging
import math
from collections.abc import Sequence
from typing import Final

import trio

from pushd.errors import StoreUnavailable
from pushd.hub import Holder
from pushd.node import Node

log = logging.getLogger(__name__)

CHUNK: Final = 200  # devices in one call of the store
GAP: Final = 3  # intervals without a whole flush after which everybody's time is written anew


class Flush(enum.Enum):
    """What became of a flush."""

    DONE = "done"
    STORE_AWAY = "store away"


class Heartbeat:
    """Writes, every `interval` seconds, who has been heard since the last time.

    While the store is away nothing is forgotten: the next flush reaches back to the last whole one. After a gap (an
    outage, a suspended process) it writes everybody who is connected, because a connection that is open has been heard
    within its ping timeout, and their times in the store have grown old through no fault of theirs.
    """

    def __init__(self, node: Node, interval: float) -> None:
        self._node = node
        self._interval = interval
        self._flushed = -math.inf  # start of the last whole flush, in Trio time

    async def run(self) -> None:
        """Flush for ever."""
        while True:
            await self.flush()
            await trio.sleep(self._interval)

    async def flush(self) -> Flush:
        """Write who is alive; devices that the store gives to somebody else are told so."""
        begin = trio.current_time()
        due = [holder for holder in self._node.hub if self.stale or holder.seen >= self._flushed]
        try:
            for start in range(0, len(due), CHUNK):
                await self._beat(due[start : start + CHUNK])
        except StoreUnavailable as error:
            log.info("heartbeats wait for the store: %s", error)
            return Flush.STORE_AWAY
        self._flushed = begin
        return Flush.DONE

    @property
    def stale(self) -> bool:
        """Whether the last whole flush is too long ago to judge, by the store's times, who is alive."""
        return trio.current_time() - self._flushed > GAP * self._interval

    async def _beat(self, holders: Sequence[Holder]) -> None:
        epochs = {holder.device: holder.epoch for holder in holders}
        with self._node.metrics.store_call("beat"):
            lost = await self._node.store.beat(list(epochs.items()))
        for device in lost:
            self._node.hub.lost(device, epochs[device])
