"""Namespaces, connecting and leaving them, events and attachments (Socket.IO protocol v5; rows S5, S7, S9)."""

import json
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import (
    CloseReason,
    ConnectRefused,
    LocalProtocolError,
    Settings,
    Socket,
    SocketServer,
)  # fmt: skip
from tests.raw import Ended, Wire, at_rest, frame, serving, text


async def test_connect_gets_an_id_that_is_not_the_sessions() -> None:
    server = SocketServer()
    async with serving(server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say("40")
        sid = json.loads((await wire.text())[2:])["sid"]
        assert sid != wire.sid
        assert len(sid) >= 22  # 128 bits in base64
        assert list(server.of("/").sockets) == [sid]


async def test_there_is_no_implicit_connect() -> None:
    server = SocketServer()
    server.on("connect")(lambda socket: pytest.fail("nobody asked"))
    async with serving(server) as listener:
        await Wire.session(listener.connect())
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("packet", ['42["a"]', '421["a"]', "430[]", "41", '42/admin,["a"]', '44{"message":"x"}'])
async def test_s9_nothing_but_connect_before_connect(packet: str, autojump_clock: MockClock) -> None:
    server = SocketServer()
    server.of("/admin")
    async with serving(server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say(packet)
        assert await wire.closed() == 1002
        await at_rest(server)


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_s9_connecting_twice_closes(kind: str, autojump_clock: MockClock) -> None:
    """Also while the first connect handler still runs: what comes then is not joined."""
    server = SocketServer()
    ended = Ended(server)
    if kind == "async":

        @server.on("connect")
        async def slow(socket: Socket) -> None:
            await trio.sleep(1)

    async with serving(server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say("40", "40")
        assert await wire.closed() == 1002
        await at_rest(server)
    assert ended.reasons == [CloseReason.PARSE_ERROR]


async def test_an_unknown_namespace_is_refused_and_the_session_stays() -> None:
    server = SocketServer()
    async with serving(server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say("40/random,", '40/random,{"token":1}')
        for _ in range(2):
            assert await wire.text() == '44/random,{"message":"Invalid namespace"}'
        await wire.say("40")
        assert (await wire.text()).startswith("40{")
        assert "/random" not in server._namespaces


async def test_s9_a_flood_of_unknown_namespaces_leaves_nothing_behind() -> None:
    server = SocketServer()
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        for start in range(0, 1_000, 100):
            await wire.say(*[f"40/n{number}," for number in range(start, start + 100)])
            for _ in range(100):
                assert (await wire.text()).endswith('{"message":"Invalid namespace"}')
        application = next(iter(server._engine.sessions.values())).application
        assert len(application.session._namespaces) == 1  # type: ignore[attr-defined]


async def test_s9_a_connection_joins_a_limited_number_of_namespaces(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_namespaces=3))
    for number in range(4):
        server.of(f"/n{number}")
    async with serving(server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say(*[f"40/n{number}," for number in range(4)])
        for number in range(3):
            assert (await wire.text()).startswith(f'40/n{number},{{"sid"')
        assert await wire.closed() == 1008


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("data", [None, {"code": 401}, [1], "why", 0])
async def test_a_connect_handler_refuses(kind: str, data: Any, autojump_clock: MockClock) -> None:
    server = SocketServer()
    server.on("disconnect")(lambda socket, reason: pytest.fail("it was never connected"))
    seen: list[Any] = []

    def plain(socket: Socket, auth: Any) -> None:
        seen.append(auth)
        socket.join("lobby")
        socket.emit("never", "sent")
        raise ConnectRefused("not you", data=data)

    async def slow(socket: Socket, auth: Any) -> None:
        await trio.sleep(1)
        plain(socket, auth)

    server.on("connect")(plain if kind == "plain" else slow)
    async with serving(server) as listener:
        wire = await Wire.session(listener.connect())
        for _ in range(2):  # it may ask again
            await wire.say('40{"token":"t"}')
            answer = await wire.text()
            assert answer[:2] == "44"
            expected = {"message": "not you"} if data is None else {"message": "not you", "data": data}
            assert json.loads(answer[2:]) == expected
        assert seen == [{"token": "t"}] * 2
        assert not server.of("/").sockets
        assert not server.of("/").rooms._members
        await wire.say("41")
        assert await wire.closed() == 1002  # it is not joined


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_what_a_connect_handler_emits_follows_the_reply(kind: str, autojump_clock: MockClock) -> None:
    server = SocketServer()

    def plain(socket: Socket) -> None:
        socket.join("lobby")
        socket.emit("welcome", 1)
        server.emit("joined", to="lobby")
        socket.emit("welcome", 2)

    async def slow(socket: Socket) -> None:
        plain(socket)
        await trio.sleep(1)

    server.on("connect")(plain if kind == "plain" else slow)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        assert [await wire.event() for _ in range(3)] == [("welcome", 1), ("joined",), ("welcome", 2)]


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("close", [False, True])
async def test_a_connect_handler_may_disconnect_again(kind: str, close: bool, autojump_clock: MockClock) -> None:
    """It says yes, and then goodbye: DISCONNECT follows what it emitted."""
    server = SocketServer()
    ended = Ended(server)

    def plain(socket: Socket) -> None:
        socket.emit("kicked", "try elsewhere")
        socket.disconnect(close=close)

    async def slow(socket: Socket) -> None:
        plain(socket)
        await trio.sleep(1)

    server.on("connect")(plain if kind == "plain" else slow)
    async with serving(server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say("40")
        assert (await wire.text()).startswith("40{")
        assert await wire.event() == ("kicked", "try elsewhere")
        assert await wire.text() == "41"
        if close:
            assert await wire.closed() == 1000
        assert await ended.reason() is CloseReason.SERVER_DISCONNECT
        assert not server.of("/").sockets


async def test_someone_else_may_disconnect_a_socket_that_is_connecting(autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    asked: list[Socket] = []

    @server.on("connect")
    async def slow(socket: Socket) -> None:
        asked.append(socket)
        await trio.sleep(2)

    async with serving(server) as listener:
        wire = await Wire.session(listener.connect())
        await wire.say("40")
        await trio.sleep(1)
        asked[0].disconnect()
        assert (await wire.text()).startswith("40{")
        assert await wire.text() == "41"
        assert await ended.reason() is CloseReason.SERVER_DISCONNECT


async def test_the_connect_timeout_is_cleared_by_joining_not_by_asking(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(connect_timeout=10))

    @server.on("connect")
    async def slow(socket: Socket) -> None:
        await trio.sleep(9)
        raise ConnectRefused("no")

    async with serving(server) as listener:
        started = trio.current_time()
        wire = await Wire.session(listener.connect())
        await wire.say("40")
        assert (await wire.text())[:2] == "44"
        assert await wire.closed() == 1008
        assert trio.current_time() - started == pytest.approx(10)


async def test_joined_peers_have_no_connect_timeout(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(connect_timeout=10, ping_interval=1_000))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say("41")
        await trio.sleep(100)
        await wire.say("40")
        assert (await wire.text()).startswith("40{")


async def test_disconnect_leaves_the_session_up() -> None:
    server = SocketServer()
    server.of("/b").on("a")(lambda socket: socket.emit("b"))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say("40/b,")
        assert (await wire.text()).startswith("40/b,{")
        await wire.say("41", '42/b,["a"]')
        assert await wire.text() == '42/b,["b"]'
        await wire.say("40")
        assert (await wire.text()).startswith("40{")


async def test_what_the_client_said_before_it_knew_of_its_disconnect_is_ignored() -> None:
    server = SocketServer()
    server.on("a")(lambda socket: pytest.fail("it had left"))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        next(iter(server.of("/").sockets.values())).disconnect()
        await wire.say('42["a"]', "430[]", "41")
        assert await wire.text() == "41"
        await wire.say("40")
        assert (await wire.text()).startswith("40{")


RESERVED = ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"]


@pytest.mark.parametrize("name", RESERVED)
async def test_s7_reserved_names_are_neither_taken_nor_sent(name: str, autojump_clock: MockClock) -> None:
    server = SocketServer()
    heard: list[Any] = []
    ended = Ended(server)
    server.on_any(lambda socket, event, args: heard.append(event))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        socket = next(iter(server.of("/").sockets.values()))
        for emit in (socket.emit, server.emit):
            with pytest.raises(LocalProtocolError, match="reserved"):
                emit(name)
        await wire.say(json.dumps([name, "forged"]).join(["42", ""]))
        assert await wire.closed() == 1002
        assert await ended.reason() is CloseReason.PARSE_ERROR
    assert heard == []


@pytest.mark.parametrize("name", ["error", "disconnect", "on", "__class__", "__proto__", "emit", "a.b", ""])
def test_names_that_a_handler_may_have(name: str) -> None:
    server = SocketServer()
    server.on(name)(lambda socket, *args: None)
    assert name in server.of("/").handlers


@pytest.mark.parametrize("name", ["connect_error", "disconnecting", "newListener", "removeListener"])
def test_names_that_no_handler_may_have(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        SocketServer().on(name)


@pytest.mark.parametrize(
    ("event", "function"),
    [
        ("a", lambda: None),
        ("a", lambda socket, *, by: None),
        ("connect", lambda: None),
        ("connect", lambda socket, auth, more: None),
        ("disconnect", lambda socket: None),
        ("disconnect", lambda socket, reason, more: None),
        ("any", lambda socket, event: None),
        ("a", 5),
    ],
)
def test_a_handler_that_could_not_be_called_is_refused_at_once(event: str, function: Any) -> None:
    """Not at the first event, when it would look as if the peer had done something wrong."""
    server = SocketServer()
    with pytest.raises(TypeError):
        (server.on_any if event == "any" else server.on(event))(function)


async def test_events_without_a_handler_are_ignored_even_with_an_ack_id() -> None:
    server = SocketServer()
    server.on("known")(lambda socket: None)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('421["__class__"]', '422["emit","x"]', '423["known"]')
        assert await wire.text() == "433[]"


async def test_on_any_takes_what_nobody_else_does() -> None:
    server = SocketServer()
    heard: list[Any] = []
    server.on("known")(lambda socket: heard.append("known"))

    @server.on_any
    def rest(socket: Socket, event: str, args: tuple[Any, ...]) -> str:
        heard.append((event, args))
        return "taken"

    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say('42["known"]', '427["other",1,{"a":[]}]')
        assert await wire.text() == '437["taken"]'
        assert heard == ["known", ("other", (1, {"a": []}))]


async def test_s5_attachments_that_do_not_come(autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        started = trio.current_time()
        packet = '453-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1},{"_placeholder":true,"num":2}]'
        await wire.say(packet)
        await trio.sleep(6)
        await wire.raw.send(frame(2, b"x"))  # not a new lease of time
        assert await wire.closed() == 1008
        assert trio.current_time() - started == pytest.approx(10)
        assert await ended.reason() is CloseReason.POLICY
        await at_rest(server)


async def test_s5_attachments_are_limited_in_all_their_bytes(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_payload=1_000))
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        packet = text('452-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
        await wire.raw.send(packet + frame(2, b"x" * 600) + frame(2, b"x" * 600))
        assert await wire.closed() == 1009
        assert await ended.reason() is CloseReason.TOO_BIG


async def test_two_tabs_of_one_browser_are_two_sessions() -> None:
    """netty-socketio took the session id from the cookie `io`: two tabs were one session."""
    server = SocketServer()
    async with serving(server) as listener:
        wires = []
        for _ in range(2):
            wire = await Wire.open(listener.connect(), headers={"Cookie": "io=abc; sid=abc"})
            opening = json.loads((await wire.text())[1:])
            assert opening["sid"] != "abc"
            await wire.say("40")
            await wire.text()
            wires.append((wire, opening["sid"]))
        assert wires[0][1] != wires[1][1]
        assert server.connections == 2
        assert len(server.of("/").sockets) == 2
        server.emit("both")
        for wire, _ in wires:
            assert await wire.event() == ("both",)
