"""A namespace: its handlers by event name, its sockets and rooms, and the fan-out to them."""

import dataclasses
import enum
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from engineio_trio.errors import CloseReason, RemoteProtocolError
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.socket import RESERVED_EVENTS
from engineio_trio.server.rooms import Rooms
from engineio_trio.server.round import Round
from engineio_trio.server.socket import Socket

Function = TypeVar("Function", bound=Callable[..., Any])
LIFECYCLE = ("connect", "disconnect")
ANSWER = "answer"  # the parameter of handlers that answer later


class Kind(enum.Enum):
    """Where a handler runs."""

    INLINE = "inline"  # a plain function: at once, inside the reader
    QUEUED = "queued"  # an async one: in order, in the connection's handler task
    LATER = "later"  # a plain one as well, which is given `answer`, and may call it when it has returned


@dataclasses.dataclass(frozen=True, slots=True)
class Handler:
    """A user's function, and how many of the peer's arguments it takes."""

    function: Callable[..., Any]
    kind: Kind
    least: int
    most: float

    @classmethod
    def of(cls, function: Callable[..., Any], given: int = 1) -> "Handler":
        """Look at a function once, so that calling it needs no looking.

        `given` arguments come from the library before the peer's (the socket); a plain function may have `answer` as
        a parameter by keyword only. Raises TypeError for a function that does not take these, or that needs what is
        never given.
        """
        is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        )
        kind, least, most = Kind.QUEUED if is_async else Kind.INLINE, 0, 0.0
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                most = math.inf
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                most += 1
                least += parameter.default is parameter.empty
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.name == ANSWER and not is_async:
                kind = Kind.LATER
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                raise TypeError(f"{function!r} needs {parameter.name}=..., which no handler is given")
        if most < given:
            raise TypeError(f"{function!r} must take the socket as its first argument")
        return cls(function, kind, max(least - given, 0), most - given)

    def expect(self, fewest: int, most: int, form: str) -> None:
        """Raise TypeError unless the function takes so many arguments after the socket, as `form` shows."""
        if self.least > most or self.most < fewest:
            raise TypeError(f"{self.function!r} cannot be called with {form}")

    def expect_no_answer(self) -> None:
        """Raise TypeError if the function is one that answers later, where there is nothing to answer."""
        if self.kind is Kind.LATER:
            raise TypeError(f"{self.function!r} needs {ANSWER}=..., which it is not given")

    def check(self, event: str, args: tuple[Any, ...]) -> None:
        """Raise RemoteProtocolError if the peer sent more or fewer arguments than the function takes."""
        if not self.least <= len(args) <= self.most:
            raise RemoteProtocolError(f"event {event!r} came with {len(args)} arguments", CloseReason.POLICY)


class Namespace:
    """One namespace of a server, the same object for all its connections."""

    def __init__(self, name: str, round: Round) -> None:
        self.name = name
        self._round = round
        self.sockets: dict[str, Socket] = {}
        self.rooms: Rooms[Socket] = Rooms()
        self.handlers: dict[str, Handler] = {}
        self.any_handler: Handler | None = None

    def on(self, event: str) -> Callable[[Function], Function]:
        """A decorator that makes a function the handler of an event.

        `connect` handlers take (socket) or (socket, auth), `disconnect` handlers (socket, reason), all others (socket,
        *args). A plain function of the latter with a parameter `answer` by keyword only is given a function that
        acknowledges: `answer(*values)`, once, now or later. Until then the event counts as one that waits for its
        handler (`Settings.handler_queue`). A `connect` handler may have `answer`, too: `answer()` lets the socket in,
        `answer(ConnectRefused(...))` does not; if it has closed meanwhile (`socket.closed`), neither does anything, and
        no `disconnect` handler is called. Raises ValueError for a reserved name, or when the event has a handler, and
        TypeError for a function that cannot be called so.
        """
        if event in RESERVED_EVENTS and event not in LIFECYCLE:
            raise ValueError(f"{event!r} is a name reserved by Socket.IO")

        def register(function: Function) -> Function:
            if event in self.handlers:
                raise ValueError(f"the event {event!r} of namespace {self.name} has a handler already")
            handler = Handler.of(function)
            if event == "connect":
                handler.expect(0, 1, "(socket) or (socket, auth)")
            elif event == "disconnect":
                handler.expect_no_answer()
                handler.expect(1, 1, "(socket, reason)")
            self.handlers[event] = handler
            return function

        return register

    def on_any(self, function: Function) -> Function:
        """A decorator: `function(socket, event, args)` handles all events that have no handler of their own.

        It may have `answer`, as with `on`.
        """
        if self.any_handler is not None:
            raise ValueError(f"namespace {self.name} has an on_any handler already")
        handler = Handler.of(function)
        handler.expect(2, 2, "(socket, event, args)")
        self.any_handler = handler
        return function

    def emit(
        self,
        event: str,
        *args: Any,
        to: str | Iterable[str] | None = None,
        skip: Socket | Iterable[Socket] | None = None,
    ) -> None:
        """Send an event to every socket of the namespace, or to those in the room or rooms `to`; once to each.

        Encoded once, whatever the number of sockets. `skip` leaves out a socket, or several. Never waits: who gets it
        is decided now, as is its place among all that each of them is sent; but to thousands it is written turn by
        turn, while others are served.
        """
        self._round.broadcast(Encoded.event(event, args, self.name), self._targets(to, skip))

    def _targets(self, to: str | Iterable[str] | None, skip: Socket | Iterable[Socket] | None) -> list[Socket]:
        if to is None:
            targets = list(self.sockets.values())
        elif isinstance(to, str):
            targets = list(self.rooms.members(to))
        else:
            targets = list(dict.fromkeys(socket for room in to for socket in self.rooms.members(room)))
        if skip is None:
            return targets
        skipped = {skip} if isinstance(skip, Socket) else set(skip)
        return [socket for socket in targets if socket not in skipped]
