"""The control channel: what other nodes' calls tell the node that holds a device. One hop, out of the scripts."""

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import trio

from pushd.model import Message
from pushd.store.base import Control
from pushd.store.redis.lease import Lease
from pushd.store.redis.pubsub import Gap
from pushd.store.redis.topology import Client

log = logging.getLogger(__name__)

T = TypeVar("T")
_Cast = tuple[str, str, str]  # push id, event, data
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Cast).decode
SEPARATOR: Final = b"\0"


def pack_cast(id: str, event: str, data: str) -> bytes:
    """A qos 0 message as it travels."""
    return _encode((id, event, data))


def tell(notice: Callable[..., T], *args: object) -> T | None:
    """Tell the node something. It is the edge to the node's code: what it raises is logged, and breaks nothing here."""
    try:
        return notice(*args)
    except Exception:
        log.exception("the node's control raised; a connection may not know what became of its device")
        return None


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
        device, _, rest = rest.partition(SEPARATOR)
        name = device.decode()
        if kind == b"wake":
            tell(self._control.wake, name)
        elif kind == b"kick":
            epoch, reason, by = rest.split(SEPARATOR, 2)
            tell(self._control.kick, name, int(epoch), reason.decode(), by.decode())
        elif kind == b"cast":
            if not self._lease.valid:
                return  # heard after a long sleep: the device may be elsewhere
            id, event, text = _decode(rest)
            tell(self._control.cast, name, Message(0, id, event, text, redelivered=False))
        else:
            log.warning("a message on the control channel is not understood (a newer node?): %.100r", data)
