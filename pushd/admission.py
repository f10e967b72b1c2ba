"""Who may come in: what a request or a CONNECT packet says about a device is judged here."""

import dataclasses
import hashlib
import logging
import math
import random
from collections.abc import Callable
from typing import Any, Final, NoReturn

import trio

from engineio_trio import ConnectRefused, Handshake, HandshakeRefused
from pushd.auth import Authenticator, Credentials, credentials, credentials_from_auth
from pushd.errors import AuthRejected, AuthUnavailable, PushdError, StoreUnavailable
from pushd.failpoint import failpoint
from pushd.limits import Budget, Seldom
from pushd.metrics import Refusal
from pushd.model import DEVICE_ID, Bound, Identity, StatusEvent, Throttled
from pushd.node import Node

log = logging.getLogger(__name__)

FAILURES: Final = 20  # wrong credentials for one device from one address in a minute; then it has to wait
ADDRESS_FAILURES: Final = 300  # and for all devices of one address, which may be a whole site behind one router
PERIOD: Final = 60.0
PATIENCE: Final = 10.0  # seconds for a request to be judged, and for a login
TURNS: Final = 64  # devices that are authenticated at the same time; the store takes turns by itself
TURN_PATIENCE: Final = 5.0  # seconds until one has its turn
QUIET: Final = 10.0  # seconds between two lines of the log about an outage
RETRY_MAX: Final = 10.0  # seconds after which to try again when something is down, spread so that not all come at once
IDENTITY: Final = "pushd.identity"  # in a handshake's state


class Refused(PushdError):
    """A device is not let in. `code` is the HTTP status, or the code in CONNECT_ERROR."""

    def __init__(self, code: int, message: str, reason: Refusal, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))


class Admission:
    """Judges devices, at the request if it says who they are, else at their CONNECT."""

    def __init__(self, node: Node, authenticator: Authenticator) -> None:
        self._node = node
        self._authenticator = authenticator
        self._failures = Budget(FAILURES, PERIOD)
        self._address_failures = Budget(ADDRESS_FAILURES, PERIOD)
        self._turns = trio.Semaphore(TURNS)
        self._outages = Seldom(QUIET)
        self._closed = False

    def close(self) -> None:
        """Let nobody in any more: the node shuts down."""
        self._closed = True

    async def at_request(self, handshake: Handshake) -> None:
        """Judge a request that names a device or shows a token; any other waits for its CONNECT.

        Raises HandshakeRefused: 401, 429 or 503, the latter if that takes longer than PATIENCE.
        """
        try:
            self._check_open()
            given = self._read(handshake.remote, lambda: credentials(handshake.query, handshake.headers))
            if given == (None, None):
                return
            identity = None
            with trio.move_on_after(PATIENCE):
                identity = await self._authenticate(handshake.remote, given)
                await self._check_throttle(identity.device)
                handshake.state[IDENTITY] = identity
                return
            late = trio.TooSlowError()
            raise self._authenticator_away(late) if identity is None else self._store_away(late)
        except Refused as refused:
            self._refuse_handshake(refused)

    async def at_connect(self, handshake: Handshake, auth: object, conn: str) -> tuple[Identity, Bound]:
        """Judge a CONNECT, and log the device in. Raises ConnectRefused with `{"code": 401 | 429 | 503, ...}` as data.

        The login is carried through even when the caller is cancelled meanwhile: who gets an answer has a binding.
        """
        try:
            self._check_open()
            identity = await self._identify(handshake, auth)
            return identity, await self._login(identity, conn)
        except Refused as refused:
            self._refuse_connect(refused)

    async def _identify(self, handshake: Handshake, auth: object) -> Identity:
        given = self._read(handshake.remote, lambda: credentials_from_auth(auth))
        known: Identity | None = handshake.state.get(IDENTITY)
        if known is None:
            with trio.move_on_after(PATIENCE):
                return await self._authenticate(handshake.remote, given)
            raise self._authenticator_away(trio.TooSlowError())
        if given[0] not in (None, known.device):
            raise Refused(401, "the request and CONNECT name different devices", Refusal.BAD_DEVICE)
        return known

    def _read(self, remote: str, read: Callable[[], Credentials]) -> Credentials:
        """What was said, if it can be what a device says."""
        try:
            device, token = read()
        except AuthRejected as error:
            raise self._wrong(remote, "", str(error), Refusal.BAD_TOKEN) from None
        if device is not None and not DEVICE_ID.fullmatch(device):
            raise self._wrong(remote, "", f"deviceId must match {DEVICE_ID.pattern}", Refusal.BAD_DEVICE)
        return device, token

    async def _authenticate(self, remote: str, given: Credentials) -> Identity:
        who = _claimant(given)
        if wait := self._wait(remote, who):
            raise _too_many(wait)
        await self._take_turn()
        try:
            return await self._authenticator.authenticate(*given)
        except AuthRejected as error:
            raise self._wrong(remote, who, str(error), Refusal.BAD_TOKEN) from None
        except AuthUnavailable as error:
            raise self._authenticator_away(error) from None
        finally:
            self._turns.release()

    async def _take_turn(self) -> None:
        """Wait for a turn at the authenticator, to be given back."""
        if self._turns.value:  # then nobody waits
            self._turns.acquire_nowait()
            return
        with trio.move_on_after(TURN_PATIENCE) as waiting:
            await self._turns.acquire()
        if waiting.cancelled_caught:
            raise Refused(503, "too many devices come at once", Refusal.LIMIT, _soon())

    def _wrong(self, remote: str, who: str, message: str, reason: Refusal) -> Refused:
        """Count wrong credentials; what to say about them, as long as there are not too many."""
        wait = self._wait(remote, who)
        now = trio.current_time()
        self._failures.spend(f"{remote} {who}", now)
        self._address_failures.spend(remote, now)
        return _too_many(wait) if wait else Refused(401, message, reason)

    def _wait(self, remote: str, who: str) -> float:
        """Seconds until this claimant at this address may try again. The others there wait only for far more."""
        now = trio.current_time()
        return max(self._failures.wait(f"{remote} {who}", now), self._address_failures.wait(remote, now))

    async def _check_throttle(self, device: str) -> None:
        try:
            with self._node.metrics.store_call("admits"):
                throttled = await self._node.store.admits(device)
        except StoreUnavailable as error:
            raise self._store_away(error) from None
        if throttled is not None:
            raise _throttled(throttled)

    async def _login(self, identity: Identity, conn: str) -> Bound:
        """Bind the device. A binding whose outcome stays unknown is ended by the sweep for stale devices."""
        outcome: Bound | Throttled | None = None
        error: StoreUnavailable | None = None
        failpoint("login.before")
        with self._node.hub.expecting(identity.device) as called, trio.move_on_after(PATIENCE, shield=True):
            try:
                with self._node.metrics.store_call("login"):
                    outcome = await self._node.store.login(identity.device, conn, identity.topics)
                if isinstance(outcome, Bound) and called(outcome.epoch):
                    outcome = dataclasses.replace(outcome, waiting=True)
            except StoreUnavailable as unavailable:
                error = unavailable
        if outcome is None:
            raise self._store_away(error or trio.TooSlowError())
        if isinstance(outcome, Throttled):
            raise _throttled(outcome)
        event = StatusEvent.ONLINE if outcome.previous is None else StatusEvent.TAKEOVER
        self._node.metrics.login(event)
        log.info("device %r logged in: %s (conn %s, epoch %d)", identity.device, event, conn, outcome.epoch)
        return outcome

    def _authenticator_away(self, error: Exception) -> Refused:
        self._tell("authenticator", error)
        return Refused(503, "who you are cannot be found out now", Refusal.AUTH_UNAVAILABLE, _soon())

    def _store_away(self, error: Exception) -> Refused:
        self._tell("store", error)
        return Refused(503, "the store is away", Refusal.STORE_UNAVAILABLE, _soon())

    def _tell(self, what: str, error: Exception) -> None:
        """Log an outage, seldom: every device that comes meanwhile notices it."""
        if count := self._outages.count(trio.current_time()):
            log.warning("%d logins refused, the %s is away: %s", count, what, str(error) or "no answer in time")

    def _check_open(self) -> None:
        if self._closed:
            raise Refused(503, "the server is shutting down", Refusal.DRAINING, _soon())

    def _refuse_handshake(self, refused: Refused) -> NoReturn:
        self._node.metrics.refusals.labels(refused.reason).inc()
        headers = {"WWW-Authenticate": "Bearer"} if refused.code == 401 else {}
        if refused.retry_after is not None:
            headers["Retry-After"] = str(refused.retry_after)
        raise HandshakeRefused(refused.code, refused.message, headers) from None

    def _refuse_connect(self, refused: Refused) -> NoReturn:
        self._node.metrics.refusals.labels(refused.reason).inc()
        data: dict[str, Any] = {"code": refused.code}
        if refused.retry_after is not None:
            data["retry_after"] = refused.retry_after
        raise ConnectRefused(refused.message, data) from None


def _claimant(given: Credentials) -> str:
    """Who is said to come: the device, or (as a short digest) the token that shall say so."""
    device, token = given
    return device or hashlib.blake2b((token or "").encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _too_many(wait: float) -> Refused:
    return Refused(429, "too many failed logins from this address", Refusal.LIMIT, wait)


def _throttled(throttled: Throttled) -> Refused:
    return Refused(429, "too many takeovers of this device", Refusal.THROTTLED, throttled.retry_after)


def _soon() -> float:
    return random.uniform(1.0, RETRY_MAX)
