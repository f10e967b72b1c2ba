"""Devices for the fault tests that know what they are to do, and remember all that happens to them."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import trio

from engineio_trio import CloseReason, Disconnected
from engineio_trio.client import ClientSocket, Event, connect
from tests.faults.cluster import Node, query_of
from tests.faults.simulation import Door
from tests.patience import PATIENCE, PROMPT


class Phone:
    """A connection of a device. It acknowledges each push unless told not to."""

    def __init__(self, device: str, socket: ClientSocket, acks: bool) -> None:
        self.device = device
        self.socket = socket
        self.pushes: list[dict[str, Any]] = []  # what came with each push: id, seq, redelivered
        self.kicks: list[dict[str, Any]] = []
        self.waiting: list[Event] = []  # pushes that were not acknowledged
        self._acks = acks
        self._more = trio.Event()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Take what comes, until the connection has ended."""
        async for event in self.socket:
            if event.name == "kicked":
                self.kicks.append(event.args[0])
            else:
                self.pushes.append(event.args[1])
                if self._acks and event.wants_ack:
                    event.ack()
                else:
                    self.waiting.append(event)
            self._more.set()
            self._more = trio.Event()
        self._ended.set()

    @property
    def ids(self) -> list[str]:
        """The ids of the pushes that came, in order."""
        return [push["id"] for push in self.pushes]

    async def has(self, *ids: str, within: float = PROMPT) -> None:
        """Wait until these pushes have come, in this order and no others."""
        await self._until(lambda: len(self.ids) >= len(ids), f"has {ids}", within)
        assert self.ids == list(ids)

    async def got(self, id: str) -> None:
        """Wait until this push has come."""
        await self._until(lambda: id in self.ids, f"got {id}", PROMPT)

    async def _until(self, question: Callable[[], bool], what: str, within: float) -> None:
        with trio.move_on_after(within):
            while not question():
                await self._more.wait()
        assert question(), f"{self.device} never {what}; it has {self.ids}"

    async def closed(self) -> CloseReason:
        """Wait for the end of the connection; its reason. SERVER_DISCONNECT: it shall not come back by itself."""
        with trio.fail_after(PATIENCE):
            await self._ended.wait()
            return await self.socket.wait_closed()

    @property
    def is_on(self) -> bool:
        return self.socket.closed is None


@contextlib.asynccontextmanager
async def phone(node: Node, device: str, *, acks: bool = True, door: Door | None = None) -> AsyncIterator[Phone]:
    """A device that is connected to a node, as long as the block lasts; by the node's own door, or by another one."""
    async with connect((door or node.door).devices, query=query_of(device), timeout=PATIENCE) as socket:
        one = Phone(device, socket, acks)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            yield one
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def phones(node: Node, devices: Sequence[str], *, acks: bool = True) -> AsyncIterator[list[Phone]]:
    """Devices that are connected to a node at the same time, as long as the block lasts.

    They come all at once, so one may have to try again, as any device would.
    """
    async with trio.open_nursery() as nursery:
        many: list[Phone] = []

        async def hold(device: str, *, task_status: trio.TaskStatus[Phone]) -> None:
            async with phone(node, device, acks=acks) as one:
                task_status.started(one)
                await trio.sleep_forever()

        async def add(device: str) -> None:
            while True:
                with contextlib.suppress(Disconnected, OSError):
                    many.append(await nursery.start(hold, device))
                    return

        with trio.fail_after(2 * PATIENCE):
            async with trio.open_nursery() as connecting:
                for device in devices:
                    connecting.start_soon(add, device)
        yield sorted(many, key=lambda one: devices.index(one.device))
        nursery.cancel_scope.cancel()
