"""A node's lease: while it is valid, nobody else may have ended what this node holds. Time is the server's.

A life of a node is an incarnation, `name~random`. It is over when a sweeper has declared it dead, or the store does not
know it (any more); it never comes back. An incarnation that could not renew its lease because the store was away for
everybody lives on.
"""

import logging
import math
import secrets
from collections.abc import Sequence
from typing import Any, Final

import trio

from pushd.backoff import Backoff
from pushd.errors import StoreUnavailable
from pushd.store.redis.keys import Keys
from pushd.store.redis.scripts import Runner, Script

log = logging.getLogger(__name__)

LEASE: Final = Script("lease")
LEAVE: Final = Script("leave")
LONGEST: Final = 1.0  # seconds between two tries to renew a lease: once the store is back, it must not run out
MARGIN: Final = 0.1  # part of a lease that is not made use of: clocks differ in speed, replies take time


class Lease:
    """Whether this node may act for its devices. Times in seconds."""

    def __init__(self, runner: Runner, keys: Keys, name: str, life: float, refresh: float) -> None:
        self._runner = runner
        self._keys = keys
        self._name = name
        self.life = life
        self._refresh = refresh
        self._renewed = -math.inf  # when the last renewal that succeeded was sent
        self._steady = math.inf  # since when renewals have succeeded one after the other, and the clock has not jumped
        self._offset = 0.0  # the server's time minus ours
        self.incarnation = self._new()

    def _new(self) -> str:
        return f"{self._name}~{secrets.token_hex(6)}"

    @property
    def valid(self) -> bool:
        """Is it certain that nobody has declared this node dead?"""
        return trio.current_time() - self._renewed < self.life * (1 - MARGIN)

    def check(self) -> None:
        """Raise StoreUnavailable while that is not certain."""
        if not self.valid:
            rule = "it does nothing for its devices until it can"
            raise StoreUnavailable(f"this node has not been able to renew its lease for {self.life:g} s: {rule}")

    @property
    def judges_until(self) -> int:
        """Until when (the server's Unix milliseconds) this node may say that others are dead; 0: it may not.

        Only who has seen a whole lease pass, with nothing unusual, may. And what it says must be heard at once: a
        server that was stopped meanwhile has let everybody's lease run out.
        """
        now = trio.current_time()
        if now - self._renewed > 2 * self._refresh or now - self._steady < self.life:
            return 0
        return round((now + self._offset + self._refresh) * 1_000)

    async def take(self) -> None:
        """Begin the incarnation. Raises StoreUnavailable; may be repeated."""
        await self._runner.now(self._keys.nodes)  # so that the deadline is exact: the last life may have been long
        await self._runner.in_time(self._keys.nodes, self._renew)
        log.debug("this node is %s", self.incarnation)

    async def keep(self) -> None:
        """Renew the lease as long as the incarnation lives; returns when it is over."""
        backoff = Backoff(min(LONGEST, self._refresh))
        pause = self._refresh
        while True:
            await trio.sleep(pause)
            try:
                _, alive = await self._renew()
                if not alive:
                    return
                backoff, pause = Backoff(min(LONGEST, self._refresh)), self._refresh
            except StoreUnavailable as error:
                if pause:  # the first of several times
                    log.info("the lease cannot be renewed: %s", error)
                await backoff.sleep()
                pause = 0.0

    async def leave(self) -> None:
        """Say goodbye: others need not wait for the end of the lease. Raises StoreUnavailable."""
        await self._runner.run(LEAVE, (self._keys.nodes,), self.incarnation)

    def begin_again(self) -> str:
        """The incarnation is over: from now on this node is another one. Answers the old one."""
        old, self.incarnation = self.incarnation, self._new()
        self._renewed = -math.inf
        return old

    async def bury(self, incarnation: str) -> None:
        """Make sure that sweepers know of an incarnation that is over. Raises StoreUnavailable."""
        await self._runner.run(LEAVE, (self._keys.nodes,), incarnation)

    async def _renew(self, until: int = 0) -> Sequence[Any]:
        """The script's answer; `until` is that of a new node, see lease.lua."""
        sent = trio.current_time()
        life = round(self.life * 1_000)
        now, *alive = await self._runner.run(LEASE, (self._keys.nodes,), self.incarnation, life, until)
        if alive == [1]:
            self._watch_clock(sent, now / 1_000_000)
            self._renewed = sent
        return now, *alive

    def _watch_clock(self, sent: float, now: float) -> None:
        """After a gap, or a jump of the server's clock, leases look older than they are: wait a whole one."""
        offset = now - sent
        jumped = abs(offset - self._offset) > self._refresh
        if jumped or sent - self._renewed > 2 * self._refresh:
            self._steady = sent
        self._offset = offset
