"""Long-polling on plain sockets, where no task waits for another: who sends answers the poll that is held."""

import os

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from tests.raw import (
    Answer,
    Ended,
    Later,
    MemoryListener,
    PlainListener,
    Poller,
    Raw,
    at_rest,
    polling,
    request,
    serving,
)

LARGE = "x" * 4_000_000  # more than any socket takes at once
OK = (200, b"ok")


class Client:
    """A session of two connections, as a browser has it: one for its polls, one for its POSTs."""

    def __init__(self, sid: str | None, polls: Raw, posts: Raw) -> None:
        self.sid = sid
        self.polls = polls
        self.posts = posts

    @classmethod
    async def joined(cls, listener: MemoryListener) -> "Client":
        poller = await Poller.joined(listener)
        return cls(poller.sid, listener.connect(), listener.connect())

    async def ask(self) -> None:
        """Send a poll, which is held then."""
        await self.polls.send(request("GET", polling(self.sid)))
        await trio.testing.wait_all_tasks_blocked()

    async def get(self) -> bytes:
        """Send a poll and wait for its answer."""
        await self.ask()
        return (await self.polls.answer()).body

    async def post(self, *packets: str) -> tuple[int, bytes]:
        answer: Answer = await self.posts.request("POST", polling(self.sid), body="\x1e".join(packets).encode())
        return answer.status, answer.body


def echoing(settings: Settings | None = None) -> SocketServer:
    server = SocketServer(settings or Settings(ping_interval=1_000))
    server.on("echo")(lambda socket, word: socket.emit("echo", word))
    server.on("fan")(lambda socket, word: server.emit("fan", word))
    return server


def echo(word: object) -> str:
    return f'42["echo",{word}]'


async def test_a_round_trip_is_two_writes_and_needs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write

    def counted(descriptor: int, data: bytes) -> int:
        written.append(bytes(data))
        return write(descriptor, data)

    async with serving(echoing(), PlainListener()) as listener:
        client = await Client.joined(listener)
        await client.ask()
        before = trio.lowlevel.current_statistics().tasks_living
        monkeypatch.setattr(os, "write", counted)
        for _ in range(3):
            written.clear()
            assert await client.post(echo(1), echo(2)) == OK
            assert (await client.polls.answer()).text == f"{echo(1)}\x1e{echo(2)}"
            assert len(written) == 2
            await client.ask()
            assert trio.lowlevel.current_statistics().tasks_living == before


async def test_what_was_made_while_no_poll_was_there_goes_with_the_next() -> None:
    async with serving(echoing(), PlainListener()) as listener:
        client = await Client.joined(listener)
        for turn in range(3):
            for number in range(3):
                assert await client.post(echo(turn * 3 + number)) == OK
            assert await client.get() == "\x1e".join(echo(turn * 3 + number) for number in range(3)).encode()


async def test_one_event_answers_the_polls_of_all() -> None:
    async with serving(echoing(), PlainListener()) as listener:
        clients = [await Client.joined(listener) for _ in range(5)]
        for word in range(3):
            for client in clients:
                await client.ask()
            assert await clients[0].post(f'42["fan",{word}]') == OK
            for client in clients:
                assert (await client.polls.answer()).text == f'42["fan",{word}]'


async def test_an_answer_that_does_not_go_out_at_once_goes_out_whole_and_first(autojump_clock: MockClock) -> None:
    server = echoing(Settings(ping_interval=1_000, write_timeout=100, outbox_bytes=2 * len(LARGE)))
    async with serving(server, PlainListener()) as listener, trio.open_nursery() as nursery:
        client = await Client.joined(listener)
        await client.ask()
        socket = next(iter(server.of("/").sockets.values()))
        with server.together():
            socket.emit("large", LARGE)
        flushed = Later(nursery, socket.flush)
        await trio.sleep(50)
        socket.emit("small")
        assert not flushed.done
        assert (await client.polls.answer()).text == f'42["large","{LARGE}"]'
        await trio.testing.wait_all_tasks_blocked()
        assert flushed.done
        assert await client.get() == b'42["small"]'
        client.posts = listener.connect()  # the first one was silent for too long
        assert await client.post(echo(1)) == OK
        assert await client.get() == echo(1).encode()


async def test_the_rest_of_an_answer_may_be_out_before_there_is_a_writer(autojump_clock: MockClock) -> None:
    """The session's task, which is to start it, and the poll's, which has the rest, run in the same turn, in any order.

    The peer's comes with them, and reads so much that the rest goes at once.
    """
    server = echoing(Settings(ping_interval=1_000))
    async with serving(server, PlainListener()) as listener:
        for _ in range(20):
            client = await Client.joined(listener)
            await client.ask()
            assert isinstance(client.polls.stream, trio.SocketStream)
            descriptor = client.polls.stream.socket.fileno()
            list(server.of("/").sockets.values())[-1].emit("large", "x" * 300_000)
            await trio.lowlevel.wait_readable(descriptor)
            client.polls.rest = os.read(descriptor, 1_000_000)
            assert len(client.polls.rest) < 300_000
            assert len((await client.polls.answer()).body) > 300_000
            await trio.testing.wait_all_tasks_blocked()
            assert await client.post(echo(1)) == OK
            with trio.fail_after(1):
                assert await client.get() == echo(1).encode()


async def test_an_answer_that_is_not_read_ends_the_session(autojump_clock: MockClock) -> None:
    server = echoing(Settings(ping_interval=1_000, write_timeout=7))
    ended = Ended(server)
    async with serving(server, PlainListener()) as listener:
        client = await Client.joined(listener)
        await client.ask()
        started = trio.current_time()
        with server.together():
            server.emit("large", LARGE)
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        assert trio.current_time() - started == pytest.approx(7)
        await at_rest(server, seconds=60)


async def test_who_leaves_before_its_answer_ends_the_session_and_who_leaves_after_it_does_not() -> None:
    server = echoing()
    ended = Ended(server)
    async with serving(server, PlainListener()) as listener:
        client = await Client.joined(listener)
        await client.ask()
        assert await client.post(echo(1)) == OK
        await client.polls.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert ended.reasons == []
        client.polls = listener.connect()
        await client.ask()
        await client.polls.aclose()
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE


async def test_the_time_between_two_requests_begins_with_the_answer(autojump_clock: MockClock) -> None:
    """A poll may be held for longer than a connection may be silent."""
    async with serving(echoing(Settings(ping_interval=1_000, keep_alive=30)), PlainListener()) as listener:
        client = await Client.joined(listener)
        await client.ask()
        await trio.sleep(100)
        client.posts = listener.connect()
        assert await client.post(echo(1)) == OK
        answered = trio.current_time()
        assert (await client.polls.answer()).text == echo(1)
        await client.polls.ends()
        assert trio.current_time() - answered == pytest.approx(30)


async def test_the_head_after_an_answer_at_once_has_its_own_time(autojump_clock: MockClock) -> None:
    settings = Settings(ping_interval=1_000, keep_alive=30, request_timeout=10)
    async with serving(echoing(settings), PlainListener()) as listener:
        client = await Client.joined(listener)
        await client.ask()
        assert await client.post(echo(1)) == OK
        assert (await client.polls.answer()).text == echo(1)
        await trio.sleep(25)
        await client.polls.send("GET /")
        begun = trio.current_time()
        assert (await client.polls.answer()).refusal == (408, 3)
        assert trio.current_time() - begun == pytest.approx(10)


async def test_a_request_that_came_while_the_poll_was_held_is_served_after_it(autojump_clock: MockClock) -> None:
    async with serving(echoing(), PlainListener()) as listener:
        started = trio.current_time()
        client = await Client.joined(listener)
        await client.polls.send(request("GET", polling(client.sid)))
        await trio.testing.wait_all_tasks_blocked()
        await client.polls.send(request("POST", polling(client.sid), body=echo(2).encode()))
        await trio.testing.wait_all_tasks_blocked()
        assert await client.post(echo(1)) == OK
        assert (await client.polls.answer()).text == echo(1)
        assert (await client.polls.answer("POST")).body == b"ok"
        assert await client.get() == echo(2).encode()
        assert trio.current_time() == started


async def test_who_sends_many_requests_at_once_is_not_served_before_all_others() -> None:
    server = SocketServer(Settings(ping_interval=1_000))
    heard: list[object] = []
    server.on("n")(lambda socket, number: heard.append(number))
    async with serving(server, PlainListener()) as listener, trio.open_nursery() as nursery:
        greedy, other = await Client.joined(listener), await Client.joined(listener)
        await greedy.posts.send(b"".join(request("POST", polling(greedy.sid), body=b'42["n",1]') for _ in range(300)))
        assert await Later(nursery, other.post, '42["n","other"]').value() == OK
        for _ in range(300):
            assert (await greedy.posts.answer("POST")).body == b"ok"
        assert heard.count(1) == 300
        assert heard.index("other") < 100


async def test_a_post_whose_handlers_are_behind_is_dealt_with_in_order(autojump_clock: MockClock) -> None:
    """Some of it at once, the rest by the session's task, and so it is answered late."""
    server = SocketServer(Settings(ping_interval=1_000, handler_queue=2))
    heard: list[int] = []

    @server.on("n")
    async def slow(socket: Socket, number: int) -> None:
        await trio.sleep(1)
        heard.append(number)

    async with serving(server, PlainListener()) as listener:
        client = await Client.joined(listener)
        for turn in range(2):
            started = trio.current_time()
            assert await client.post(*[f'42["n",{turn * 10 + number}]' for number in range(10)]) == OK
            assert trio.current_time() - started >= 7
        await trio.sleep(10)
        assert heard == list(range(20))
