"""Broadcasts to many: written turn by turn, while others are served, and in order with all else that is sent."""

import collections
import contextlib
import random
import socket
from collections.abc import Iterator

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from engineio_trio.server import round
from tests.raw import Ended, Later, MemoryListener, PlainListener, Poller, Wire, at_rest, serving, text

PATIENCE = 3_000.0  # seconds on a clock that jumps
STEPS = [*["emit"] * 6, "together", "turn", "turn", "sleep", "flush", "room", "leave", "close"]


@contextlib.contextmanager
def turns_of(peers: int) -> Iterator[None]:
    """However fast the machine, a turn of the event loop is over when so many peers have been written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round, "TURN", -1)
        patch.setattr(round, "BATCH", peers)
        patch.setattr(round, "FEW", peers)
        yield


def have_heard(listener: PlainListener) -> list[bool]:
    """Of each client, in order, whether there is something to read."""
    heard = []
    for client in listener._clients:
        try:
            heard.append(bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)))
        except BlockingIOError:
            heard.append(False)
    return heard


@pytest.mark.parametrize("together", [False, True])
async def test_others_are_served_while_a_broadcast_goes_out(
    together: bool, autojump_clock: trio.testing.MockClock
) -> None:
    server = SocketServer()

    @server.on("echo")
    def echo(socket: Socket, data: str) -> None:
        socket.emit("echo", data)

    listener = PlainListener()
    with turns_of(5):
        async with serving(server, listener):
            wires = [await Wire.joined(listener.connect()) for _ in range(100)]
            listener._clients[-1].send(text('42["echo","hello"]'))  # which the server has yet to look at
            began = trio.current_time()
            with server.together() if together else contextlib.nullcontext():
                server.emit("news")
            assert have_heard(listener) == [True] * 5 + [False] * 95  # the first turn's
            while not have_heard(listener)[-1]:
                await trio.lowlevel.checkpoint()
            assert not all(have_heard(listener))
            assert [await wires[-1].event(), await wires[-1].event()] == [("news",), ("echo", "hello")]
            for wire in wires[:-1]:
                assert await wire.event() == ("news",)
            assert trio.current_time() == began  # nobody had to wait for a ping that takes it along


@pytest.fixture(params=["alone", "with tasks"])
def server(request: pytest.FixtureRequest) -> SocketServer:
    """Whose connections each have a task alone, or a nursery from the start."""
    server = SocketServer()
    if request.param == "with tasks":

        @server.on("connect")
        async def connect(socket: Socket) -> None:
            await trio.lowlevel.checkpoint()

    return server


@pytest.mark.parametrize("shutdown", [True, False])
async def test_those_who_leave_have_had_the_broadcast_before(
    server: SocketServer, shutdown: bool, autojump_clock: trio.testing.MockClock
) -> None:
    listener = PlainListener()
    with turns_of(1):
        async with serving(server, listener):
            wires = [await Wire.joined(listener.connect()) for _ in range(20)]
            server.emit("bye")
            if shutdown:
                await server.shutdown()
            else:
                for one in tuple(server.of("/").sockets.values()):
                    one.close()
            for wire in wires:
                assert await wire.event() == ("bye",)
                assert await wire.code() == (1012 if shutdown else 1000)


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("grace", [0, 10])
async def test_peers_that_go_while_a_broadcast_is_written_end_nothing_else(
    server: SocketServer, turns: int, grace: float, autojump_clock: trio.testing.MockClock
) -> None:
    listener = PlainListener()
    with turns_of(1):
        async with serving(server, listener):
            for _ in range(40):
                await Wire.joined(listener.connect())
            server.emit("news")
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            listener.close_clients()
            if grace:
                await at_rest(server)
                wire = await Wire.joined(listener.connect())
                server.emit("more")
                assert await wire.event() == ("more",)
            await server.shutdown(grace)


async def test_a_peer_that_waits_for_its_turn_is_no_slow_consumer(autojump_clock: trio.testing.MockClock) -> None:
    server = SocketServer(Settings(outbox_bytes=1_000))
    listener = PlainListener()
    with turns_of(1):
        async with serving(server, listener):
            wires = [await Wire.joined(listener.connect()) for _ in range(10)]
            for number in range(30):
                server.emit("news", number, "x" * 100)
            for wire in wires:
                assert [(await wire.event())[1] for _ in range(30)] == list(range(30))


@pytest.mark.parametrize("polls", [True, False])
async def test_those_who_do_not_read_are_slow_consumers(polls: bool, autojump_clock: trio.testing.MockClock) -> None:
    server = SocketServer(Settings(outbox_bytes=50_000, ping_interval=1_000))
    ended = Ended(server)
    listener = PlainListener()
    with turns_of(1):
        async with serving(server, listener):
            for _ in range(5):
                await (Poller.joined(listener) if polls else Wire.joined(listener.connect()))
            while server.connections:
                server.emit("news", "x" * 10_000)
                await trio.lowlevel.checkpoint()
            assert ended.reasons == [CloseReason.SLOW_CONSUMER] * 5


async def test_who_flushes_does_not_wait_for_a_turn(autojump_clock: trio.testing.MockClock) -> None:
    server = SocketServer()
    listener = PlainListener()
    with turns_of(1):
        async with serving(server, listener):
            for _ in range(20):
                await Wire.joined(listener.connect())
            server.emit("news")
            *_, last = server.of("/").sockets.values()
            await last.flush()
            assert have_heard(listener) == [True] + [False] * 18 + [True]


async def test_all_have_their_turn_however_fast_broadcasts_follow(autojump_clock: trio.testing.MockClock) -> None:
    server = SocketServer()
    listener = PlainListener()
    with turns_of(1):
        async with serving(server, listener):
            wires = [await Wire.joined(listener.connect()) for _ in range(20)]
            for number in range(20):  # more than a turn can write
                server.emit("news", number)
                await trio.lowlevel.checkpoint()
            assert have_heard(listener) == [True] * 20
            for wire in wires:
                assert [(await wire.event())[1] for _ in range(20)] == list(range(20))


async def test_streams_that_outlive_the_serving_get_all_of_it(autojump_clock: trio.testing.MockClock) -> None:
    server = SocketServer()
    listener = PlainListener()
    with turns_of(1):
        async with trio.open_nursery() as streams:
            async with trio.open_nursery() as serving:
                await serving.start(server.serve_listeners, [])
                wires = []
                for _ in range(20):
                    raw = listener.connect()
                    streams.start_soon(server.serve_stream, listener.accepted[-1])
                    wires.append(await Wire.joined(raw))
                server.emit("meanwhile")
                serving.cancel_scope.cancel()
            for said in ["meanwhile", "afterwards", "together"]:
                if said == "afterwards":
                    server.emit(said)
                elif said == "together":
                    with server.together():
                        server.emit(said)
                assert have_heard(listener) == [True] * 20  # nobody would write it later
                assert [await wire.event() for wire in wires] == [(said,)] * 20
            listener.close_clients()


@pytest.mark.parametrize("peers", [1, 40])
async def test_a_poll_takes_all_that_is_broadcast_in_a_turn(peers: int, autojump_clock: trio.testing.MockClock) -> None:
    server = SocketServer()
    listener = PlainListener()
    with turns_of(peers):
        async with serving(server, listener), trio.open_nursery() as nursery:
            pollers = [await Poller.joined(listener) for _ in range(40)]
            polls = [Later(nursery, poller.get) for poller in pollers]
            await trio.testing.wait_all_tasks_blocked()
            server.emit("one")
            server.emit("two")
            for poll in polls:
                assert (await poll.value()).body == b'42["one"]\x1e42["two"]'


class History:
    """Some sockets, what was sent to each while it was there, and what its client has heard."""

    def __init__(self, seed: int, listener: MemoryListener) -> None:
        self.chance = random.Random(seed)
        self.listener = listener
        self.server = SocketServer(Settings(outbox_bytes=50_000_000, ping_interval=1_000, close_timeout=PATIENCE))
        self.sent: dict[str, list[int]] = collections.defaultdict(list)
        self.heard: dict[str, list[int]] = collections.defaultdict(list)
        self.closed: set[str] = set()  # from then on nothing is sent
        self.number = 0
        self.nursery: trio.Nursery
        self.listeners = 0

    def present(self) -> list[Socket]:
        return [one for one in self.server.of("/").sockets.values() if one.id not in self.closed]

    def emit(self) -> None:
        """One event: to all, to a room, or to one, some of it larger than a socket takes at once."""
        self.number += 1
        payload = "x" * self.chance.choice([0, 0, 0, 0, 2_000, 300_000])
        targets = self.present()
        kind = self.chance.choice(["all", "all", "others", "room", "one"])
        if kind == "one" and targets:
            targets = [self.chance.choice(targets)]
            targets[0].emit("e", self.number, payload)
        elif kind == "room":
            targets = [one for one in targets if "red" in one.rooms]
            self.server.emit("e", self.number, payload, to="red")
        elif kind == "others" and targets:
            skipped = self.chance.choice(targets)
            targets.remove(skipped)
            self.server.emit("e", self.number, payload, skip=skipped)
        else:
            self.server.emit("e", self.number, payload)
        for one in targets:
            self.sent[one.id].append(self.number)

    async def step(self) -> None:
        what = self.chance.choice(STEPS)
        one = self.chance.choice(self.present() or [None])
        if what == "emit":
            self.emit()
        elif what == "together":
            with self.server.together():
                for _ in range(self.chance.randrange(4)):
                    self.emit()
        elif what == "turn":
            await trio.lowlevel.checkpoint()
        elif what == "sleep":
            await trio.sleep(self.chance.choice([0.1, 3]))
        elif one is None:
            await self.join()
        elif what == "flush":
            await one.flush()
        elif what == "room":
            (one.leave if "red" in one.rooms else one.join)("red")
        elif what == "leave" and self.chance.random() < 0.3:
            one.disconnect(close=self.chance.random() < 0.5)
        elif what == "close" and self.chance.random() < 0.3:
            self.closed.add(one.id)
            one.close()

    async def join(self) -> None:
        wire = await Wire.session(self.listener.connect())
        await wire.say("40")
        id = (await wire.text()).removeprefix('40{"sid":"').removesuffix('"}')
        self.listeners += 1
        self.nursery.start_soon(self.listen, wire, id)

    async def listen(self, wire: Wire, id: str) -> None:
        while True:
            if self.chance.random() < 0.1:
                await trio.sleep(1)  # what is written meanwhile goes out in part
            opcode, payload = await wire.frame()
            if opcode == 8:
                break
            if payload.startswith(b"42"):
                self.heard[id].append(int(payload[7:].split(b",")[0]))
        await wire.raw.aclose()
        self.listeners -= 1

    async def play(self) -> None:
        async with serving(self.server, self.listener), trio.open_nursery() as self.nursery:
            for _ in range(self.chance.randrange(1, 8)):
                await self.join()
            for _ in range(60):
                await self.step()
            await self.server.shutdown(PATIENCE)
            while self.listeners:  # noqa: ASYNC110 - a question to many tasks
                await trio.sleep(0.1)
        assert {id: numbers for id, numbers in self.heard.items() if numbers} == {
            id: numbers for id, numbers in self.sent.items() if numbers
        }


@pytest.mark.parametrize("kind", [PlainListener, MemoryListener], ids=["plain", "memory"])
@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(seed=st.integers(0, 2**32 - 1), turn=st.integers(1, 3))
def test_everybody_gets_all_of_it_in_order(kind: type[MemoryListener], seed: int, turn: int) -> None:
    """The order in which tasks run is chance as well; hypothesis repeats it with the seed."""

    async def main() -> None:
        await History(seed, kind()).play()

    with turns_of(turn):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
