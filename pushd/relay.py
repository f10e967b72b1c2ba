"""The uplink of one device: each of its events becomes one entry of the uplink stream, in order, before it is acked."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import trio

from pushd import jsonbytes
from pushd.backoff import persist
from pushd.failpoint import failpoint
from pushd.model import Uplink
from pushd.node import Node

Answer = Callable[[], None]  # acknowledges an event


class Holder(Protocol):
    """The device that the relay is a part of, as far as its uplink can end it."""

    def lost(self) -> None:
        """The store says that this epoch holds the device no longer."""

    def failed(self, error: Exception) -> None:
        """Something can never be done."""


class Relay:
    """Has a device's events stored, one after the other, and answers each when it is.

    It has no task. The oldest event is on its way with those of other devices (`Uplinks`), the rest waits here: at most
    what the library's handler queue takes, for it does not read a connection that is owed so many answers. So a store
    that is away, or slow, slows the device down.
    """

    def __init__(self, device: str, epoch: int, conn: str, node: Node, holder: Holder) -> None:
        self.device: Final = device
        self._epoch = epoch
        self._conn = conn
        self._node = node
        self._holder = holder
        self._taken = 0
        self._waiting: deque[tuple[Uplink, Answer]] = deque()
        self._ended = False
        self._on_its_way = False
        self._landed: trio.Event | None = None  # while `finish` waits for what is on its way

    def take(self, event: str, args: tuple[Any, ...], answer: Answer) -> None:
        """Have an event stored; `answer` is called when it is in the stream. After the end it goes nowhere.

        Raises ValueError if the arguments have no JSON form.
        """
        if self._ended:
            return
        data = as_data(args)
        self._taken += 1
        entry = f"{self._conn}:{self._taken}"
        self._waiting.append((Uplink(self.device, self._epoch, self._conn, entry, event, data), answer))
        if len(self._waiting) == 1:
            self._node.uplinks.add(self)

    @property
    def idle(self) -> bool:
        """No event is on its way to the store."""
        return not self._waiting

    async def finish(self) -> None:
        """The end: store what has come. Raises StaleEpoch. Bound it: the store may be away."""
        self._ended = True
        if self._on_its_way:
            self._landed = trio.Event()
            await self._landed.wait()
        while self._waiting:
            failpoint("uplink.received")
            uplink, answer = self._waiting[0]
            await persist(partial(self._write, uplink))
            failpoint("uplink.stored")
            self._node.metrics.uplinks.inc()
            self._waiting.popleft()
            answer()

    async def _write(self, uplink: Uplink) -> None:
        with self._node.metrics.store_call("uplink"):
            await self._node.store.uplink(*uplink)

    # What became of the oldest event: see `Sayer`.

    def next(self) -> Uplink | None:
        """See `Sayer.next`."""
        if self._ended:
            return None
        self._on_its_way = True
        return self._waiting[0][0]

    def written(self) -> None:
        """See `Sayer.written`."""
        _, answer = self._waiting.popleft()
        if self._waiting and not self._ended:
            self._node.uplinks.add(self)
        self._land()
        answer()

    def doubted(self) -> None:
        """See `Sayer.doubted`."""
        self._land()

    def refused(self) -> None:
        """See `Sayer.refused`."""
        self._land()
        self._end()
        self._holder.lost()

    def failed(self, error: Exception) -> None:
        """See `Sayer.failed`."""
        self._land()
        self._end()
        self._holder.failed(error)

    def _land(self) -> None:
        self._on_its_way = False
        if self._landed is not None:
            self._landed.set()

    def _end(self) -> None:
        """Nothing of what waits will be stored."""
        self._ended = True
        self._waiting.clear()


def as_data(args: tuple[Any, ...]) -> str:
    """The field `data` for an event's arguments: null for none, the value for one, an array for several.

    Raises ValueError if they have no JSON form.
    """
    if not args:
        return "null"
    return jsonbytes.dumps(args[0] if len(args) == 1 else args)
