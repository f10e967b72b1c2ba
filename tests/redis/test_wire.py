"""One connection, on streams in memory and a clock that jumps: who gets which reply, and when all is over."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis
import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from redis.exceptions import DataError, MovedError, NoScriptError, ResponseError

from pushd.errors import StoreUnavailable
from pushd.store.redis import wire as wire_module
from pushd.store.redis.wire import Wire

TIMEOUT = 2.0


class FakeServer:
    """The other end: it reads commands and answers what a test tells it to."""

    def __init__(self, stream: trio.testing.MemoryReceiveStream | trio.abc.Stream) -> None:
        self.stream = stream
        self._reader = hiredis.Reader()

    async def commands(self) -> list[list[bytes]]:
        """What one receive brings."""
        self._reader.feed(bytes(await self.stream.receive_some(1_000_000)))
        found = []
        while (command := self._reader.gets()) is not False:
            found.append(command)
        return found

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)


@asynccontextmanager
async def connected(
    on_push: Callable[[list[object]], None] = lambda push: None,
) -> AsyncIterator[tuple[Wire, FakeServer]]:
    """A wire that runs, and the server at its other end."""
    ours, theirs = trio.testing.memory_stream_pair()
    wire = Wire(ours, TIMEOUT, on_push)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)
        yield wire, FakeServer(theirs)
        nursery.cancel_scope.cancel()


async def failure(wire: Wire, *command: str) -> str:
    """What a command on the wire fails with."""
    with pytest.raises(StoreUnavailable) as caught:
        await wire.execute([command])
    return str(caught.value)


async def test_commands_of_all_tasks_leave_in_one_piece(autojump_clock: trio.testing.MockClock) -> None:
    replies = {}
    async with connected() as (wire, server), trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            replies[number] = await wire.execute([("ECHO", number)])

        for number in range(100):
            nursery.start_soon(ask, number)
        commands = await server.commands()
        assert sorted(int(command[1]) for command in commands) == list(range(100))
        await server.say(b"".join(b":%d\r\n" % int(command[1]) for command in commands))
    assert replies == {number: [number] for number in range(100)}


async def test_a_batch_stays_together_and_has_errors_among_its_replies(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (wire, server), trio.open_nursery() as nursery:

        async def answer() -> None:
            assert await server.commands() == [[b"A"], [b"B", b"1.5", b"\xff"], [b"C", "ü".encode()]]
            await server.say(b"+OK\r\n-NOSCRIPT none\r\n-MOVED 7 10.0.0.1:6380\r\n")

        nursery.start_soon(answer)
        first, second, third = await wire.execute([("A",), ("B", 1.5, b"\xff"), ("C", "ü")])
    assert first == b"OK"
    assert isinstance(second, NoScriptError)
    assert str(second) == "NOSCRIPT none"
    assert isinstance(third, MovedError)
    assert (third.slot_id, third.host, third.port) == (7, "10.0.0.1", 6380)


async def test_bytes_come_back_as_they_are(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.say, b"%1\r\n$2\r\n\xff\x00\r\n*3\r\n_\r\n#f\r\n,0.5\r\n")
        assert await wire.execute([("X",)]) == [{b"\xff\x00": [None, False, 0.5]}]


async def test_the_reply_of_a_cancelled_task_is_swallowed(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (wire, server):
        with trio.move_on_after(0.1) as scope:
            await wire.execute([("FIRST",)])
        assert scope.cancelled_caught
        assert await server.commands() == [[b"FIRST"]]
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                assert await server.commands() == [[b"SECOND"]]
                await server.say(b"+for the first\r\n+for the second\r\n")

            nursery.start_soon(answer)
            assert await wire.execute([("SECOND",)]) == [b"for the second"]


async def test_a_cancelled_task_sends_nothing_more(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (wire, server):
        with trio.CancelScope() as scope:
            scope.cancel()
            await wire.execute([("NEVER",)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.say, b"+OK\r\n")
            await wire.execute([("PING",)])
        assert await server.commands() == [[b"PING"]]


async def test_f5_a_late_reply_ends_the_connection_for_all(autojump_clock: trio.testing.MockClock) -> None:
    """F5, F6: whoever waits is told at the first one's deadline, and no later reply can be taken for another's."""
    told = []
    async with connected() as (wire, server):
        async with trio.open_nursery() as nursery:

            async def ask(after: float) -> None:
                await trio.sleep(after)
                told.append((await failure(wire, "GET"), trio.current_time()))

            start = trio.current_time()
            for number in range(3):
                nursery.start_soon(ask, 0.5 * number)
        assert [text for text, _ in told] == ["no reply within 2 s"] * 3
        assert {at - start for _, at in told} == {TIMEOUT}
        await wire.ended.wait()
        assert await failure(wire, "GET") == "no reply within 2 s"
        with pytest.raises(trio.BrokenResourceError):
            await server.say(b"+late\r\n")


async def test_a_quick_command_after_a_held_one_has_its_own_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (wire, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.say, b"_\r\n")
            await wire.execute([("BLPOP", "k", 30)], hold=30)
        start = trio.current_time()
        assert await failure(wire, "GET") == "no reply within 2 s"
        assert trio.current_time() - start == TIMEOUT


async def test_a_held_command_may_take_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (wire, server):

        async def answer() -> None:
            await trio.sleep(31)
            await server.say(b"_\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await wire.execute([("BLPOP", "k", 30)], hold=30) == [None]


@pytest.mark.parametrize(
    ("said", "failure_text"),
    [
        (b"", "the server closed the connection"),
        (b"hello\r\n", "what came is no Redis protocol"),
        (b"+OK\r\n+OK\r\n", "the server said something unasked (b'OK')"),
    ],
)
async def test_a_connection_that_makes_no_sense_ends(
    said: bytes, failure_text: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with connected() as (wire, server):
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await server.commands()
                await (server.say(said) if said else server.stream.aclose())

            nursery.start_soon(answer)
            if said == b"+OK\r\n+OK\r\n":
                await wire.execute([("GET",)])
            else:
                assert (await failure(wire, "GET")).startswith(failure_text)
        await wire.ended.wait()
        assert str(wire.failure).startswith(failure_text)


async def test_why_the_server_closed_is_told_though_it_has_not_read_everything() -> None:
    """On real sockets: a close with unread bytes resets the connection, behind what the server said."""
    ours, theirs = trio.socket.socketpair()
    wire = Wire(trio.SocketStream(ours), TIMEOUT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)

        async def refuse() -> None:
            await trio.lowlevel.wait_readable(theirs)
            await theirs.send(b"-ERR max number of clients reached\r\n")
            theirs.close()

        nursery.start_soon(refuse)
        with pytest.raises(StoreUnavailable, match=r"the server closed the connection \(ERR max number"):
            await wire.execute([("HELLO", 3), ("PING",)])


async def test_i5_too_many_commands_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(wire_module, "MOST_COMMANDS", 10)
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(wire.execute, [("A",)] * 5)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        assert (await failure(wire, "B")).startswith("too many commands wait")
        assert trio.current_time() == start
        assert len(await server.commands()) == 10, "what was refused was not sent"
        await server.say(b"+OK\r\n" * 5)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wire.execute, [("B",)])
        assert await server.commands() == [[b"B"]]
        await server.say(b"+OK\r\n" * 6)


async def test_i5_too_many_bytes_are_refused_at_once_but_never_a_large_one_alone(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(wire_module, "MOST_BYTES", 1_000)
    ours, theirs = trio.testing.lockstep_stream_pair()  # sending waits for the other side
    wire = Wire(ours, TIMEOUT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)
        nursery.start_soon(wire.execute, [("SET", "a", b"x" * 5_000)])
        await trio.testing.wait_all_tasks_blocked()
        assert (await failure(wire, "B")).startswith("too many commands wait")
        server = FakeServer(theirs)
        while not await server.commands():
            pass
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wire.execute, [("B",)])
        assert await server.commands() == [[b"B"]]
        await server.say(b"+OK\r\n" * 2)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_silent_connection_is_asked_whether_it_lives(autojump_clock: trio.testing.MockClock) -> None:
    """Half-open connections are noticed though nobody uses them."""
    async with connected() as (wire, server):
        for _ in range(3):
            assert await server.commands() == [[b"PING"]]
            await server.say(b"+PONG\r\n")
        heard = trio.current_time()
        await wire.ended.wait()
        assert wire.failure == "no reply within 2 s"
        assert trio.current_time() - heard <= 3 * TIMEOUT


async def test_what_is_pushed_is_not_taken_for_a_reply(autojump_clock: trio.testing.MockClock) -> None:
    heard: list[list[object]] = []
    async with connected(heard.append) as (wire, server), trio.open_nursery() as nursery:

        async def answer() -> None:
            assert len(await server.commands()) == 2
            message = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n"
            await server.say(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n" + message + b"-NOPERM no\r\n")

        nursery.start_soon(answer)
        first, second = await wire.execute([("SUBSCRIBE", "a"), ("SUBSCRIBE", "b")])
        assert first == [b"subscribe", b"a", 1]
        assert isinstance(second, ResponseError)
        assert heard == [[b"message", b"a", b"m"]]


@pytest.mark.parametrize("argument", [None, True, ["a"], {"a": 1}, "\ud800"])
async def test_an_argument_that_cannot_be_sent_disturbs_nobody(
    argument: object, autojump_clock: trio.testing.MockClock
) -> None:
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        with pytest.raises(DataError):
            await wire.execute([("SET", "a", "b"), ("SET", "a", argument)])  # type: ignore[arg-type]
        nursery.start_soon(server.say, b"+OK\r\n")
        await wire.execute([("PING",)])
        assert await server.commands() == [[b"PING"]]


async def test_closing_tells_all_and_leaves_nothing_open(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as (wire, server), trio.open_nursery() as nursery:

        async def ask() -> None:
            assert await failure(wire, "GET") == "closed"

        nursery.start_soon(ask)
        assert await server.commands() == [[b"GET"]]
        await wire.aclose()
        assert await server.commands() == []
        assert await failure(wire, "GET") == "closed"


@hypothesis.given(
    st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(0, 5)), min_size=1, max_size=30), st.integers(1, 40)
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_every_task_gets_its_own_replies_whoever_is_cancelled(tasks: list[tuple[int, int | None]], piece: int) -> None:
    """Batches of 1 to 4 commands, some cancelled after some turns of the loop, replies in pieces of any length."""

    async def main() -> None:
        right = 0
        async with connected() as (wire, server), trio.open_nursery() as everything:

            async def echo() -> None:
                while True:
                    data = b"".join(b"$%d\r\n%b\r\n" % (len(c[1]), c[1]) for c in await server.commands())
                    for start in range(0, len(data), piece):
                        await server.say(data[start : start + piece])
                        await trio.lowlevel.checkpoint()

            async def ask(number: int, count: int, scope: trio.CancelScope) -> None:
                nonlocal right
                with scope:
                    replies = await wire.execute([("ECHO", f"{number}-{index}") for index in range(count)])
                    assert replies == [f"{number}-{index}".encode() for index in range(count)]
                    right += 1

            async def cancel(scope: trio.CancelScope, turns: int) -> None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            everything.start_soon(echo)
            async with trio.open_nursery() as nursery:
                for number, (count, turns) in enumerate(tasks):
                    scope = trio.CancelScope()
                    nursery.start_soon(ask, number, count, scope)
                    if turns is not None:
                        nursery.start_soon(cancel, scope, turns)
            everything.cancel_scope.cancel()
        assert right >= sum(turns is None for _, turns in tasks)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
