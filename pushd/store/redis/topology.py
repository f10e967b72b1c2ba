"""The client: commands go to the server that serves their slot, whatever the servers' arrangement.

Replies are bytes (numbers int or float, maps dict with bytes as keys, null None), so that what services wrote survives
as it is. It is RESP3: XREAD, HGETALL and CONFIG GET answer with a dict, though not from inside a script.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from redis.exceptions import ResponseError

from pushd.errors import ConfigError, StoreUnavailable
from pushd.store.redis.address import Address, Kind
from pushd.store.redis.cluster import Cluster
from pushd.store.redis.link import Link, always
from pushd.store.redis.pubsub import Subscription
from pushd.store.redis.replies import Argument, Command, Misconfigured, Reply
from pushd.store.redis.routing import Arrangement, Master, Send, Single
from pushd.store.redis.sentinel import Sentinels

PATIENCE = 10.0  # seconds
TIMEOUT = 2.0  # seconds that a reply may take; then the connection is given up


class Client:
    """Commands, blocking reads and channels. For any number of tasks at once.

    `slot_key` is a key that tells the slot, "" where any master will do. What cannot be answered is StoreUnavailable:
    connection lost, reply late, server loading, full, a replica, not allowed to us ... The outcome of such a write is
    unknown, and nothing is ever sent twice but what the server said it did not carry out (MOVED, ASK, TRYAGAIN).
    Cancelling a call harms nobody; its commands may or may not be carried out.
    """

    def __init__(self, arrangement: Arrangement, nursery: trio.Nursery) -> None:
        self._arrangement = arrangement
        self._nursery = nursery

    async def execute(self, slot_key: str, *args: Argument) -> Reply:
        """The reply to one command. Raises ResponseError for what is the caller's matter; StoreUnavailable."""
        [reply] = await self._arrangement.execute(slot_key, (args,), Link.execute)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def pipeline(self, slot_key: str, commands: Sequence[Command]) -> list[Reply]:
        """One reply each for commands of one slot that stand next to each other on the wire, errors among them.

        Others' commands may come between them at the server only when a slot is on the move. Raises StoreUnavailable
        if any of the commands met with it.
        """
        return await self._arrangement.execute(slot_key, commands, Link.execute) if commands else []

    async def blocking(self, slot_key: str, *args: Argument, timeout: float) -> Reply:
        """The reply to a command that the server may hold back for `timeout` seconds (its own BLOCK says so too).

        It has a connection of its own. Cancelled, that connection is closed: nobody reads on there.
        Raises as `execute`; also StoreUnavailable if too many such commands are under way.
        """

        [reply] = await self.blocking_pipeline(slot_key, (args,), timeout=timeout)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def blocking_pipeline(
        self, slot_key: str, commands: Sequence[Command], *, timeout: float
    ) -> list[Reply | ResponseError]:
        """As `pipeline`, on a connection of its own, which nobody else's commands share meanwhile; see `blocking`."""

        async def send(link: Link, commands: Sequence[Command]) -> list[Reply]:
            return await link.block(commands, timeout)

        return await self._arrangement.execute(slot_key, commands, send)

    @asynccontextmanager
    async def subscribe(self, *channels: str) -> AsyncIterator[Subscription]:
        """What is published on the channels, with a connection of its own, as long as the context lasts.

        `async for item in subscription` gives Published messages, and Gap.RESUMED first of all and after every loss of
        the connection. Entering does not wait; the first item says that the channels are heard.
        """
        subscription = Subscription(self._arrangement.link, channels)
        self._nursery.start_soon(subscription.run)
        try:
            yield subscription
        finally:
            subscription.close()

    def masters(self) -> list[Master]:
        """Every server that takes writes, each with a `slot_key` that leads to it: for CONFIG GET and the like."""
        return self._arrangement.masters()

    async def wait_up(self) -> None:
        """Wait until a server can be asked. Raises Misconfigured for what a person must mend."""
        await self._arrangement.wait_up()

    def trouble(self) -> StoreUnavailable:
        """Why no server can be asked."""
        return self._arrangement.trouble()


class LateClient(Client):
    """A client for those who must wait until its servers are known to be right: StoreUnavailable before `open`."""

    def __init__(self, client: Client) -> None:
        super().__init__(_Closed(client._arrangement), client._nursery)
        self._known = client._arrangement

    def open(self) -> None:
        """From now on it works as the client that it was made of."""
        self._arrangement = self._known


class _Closed:
    """An arrangement of which nobody may ask anything yet."""

    def __init__(self, arrangement: Arrangement) -> None:
        self.run = arrangement.run
        self.wait_up = arrangement.wait_up
        self.trouble = arrangement.trouble
        self.link = arrangement.link
        self.masters = arrangement.masters

    async def execute(self, slot_key: str, commands: Sequence[Command], send: Send) -> list[Reply]:
        raise self.trouble()


@asynccontextmanager
async def open_client(
    address: Address, *, timeout: float = TIMEOUT, patience: float = PATIENCE
) -> AsyncIterator[Client]:
    """A client that has reached its servers, as long as the context lasts.

    A reply may take `timeout` seconds; the first connection `patience` seconds, then StoreUnavailable is raised (with
    `patience` 0 nobody waits). Raises ConfigError at once for what a person must mend: a refused password, a
    certificate that is not trusted, a primary that no sentinel knows, the wrong scheme.
    """
    problem: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            arrangement = _arrange(address, timeout, nursery)
            nursery.start_soon(arrangement.run)
            if patience:
                problem = await _first_contact(arrangement, patience)
            if problem is None:
                yield Client(arrangement, nursery)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from group.exceptions[0].__cause__
    if problem is not None:
        raise problem


async def _first_contact(arrangement: Arrangement, patience: float) -> Exception | None:
    """Why there is none."""
    with trio.move_on_after(patience):
        try:
            await arrangement.wait_up()
        except Misconfigured as error:
            return ConfigError([f"store.url: {error}"])
        return None
    return StoreUnavailable(f"no connection within {patience:g} s: {arrangement.trouble()}")


def _arrange(address: Address, timeout: float, nursery: trio.Nursery) -> Arrangement:
    if address.kind is Kind.CLUSTER:
        return Cluster(address, timeout)
    if address.kind is Kind.SENTINEL:
        sentinels = Sentinels(address, timeout, nursery)
        link = Link(sentinels.resolve, address.access, timeout)
        nursery.start_soon(sentinels.watch, link)
        return Single(link)
    return Single(Link(always(address.endpoints[0]), address.access, timeout))
