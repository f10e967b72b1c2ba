"""Acknowledgements, both ways (Socket.IO protocol v5, "Acknowledgement"; row S8)."""

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import (
    AckTimeout,
    CloseReason,
    Disconnected,
    LocalProtocolError,
    Settings,
    Socket,
    SocketServer,
)  # fmt: skip
from tests.raw import Later, Wire, at_rest, serving

RESULTS = [
    (None, "[]"),
    (1, "[1]"),
    ((1, 2), "[1,2]"),
    ((), "[]"),
    ([1, 2], "[[1,2]]"),
    ((None,), "[null]"),
    ("", '[""]'),
]


@pytest.mark.parametrize(("result", "wire_form"), RESULTS)
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_handlers_result_is_the_acknowledgement(result: Any, wire_form: str, kind: str) -> None:
    server = SocketServer()

    async def slow(socket: Socket) -> Any:
        return result

    server.on("a")(slow if kind == "async" else lambda socket: result)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('42["a"]', '4212["a"]')
        assert await wire.text() == f"4312{wire_form}"


async def test_a_binary_acknowledgement() -> None:
    server = SocketServer()
    server.on("a")(lambda socket: {"data": b"\x01\x02"})
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('421["a"]')
        assert await wire.text() == '461-1[{"data":{"_placeholder":true,"num":0}}]'
        assert await wire.frame() == (2, b"\x01\x02")


ANSWERS = [("430[]", None), ("430[null]", None), ("430[1]", 1), ("430[1,2]", (1, 2)), ("430[[]]", []), ("430[0]", 0)]


@pytest.mark.parametrize(("answer", "value"), ANSWERS)
async def test_call(answer: str, value: Any) -> None:
    server = SocketServer()
    async with serving(server) as listener, trio.open_nursery() as nursery:
        wire = await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))
        result = Later(nursery, socket.call, "q", 1)
        assert await wire.text() == '420["q",1]'
        await wire.say(answer)
        assert await result.value() == value


async def test_a_connect_handler_cannot_ask() -> None:
    """What it emits follows the reply, so nobody would answer before it returns: it is told so at once."""
    server = SocketServer()
    told: list[str] = []

    @server.on("connect")
    async def ask(socket: Socket) -> None:
        with pytest.raises(LocalProtocolError, match="'q': nobody can be asked while the connect handler runs"):
            await socket.call("q")
        with pytest.raises(LocalProtocolError, match="'r': nobody can be asked while the connect handler runs"):
            socket.emit_with_ack("r", on_ack=told.append)
        socket.emit("s")

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        assert await wire.text() == '42["s"]'


def awaited(socket: Socket) -> int:
    """How many acknowledgements are remembered, at both places."""
    return len(socket._awaited) + len(socket._owner.session._namespaces["/"].awaited)


async def test_s8_acks_that_nobody_awaits_are_ignored_and_forgotten(autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))
        with pytest.raises(AckTimeout, match="'q' within 3 s"):
            await socket.call("q", timeout=3)
        assert awaited(socket) == 0
        await wire.say("430[1]", "430[1]", "431[1]", "439007199254740991[]")  # late, twice, unknown, the largest
        assert await wire.text() == '420["q"]'
        async with trio.open_nursery() as nursery:
            result = Later(nursery, socket.call, "q")
            assert await wire.text() == '421["q"]'  # ids are not used again
            await wire.say("431[1]", "431[2]")
            assert await result.value() == 1
        assert awaited(socket) == 0


@pytest.mark.parametrize("ack", ["9007199254740992", "9" * 400, "٣"])
async def test_s8_ack_ids_out_of_range(ack: str, autojump_clock: MockClock) -> None:
    async with serving(SocketServer()) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say(f"43{ack}[]")
        assert await wire.closed() == 1002


async def test_s8_the_number_of_awaited_acks_is_limited() -> None:
    server = SocketServer(Settings(max_pending_acks=3))
    gone: list[int] = []
    async with serving(server) as listener:
        await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))
        for number in range(3):
            socket.emit_with_ack("q", on_ack=print, on_gone=lambda number=number: gone.append(number))
        with pytest.raises(LocalProtocolError, match="3 acknowledgements"):
            await socket.call("q")
        assert len(socket._awaited) == 3
        socket.disconnect()
        assert sorted(gone) == [0, 1, 2]


async def test_an_acknowledgement_that_is_given_up_is_ignored_when_it_comes(autojump_clock: MockClock) -> None:
    """I5: what asks without waiting can stop to be asked, so nothing is kept for a peer that never answers."""
    server = SocketServer()
    heard: list[object] = []
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))
        forget = socket.emit_with_ack("q", on_ack=heard.append, on_gone=lambda: heard.append("gone"))
        kept = socket.emit_with_ack("q", on_ack=heard.append)
        forget()
        forget()
        assert list(socket._awaited) == [1]
        await wire.say('430["late"]', '431["kept"]')
        await trio.testing.wait_all_tasks_blocked()
        assert heard == ["kept"]
        kept()
        await wire.aclose()
        await at_rest(server)
    assert heard == ["kept"]
    socket.emit_with_ack("q", on_ack=heard.append)()


@pytest.mark.parametrize("bad", [("disconnect",), ("q", object()), ("q", "\ud800")])
async def test_s8_what_cannot_be_sent_is_not_awaited(bad: tuple[Any, ...]) -> None:
    server = SocketServer()
    async with serving(server) as listener:
        await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))
        for _ in range(3):
            with pytest.raises(LocalProtocolError):
                await socket.call(*bad)
            with pytest.raises(LocalProtocolError):
                socket.emit_with_ack(*bad, on_ack=print)
        assert awaited(socket) == 0


@pytest.mark.parametrize("way", ["peer leaves", "peer disconnects", "server disconnects", "server closes"])
async def test_a_call_is_released_as_soon_as_the_socket_closes(way: str, autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener, trio.open_nursery() as nursery:
        wire = await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))
        started = trio.current_time()
        raised: list[CloseReason] = []

        async def ask() -> None:
            with pytest.raises(Disconnected) as caught:
                await socket.call("q", timeout=1_000)
            raised.append(caught.value.reason)

        asking = Later(nursery, ask)
        assert await wire.text() == '420["q"]'
        if way == "peer leaves":
            await wire.aclose()
        elif way == "peer disconnects":
            await wire.say("41")
        elif way == "server disconnects":
            socket.disconnect()
        else:
            socket.close()
        await asking.value()
        assert trio.current_time() == started
        assert raised == [socket.closed]
        with pytest.raises(Disconnected):
            await socket.call("q")
        socket.emit("into the void")


async def test_a_callback_that_fails_when_the_socket_closes_does_not_keep_the_others_waiting(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = SocketServer()
    async with serving(server) as listener, trio.open_nursery() as nursery:
        wire = await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))

        def fail() -> None:
            raise KeyError("a mistake")

        async def ask() -> None:
            with pytest.raises(Disconnected):
                await socket.call("q", timeout=1_000)

        first = Later(nursery, ask)
        await trio.testing.wait_all_tasks_blocked()
        socket.emit_with_ack("q", on_ack=print, on_gone=fail)
        second = Later(nursery, ask)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        await wire.aclose()
        await first.value()
        await second.value()
        assert trio.current_time() == started
        await at_rest(server)
