"""Logouts that must reach the store, however long it is away: no `offline` is missing, and none is false."""

import logging
from functools import partial
from typing import Final

import trio

from pushd.backoff import persist
from pushd.errors import StoreUnavailable
from pushd.metrics import Metrics
from pushd.store.base import Store

log = logging.getLogger(__name__)

PATIENCE: Final = 5.0  # seconds for the first try
OWED_MAX: Final = 100_000  # logouts that are remembered while the store is away


class Goodbyes:
    """Says `logout` for devices that have gone; keeps what the store could not take and says it later.

    It remembers a bounded number; beyond, the oldest is forgotten and its binding is ended by the sweep for stale
    devices: late, never falsely. A logout names its epoch, so one that is late, or is said twice, changes nothing else.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._owed: dict[tuple[str, int], str] = {}
        self._more = trio.Event()

    async def say(self, device: str, epoch: int, reason: str) -> None:
        """Log the device out now, within a bounded time, or remember to. Goes on when its caller is cancelled."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
            try:
                await self._logout(device, epoch, reason)
                return
            except StoreUnavailable as error:
                log.debug("logout of %r waits for the store: %s", device, error)
        self._remember(device, epoch, reason)

    async def run(self) -> None:
        """Say what is owed, for ever."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            await self.settle()

    async def settle(self) -> None:
        """Return when nothing is owed any more. Bound it: a store may stay away."""
        while self._owed:
            device, epoch = key = next(iter(self._owed))
            reason = self._owed[key]
            await persist(partial(self._logout, device, epoch, reason))
            self._owed.pop(key, None)

    def __len__(self) -> int:
        """How many logouts are owed."""
        return len(self._owed)

    async def _logout(self, device: str, epoch: int, reason: str) -> None:
        with self._metrics.store_call("logout"):
            await self._store.logout(device, epoch, reason)

    def _remember(self, device: str, epoch: int, reason: str) -> None:
        self._owed[device, epoch] = reason
        if len(self._owed) > OWED_MAX:
            forgotten, _ = next(iter(self._owed))
            del self._owed[next(iter(self._owed))]
            log.warning("too many logouts wait for the store; that of %r is left to the sweep", forgotten)
        self._more.set()
