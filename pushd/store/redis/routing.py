"""What the client asks of every arrangement of servers, and the simplest one: a single server at a time."""

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from pushd.errors import StoreUnavailable
from pushd.store.redis.link import Link
from pushd.store.redis.replies import Command, Reply

# How commands go to a server: over its shared connection, or over one of their own.
Send: TypeAlias = Callable[[Link, Sequence[Command]], Awaitable[list[Reply]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Master:
    """A server that takes writes: its address for people, and a `slot_key` that leads to it and no other."""

    address: str
    slot_key: str


class Arrangement(Protocol):
    """Servers, and who of them is asked. `run` is its life."""

    async def run(self) -> None:
        """Keep the connections, until cancelled."""

    async def wait_up(self) -> None:
        """Wait until a server can be asked. Raises Misconfigured as soon as a try fails for good."""

    def execute(self, slot_key: str, commands: Sequence[Command], send: Send) -> Awaitable[list[Reply]]:
        """Have the commands sent to the server of that key ("": any), and answer their replies."""

    def trouble(self) -> StoreUnavailable:
        """Why no server can be asked."""

    def link(self) -> Link:
        """A server on which everything that is published can be heard."""

    def masters(self) -> list[Master]:
        """Every server that takes writes, as far as known."""


class Single:
    """One server: always the same, or the one that is the primary now."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.run = link.run
        self.wait_up = link.wait_up

    def execute(self, slot_key: str, commands: Sequence[Command], send: Send) -> Awaitable[list[Reply]]:
        return send(self._link, commands)

    def trouble(self) -> StoreUnavailable:
        return self._link.trouble()

    def link(self) -> Link:
        return self._link

    def masters(self) -> list[Master]:
        return [Master(str(self._link), "")]
