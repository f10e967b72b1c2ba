"""A Redis Cluster: which master serves a slot, and following a slot that has moved or is on the move."""

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Final

import trio
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError

from pushd.backoff import Backoff
from pushd.errors import StoreUnavailable
from pushd.store.redis.address import Address, Endpoint
from pushd.store.redis.link import LONGEST, Link, Part, always, open_wire
from pushd.store.redis.replies import Command, Misconfigured, Reply
from pushd.store.redis.routing import Master, Send

log = logging.getLogger(__name__)

REFRESH: Final = 30.0  # seconds after which the map is asked for again, with nothing wrong
PAUSE: Final = (0.2, 0.4)  # seconds between two refreshes at least, however many tasks find the map stale
AGAIN: Final = 0.05  # seconds before a command is sent again that needs keys on both sides of a move
_ASKING: Final = ("ASKING",)


class Cluster:
    """The masters of a cluster, and the map of the slots that they serve."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._links: dict[Endpoint, Link] = {}
        self._scopes: dict[Endpoint, trio.CancelScope] = {}
        self._slots: list[Endpoint | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._known: list[Endpoint] = []  # masters and replicas
        self._nursery: trio.Nursery | None = None
        self._stale = trio.Event()
        self._changed = trio.Event()
        self._problem: StoreUnavailable = StoreUnavailable("the cluster's map of slots is not known yet")

    # Asking.

    async def execute(self, slot_key: str, commands: Sequence[Command], send: Send) -> list[Reply]:
        """The replies from the master that serves the key's slot, whichever that turns out to be."""
        slot = key_slot(slot_key.encode()) if slot_key else None
        try:
            replies = await send(self._serving(slot), commands)
            if any(isinstance(reply, AskError | TryAgainError) for reply in replies):
                return await self._follow(slot, commands, replies, send)
        except StoreUnavailable:
            self._stale.set()
            raise
        return replies

    def trouble(self) -> StoreUnavailable:
        """Why no master can be asked."""
        return self.link().trouble() if self._links else self._problem

    def link(self) -> Link:
        """A master that is up, or any. Every one hears what is published on any."""
        links = list(self._links.values())
        if not links:
            raise self._problem
        return next((link for link in links if link.is_up), links[0])

    def masters(self) -> list[Master]:
        """Each master that serves a slot, with a key of such a slot."""
        found: dict[Endpoint, Master] = {}
        served = {endpoint for endpoint in self._slots if endpoint is not None}
        number = 0
        while len(found) < len(served):
            endpoint = self._slots[key_slot(str(number).encode())]
            if endpoint is not None and endpoint not in found:
                found[endpoint] = Master(str(endpoint), str(number))
            number += 1
        return list(found.values())

    def _serving(self, slot: int | None) -> Link:
        if slot is None:
            return self.link()
        endpoint = self._slots[slot]
        if endpoint is None:
            raise StoreUnavailable(f"no master of the cluster serves slot {slot}") from self._problem
        return self._at(endpoint)

    async def _follow(
        self, slot: int | None, commands: Sequence[Command], replies: list[Reply], send: Send
    ) -> list[Reply]:
        """Have what was not carried out (MOVED, ASK, TRYAGAIN) carried out where it can be, in the same order."""
        with trio.move_on_after(self._timeout):
            while again := [
                index for index, reply in enumerate(replies) if isinstance(reply, AskError | TryAgainError)
            ]:
                fresh = await self._redirect(slot, replies[again[0]], [commands[index] for index in again], send)
                for index, reply in zip(again, fresh, strict=True):
                    replies[index] = reply
            return replies
        raise StoreUnavailable(f"slot {slot} of the cluster is on the move ({replies[again[0]]})")

    async def _redirect(
        self, slot: int | None, error: ResponseError, commands: Sequence[Command], send: Send
    ) -> list[Reply]:
        if isinstance(error, MovedError):
            endpoint = self._target(error, slot)
            self._slots[error.slot_id] = endpoint
            self._stale.set()
            return await send(self._at(endpoint), commands)
        if isinstance(error, AskError):
            asking = [each for command in commands for each in (_ASKING, command)]
            return (await send(self._at(self._target(error, slot)), asking))[1::2]
        await trio.sleep(AGAIN)
        return await send(self._serving(slot), commands)

    def _target(self, error: AskError, slot: int | None) -> Endpoint:
        if error.host and error.host != "?":
            return Endpoint(error.host.strip("[]"), error.port)
        asked = self._serving(slot).endpoint
        return Endpoint(asked.host if asked is not None else "", error.port)  # it means: on the host that you asked

    # Knowing whom to ask.

    async def run(self) -> None:
        """Keep the map and a link to each master, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            backoff = Backoff(LONGEST)
            while True:
                self._stale = trio.Event()
                try:
                    await self._refresh(nursery)
                except StoreUnavailable as error:
                    if str(error) != str(self._problem):
                        log.warning("%s", error)
                    self._problem = error
                    self._turn()
                    await backoff.sleep()
                    continue
                backoff = Backoff(LONGEST)
                await trio.sleep(random.uniform(*PAUSE))
                with trio.move_on_after(REFRESH):
                    await self._stale.wait()

    async def wait_up(self) -> None:
        """Wait until there is a map and a master. Raises Misconfigured as soon as a try fails for good."""
        while not self._links:
            if isinstance(self._problem, Misconfigured):
                raise self._problem
            await self._changed.wait()
        await self.link().wait_up()

    async def _refresh(self, nursery: trio.Nursery) -> None:
        """Ask whoever answers for the map. Raises StoreUnavailable with what each of them said."""
        candidates = list(dict.fromkeys((*random.sample(self._known, len(self._known)), *self._address.endpoints)))
        problems: list[StoreUnavailable] = []
        for endpoint in candidates:
            try:
                self._learn(await self._ask(nursery, endpoint))
            except StoreUnavailable as error:
                problems.append(type(error)(f"redis {endpoint}: {error}"))
            else:
                return
        if all(isinstance(problem, Misconfigured) for problem in problems):
            raise problems[0]
        raise StoreUnavailable("; ".join(map(str, problems)))

    async def _ask(self, nursery: trio.Nursery, endpoint: Endpoint) -> Mapping[tuple[int, int], list[Endpoint]]:
        """The map as this node has it: the first and last slot of each range, its master and replicas."""
        wire = await open_wire(nursery, endpoint, self._address.access, self._timeout, Part.CLUSTER_NODE)
        try:
            [reply] = await wire.execute([("CLUSTER", "SLOTS")])
        finally:
            await wire.aclose()
        if isinstance(reply, ResponseError):
            raise Misconfigured(f"it does not answer CLUSTER SLOTS ({reply})")
        if not reply:
            raise StoreUnavailable("it knows of no slots")
        return {
            (first, last): [Endpoint(_host(node[0]) or endpoint.host, node[1]) for node in nodes]
            for first, last, *nodes in reply
        }

    def _learn(self, ranges: Mapping[tuple[int, int], list[Endpoint]]) -> None:
        slots: list[Endpoint | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for (first, last), (master, *_) in ranges.items():
            slots[first : last + 1] = [master] * (last + 1 - first)
        self._slots = slots
        self._known = list(dict.fromkeys(node for nodes in ranges.values() for node in nodes))
        masters = {nodes[0] for nodes in ranges.values()}
        for endpoint in masters:
            self._at(endpoint)
        for endpoint in self._links.keys() - masters:
            self._retire(endpoint)
        self._turn()

    def _at(self, endpoint: Endpoint) -> Link:
        """The link to a server, a new one if there is none."""
        if endpoint not in self._links and self._nursery is not None:
            link = Link(always(endpoint), self._address.access, self._timeout, Part.CLUSTER_MASTER)
            self._links[endpoint] = link
            self._scopes[endpoint] = trio.CancelScope()
            self._nursery.start_soon(self._keep, link, self._scopes[endpoint])
        return self._links[endpoint]

    @staticmethod
    async def _keep(link: Link, scope: trio.CancelScope) -> None:
        with scope:
            await link.run()

    def _retire(self, endpoint: Endpoint) -> None:
        """Nobody is sent there any more; what is under way is answered, or late, within the time a reply may take."""
        del self._links[endpoint]
        self._scopes.pop(endpoint).deadline = trio.current_time() + self._timeout

    def _turn(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _host(name: bytes | None) -> str:
    """The host that a node names; "" where it means the one that was asked."""
    return name.decode() if name not in (None, b"?") else ""
