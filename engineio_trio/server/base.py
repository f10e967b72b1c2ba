"""What is spoken on top of a session, as the session's connection sees it."""

from typing import Protocol

from engineio_trio.errors import CloseReason


class Application(Protocol):
    """What is spoken on top of a session: Socket.IO, or an EngineServer's handler."""

    @property
    def deadline(self) -> float:
        """Trio time at which `on_deadline` is due; `math.inf` when it is not waiting for the peer."""

    def opened(self) -> None:
        """The session is there. What is sent here goes out right after OPEN."""

    def message(self, data: str | bytes) -> None:
        """A message of the peer. RemoteProtocolError ends the connection; may queue jobs on `connection.handlers`."""

    @property
    def full(self) -> bool:
        """Handlers are behind: nothing more should be read for now."""

    async def room(self) -> None:
        """Return when handlers have caught up."""

    def on_deadline(self, now: float) -> None:
        """The deadline has passed."""

    def ending(self) -> None:
        """The connection is closing: nothing more comes from the peer. What it said before is still handled, within

        `close_timeout`, so whoever waits for an answer of it must be released now.
        """

    async def closed(self, reason: CloseReason) -> None:
        """The connection has ended. Runs shielded, and bounded by `close_timeout`."""
