"""Devices and producers that do what real ones do, at random, and note everything.

A device may have several programs that use its id, and so take it over from each other. Each connects by a transport
of chance, acknowledges at once, later or not at all, speaks, leaves, and comes back. Producers push by HTTP and by the
stream, and push again with the same id for as long as they do not know the outcome.
"""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import trio

from engineio_trio import AckTimeout, ConnectRefused, Disconnected, HandshakeRefused, RemoteProtocolError
from engineio_trio.client import ClientSocket, Event, connect
from tests.faults.history import History
from tests.faults.processes import asking

TRANSPORTS: tuple[tuple[str, ...], ...] = (("websocket",), ("polling", "websocket"), ("polling",))
AWAY = (OSError, Disconnected, HandshakeRefused, ConnectRefused, RemoteProtocolError)
PAUSE = 0.2  # seconds, at most, before the next try


class Stage:
    """What all of them share: where the daemon is, chance, the history, and how far the run has come."""

    def __init__(self, devices: str, admin: str, history: History, rng: random.Random) -> None:
        self.url = f"http://{devices}"
        self.admin = admin
        self.history = history
        self.rng = rng
        self.drain = trio.Event()  # producers end; devices acknowledge all, one program each, and stay
        self.over = trio.Event()  # all devices leave

    async def pause(self, longest: float = PAUSE) -> None:
        """A moment of chance."""
        await trio.sleep(self.rng.uniform(0, longest))


@dataclasses.dataclass
class Program:
    """One program that uses a device's id. `name` tells it from the others; the first one of a device stays longest."""

    device: str
    name: str
    query: Mapping[str, str]
    stage: Stage
    first: bool
    said: int = 0

    async def run(self) -> None:
        """Connect, live, leave, again and again, until the run is over."""
        while not self.stage.over.is_set() and (self.first or not self.stage.drain.is_set()):
            try:
                await self._visit()
            except AWAY:
                pass
            except ExceptionGroup as group:
                if group.split(AWAY)[1] is not None:
                    raise
            await self.stage.pause()

    async def _visit(self) -> None:
        draining = self.stage.drain.is_set()
        transports = self.stage.rng.choice(TRANSPORTS)
        async with connect(self.stage.url, query=self.query, transports=transports, timeout=10.0) as socket:
            self._note("connected", socket)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._leave, socket, draining)
                    nursery.start_soon(self._speak, socket, draining)
                    await self._listen(socket, careful=draining)
                    nursery.cancel_scope.cancel()
            finally:
                self._note("closed", socket, reason=str(socket.closed))

    async def _leave(self, socket: ClientSocket, draining: bool) -> None:
        """End the visit: after a while, and when the run enters its next part."""
        if draining:
            await self.stage.over.wait()
        else:
            with trio.move_on_after(self.stage.rng.uniform(0.1, 3.0)):
                await self.stage.drain.wait()
        self._note("leaving", socket)
        socket.disconnect()

    async def _listen(self, socket: ClientSocket, *, careful: bool) -> None:
        later: list[Event] = []
        async for event in socket:
            if event.name == "kicked":
                continue
            data, meta = event.args
            self._note("received", socket, data=data, **meta)
            chance = 0.0 if careful else self.stage.rng.random()
            if chance < 0.75:
                self._ack(socket, event)
                while later:
                    self._ack(socket, later.pop())
            elif chance < 0.95:
                later.append(event)

    def _ack(self, socket: ClientSocket, event: Event) -> None:
        self._note("acking", socket, seq=event.args[1]["seq"])
        event.ack()

    async def _speak(self, socket: ClientSocket, draining: bool) -> None:
        while not draining:
            await self.stage.pause()
            id = f"{self.name}-{self.said}"
            self.said += 1
            self._note("said", socket, id=id)
            if self.stage.rng.random() < 0.3:
                socket.emit("reading", id)
                continue
            try:
                await socket.call("reading", id, timeout=30.0)
            except (Disconnected, AckTimeout):
                return
            self._note("heard", socket, id=id)

    def _note(self, what: str, socket: ClientSocket, **more: Any) -> None:
        self.stage.history.note(self.name, what, device=self.device, conn=socket.id, **more)


@dataclasses.dataclass
class Producer:
    """A service that pushes to these targets until the run drains; what it began it carries through."""

    name: str
    targets: Sequence[str]
    stage: Stage
    by_stream: bool
    pushed: int = 0

    async def run(self) -> None:
        """Push, one after the other."""
        async with asking(self.stage.admin) as http:
            while not self.stage.drain.is_set():
                await self._push(http)
                await self.stage.pause(0.03)

    async def _push(self, http: httpx.AsyncClient) -> None:
        id = f"{self.name}-{self.pushed}"
        self.pushed += 1
        to = self.stage.rng.choice(self.targets)
        ttl = self.stage.rng.uniform(0.01, 1.0) if self.stage.rng.random() < 0.1 else None
        self.stage.history.note(self.name, "pushing", id=id, to=to, ttl=ttl)
        limit = {} if ttl is None else {"ttl": ttl}
        if self.by_stream:
            fields = {"to": to, "id": id, "data": f'"{id}"'} | {name: str(value) for name, value in limit.items()}
            await self._until_known(http, "/v1/streams/push", fields, 202)
            self.stage.history.note(self.name, "appended", id=id, to=to)
        else:
            answer = await self._until_known(http, "/v1/push", {"to": to, "id": id, "data": id, **limit}, 200)
            receipts = [{name: one[name] for name in ("device", "state", "seq")} for one in answer["receipts"]]
            self.stage.history.note(self.name, "accepted", id=id, to=to, receipts=receipts)

    async def _until_known(self, http: httpx.AsyncClient, path: str, body: Any, status: int) -> Any:
        """The answer to a request, made again and again until there is one."""
        while True:
            try:
                response = await http.post(path, json=body)
            except httpx.TransportError:
                await self.stage.pause()
                continue
            if response.status_code == status:
                return response.json()
            assert response.status_code == 503, response.text
            await self.stage.pause()
