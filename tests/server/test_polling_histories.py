"""Any history of a session on long-polling: nothing is lost, doubled or out of order, whatever the moment.

The client polls and posts when chance has it, in pieces, on connections that last or not, and may go on over a
WebSocket; handlers of each kind, and a task beside them, emit up to more than a socket takes at once.
"""

import collections
import json
import random
from collections.abc import Iterator

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from tests.raw import MemoryListener, PlainListener, Poller, Raw, Wire, polling, request, serving, websocket_target

SIZES = (0, 0, 0, 10, 3_000, 100_000, 300_000, 900_000)
PATIENCE = 3_000.0  # seconds on a clock that jumps
MOST = 60  # events of the client


class History:
    """One session, its two ends, and what each has said and heard."""

    def __init__(self, seed: int, listener: MemoryListener) -> None:
        self.chance = random.Random(seed)
        self.listener = listener
        settings = Settings(
            ping_interval=self.chance.choice([1_000, 3]),
            handler_queue=self.chance.choice([2, 64]),
            keep_alive=self.chance.choice([2, 300]),
            outbox_bytes=50_000_000,
            write_timeout=PATIENCE,
        )
        self.server = SocketServer(settings)
        self.ended: list[CloseReason] = []
        self.server.on("disconnect")(lambda socket, reason: self.ended.append(reason))
        self.server.on("plain")(self.plain)
        # Without an `async def` handler a session begins without tasks of its own.
        self.events = self.chance.choice([("plain",), ("plain", "owed"), ("plain", "slow"), ("plain", "owed", "slow")])
        if "slow" in self.events:
            self.server.on("slow")(self.slow)
        if "owed" in self.events:
            self.server.on("owed")(self.owed)
        self.emitted: dict[str, int] = collections.Counter()
        self.heard: dict[str, list[int]] = collections.defaultdict(list)  # by the client
        self.posted: list[int] = []
        self.taken: list[int] = []  # by the handlers
        self.pongs: list[str] = []
        self.quiet = False  # the task beside the handlers has said everything
        self.posts_over = trio.Event()
        self.polls_over = trio.Event()
        self.moving = False  # to a WebSocket
        self.nursery: trio.Nursery
        self.sid: str | None = None

    # The server's end.

    def emit(self, socket: Socket, event: str, times: int) -> None:
        for _ in range(times):
            number = self.emitted[event]
            self.emitted[event] += 1
            socket.emit(event, number, "x" * self.chance.choice(SIZES))

    def plain(self, socket: Socket, number: int) -> None:
        self.taken.append(number)
        self.emit(socket, "plain", self.chance.choice([0, 1, 1, 3]))

    async def slow(self, socket: Socket, number: int) -> None:
        if self.chance.random() < 0.7:
            await trio.sleep(2 * self.chance.random())
        self.taken.append(number)
        self.emit(socket, "slow", self.chance.choice([0, 1, 2]))

    def owed(self, socket: Socket, number: int, *, answer: object) -> None:
        self.taken.append(number)
        self.nursery.start_soon(self.settle, socket, answer)

    async def settle(self, socket: Socket, answer: object) -> None:
        await trio.sleep(self.chance.random())
        assert callable(answer)
        answer()
        self.emit(socket, "owed", 1)

    async def talk(self, socket: Socket) -> None:
        for _ in range(self.chance.randrange(5, 25)):
            await trio.sleep(self.chance.choice([0, 0.01, 0.3, 1]))
            if self.chance.random() < 0.3:
                with self.server.together():
                    self.emit(socket, "task", self.chance.randrange(4))
            else:
                self.emit(socket, "task", self.chance.randrange(4))
            if self.chance.random() < 0.2:
                await socket.flush()
        self.quiet = True

    # The client's end.

    def hear(self, packet: str) -> None:
        if packet.startswith("42"):
            event, number, _ = json.loads(packet[2:])
            self.heard[event].append(number)
        elif packet == "2":
            self.pongs.append("3")
        else:
            assert packet == "6", packet

    def words(self) -> list[str]:
        """What the client says next: pongs that it owes, and some events."""
        said, self.pongs = self.pongs, []
        for _ in range(self.chance.choice([0, 1, 1, 2, 8])):
            if len(self.posted) < MOST and not self.quiet:
                event = self.chance.choice(self.events)
                said.append(f'42["{event}",{len(self.posted)}]')
                self.posted.append(len(self.posted))
        return said

    @property
    def over(self) -> bool:
        """Everything that was said has been heard, and nothing more is going to be said."""
        told = all(len(self.heard[event]) == count for event, count in self.emitted.items())
        return self.quiet and told and len(self.taken) == len(self.posted)

    async def polls(self) -> None:
        raw = self.listener.connect()
        while not self.moving:
            if self.chance.random() < 0.2:
                await trio.sleep(self.chance.random())
            raw = await self.fresh(raw)
            headers = {"Connection": "close"} if self.chance.random() < 0.1 else {}
            for piece in self.pieces(request("GET", polling(self.sid), headers)):
                await raw.send(piece)
                await trio.lowlevel.checkpoint()
            answer = await raw.answer()
            assert answer.status == 200, answer
            for packet in answer.text.split("\x1e"):
                self.hear(packet)
            if headers:
                raw = self.listener.connect()
        self.polls_over.set()

    def pieces(self, data: bytes) -> Iterator[bytes]:
        cut = self.chance.randrange(1, len(data)) if self.chance.random() < 0.1 else len(data)
        yield data[:cut]
        if data[cut:]:
            yield data[cut:]

    async def fresh(self, raw: Raw) -> Raw:
        """The connection, or another one: now and then, and always where the server may have closed it as idle."""
        if self.chance.random() < 0.8 and self.server.settings.keep_alive > 100:
            return raw
        await raw.aclose()
        return self.listener.connect()

    async def posts(self) -> None:
        raw = self.listener.connect()
        while not (self.moving or self.over):
            await trio.sleep(self.chance.choice([0.001, 0.01, 0.5]))
            if said := self.words():
                raw = await self.fresh(raw)
                answer = await raw.request("POST", polling(self.sid), body="\x1e".join(said).encode())
                assert (answer.status, answer.body) == (200, b"ok"), answer
        self.posts_over.set()

    async def move(self) -> None:
        """Go on over a WebSocket, or give the probe up."""
        await trio.sleep(4 * self.chance.random())
        raw = self.listener.connect()
        wire = await Wire.open(raw, websocket_target(self.sid))
        await wire.say("2probe")
        assert await wire.text() == "3probe"
        if self.chance.random() < 0.2:
            await raw.aclose()
            return
        self.moving = True
        await self.polls_over.wait()
        await self.posts_over.wait()
        await wire.say("5")
        self.nursery.start_soon(self.listen, wire)
        while not self.over:
            await trio.sleep(self.chance.choice([0.001, 0.1]))
            if said := self.words():
                await wire.say(*said)

    async def listen(self, wire: Wire) -> None:
        while True:
            self.hear(await wire.text())

    async def play(self) -> None:
        """All of it, until everything has been heard."""
        async with serving(self.server, self.listener), trio.open_nursery() as self.nursery:
            self.sid = (await Poller.joined(self.listener)).sid
            (socket,) = self.server.of("/").sockets.values()
            parts = [self.polls, self.posts, *([self.move] if self.chance.random() < 0.6 else [])]
            for part in parts:
                self.nursery.start_soon(part)
            self.nursery.start_soon(self.talk, socket)
            with trio.move_on_after(PATIENCE):
                while not self.over:  # noqa: ASYNC110 - a question to many counters
                    await trio.sleep(0.1)
            self.check()
            await socket.flush()
            self.nursery.cancel_scope.cancel()

    def check(self) -> None:
        assert self.ended == []
        for event, count in self.emitted.items():
            assert self.heard[event] == list(range(count)), event
        assert sorted(self.taken) == self.posted


@pytest.mark.parametrize("kind", [PlainListener, MemoryListener], ids=["plain", "memory"])
@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_nothing_is_lost_on_the_way(kind: type[MemoryListener], seed: int) -> None:
    """The order in which tasks run is chance as well; hypothesis repeats it with the seed."""

    async def main() -> None:
        await History(seed, kind()).play()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
