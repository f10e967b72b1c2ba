"""Events of devices on their way to the uplink stream: collected from all devices of the node, many in one call."""

import logging
import math
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from pushd.backoff import Backoff
from pushd.errors import StoreUnavailable
from pushd.failpoint import failpoint
from pushd.hub import Hub
from pushd.limits import Budget
from pushd.metrics import Metrics
from pushd.model import Outcome, Uplink
from pushd.store.base import Store

log = logging.getLogger(__name__)

MOST: Final = 200  # devices in one call of the store
SLOW: Final = 0.5  # seconds after which others do not wait for a call any more: a part of the store may be away


class Sayer(Protocol):
    """A device that has said something. Synchronous; may be asked and told after its end.

    Whatever `next` has answered with, exactly one of the others is called for it.
    """

    @property
    def device(self) -> str:
        """The device's id."""

    def next(self) -> Uplink | None:
        """Its oldest event that is not in the stream, on its way from now on; None after its end."""

    def written(self) -> None:
        """The event is in the stream."""

    def doubted(self) -> None:
        """It may be there or not; it is asked for again."""

    def refused(self) -> None:
        """The store says that the device is somebody else's."""

    def failed(self, error: Exception) -> None:
        """This event can never be written."""


class Uplinks:
    """Writes what devices say, at once when idle; what comes during a call goes with the next one.

    There is no task for each event: that took a third of what an event costs. Of each device one event is on its way
    at a time, so they keep their order. While the store is away it is tried again, ever more slowly.
    """

    def __init__(self, store: Store, metrics: Metrics, hub: Hub, rate: float) -> None:
        """`rate`: events a second that one device may send for long; beyond, its next one waits."""
        self._store = store
        self._metrics = metrics
        self._hub = hub
        self._budget = Budget(rate, 1.0)
        self._due: list[Sayer] = []
        self._trusted = -math.inf  # until then whoever writes is waited for
        self._doubted: list[Sayer] = []  # they wait for the store to come back
        self._backoff = Backoff()
        self._nursery: trio.Nursery

    def add(self, sayer: Sayer) -> None:
        """This device has said something, and nothing of it is on its way."""
        now = trio.current_time()
        wait = self._budget.take(sayer.device, now)
        if wait:
            self._nursery.start_soon(self._hold_back, sayer, wait)
        else:
            self._due.append(sayer)
            self._write_soon(now)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def _hold_back(self, sayer: Sayer, wait: float) -> None:
        """One device's flood waits here, so that the handler queue fills and its connection is not read (S14)."""
        await trio.sleep(wait)
        now = trio.current_time()
        self._budget.spend(sayer.device, now)
        self._due.append(sayer)
        self._write_soon(now)

    def _write_soon(self, now: float) -> None:
        if now >= self._trusted:
            self._trusted = now + SLOW
            self._nursery.start_soon(self._write_due)

    async def _write_due(self) -> None:
        """Write what is due, until nothing is. Two do that only while one of them is slow."""
        while self._due:
            some, self._due = self._due[:MOST], self._due[MOST:]
            uplinks = [(sayer, uplink) for sayer in some if (uplink := sayer.next()) is not None]
            if uplinks:
                self._trusted = trio.current_time() + SLOW
                await self._write(uplinks)
        self._trusted = -math.inf

    async def _write(self, uplinks: Sequence[tuple[Sayer, Uplink]]) -> None:
        failpoint("uplink.received")
        outcomes = [Outcome.UNKNOWN] * len(uplinks)
        try:
            with self._metrics.store_call("uplink"):
                outcomes = await self._store.uplink_each([uplink for _, uplink in uplinks])
        except StoreUnavailable as error:
            log.debug("the events of %d devices wait for the store: %s", len(uplinks), error)
        except trio.Cancelled:  # the node ends, and the devices finish by themselves
            for sayer, _ in uplinks:
                sayer.doubted()
            raise
        except Exception as error:  # noqa: BLE001 - what one of them triggers must not stop the others
            await self._write_one_by_one(uplinks, error)
            return
        failpoint("uplink.stored")
        self._tell([sayer for sayer, _ in uplinks], outcomes)

    async def _write_one_by_one(self, uplinks: Sequence[tuple[Sayer, Uplink]], error: Exception) -> None:
        if len(uplinks) == 1:
            uplinks[0][0].failed(error)
            return
        log.warning("the events of %d devices are written one by one: %r", len(uplinks), error)
        for uplink in uplinks:
            await self._write([uplink])

    def _tell(self, sayers: Sequence[Sayer], outcomes: Sequence[Outcome]) -> None:
        done, stale = Outcome.DONE, Outcome.STALE
        self._metrics.uplinks.inc(outcomes.count(done))
        with self._hub.together():
            for sayer, outcome in zip(sayers, outcomes, strict=True):
                if outcome is done:
                    sayer.written()
                elif outcome is stale:
                    sayer.refused()
                else:
                    sayer.doubted()
                    self._doubt(sayer)
        if not self._doubted:
            self._backoff = Backoff()

    def _doubt(self, sayer: Sayer) -> None:
        if not self._doubted:
            self._nursery.start_soon(self._try_again)
        self._doubted.append(sayer)

    async def _try_again(self) -> None:
        await self._backoff.sleep()
        self._due += self._doubted
        self._doubted = []
        self._write_soon(trio.current_time())
