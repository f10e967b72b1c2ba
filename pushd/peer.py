"""What a device needs of its Socket.IO socket: the part of the library's face that pushd works with, as one seam."""

from collections.abc import Callable
from typing import Any, Protocol

from engineio_trio import CloseReason


class Peer(Protocol):
    """A connected socket of the namespace `/`. Nothing here waits, but `flush`; once it is closed, emits go nowhere."""

    @property
    def id(self) -> str:
        """The public id of the connection (never the Engine.IO one)."""

    @property
    def seen(self) -> float:
        """The Trio time at which the peer was last heard."""

    @property
    def closed(self) -> CloseReason | None:
        """Why it has ended, or None."""

    def emit(self, event: str, *args: Any) -> None:
        """Send an event, without waiting. Raises LocalProtocolError for what cannot be sent."""

    def emit_with_ack(self, event: str, *args: Any, on_ack: Callable[..., None]) -> Callable[[], None]:
        """Send an event; `on_ack` is called in the reader when the client acknowledges it, never after the end.

        The answer is a function that awaits the acknowledgement no longer.
        """

    async def flush(self) -> None:
        """Return when all that was emitted has been written to the transport. Raises Disconnected."""

    def disconnect(self, *, close: bool = False) -> None:
        """Send DISCONNECT, which a stock client takes as final, and then (`close`) close the transport."""

    def close(self, reason: CloseReason) -> None:
        """Close the transport only, with the code of `reason`: a stock client comes back."""
