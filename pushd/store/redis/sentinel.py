"""The primary that sentinels watch: who it is, and noticing that it is another one."""

import logging
import random

import trio
from redis.exceptions import ResponseError

from pushd.errors import StoreUnavailable
from pushd.store.redis.address import Address, Endpoint
from pushd.store.redis.link import Link, Part, open_wire
from pushd.store.redis.replies import Misconfigured
from pushd.store.redis.wire import Wire

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two questions to a sentinel


class Sentinels:
    """Asks one sentinel as long as it answers, then another. `resolve` is what a Link asks for its server."""

    def __init__(self, address: Address, timeout: float, nursery: trio.Nursery) -> None:
        self._address = address
        self._timeout = timeout
        self._nursery = nursery
        self._order = random.sample(address.endpoints, len(address.endpoints))
        self._wire: Wire | None = None
        self._asking = trio.Lock()

    async def resolve(self) -> Endpoint:
        """Where the primary is. Raises StoreUnavailable if no sentinel says, Misconfigured if none knows its name."""
        problems: list[StoreUnavailable] = []
        async with self._asking:
            for _ in self._order:
                try:
                    return await self._ask()
                except StoreUnavailable as error:
                    problems.append(type(error)(f"sentinel {self._order[0]}: {error}"))
                    self._next()
        if all(isinstance(problem, Misconfigured) for problem in problems):
            raise problems[0]
        raise StoreUnavailable("; ".join(map(str, problems)))

    async def _ask(self) -> Endpoint:
        if self._wire is None or self._wire.failure is not None:
            patience = self._timeout / (len(self._order) + 1)  # one that is away must not use up all the time there is
            access = self._address.sentinel_access
            self._wire = await open_wire(self._nursery, self._order[0], access, patience, Part.SENTINEL)
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.name)
        [reply] = await self._wire.execute([command])
        if isinstance(reply, ResponseError):
            raise Misconfigured(f"it does not answer {' '.join(command)} ({reply})")
        if reply is None:
            raise Misconfigured(f"it watches no primary called {self._address.name!r}")
        host, port = reply
        return Endpoint(host.decode(), int(port))

    def _next(self) -> None:
        if self._wire is not None:
            self._wire.close("another sentinel is asked")
            self._wire = None
        self._order.append(self._order.pop(0))

    async def watch(self, link: Link) -> None:
        """Have the link connect anew as soon as the sentinels name another primary; until cancelled."""
        while True:
            await trio.sleep(LOOK)
            try:
                with trio.fail_after(self._timeout):
                    primary = await self.resolve()
            except (StoreUnavailable, trio.TooSlowError):
                continue  # who cannot say does not say that it is another; the link says what it lacks
            if link.is_up and primary != link.endpoint:
                log.warning("the sentinels' new primary is %s", primary)
                link.drop(f"the sentinels have made {primary} the primary")
