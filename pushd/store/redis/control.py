"""The control channel: what other nodes' calls tell the node that holds a device. One hop, out of the scripts."""

import logging
import struct
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec
import trio

from pushd.model import Message
from pushd.store.base import Control
from pushd.store.redis.entries import unpack_message
from pushd.store.redis.lease import Lease
from pushd.store.redis.pubsub import Gap
from pushd.store.redis.topology import Client

log = logging.getLogger(__name__)

T = TypeVar("T")
_Cast = tuple[str, str, str]  # push id, event, data
_decode = msgspec.msgpack.Decoder(_Cast).decode
SEPARATOR: Final = b"\0"
_PARCEL: Final = struct.Struct(">dHI")  # before a device id and a message: a number, and how long these are


def tell(notice: Callable[..., T], *args: object) -> T | None:
    """Tell the node something. It is the edge to the node's code: what it raises is logged, and breaks nothing here."""
    try:
        return notice(*args)
    except Exception:
        log.exception("the node's control raised; a connection may not know what became of its device")
        return None


def hand_over(control: Control, certain: bool, device: str, message: Message, after: int) -> None:
    """Have the device given a message that is marked as sent; if not `certain` (of the lease), look at its inbox later.

    A node that hears of it after a long sleep may hold the device no longer: to read the inbox, it must be certain.
    """
    if certain:
        tell(control.deliver, device, message, after)
    else:
        tell(control.wake, device)


def _parcels(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Devices with a number and a message each."""
    at = 0
    while at < len(data):
        number, device, message = _PARCEL.unpack_from(data, at)
        begin = at + _PARCEL.size + device
        yield data[at + _PARCEL.size : begin].decode(), int(number), data[begin : begin + message]
        at = begin + message


class Listener:
    """Hears what concerns this node, and passes it on."""

    def __init__(self, client: Client, control: Control, lease: Lease) -> None:
        self._client = client
        self._control = control
        self._lease = lease

    async def run(self, channel: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, for ever; `started` when the channel is heard. After a gap all devices look at their inboxes.

        A kick that fell into the gap is found by the next heartbeat.
        """
        started = False
        async with self._client.subscribe(channel) as subscription:
            async for item in subscription:
                if not isinstance(item, Gap):
                    self._hear(item.data)
                elif started:
                    tell(self._control.wake_all)
                else:
                    started = True
                    task_status.started()

    def _hear(self, data: bytes) -> None:
        kind, _, rest = data.partition(SEPARATOR)
        if kind == b"wake":
            for woken in rest.split(SEPARATOR):
                tell(self._control.wake, woken.decode())
        elif kind == b"kick":
            kicked, epoch, reason, by = rest.split(SEPARATOR, 3)
            tell(self._control.kick, kicked.decode(), int(epoch), reason.decode(), by.decode())
        elif kind == b"deliver":
            certain = self._lease.valid
            with self._control.together():
                for device, after, entry in _parcels(rest):
                    hand_over(self._control, certain, device, unpack_message(entry, sent=0), after)
        elif kind == b"cast":
            certain = self._lease.valid
            with self._control.together():
                for device, _, message in _parcels(rest):
                    id, event, text = _decode(message)
                    if certain:
                        tell(self._control.cast, device, Message(0, id, event, text, redelivered=False))
        else:
            log.warning("a message on the control channel is not understood (a newer node?): %.100r", data)
