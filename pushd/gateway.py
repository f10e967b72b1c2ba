"""Everything of one node put together, in one nursery tree, and the order in which it ends.

run ── goodbyes, confirmations, uplinks, heartbeat, sweeper   outlive the devices
    ├─ devices ── one task for each device     its end is its logout
    ├─ admin                                   answers until the very end
    ├─ server ── one task for each connection
    └─ ingest                                  is stopped first
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import trio

from engineio_trio import CloseReason, ConnectRefused, Handshake, Socket, SocketServer
from engineio_trio.workers import Worker
from pushd import admin, ingest, sweeper
from pushd.admission import Admission
from pushd.auth import Authenticator
from pushd.config import Config
from pushd.device import Device
from pushd.errors import StoreUnavailable
from pushd.failpoint import failpoint
from pushd.heartbeat import Heartbeat
from pushd.node import Node
from pushd.relay import Answer
from pushd.requests import PushDefaults
from pushd.service import Service

log = logging.getLogger(__name__)

DEVICE: Final = "pushd.device"  # in a socket's data
PACE: Final = 200.0  # devices a second that are sent away at the end, if there is time: they all come back elsewhere
SETTLE: Final = 2.0  # seconds at the end for logouts that the store has not taken yet

Address = tuple[str, int]
Verdict = Callable[..., None]  # lets a socket in, or refuses it


class Gateway:
    """One node: the device listener, the admin listener, and the work behind them.

    `worker` is the node among the others of its machine, if it shares its listeners with them.
    """

    def __init__(self, config: Config, node: Node, authenticator: Authenticator, worker: Worker | None = None) -> None:
        self.server = SocketServer(config.settings(), path=config.devices.path)
        defaults = PushDefaults(ttl=config.delivery.ttl, data_max=config.limits.payload)
        self.service = Service(node, defaults, lambda: self.server.connections, worker)
        self._config = config
        self._node = node
        self._worker = worker
        self._admission = Admission(node, authenticator)
        self._heartbeat = Heartbeat(node, config.heartbeat.interval)
        self._ingest = trio.CancelScope()
        self._draining = trio.Event()
        self._empty = trio.Event()
        self._devices: trio.Nursery
        node.hub.together = self.server.together
        self.server.authorize(self._authorize)
        self.server.on("connect")(self._connect)
        self.server.on("disconnect")(self._disconnect)
        self.server.on_any(self._uplink)

    async def run(
        self,
        listeners: Sequence[trio.abc.Listener[Any]],
        admin_listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[tuple[Address, Address]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve devices on `listeners`, and the admin interface on its own, until cancelled (call `drain` before).

        `started` gives the bound addresses of both. Raises StoreUnavailable if the node's own store cannot clean up
        what a dead process has left. A shared store may be away: then devices are sent elsewhere until it comes.
        """
        await self._clean_up()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._node.goodbyes.run, name="goodbyes")
            nursery.start_soon(self._node.confirmations.run, name="confirmations")
            await nursery.start(self._node.uplinks.run, name="uplinks")
            nursery.start_soon(self._heartbeat.run, name="heartbeat")
            stale_after = self._config.heartbeat.stale_after
            nursery.start_soon(sweeper.run, self._node, self._heartbeat, stale_after, name="sweeper")
            self._devices = await nursery.start(self._hold_devices, name="devices")
            admin_address = await nursery.start(self._serve_admin, admin_listeners, name="admin")
            neighbours = None if self._worker is None else self._worker.neighbours
            serve = partial(self.server.serve_listeners, listeners, neighbours=neighbours)
            addresses = await nursery.start(serve, name="server")
            nursery.start_soon(self._take_in, name="ingest")
            self.service.set_ready(None)
            task_status.started((addresses[0][:2], admin_address))

    async def drain(self, patience: float) -> None:
        """End in good order, within `patience` seconds: nobody comes in, all devices are closed and logged out.

        Clients see their transport close, not DISCONNECT, so they come back, elsewhere or later. Many are not closed
        in one moment but over up to half of the time, or the nodes that are left would have them all at once.
        """
        self.service.set_ready(CloseReason.SHUTDOWN.value)
        self._admission.close()
        self._ingest.cancel()
        deadline = trio.current_time() + patience
        grace = max(patience - 2 * SETTLE, 0.1)
        with trio.CancelScope(deadline=deadline - SETTLE):
            await self.server.shutdown(grace, spread=min(grace / 2, self.server.connections / PACE))
        for holder in self._node.hub:
            holder.shut()
        self._draining.set()
        with trio.CancelScope(deadline=deadline):
            await self._empty.wait()
            await self._node.goodbyes.settle()
        if left := len(self._node.hub) + len(self._node.goodbyes):
            log.warning("%d devices could not be logged out; the next start, or another node, does it", left)

    # Handlers of the server.

    async def _authorize(self, handshake: Handshake) -> None:
        await self._admission.at_request(handshake)

    def _connect(self, socket: Socket, auth: object, *, answer: Verdict) -> None:
        if self._draining.is_set():
            socket.close(CloseReason.SHUTDOWN)
        else:
            self._devices.start_soon(self._serve, socket, auth, answer, name=f"device of {socket.id}")

    def _disconnect(self, socket: Socket, reason: CloseReason) -> None:
        socket.data[DEVICE].disconnected(reason)

    def _uplink(self, socket: Socket, event: str, args: tuple[Any, ...], *, answer: Answer) -> None:
        socket.data[DEVICE].uplink(event, args, answer)

    # Tasks.

    async def _serve(self, socket: Socket, auth: object, answer: Verdict) -> None:
        """A device, from its login to its end: one task, which is not the connection's."""
        try:
            device = await self._let_in(socket, auth, answer)
        except ConnectRefused as refusal:
            if refusal.data["code"] == HTTPStatus.SERVICE_UNAVAILABLE:
                # After CONNECT_ERROR a stock client never comes back; after a lost transport it does, by itself.
                socket.close(CloseReason.UNAVAILABLE)
            answer(refusal)
        except Exception:  # the boundary of a login: whatever goes wrong ends that connection alone
            log.exception("the login of connection %s failed", socket.id)
            socket.close(CloseReason.INTERNAL_ERROR)
        else:
            await device.run()

    async def _let_in(self, socket: Socket, auth: object, answer: Verdict) -> Device:
        identity, bound = await self._admission.at_connect(socket.handshake, auth, socket.id)
        # From here on nothing waits: whoever is bound has a device, and its end is the logout.
        failpoint("login.bound")
        device = Device(identity, bound, socket, self._node)
        socket.data[DEVICE] = device
        self._node.hub.join(device)
        failpoint("login.joined")
        answer()
        if socket.closed is not None:  # meanwhile: nobody else says so
            device.disconnected(socket.closed)
        return device

    async def _clean_up(self) -> None:
        try:
            await sweeper.sweep(self._node)
        except StoreUnavailable as error:
            if not self._config.store.shared:
                raise
            log.warning("this node serves nobody until the store is there: %s", error)

    async def _hold_devices(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await self._draining.wait()
        self._empty.set()

    async def _take_in(self) -> None:
        with self._ingest:
            await ingest.run(self.service)

    async def _serve_admin(
        self, listeners: Sequence[trio.SocketListener], *, task_status: trio.TaskStatus[Address]
    ) -> None:
        token = self._config.admin.token.get_secret_value()
        await admin.serve(self.service, listeners, token=token, task_status=task_status)
