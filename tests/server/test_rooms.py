"""Rooms and the fan-out to them."""

import pytest
import trio.testing

from engineio_trio import Settings, Socket, SocketServer
from tests.raw import MemoryListener, Wire, serving


class Crowd:
    """Some sockets of `/` with names: wire and socket of each."""

    def __init__(self) -> None:
        self.wires: dict[str, Wire] = {}
        self.sockets: dict[str, Socket] = {}

    async def add(self, server: SocketServer, listener: MemoryListener, *names: str) -> None:
        for name in names:
            known = set(server.of("/").sockets)
            self.wires[name] = await Wire.joined(listener.connect())
            (new,) = server.of("/").sockets.keys() - known
            self.sockets[name] = server.of("/").sockets[new]

    async def heard(self) -> dict[str, int]:
        """How many events each has received since it was asked last."""
        await trio.testing.wait_all_tasks_blocked()
        counts = {}
        for name, wire in self.wires.items():
            data = bytes(wire.raw.stream.receive_stream._incoming._data)  # type: ignore[attr-defined]
            counts[name] = data.count(b'42["e"')
            if data:
                await wire.raw.exactly(len(data))
        return counts


async def test_emit_reaches_rooms_once_each() -> None:
    server = SocketServer()
    crowd = Crowd()
    async with serving(server) as listener:
        await crowd.add(server, listener, "a", "b", "c")
        a, b, c = crowd.sockets.values()
        a.join("red")
        b.join("red")
        b.join("blue")
        b.join("blue")
        server.emit("e")
        assert await crowd.heard() == {"a": 1, "b": 1, "c": 1}
        server.emit("e", to="red")
        assert await crowd.heard() == {"a": 1, "b": 1, "c": 0}
        server.emit("e", to=["red", "blue"])
        assert await crowd.heard() == {"a": 1, "b": 1, "c": 0}
        server.emit("e", to=["red", "blue", c.id, "nobody"])
        assert await crowd.heard() == {"a": 1, "b": 1, "c": 1}
        server.emit("e", to=[])
        server.emit("e", to="nobody")
        assert await crowd.heard() == {"a": 0, "b": 0, "c": 0}
        server.emit("e", skip=a)
        assert await crowd.heard() == {"a": 0, "b": 1, "c": 1}
        server.emit("e", to="red", skip=[a, c])
        assert await crowd.heard() == {"a": 0, "b": 1, "c": 0}
        server.emit("e", to=b.id)
        assert await crowd.heard() == {"a": 0, "b": 1, "c": 0}


async def test_rooms_are_left_and_vanish_when_empty() -> None:
    server = SocketServer()
    crowd = Crowd()
    async with serving(server) as listener:
        await crowd.add(server, listener, "a", "b")
        a, b = crowd.sockets.values()
        rooms = server.of("/").rooms
        a.join("red")
        assert a.rooms == {a.id, "red"}
        a.leave("red")
        a.leave("red")
        a.leave("never joined")
        assert a.rooms == {a.id}
        assert list(rooms.members("red")) == []
        a.join("blue")
        b.join("blue")
        a.disconnect()
        assert a.rooms == frozenset()
        a.join("blue")  # closed: nothing happens
        assert list(rooms.members("blue")) == [b]
        b.disconnect()
        assert rooms._members == {}
        assert rooms._rooms == {}


async def test_namespaces_do_not_share_rooms() -> None:
    server = SocketServer()
    for name in ("/", "/b"):
        server.of(name).on("connect")(lambda socket: socket.join("room"))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await wire.say("40/b,")
        assert (await wire.text()).startswith("40/b,{")
        server.of("/b").emit("e", to="room")
        assert await wire.text() == '42/b,["e"]'
        server.emit("e", to="room")
        assert await wire.text() == '42["e"]'


async def test_a_handler_may_change_rooms_during_a_fan_out() -> None:
    """A peer that cannot take it is closed in the middle, and leaves its rooms: the others are served all the same."""
    server = SocketServer(Settings(outbox_bytes=50))
    crowd = Crowd()
    async with serving(server) as listener:
        await crowd.add(server, listener, "a", "b", "c")
        for socket in crowd.sockets.values():
            socket.join("red")
        await trio.testing.wait_all_tasks_blocked()
        listener.accepted[1].send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]
        for _ in range(10):
            server.emit("e", "x" * 20, to="red")
            await trio.testing.wait_all_tasks_blocked()
        heard = await crowd.heard()
        assert heard["a"] == heard["c"] == 10
        assert set(server.of("/").rooms.members("red")) == {crowd.sockets["a"], crowd.sockets["c"]}


@pytest.mark.parametrize("name", ["", "admin", "admin/", "/a,b", "/a?b", "/\x1e", "/\ud800"])
def test_a_namespace_has_a_name_that_clients_can_ask_for(name: str) -> None:
    with pytest.raises(ValueError, match="begins with '/'"):
        SocketServer().of(name)


def test_one_handler_for_each_event() -> None:
    server = SocketServer()
    server.on("a")(lambda socket: None)
    with pytest.raises(ValueError, match="has a handler already"):
        server.on("a")(lambda socket: None)
    server.on_any(lambda socket, event, args: None)
    with pytest.raises(ValueError, match="on_any"):
        server.on_any(lambda socket, event, args: None)
    server.authorize(lambda handshake: None)
    with pytest.raises(ValueError, match="authorize"):
        server.authorize(lambda handshake: None)
