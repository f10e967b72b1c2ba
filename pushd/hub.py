"""Device -> the connection that holds it on this node. It is what the store talks to: wake, kick, cast."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from pushd.model import Message

log = logging.getLogger(__name__)

TAKEOVER = "takeover"  # the reason in `kicked` when a newer login has won
ADMIN = "admin"  # who kicks for an operator, whatever reason is given
STALE = "stale"  # thought dead: should it live after all, it shall come back, so it is not told to stay away


class Holder(Protocol):
    """A connection that holds a device. Everything is synchronous and may come after its end."""

    @property
    def device(self) -> str:
        """The device's id."""

    @property
    def conn(self) -> str:
        """The connection's public id."""

    @property
    def epoch(self) -> int:
        """The epoch of its login."""

    @property
    def seen(self) -> float:
        """The Trio time at which the device was last heard."""

    def wake(self) -> None:
        """There is something new in the inbox."""

    def deliver(self, message: Message, after: int) -> None:
        """Send a message that has just come into the inbox, after this seq."""

    def cast(self, message: Message) -> bool:
        """Send a qos 0 message; True if it was put on its way."""

    def kick(self, reason: str, by: str) -> None:
        """Tell the device that it is over, and that it shall not come back by itself."""

    def lost(self) -> None:
        """The store says that this epoch holds the device no longer."""

    def shut(self) -> None:
        """The node shuts down: close, so that the client comes back."""


class Hub:
    """The devices of this node, by id; at most one connection each, the one with the highest epoch."""

    def __init__(self) -> None:
        self.together: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext  # see `Control.together`
        self._holders: dict[str, Holder] = {}
        self._coming: dict[str, int] = {}  # device -> how many logins of it are under way
        self._called: dict[str, float] = {}  # those of them for which there was news: up to which epoch it concerns

    @contextlib.contextmanager
    def expecting(self, device: str) -> Iterator[Callable[[int], bool]]:
        """Around a login. Inside, the answer says whether there was news for the epoch since the block began.

        A login that has looked into the inbox learns so what it has missed: a message, or that it is over already. Who
        then reads the inbox finds out. If nothing waits until `join`, nothing falls between.
        """
        self._coming[device] = self._coming.get(device, 0) + 1
        try:
            yield lambda epoch: epoch <= self._called.get(device, 0)
        finally:
            self._coming[device] -= 1
            if not self._coming[device]:
                del self._coming[device]
                self._called.pop(device, None)

    def _call(self, device: str, epoch: float = math.inf) -> Holder | None:
        """Who is to be told some news, which concerns epochs up to this one."""
        if device in self._coming:
            self._called[device] = max(epoch, self._called.get(device, 0))
        return self._holders.get(device)

    def _call_all(self) -> Iterator[Holder]:
        """Everybody is to be told some news; who is logging in, too."""
        self._called.update(dict.fromkeys(self._coming, math.inf))
        return iter(self)

    def join(self, holder: Holder) -> None:
        """From now on this connection is reached by its device's id; an older one is kicked.

        If a newer one is already there (two logins whose answers crossed), the one that joins is kicked.
        """
        present = self._holders.get(holder.device)
        if present is not None and present.epoch > holder.epoch:
            holder.kick(TAKEOVER, present.conn)
            return
        self._holders[holder.device] = holder
        if present is not None:
            present.kick(TAKEOVER, holder.conn)

    def leave(self, holder: Holder) -> None:
        """The connection has ended. A newer one of the same device is not touched."""
        if self._holders.get(holder.device) is holder:
            del self._holders[holder.device]

    def get(self, device: str) -> Holder | None:
        """The connection that holds the device on this node."""
        return self._holders.get(device)

    def wake(self, device: str) -> None:
        """See `Control.wake`."""
        holder = self._call(device)
        if holder is not None:
            holder.wake()

    def deliver(self, device: str, message: Message, after: int) -> None:
        """See `Control.deliver`."""
        holder = self._call(device)
        if holder is not None:
            holder.deliver(message, after)

    def holds(self, device: str) -> bool:
        """See `Control.holds`."""
        return device in self._holders

    def wake_all(self) -> None:
        """See `Control.wake_all`."""
        for holder in self._call_all():
            holder.wake()

    def kick(self, device: str, epoch: int, reason: str, by: str) -> None:
        """See `Control.kick`."""
        holder = self._call(device, epoch)
        if holder is None or holder.epoch > epoch:
            return
        if reason == STALE and by != ADMIN:
            holder.lost()
        else:
            holder.kick(reason, by)

    def lost(self, device: str, epoch: int) -> None:
        """The store says that `epoch` holds the device no longer."""
        holder = self._call(device, epoch)
        if holder is not None and holder.epoch <= epoch:
            holder.lost()

    def cast(self, device: str, message: Message) -> bool:
        """See `Control.cast`."""
        holder = self._holders.get(device)
        return holder is not None and holder.cast(message)

    def lost_all(self) -> None:
        """See `Control.lost_all`."""
        for holder in self._call_all():
            holder.lost()

    def __len__(self) -> int:
        """How many devices this node holds."""
        return len(self._holders)

    def __iter__(self) -> Iterator[Holder]:
        """The connections that are here now, as a snapshot: they may come and go meanwhile."""
        return iter(tuple(self._holders.values()))
