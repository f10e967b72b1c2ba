"""The uplink of one device: each of its events becomes one entry of the uplink stream, in order, before it is acked."""

from functools import partial
from typing import Any, NamedTuple

from pushd import jsonbytes
from pushd.backoff import persist
from pushd.failpoint import failpoint
from pushd.metrics import Metrics
from pushd.store.base import Store


class Uplink(NamedTuple):
    """One event on its way to the store, under an id by which the store knows it again. `data` is JSON text."""

    entry: str
    event: str
    data: str


class Relay:
    """Stores a device's events, one after the other.

    It has no task: the socket's handler task calls `take` and acknowledges when that returns. While the store is away,
    `take` waits, so the handler queue fills, and in the end the device's own socket is not read any more.
    """

    def __init__(self, device: str, epoch: int, conn: str, store: Store, metrics: Metrics) -> None:
        self._device = device
        self._epoch = epoch
        self._conn = conn
        self._store = store
        self._metrics = metrics
        self._taken = 0
        self._current: Uplink | None = None

    async def take(self, event: str, args: tuple[Any, ...]) -> None:
        """Store an event; once it returns, the event is in the stream. Call it for one event at a time.

        However long the store is away, it tries again with the same entry id. If it is cancelled, `finish` goes on.
        Raises StaleEpoch, or ValueError if the arguments have no JSON form.
        """
        self._taken += 1
        self._current = Uplink(f"{self._conn}:{self._taken}", event, as_data(args))
        await self.finish()

    @property
    def idle(self) -> bool:
        """No event is on its way to the store."""
        return self._current is None

    async def finish(self) -> None:
        """Store the event that a cancelled `take` has left, if any. Raises StaleEpoch. Bound it."""
        uplink = self._current
        if uplink is None:
            return
        failpoint("uplink.received")
        await persist(partial(self._write, uplink))
        failpoint("uplink.stored")
        self._current = None
        self._metrics.uplinks.inc()

    async def _write(self, uplink: Uplink) -> None:
        with self._metrics.store_call("uplink"):
            await self._store.uplink(self._device, self._epoch, self._conn, uplink.entry, uplink.event, uplink.data)


def as_data(args: tuple[Any, ...]) -> str:
    """The field `data` for an event's arguments: null for none, the value for one, an array for several.

    Raises ValueError if they have no JSON form.
    """
    if not args:
        return "null"
    return jsonbytes.dumps(args[0] if len(args) == 1 else args)
