"""Plain handlers that answer later: acknowledged when they say so, and not read on when they owe too much."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, ConnectRefused, Settings, Socket, SocketServer
from tests.raw import Later, Poller, Wire, serving

Answer = Callable[..., None]


class Owing:
    """A server whose handler of `add` answers when the test says so."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.server = SocketServer(settings)
        self.owed: list[tuple[tuple[Any, ...], Answer]] = []
        self.server.on("add")(self._add)

    def _add(self, socket: Socket, *args: Any, answer: Answer) -> None:
        self.owed.append((args, answer))


async def test_an_event_is_acknowledged_when_its_handler_says_so(autojump_clock: MockClock) -> None:
    owing = Owing()
    async with serving(owing.server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('421["add",1]', '422["add",2,3]', '42["add"]')
        await trio.testing.wait_all_tasks_blocked()
        assert [args for args, _ in owing.owed] == [(1,), (2, 3), ()]
        owing.owed[1][1]("b", 2)
        owing.owed[2][1]()  # nobody has asked for that one
        owing.owed[0][1]()
        assert [await wire.text(), await wire.text()] == ['432["b",2]', "431[]"]
        with pytest.raises(RuntimeError, match="once"):
            owing.owed[0][1]()


@pytest.mark.usefixtures("each_kind_of_stream")
async def test_what_is_owed_counts_as_waiting(autojump_clock: MockClock) -> None:
    """I5 of the daemon stands on this: who does not get answers is not read for ever."""
    owing = Owing(Settings(handler_queue=3))
    async with serving(owing.server) as listener:
        wire = await Wire.joined(listener.connect())
        for number in range(8):
            await wire.say(f'42{number}["add",{number}]')
        await trio.testing.wait_all_tasks_blocked()
        assert [args for args, _ in owing.owed] == [(0,), (1,), (2,)]
        owing.owed.pop(0)[1]()
        assert await wire.text() == "430[]"
        await trio.testing.wait_all_tasks_blocked()
        assert [args for args, _ in owing.owed] == [(1,), (2,), (3,)]
        while owing.owed:
            owing.owed.pop(0)[1]()
            await trio.testing.wait_all_tasks_blocked()
        assert [await wire.text() for _ in range(7)] == [f"43{number}[]" for number in range(1, 8)]


@pytest.mark.usefixtures("each_kind_of_stream")
async def test_what_is_owed_by_long_polling_holds_up_the_post(autojump_clock: MockClock) -> None:
    owing = Owing(Settings(handler_queue=3))
    async with serving(owing.server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        posted = Later(nursery, poller.post, *[f'42["add",{number}]' for number in range(8)])
        for number in range(8):
            await trio.testing.wait_all_tasks_blocked()
            assert len(owing.owed) <= 4  # what the POST leaves to the session's task begins with one more
            assert not posted.done or number > 4
            args, answer = owing.owed.pop(0)
            assert args == (number,)
            answer()
        assert (await posted.value()).body == b"ok"


async def test_async_handlers_run_while_answers_are_owed(autojump_clock: MockClock) -> None:
    owing = Owing()

    @owing.server.on("ask")
    async def ask(socket: Socket) -> str:
        await trio.sleep(1)
        return "now"

    async with serving(owing.server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('421["add"]', '422["ask"]')
        assert await wire.text() == '432["now"]'
        owing.owed[0][1]()
        assert await wire.text() == "431[]"


async def test_an_answer_to_who_has_left_goes_nowhere(autojump_clock: MockClock) -> None:
    owing = Owing()
    left = trio.Event()
    owing.server.on("disconnect")(lambda socket, reason: left.set())
    async with serving(owing.server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('421["add"]', "41")
        await left.wait()  # what is owed holds up nobody
        owing.owed[0][1]("late")
        await wire.say("40", '423["add"]')
        assert (await wire.text()).startswith("40")
        await trio.testing.wait_all_tasks_blocked()
        owing.owed[1][1]()
        assert await wire.text() == "433[]"


async def test_all_other_events_may_be_answered_later_as_well(autojump_clock: MockClock) -> None:
    server = SocketServer()

    @server.on_any
    def other(socket: Socket, event: str, args: tuple[Any, ...], *, answer: Answer) -> None:
        answer(event, *args)

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('421["dance","tango"]')
        assert await wire.text() == '431["dance","tango"]'


async def test_a_handler_that_fails_before_it_answers_ends_its_connection(autojump_clock: MockClock) -> None:
    server = SocketServer()

    @server.on("add")
    def fails(socket: Socket, *, answer: Answer) -> None:
        raise ZeroDivisionError

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('421["add"]')
        assert await wire.closed() == 1011


class Asking:
    """A server whose connect handler decides when the test says so."""

    def __init__(self) -> None:
        self.server = SocketServer()
        self.asked: list[tuple[Socket, object, Answer]] = []
        self.left: list[CloseReason] = []
        self.server.on("connect")(self._connect)
        self.server.on("disconnect")(lambda socket, reason: self.left.append(reason))
        self.server.on("hi")(lambda socket: "hi")

    def _connect(self, socket: Socket, auth: object, *, answer: Answer) -> None:
        if auth == {"name": "nobody"}:
            raise ConnectRefused("nobody")
        self.asked.append((socket, auth, answer))


async def test_a_socket_is_let_in_when_its_connect_handler_says_so(autojump_clock: MockClock) -> None:
    asking = Asking()
    async with serving(asking.server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say('40{"name":"Ann"}')
        await trio.testing.wait_all_tasks_blocked()
        [(socket, auth, answer)] = asking.asked
        assert auth == {"name": "Ann"}
        socket.emit("early")
        answer()
        assert (await wire.text()).startswith('40{"sid":')
        assert await wire.event() == ("early",)
        await wire.say('421["hi"]')
        assert await wire.text() == '431["hi"]'
        with pytest.raises(RuntimeError, match="once"):
            answer(ConnectRefused("no"))
        await wire.aclose()
    assert asking.left == [CloseReason.TRANSPORT_CLOSE]


async def test_a_socket_is_refused_later_or_at_once(autojump_clock: MockClock) -> None:
    asking = Asking()
    async with serving(asking.server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say("40")
        await trio.testing.wait_all_tasks_blocked()
        asking.asked[0][2](ConnectRefused("no", data={"code": 401}))
        assert await wire.text() == '44{"message":"no","data":{"code":401}}'
        await wire.say('40{"name":"nobody"}')
        assert await wire.text() == '44{"message":"nobody"}'
    assert asking.left == []


@pytest.mark.parametrize("refusal", [None, ConnectRefused("no")])
async def test_who_has_left_is_neither_let_in_nor_refused(
    refusal: ConnectRefused | None, autojump_clock: MockClock
) -> None:
    asking = Asking()
    async with serving(asking.server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say("40")
        await trio.testing.wait_all_tasks_blocked()
        await wire.aclose()
        await trio.testing.wait_all_tasks_blocked()
        [(socket, _, answer)] = asking.asked
        assert socket.closed is CloseReason.TRANSPORT_CLOSE
        answer(refusal)
        assert asking.server.of("/").sockets == {}
    assert asking.left == []


def test_only_a_plain_handler_with_something_to_decide_is_given_an_answer() -> None:
    server = SocketServer()

    async def waits(socket: Socket, *, answer: Answer) -> None:
        """It has what it returns for that."""

    for event in ("add", "connect"):
        with pytest.raises(TypeError, match="answer="):
            server.on(event)(waits)
    with pytest.raises(TypeError, match="answer="):
        server.on("disconnect")(lambda socket, reason, *, answer: None)
