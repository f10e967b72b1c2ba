"""Devices and producers that do what real ones do, at random, and note everything.

A device may have several programs that use its id, and so take it over from each other. Each connects to a node of
chance by a transport of chance, acknowledges at once, later or not at all, speaks, leaves, and comes back. Producers
push to a node of chance, or write to the stream, and push again with the same id for as long as they do not know the
outcome.
"""

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx
import trio

from engineio_trio import AckTimeout, ConnectRefused, Disconnected, HandshakeRefused, RemoteProtocolError
from engineio_trio.client import ClientSocket, Event, connect
from tests.faults.history import History, Record

TRANSPORTS: tuple[tuple[str, ...], ...] = (("websocket",), ("polling", "websocket"), ("polling",))
AWAY = (OSError, Disconnected, HandshakeRefused, ConnectRefused, RemoteProtocolError)
PAUSE = 0.2  # seconds, at most, before the next try
WORTH = ("accepted", "appended", "received", "acking", "heard", "connected")


@dataclasses.dataclass(frozen=True, slots=True)
class Door:
    """Where a node is found: the URLs for its devices and for its admin interface."""

    devices: str
    admin: str


class Stage:
    """What all of them share: where the nodes are, chance, the history, and how far the run has come."""

    def __init__(self, doors: Sequence[Door], history: History, rng: random.Random) -> None:
        self.doors = doors
        self.history = history
        self.rng = rng
        self.busy: set[str] = set()  # names of those who are not yet as `drain` wants them
        self.drain = trio.Event()  # producers end; devices acknowledge all, one program each, and stay
        self.over = trio.Event()  # all devices leave

    @property
    def door(self) -> Door:
        """A node of chance."""
        return self.rng.choice(self.doors)

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
    longest: float = 3.0  # seconds that a visit lasts, at most
    said: int = 0

    async def run(self) -> None:
        """Connect, live, leave, again and again, until the run is over."""
        self.stage.busy.add(self.name)
        while not self.stage.over.is_set() and (self.first or not self.stage.drain.is_set()):
            try:
                await self._visit()
            except AWAY:
                pass
            except ExceptionGroup as group:
                if group.split(AWAY)[1] is not None:
                    raise
            await self.stage.pause()
        self.stage.busy.discard(self.name)

    async def _visit(self) -> None:
        draining = self.stage.drain.is_set()
        transports = self.stage.rng.choice(TRANSPORTS)
        async with connect(self.stage.door.devices, query=self.query, transports=transports, timeout=10.0) as socket:
            self._note("connected", socket)
            if draining:
                self.stage.busy.discard(self.name)
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
            with trio.move_on_after(self.stage.rng.uniform(0.03 * self.longest, self.longest)):
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


def worthwhile(records: Sequence[Record]) -> bool:
    """Whether a run has had what it is to be checked with."""
    counts = Counter(record["what"] for record in records)
    times = Counter((record["device"], record["seq"]) for record in records if record["what"] == "received")
    return min(counts[what] for what in WORTH) > 5 and max(times.values()) > 1


Send = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]  # a push -> what came of it; None: unknown


@dataclasses.dataclass
class Producer:
    """A service that pushes to these targets until the run drains; what it began it carries through."""

    name: str
    targets: Sequence[str]
    stage: Stage
    send: Send
    pushed: int = 0

    async def run(self) -> None:
        """Push, one after the other."""
        self.stage.busy.add(self.name)
        while not self.stage.drain.is_set():
            await self._push()
            await self.stage.pause(0.03)
        self.stage.busy.discard(self.name)

    async def _push(self) -> None:
        id = f"{self.name}-{self.pushed}"
        self.pushed += 1
        to = self.stage.rng.choice(self.targets)
        ttl = self.stage.rng.uniform(0.01, 1.0) if self.stage.rng.random() < 0.1 else None
        self.stage.history.note(self.name, "pushing", id=id, to=to, ttl=ttl)
        push = {"to": to, "id": id, "data": id} | ({} if ttl is None else {"ttl": ttl})
        while (outcome := await self.send(push)) is None:
            await self.stage.pause()
        self.stage.history.note(self.name, id=id, to=to, **outcome)


def by_http(stage: Stage, http: httpx.AsyncClient) -> Send:
    """Pushes to the admin interface of a node of chance; accepted when that has answered."""

    async def send(push: Mapping[str, Any]) -> Mapping[str, Any] | None:
        answer = await _posted(http, f"{stage.door.admin}/v1/push", push, 200)
        if answer is None:
            return None
        receipts = [{name: one[name] for name in ("device", "state", "seq")} for one in answer["receipts"]]
        return {"what": "accepted", "receipts": receipts}

    return send


def by_stream_over_http(stage: Stage, http: httpx.AsyncClient) -> Send:
    """Writes to the push stream through the admin interface; what is there when that has answered will be taken."""

    async def send(push: Mapping[str, Any]) -> Mapping[str, Any] | None:
        answer = await _posted(http, f"{stage.door.admin}/v1/streams/push", entry_of(push), 202)
        return None if answer is None else {"what": "appended"}

    return send


def entry_of(push: Mapping[str, Any]) -> dict[str, str]:
    """A push as the fields of an entry of the push stream."""
    return {name: json.dumps(value) if name == "data" else str(value) for name, value in push.items()}


async def _posted(http: httpx.AsyncClient, url: str, body: Any, status: int) -> Any:
    """The answer to a request, or None if it is not known what became of it."""
    try:
        response = await http.post(url, json=body)
    except httpx.TransportError:
        return None
    if response.status_code == status:
        return response.json()
    assert response.status_code == 503, response.text
    return None
