"""Confirmations of delivered messages: collected from all devices of the node and written many in one call."""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from pushd.errors import StoreUnavailable
from pushd.failpoint import failpoint
from pushd.metrics import Metrics
from pushd.model import Ack, Outcome, ReceiptState
from pushd.store.base import Store

log = logging.getLogger(__name__)

MOST: Final = 200  # devices in one call of the store


class Confirmer(Protocol):
    """A device that has something to confirm. Synchronous; may be asked and told after its end."""

    def unwritten(self) -> list[Ack]:
        """What has been confirmed, and is not yet in the store."""

    def written(self, ack: Ack) -> int:
        """The store has this. How many of it are new to the device: `finish` may have come before."""

    def doubted(self) -> None:
        """The store does not know the epoch any more, or was away: the device must find out for itself."""


class Confirmations:
    """Writes what devices have confirmed, at once when idle; what comes during a call goes with the next one.

    It is the short way, without a task's turn for each message (measured: 75 us of 350 a message). Whatever does not
    go well is the device's own affair again, which waits for the store, or ends: nobody is held up by another.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._due: dict[Confirmer, None] = {}
        self._work = trio.Event()

    def add(self, confirmer: Confirmer) -> None:
        """This device has something to confirm."""
        self._due[confirmer] = None
        self._work.set()

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            while self._due:
                some = list(self._due)[:MOST]
                for confirmer in some:
                    del self._due[confirmer]
                await self._write([(confirmer, ack) for confirmer in some for ack in confirmer.unwritten()])

    async def _write(self, acks: Sequence[tuple[Confirmer, Ack]]) -> None:
        failpoint("ack.received")
        outcomes = await self._call([ack for _, ack in acks])
        failpoint("ack.stored")
        counts, done = dict.fromkeys(ReceiptState, 0), Outcome.DONE
        for (confirmer, ack), outcome in zip(acks, outcomes, strict=True):
            if outcome is done:
                counts[ack.state] += confirmer.written(ack)
            else:
                confirmer.doubted()
        for state, count in counts.items():
            if count:
                self._metrics.receipts(state, count)

    async def _call(self, acks: Sequence[Ack]) -> Sequence[Outcome]:
        try:
            with self._metrics.store_call("ack"):
                return await self._store.ack_each(acks)
        except StoreUnavailable as error:
            log.debug("the confirmations of %d devices wait for the store: %s", len(acks), error)
        except Exception:  # what one of them triggers must not stop the others: each tries by itself
            log.exception("confirmations cannot be written; each device tries by itself")
        return [Outcome.UNKNOWN] * len(acks)
