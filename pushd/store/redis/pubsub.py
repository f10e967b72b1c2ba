"""Channels, on a connection of their own that comes back when it is lost."""

import dataclasses
import enum
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio
from redis.exceptions import ResponseError

from pushd.backoff import Backoff
from pushd.errors import StoreUnavailable
from pushd.store.redis.link import LONGEST, Link
from pushd.store.redis.replies import Reply
from pushd.store.redis.wire import Wire

log = logging.getLogger(__name__)

MOST_UNREAD: Final = 10_000  # messages


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A message on a channel."""

    channel: str
    data: bytes


class Gap(enum.Enum):
    """Before this, messages may be missing; from here on, none is until the next one."""

    RESUMED = "resumed"


class Subscription:
    """An async iterator of what is published on the channels, for one task.

    The first item, and the first after each loss of the connection, is Gap.RESUMED. A reader that falls MOST_UNREAD
    messages behind loses them, and is told by the same sign. `link` names the server to listen to.
    """

    def __init__(self, link: Callable[[], Link], channels: Sequence[str]) -> None:
        self._link = link
        self._channels = channels
        self._items: deque[Published | Gap] = deque()
        self._more = trio.Event()
        self._scope = trio.CancelScope()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Published | Gap:
        await trio.lowlevel.checkpoint()
        while not self._items:
            await self._more.wait()
        return self._items.popleft()

    def close(self) -> None:
        """Listen no longer."""
        self._scope.cancel()

    async def run(self) -> None:
        """Stay subscribed, until closed or cancelled."""
        backoff = Backoff(LONGEST)
        told = ""
        with self._scope:
            while True:
                try:
                    await self._listen()
                    backoff = Backoff(LONGEST)
                except StoreUnavailable as error:
                    if str(error) != told:
                        log.warning("not subscribed to %s: %s; trying again", ", ".join(self._channels), error)
                    told = str(error)
                await backoff.sleep()

    async def _listen(self) -> None:
        """Subscribe, and stay so until the connection ends."""
        link = self._link()
        wire: Wire = await link.open_other(self._hear)
        try:
            commands = [("SUBSCRIBE", channel) for channel in self._channels]
            for reply in await link.execute_on(wire, commands):
                if isinstance(reply, ResponseError):
                    raise StoreUnavailable(f"{link}: it refuses SUBSCRIBE ({reply})")
            self._put(Gap.RESUMED)
            await wire.ended.wait()
        finally:
            await wire.aclose()

    def _hear(self, push: list[Reply]) -> None:
        if push[0] == b"message":
            self._put(Published(push[1].decode(), push[2]))

    def _put(self, item: Published | Gap) -> None:
        if len(self._items) >= MOST_UNREAD:
            self._items.clear()
            self._items.append(Gap.RESUMED)
        self._items.append(item)
        self._more.set()
        self._more = trio.Event()
