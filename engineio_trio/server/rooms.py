"""Which sockets are in which room: a two-way index, nothing more."""

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

Member = TypeVar("Member", bound=Hashable)


class Rooms(Generic[Member]):
    """Rooms by name, each with its members in the order of joining. An empty room does not exist."""

    def __init__(self) -> None:
        self._members: dict[str, dict[Member, None]] = {}
        self._rooms: dict[Member, set[str]] = {}

    def join(self, member: Member, room: str) -> None:
        """Put a member into a room; again changes nothing."""
        self._members.setdefault(room, {})[member] = None
        self._rooms.setdefault(member, set()).add(room)

    def leave(self, member: Member, room: str) -> None:
        """Take a member out of a room, if it is there."""
        members = self._members.get(room)
        if members is None or member not in members:
            return
        del members[member]
        if not members:
            del self._members[room]
        self._rooms[member].discard(room)

    def leave_all(self, member: Member) -> None:
        """Take a member out of every room."""
        for room in tuple(self._rooms.get(member, ())):
            self.leave(member, room)
        self._rooms.pop(member, None)

    def of(self, member: Member) -> frozenset[str]:
        """The rooms that a member is in."""
        return frozenset(self._rooms.get(member, ()))

    def members(self, room: str) -> Collection[Member]:
        """The members of a room: a live view, to be copied before anything changes."""
        return self._members.get(room, {}).keys()
