"""A server's connections: one that all tasks share and that comes back when it is lost, and others for single uses.

While the shared one is away every call fails at once, so nothing piles up; it is tried again and again, ever more
slowly. With it go all the others to that server: they live and die together, so that no idle reader of an old server
is left behind.
"""

import enum
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio
from redis.exceptions import ResponseError

from pushd.backoff import Backoff
from pushd.errors import StoreUnavailable
from pushd.store.redis.address import Access, Endpoint
from pushd.store.redis.replies import UNFIT, Command, Misconfigured, Reply, unavailable
from pushd.store.redis.wire import Wire

log = logging.getLogger(__name__)

LONGEST: Final = 1.0  # seconds between two tries to connect
SETTLED: Final = 5.0  # seconds after which a connection that is lost does not count as one more failure
MOST_READERS: Final = 64  # connections to one server on which a command waits


class Part(enum.Enum):
    """What a server must be: how it says that it runs, and its role there (None: any)."""

    PRIMARY = (b"standalone", b"master")
    SENTINEL = (b"sentinel", None)
    CLUSTER_MASTER = (b"cluster", b"master")
    CLUSTER_NODE = (b"cluster", None)


_SCHEMES: Final = {b"standalone": "redis://", b"sentinel": "redis+sentinel://", b"cluster": "redis+cluster://"}


class Untrusted(Misconfigured):
    """TLS says no: the server's certificate or ours is not as it must be."""


async def _connect(endpoint: Endpoint) -> trio.SocketStream:
    try:
        if not endpoint.port:
            return await trio.open_unix_socket(endpoint.host)
        return await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except OSError as error:
        raise StoreUnavailable(f"cannot connect ({_reason(error)})") from None


def _reason(error: BaseException) -> BaseException:
    """The first of all the attempts of trio to connect, if that is what it tells of."""
    cause = error.__cause__ or error
    return cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause


async def _secure(stream: trio.abc.Stream, context: ssl.SSLContext, host: str) -> trio.abc.Stream:
    secure = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await secure.do_handshake()
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        await trio.aclose_forcefully(secure)
        raise _no_handshake(error.__cause__ or error) from None
    except BaseException:
        await trio.aclose_forcefully(secure)
        raise
    return secure


def _no_handshake(error: BaseException) -> StoreUnavailable:
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "name the authority that signed it with ?ca=FILE"
        return Untrusted(f"its certificate is not trusted: {error.verify_message}; {advice}")
    if isinstance(error, ssl.SSLError):
        return Untrusted(f"no TLS with it ({error.reason or error}); does this port speak TLS?")
    return StoreUnavailable(f"the connection broke during the TLS handshake ({error})")


async def _greet(wire: Wire, access: Access, part: Part) -> None:
    """Log in, and make sure that the server can be used and is what it must be. Raises StoreUnavailable."""
    hello: list[str] = ["HELLO", "3"]
    if access.user is not None or access.password is not None:
        hello += ["AUTH", access.user or "default", access.password or ""]
    commands: list[Command] = [[*hello, "SETNAME", "pushd"], ["PING"]]
    if access.db:
        commands.insert(1, ["SELECT", access.db])
    replies = await wire.execute(commands)
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, ResponseError):
            raise unavailable(reply, command) or Misconfigured(f"it refuses {command[0]!s} ({reply})")
    mode, role = part.value
    said = replies[0]
    if said[b"mode"] != mode:
        advice = f"write {_SCHEMES.get(said[b'mode'], 'another scheme')}"
        raise Misconfigured(f"it runs as {said[b'mode'].decode()}, not as {mode.decode()}; {advice}")
    if role is not None and said[b"role"] != role:
        raise StoreUnavailable(f"it is a {said[b'role'].decode()}, not a {role.decode()}")


def _ignore(push: list[Reply]) -> None:
    """For a connection to which nothing is said unasked."""


async def open_wire(
    nursery: trio.Nursery,
    endpoint: Endpoint,
    access: Access,
    timeout: float,
    part: Part,
    on_push: Callable[[list[Reply]], None] = _ignore,
) -> Wire:
    """A connection that is ready for commands, living in the nursery. Takes `timeout` seconds at most.

    Raises StoreUnavailable; Misconfigured where time alone will not mend it.
    """
    missing = "connection"
    with trio.move_on_after(timeout):
        stream: trio.abc.Stream = await _connect(endpoint)
        if access.tls is not None:
            missing = "TLS handshake"
            stream = await _secure(stream, access.tls, endpoint.host)
        missing = "welcome"
        wire = Wire(stream, timeout, on_push)
        nursery.start_soon(wire.run)
        try:
            await _greet(wire, access, part)
        except BaseException:
            wire.close("it cannot be used")
            raise
        return wire
    raise StoreUnavailable(f"no {missing} within {timeout:g} s")


def always(endpoint: Endpoint) -> Callable[[], Awaitable[Endpoint]]:
    """The `resolve` of a Link to a server that stays where it is."""

    async def resolve() -> Endpoint:
        return endpoint

    return resolve


class Link:
    """The connections to one server, or to whichever server `resolve` names when a connection is made.

    `run` is its life. `timeout` bounds every reply and every connecting, in seconds.
    """

    def __init__(
        self, resolve: Callable[[], Awaitable[Endpoint]], access: Access, timeout: float, part: Part = Part.PRIMARY
    ) -> None:
        self.timeout = timeout
        self.endpoint: Endpoint | None = None  # of the last try
        self._resolve = resolve
        self._access = access
        self._part = part
        self._wire: Wire | None = None
        self._down: StoreUnavailable = StoreUnavailable("not connected yet")
        self._changed = trio.Event()  # connected, lost, or one more try has failed
        self._tried = False
        self._others: set[Wire] = set()  # every other connection, in use or spare
        self._spare: list[Wire] = []  # for commands that wait, kept for the next
        self._places = trio.Semaphore(MOST_READERS)
        self._nursery: trio.Nursery | None = None

    def __str__(self) -> str:
        return f"redis {self.endpoint}" if self.endpoint is not None else "redis"

    # For those who use it.

    @property
    def is_up(self) -> bool:
        """Is there a connection?"""
        return self._wire is not None

    async def wait_up(self) -> None:
        """Wait until there is a connection. Raises Misconfigured as soon as a try fails for good."""
        while self._wire is None:
            if isinstance(self._down, Misconfigured):
                raise self.trouble()
            await self._changed.wait()

    def execute(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """The replies to commands on the shared connection, error replies that are the caller's matter among them.

        See Wire.execute. Fails at once while there is no connection, but waits for the end of the very first try.
        """
        # No coroutine of its own: with each one that a waiting task is woken through, all commands get dearer.
        return self._execute_first(commands) if self._wire is None else self.execute_on(self._wire, commands)

    async def _execute_first(self, commands: Sequence[Command]) -> list[Reply]:
        while self._wire is None and not self._tried:
            await self._changed.wait()
        if self._wire is None:
            raise self.trouble()
        return await self.execute_on(self._wire, commands)

    async def block(self, commands: Sequence[Command], hold: float) -> list[Reply]:
        """As `execute`, on a connection of its own, for commands that the server may hold back for `hold` seconds.

        If the call is cancelled, or anything goes wrong, the connection is closed before the call ends: nobody reads
        on there. Raises StoreUnavailable also if all MOST_READERS connections stay in use for `timeout` seconds.
        """
        with trio.move_on_after(self.timeout) as waiting:
            await self._places.acquire()
        if waiting.cancelled_caught:
            raise StoreUnavailable(f"{self}: all {MOST_READERS} connections for commands that wait are in use")
        try:
            wire = self._take_spare() or await self.open_other()
            try:
                replies = await self.execute_on(wire, commands, hold)
            except BaseException:
                await wire.aclose()
                raise
            self._spare.append(wire)
            return replies
        finally:
            self._places.release()

    async def open_other(self, on_push: Callable[[list[Reply]], None] = _ignore) -> Wire:
        """A connection of one's own to the same server; the caller closes it. Raises StoreUnavailable."""
        if self._wire is None or self.endpoint is None or self._nursery is None:
            raise self.trouble()
        shared = self._wire
        try:
            wire = await open_wire(self._nursery, self.endpoint, self._access, self.timeout, self._part, on_push)
        except StoreUnavailable as error:
            raise type(error)(f"{self}: {error}") from None
        if self._wire is not shared:
            wire.close("the server has gone")
        self._others = {other for other in self._others if other.failure is None} | {wire}
        return wire

    async def execute_on(self, wire: Wire, commands: Sequence[Command], hold: float = 0.0) -> list[Reply]:
        """As `execute`, on one of this server's connections."""
        try:
            replies = await wire.execute(commands, hold)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{self}: {error}") from None
        for index, reply in enumerate(replies):
            if isinstance(reply, ResponseError):
                self._refuse(reply, commands[index])
        return replies

    def _refuse(self, reply: ResponseError, command: Command) -> None:
        """Raise StoreUnavailable for an error reply that is not the caller's matter."""
        away = unavailable(reply, command)
        if away is not None:
            if reply.status_code in UNFIT:
                self.drop(str(away))
            raise type(away)(f"{self}: {away}") from reply

    def drop(self, reason: str) -> None:
        """Give all connections up; the next try asks `resolve` again."""
        for wire in self._others | ({self._wire} if self._wire is not None else set()):
            wire.close(reason)

    def _take_spare(self) -> Wire | None:
        while self._spare:
            if (wire := self._spare.pop()).failure is None:
                return wire
        return None

    def trouble(self) -> StoreUnavailable:
        """Why there is no connection."""
        return type(self._down)(f"{self}: {self._down}")

    # Its life.

    async def run(self) -> None:
        """Keep a connection, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            backoff = Backoff(LONGEST)
            while True:
                began = trio.current_time()
                try:
                    await self._stay_connected(nursery)
                except StoreUnavailable as error:
                    self._note(error)
                if trio.current_time() - began > SETTLED:
                    backoff = Backoff(LONGEST)
                await backoff.sleep()

    async def _stay_connected(self, nursery: trio.Nursery) -> None:
        """One connection, from the first try to its end. Raises StoreUnavailable with the reason of its end."""
        with trio.move_on_after(self.timeout) as asking:
            self.endpoint = await self._resolve()
        if asking.cancelled_caught or self.endpoint is None:
            raise StoreUnavailable(f"nobody says within {self.timeout:g} s where the primary is")
        wire = await open_wire(nursery, self.endpoint, self._access, self.timeout, self._part)
        log.debug("%s: connected", self)
        self._turn(wire)
        try:
            await wire.ended.wait()
        finally:
            self._wire = None
            self.drop(str(wire.failure))
            self._others.clear()
            self._spare.clear()
        raise StoreUnavailable(wire.failure)

    def _note(self, error: StoreUnavailable) -> None:
        """Remember why there is no connection, and say it when it is news."""
        if str(error) != str(self._down):
            log.warning("%s: %s; connecting again", self, error)
        self._down = error
        self._turn(None)

    def _turn(self, wire: Wire | None) -> None:
        self._wire = wire
        self._tried = True
        self._changed.set()
        self._changed = trio.Event()
