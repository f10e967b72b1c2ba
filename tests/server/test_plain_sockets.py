"""WebSockets on real, plain sockets: read by the poller, one task a connection, written once for each peer and read."""

import contextlib
import logging
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from engineio_trio.protocol.lane import Head
from engineio_trio.transport.socket import READ_SIZE
from engineio_trio.transport.stream import Line
from tests.raw import Ended, Later, Raw, Wire, at_rest, closing, frame, text

PING, PONG = 9, 10


class Lobby:
    """A server on a port, and the way in."""

    def __init__(self, server: SocketServer, port: int) -> None:
        self.server = server
        self.port = port
        self.streams: list[trio.SocketStream] = []

    async def join(self, stream: trio.SocketStream | None = None) -> Wire:
        """A client's connection to `/`, over `stream` or a new one; closed at the end."""
        self.streams.append(stream or await trio.open_tcp_stream("127.0.0.1", self.port))
        return await Wire.joined(Raw(self.streams[-1]))


@asynccontextmanager
async def serving(server: SocketServer) -> AsyncIterator[Lobby]:
    async with trio.open_nursery() as nursery:
        ((_, port),) = await nursery.start(lambda **status: server.serve("127.0.0.1", 0, **status))
        lobby = Lobby(server, port)
        try:
            with trio.fail_after(20):
                yield lobby
        finally:
            for stream in lobby.streams:
                stream.socket.close()
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def counted_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What is written to descriptors meanwhile, write by write."""
    written: list[bytes] = []
    write = os.write

    def count(descriptor: int, data: bytes) -> int:
        written.append(bytes(data))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", count)
        yield written


async def test_an_idle_connection_is_one_task() -> None:
    async with serving(SocketServer()) as lobby:
        await trio.testing.wait_all_tasks_blocked()  # until all of the server's own are there
        before = trio.lowlevel.current_statistics().tasks_living
        wires = [await lobby.join() for _ in range(5)]
        assert trio.lowlevel.current_statistics().tasks_living == before + 5
        await wires[0].raw.send(frame(PING, b"who needs trio-websocket?"))
        assert await wires[0].frame() == (PONG, b"who needs trio-websocket?")
        assert trio.lowlevel.current_statistics().tasks_living == before + 5 + 2  # it and its reader


async def test_what_comes_after_the_first_odd_frame_goes_on_as_before() -> None:
    server = SocketServer()
    ended = Ended(server)
    server.on("echo")(lambda socket, word: socket.emit("echo", word))
    async with serving(server) as lobby:
        wire = await lobby.join()
        for number in range(3):
            await wire.raw.send(text(f'42["echo",{number}]') + frame(PING) + text(f'42["echo",-{number}]'))
            heard = [await wire.frame() for _ in range(3)]
            assert heard == [(1, b'42["echo",%d]' % number), (PONG, b""), (1, b'42["echo",%d]' % -number)]
        await wire.raw.send(closing(1000))
        assert await wire.code() == 1000
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        await at_rest(server)


async def test_a_plain_handler_that_fails_ends_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    server = SocketServer()
    ended = Ended(server)
    server.on("echo")(lambda socket, word: socket.emit("echo", word))

    @server.on("boom")
    def boom(socket: Socket) -> None:
        raise ArithmeticError("of the handler")

    async with serving(server) as lobby:
        bad, good = await lobby.join(), await lobby.join()
        await bad.say('42["boom"]')
        await good.say('42["echo","still here"]')
        assert await bad.closed() == 1011
        assert await ended.reason() is CloseReason.INTERNAL_ERROR
        assert await good.event() == ("echo", "still here")
    assert ["ArithmeticError" in (record.exc_text or "") for record in caplog.records] == [True]


async def test_what_goes_wrong_while_reading_for_one_connection_is_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even a fault of ours, outside any handler."""
    server = SocketServer()
    ended = Ended(server)
    server.on("echo")(lambda socket, word: socket.emit("echo", word))
    async with serving(server) as lobby:
        bad, good = await lobby.join(), await lobby.join()
        first, _ = server._engine.sessions.values()
        monkeypatch.setattr(type(first), "pause", lambda self: 1 / (self is not first))
        await bad.say('42["echo",1]')
        await good.raw.send(text('42["echo",2]'))
        assert await ended.reason() is CloseReason.INTERNAL_ERROR
        assert await bad.closed() == 1011
        monkeypatch.undo()
        await good.say('42["echo",3]')
        assert [await good.event(), await good.event()] == [("echo", 2), ("echo", 3)]
    assert ["ZeroDivisionError" in (record.exc_text or "") for record in caplog.records] == [True]


@pytest.mark.parametrize("way", ["half closed", "reset"])
async def test_the_end_of_a_peer_is_seen_in_the_middle_of_a_frame(way: str) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as lobby:
        wire = await lobby.join()
        stream = wire.raw.stream
        assert isinstance(stream, trio.SocketStream)
        await wire.raw.send(text('42["half a frame"]')[:-5])
        if way == "half closed":
            await stream.send_eof()
        else:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        await at_rest(server)


def fill(stream: trio.SocketStream, data: bytes) -> None:
    """Write the same again and again, until no more goes; nobody else has a turn meanwhile."""
    with socket.socket(fileno=os.dup(stream.socket.fileno())) as door, contextlib.suppress(BlockingIOError):
        door.setblocking(False)
        while True:
            door.sendall(data)


async def test_a_flood_of_one_peer_does_not_hold_up_another() -> None:
    """What is in the sockets' buffers is read in turns, at most READ_SIZE of each."""
    server = SocketServer()
    flooded: list[int] = []
    server.on("flood")(lambda socket: flooded.append(1))
    server.on("echo")(lambda socket: socket.emit("echo", len(flooded)))
    async with serving(server) as lobby:
        flooder, quiet = await lobby.join(), await lobby.join()
        stream = flooder.raw.stream
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2_000_000)
        one = text('42["flood"]')
        fill(stream, one * 1_000)
        await quiet.say('42["echo"]')
        _, before = await quiet.event()
        assert before <= 2 * READ_SIZE // len(one)


async def test_a_full_handler_queue_stops_the_reading_and_nothing_is_lost() -> None:
    server = SocketServer(Settings(handler_queue=2))
    go, heard = trio.Event(), list[int]()

    @server.on("slow")
    async def slow(socket: Socket, number: int) -> None:
        await go.wait()
        heard.append(number)
        if number == 49:
            socket.emit("done")

    async with serving(server) as lobby:
        wire = await lobby.join()
        assert len(server._engine.poller._watches) == 1
        await wire.say(*[f'42["slow",{number}]' for number in range(50)])
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not server._engine.poller._watches
        (connection,) = server._engine.sessions.values()
        assert len(connection.handlers._jobs) == 2
        go.set()
        assert await wire.event() == ("done",)
        assert heard == list(range(50))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(server._engine.poller._watches) == 1  # and it is the poller's again


async def test_what_the_handlers_of_one_read_send_is_one_write_for_each_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SocketServer()

    @server.on("fan")
    def fan(socket: Socket, number: int) -> None:
        server.emit("news", number)
        socket.emit("thanks", number)

    async with serving(server) as lobby:
        speaker, listener = await lobby.join(), await lobby.join()
        with counted_writes(monkeypatch) as written:
            await speaker.say(*[f'42["fan",{number}]' for number in range(4)])
            for number in range(4):
                assert await listener.event() == ("news", number)
                assert await speaker.event() == ("news", number)
                assert await speaker.event() == ("thanks", number)
        assert len(written) == 2


async def test_outside_a_handler_everything_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SocketServer()
    async with serving(server) as lobby:
        wire = await lobby.join()
        with counted_writes(monkeypatch) as written:
            server.emit("a")
            server.emit("b")
            assert written == [b"\x81\x07" + b'42["a"]', b"\x81\x07" + b'42["b"]']
        assert [await wire.event(), await wire.event()] == [("a",), ("b",)]


async def test_what_is_sent_together_is_one_write_for_each_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SocketServer()
    async with serving(server) as lobby:
        wires = [await lobby.join(), await lobby.join()]
        with counted_writes(monkeypatch) as written:
            with pytest.raises(ZeroDivisionError), server.together():  # noqa: PT012 - the block is what is tested
                server.emit("a")
                with server.together():
                    server.emit("b")
                assert not written
                raise ZeroDivisionError
            assert written == [b"\x81\x07" + b'42["a"]' + b"\x81\x07" + b'42["b"]'] * 2
            server.emit("c")
            assert len(written) == 4
        for wire in wires:
            assert [await wire.event() for _ in range(3)] == [("a",), ("b",), ("c",)]


async def test_together_in_a_plain_handler_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SocketServer()

    @server.on("ask")
    def ask(socket: Socket) -> None:
        with server.together():
            socket.emit("a")
        socket.emit("b")

    async with serving(server) as lobby:
        wire = await lobby.join()
        with counted_writes(monkeypatch) as written:
            await wire.say('42["ask"]')
            assert [await wire.event(), await wire.event()] == [("a",), ("b",)]
        assert len(written) == 1


async def test_much_in_one_read_is_not_the_fault_of_a_peer_that_reads() -> None:
    """What is put off until the end of the read does not fill an outbox that would have been empty without that."""
    server = SocketServer(Settings(outbox_bytes=1_000))
    server.on("fan")(lambda socket: [server.emit("news", number, "x" * 300) for number in range(40)] and None)
    async with serving(server) as lobby:
        speaker, listener = await lobby.join(), await lobby.join()
        await speaker.say('42["fan"]')
        for wire in (speaker, listener):
            for number in range(40):
                assert await wire.event() == ("news", number, "x" * 300)


async def test_flush_inside_a_round_waits_for_what_was_put_off() -> None:
    server = SocketServer()
    async with serving(server) as lobby, trio.open_nursery() as nursery:
        flushes: list[Later] = []

        @server.on("a")
        def hear(socket: Socket) -> None:
            socket.emit("b")
            flushes.append(Later(nursery, socket.flush))

        wire = await lobby.join()
        await wire.say('42["a"]')
        assert await wire.event() == ("b",)
        await flushes[0].value()


async def test_a_peer_that_does_not_read_gets_a_writer_and_in_the_end_is_closed() -> None:
    server = SocketServer(Settings(outbox_bytes=100_000))
    ended = Ended(server)
    async with serving(server) as lobby:
        await trio.testing.wait_all_tasks_blocked()  # until all of the server's own are there
        before = trio.lowlevel.current_statistics().tasks_living
        wire, good = await lobby.join(), await lobby.join()
        while not ended.reasons:
            server.emit("news", "x" * 50_000)
            assert (await good.event())[0] == "news"
            assert trio.lowlevel.current_statistics().tasks_living <= before + 2 + 2  # at most a writer each
        assert await ended.reason() is CloseReason.SLOW_CONSUMER
        await wire.aclose()


async def test_a_message_in_many_pieces_is_not_copied_at_each() -> None:
    pieces = frame(2, b"x" * 100_000)
    ours, theirs = trio.testing.memory_stream_pair()
    line, lane = Line(theirs, b"", b"", 1_000_000, 5.0), Heard()
    buffers = set()
    for at in range(0, len(pieces) - 10, 10):
        assert line.hand_over(lane, pieces[at : at + 10]) is Head.PARTIAL
        buffers.add(id(line._early))
    assert len(buffers) <= 2
    assert line.hand_over(lane, pieces[len(pieces) // 10 * 10 - (0 if len(pieces) % 10 else 10) :]) is Head.PARTIAL
    assert lane.messages == [b"x" * 100_000]
    await ours.aclose()
    await theirs.aclose()


class Heard:
    """A lane with room."""

    full = False

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []

    async def room(self) -> None:
        """There is."""

    def deliver(self, message: str | bytes) -> None:
        self.messages.append(message)

    def pause(self) -> None:
        """Nothing to write."""


async def test_too_many_open_files_are_no_end(caplog: pytest.LogCaptureFixture) -> None:
    """The log says so, those who are here are served, and those who wait come in when there is room again."""
    server = SocketServer()
    server.on("echo")(lambda socket: socket.emit("echo"))
    async with serving(server) as lobby:
        first = await lobby.join()
        late = trio.socket.socket()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            await late.connect(("127.0.0.1", lobby.port))
            while not caplog.records:
                await first.say('42["echo"]')
                assert await first.event() == ("echo",)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert {(record.levelno, record.getMessage().split(":")[0]) for record in caplog.records} == {
            (logging.ERROR, "cannot accept a connection, trying again")
        }
        await lobby.join(trio.SocketStream(late))
