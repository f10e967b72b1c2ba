"""One authenticated device, from its login to the end of its epoch; one nursery owns all that happens for it."""

import logging
import time
from typing import Any, Final

import trio

from engineio_trio import CloseReason, Disconnected, LocalProtocolError
from pushd.errors import StaleEpoch, StoreUnavailable
from pushd.failpoint import failpoint
from pushd.hub import ADMIN, TAKEOVER
from pushd.model import Bound, Identity, Message
from pushd.node import Node
from pushd.peer import Peer
from pushd.pump import Pump, arguments_of
from pushd.relay import Answer, Relay
from pushd.requests import KICKED

log = logging.getLogger(__name__)

LAST_WORDS: Final = 2.0  # seconds for what is still to be stored when a connection has ended
LOST: Final = "lost"
EXPIRED: Final = "token expired"
BY_SERVER: Final = "server"
LONGEST_SLEEP: Final = 86_400.0  # a token's expiry is looked at again by then: the wall clock may be set meanwhile


class Device:
    """The connection of a device: its pump, its relay, and the watch over its token, until it ends or is kicked.

    It ends once, for the first reason; then what it has received is stored, and its epoch is logged out.
    """

    def __init__(self, identity: Identity, bound: Bound, peer: Peer, node: Node) -> None:
        self.device = identity.device
        self.conn = peer.id
        self.epoch = bound.epoch
        self._expires = identity.expires
        self._peer = peer
        self._node = node
        self._scope = trio.CancelScope()
        self._reason = ""
        self._lost = False
        self._pump = Pump(self.device, bound, peer, node, identity.confirm or node.delivery.confirm)
        self._relay = Relay(self.device, bound.epoch, peer.id, node, self)

    async def run(self) -> None:
        """Serve the device until its end, and log it out.

        The boundary of everything that goes wrong for one device: it is logged, and ends this connection alone.
        """
        try:
            with self._scope:
                if self._expires is None:
                    await self._pump.run()
                else:
                    await self._run_until(self._expires)
        except* StaleEpoch:
            self.lost()
        except* Disconnected as gone:
            log.debug("%r: a write found the connection closed: %s", self.device, gone.exceptions[0])
            self._reason = self._reason or (self._peer.closed or CloseReason.TRANSPORT_CLOSE).value
        except* Exception as error:  # noqa: BLE001 - logged there
            self.failed(error)
        finally:
            self._node.hub.leave(self)
            await self._part_safely()

    async def _run_until(self, expires: float) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_token, expires, name=f"auth {self.device}")
            await self._pump.run()

    def uplink(self, event: str, args: tuple[Any, ...], answer: Answer) -> None:
        """Have an event of the device stored; `answer`, which acknowledges it, is called when that is done.

        It is never called if the device is lost before.
        """
        try:
            self._relay.take(event, args, answer)
        except ValueError as error:
            log.warning("event %r of %r cannot be stored: %s", event, self.device, error)
            self._close(CloseReason.POLICY)

    async def _watch_token(self, expires: float) -> None:
        while (left := expires - time.time()) > 0:  # noqa: ASYNC110 - nobody sets an event when time has passed
            await trio.sleep(min(left, LONGEST_SLEEP))
        self.kick(EXPIRED, BY_SERVER)

    # How it ends: all synchronous, called by whoever notices.

    def disconnected(self, reason: CloseReason) -> None:
        """The socket has gone."""
        self._end(reason.value)

    def kick(self, reason: str, by: str) -> None:
        """Say `kicked`, then DISCONNECT, which tells a stock client not to come back, then close."""
        if self._reason:
            return
        self._end(reason)
        self._node.metrics.kicks.labels(_kicker(by)).inc()
        self._peer.emit(KICKED, {"reason": reason, "by": by})
        self._peer.disconnect(close=True)

    def lost(self) -> None:
        """The store says that the epoch is over; `run` finds out why, and then kicks or closes."""
        self._lost = True
        self._scope.cancel()

    def failed(self, error: Exception) -> None:
        """Something of its own can never be done: that ends this connection alone."""
        log.error("the connection of %r failed", self.device, exc_info=error)
        self._close(CloseReason.INTERNAL_ERROR)

    def shut(self) -> None:
        """The node shuts down: close the transport only, so that the client comes back (to another node)."""
        self._close(CloseReason.SHUTDOWN)

    def _close(self, reason: CloseReason) -> None:
        self._end(reason.value)
        self._peer.close(reason)

    def _end(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._scope.cancel()

    # After the end. Each wait has a time limit of its own, and goes on though the node is cancelled.

    async def _part_safely(self) -> None:
        try:
            await self._part()
        except Exception:
            log.exception("%r could not be logged out; the sweep for stale devices does it", self.device)

    async def _part(self) -> None:
        if self._lost and not self._reason:
            await self._explain_loss()
        else:
            await self._last_words()
        reason = self._reason or CloseReason.SHUTDOWN.value  # without a reason: the whole node was cancelled
        failpoint("logout.before")
        await self._node.goodbyes.say(self.device, self.epoch, reason)
        failpoint("logout.after")
        self._node.metrics.disconnects.labels(reason if reason in _REASONS else "kicked").inc()
        log.info("device %r ended: %s (conn %s, epoch %d)", self.device, reason, self.conn, self.epoch)

    async def _last_words(self) -> None:
        """Store what had been received before the end: acknowledgements and events."""
        if not self._pump.held and self._relay.idle:
            return
        with trio.move_on_after(LAST_WORDS, shield=True):
            try:
                await self._pump.finish()
                await self._relay.finish()
            except StaleEpoch:
                log.debug("%r was taken over while it ended", self.device)

    async def _explain_loss(self) -> None:
        """Taken over: kick, or two holders of one id would fight for it. Thought dead: close, so that it returns."""
        record = None
        with trio.move_on_after(LAST_WORDS, shield=True):
            try:
                record = await self._node.store.device(self.device)
            except StoreUnavailable as error:
                log.debug("why %r was lost is not known: %s", self.device, error)
        if record is not None and record.online and record.epoch > self.epoch:
            self.kick(TAKEOVER, record.conn)
        else:
            self._end(LOST)
            self._peer.close(CloseReason.SERVER_CLOSE)

    # What the hub passes on.

    @property
    def seen(self) -> float:
        """The Trio time at which the device was last heard."""
        return self._peer.seen

    def wake(self) -> None:
        """There is something new in the inbox."""
        self._pump.wake()

    def deliver(self, message: Message, after: int) -> None:
        """Send a message that has just come into the inbox, after this seq; see `Pump.deliver`."""
        try:
            self._pump.deliver(message, after)
        except Exception as error:  # noqa: BLE001 - as in `run`: whatever goes wrong for one device ends its connection alone
            self.failed(error)

    def cast(self, message: Message) -> bool:
        """Send a qos 0 message at once; True if it was put on its way."""
        if self._reason or self._peer.closed is not None:
            return False
        try:
            self._peer.emit(message.event, *arguments_of(message))
        except (LocalProtocolError, ValueError) as error:
            log.error("push %r for %r cannot be sent: %s", message.id, self.device, error)
            return False
        return True


_REASONS: Final = frozenset({reason.value for reason in CloseReason} | {LOST, TAKEOVER, EXPIRED})


def _kicker(by: str) -> str:
    """Who kicked, from a closed list: a label of the metrics."""
    return by if by in (ADMIN, BY_SERVER) else TAKEOVER
