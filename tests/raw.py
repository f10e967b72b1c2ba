"""Raw clients: bytes in, bytes out, over memory streams or sockets. They break rules as easily as they keep them."""

import contextlib
import dataclasses
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import h11
import trio
import trio.testing

from engineio_trio import CloseReason, Socket, SocketServer
from engineio_trio.server.serve import Service
from engineio_trio.transport.socket import PlainStream

MASK = b"\x01\x02\x03\x04"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HOST = "server.example"


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener whose connections are pairs of memory streams."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](10_000)
        self.accepted: list[trio.abc.Stream] = []  # the server's ends, in order

    async def accept(self) -> trio.abc.Stream:
        try:
            return await self._receive.receive()
        except trio.ClosedResourceError:
            raise trio.ClosedResourceError from None

    async def aclose(self) -> None:
        self._send.close()
        self._receive.close()
        await trio.lowlevel.checkpoint()

    def close_clients(self) -> None:
        """Close what the system would otherwise miss."""

    def stop_reading(self) -> None:
        """From now on nothing that the server writes to the newest connection gets out."""
        self.accepted[-1].send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]

    def connect(self) -> "Raw":
        """A new connection; the server's end appears in `accepted`."""
        client, server = trio.testing.memory_stream_pair()
        self.accepted.append(server)
        self._send.send_nowait(server)
        return Raw(client)


class PlainListener(MemoryListener):
    """The same with pairs of plain sockets, which have doors. What one end writes the other can read at once, so that
    the autojump clock is right with them, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clients: list[socket.socket] = []
        self._newest: socket.socket | None = None

    def connect(self) -> "Raw":
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._newest = theirs
        self.accepted.append(PlainStream(theirs))
        self._send.send_nowait(self.accepted[-1])
        self._clients.append(ours)
        return Raw(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    def stop_reading(self) -> None:
        assert self._newest is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                self._newest.send(b"x" * 65_536)

    def close_clients(self) -> None:
        for client in self._clients:
            client.close()


@asynccontextmanager
async def serving(server: Service, listener: MemoryListener | None = None) -> AsyncIterator[MemoryListener]:
    """The server on a listener, cancelled at the end."""
    listener = listener or MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        try:
            yield listener
        finally:
            listener.close_clients()
        nursery.cancel_scope.cancel()


def tasks_of(server: Service) -> int:
    """How many tasks the server runs: one for each stream, one for each polling session."""
    nursery = server._engine.nursery
    assert nursery is not None
    return len(nursery.child_tasks)


async def at_rest(server: SocketServer, seconds: float = 10) -> None:
    """Return when the server has no session, no stream and no task left; fail when it does not come to rest."""
    with trio.fail_after(seconds):
        while server.connections or server._streams or tasks_of(server):  # noqa: ASYNC110 - nobody tells a test
            await trio.sleep(0.01)


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer as it was received."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body, decoded."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, int]:
        """Status and engine.io code of an error answer, whose body must have the form of one."""
        error = self.json
        assert error.keys() == {"code", "message"}
        assert type(error["code"]) is int
        assert type(error["message"]) is str
        return self.status, error["code"]


class Raw:
    """One connection of a client."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.rest = b""

    async def send(self, data: bytes | str) -> None:
        """Send bytes as they are (text as Latin-1, for header bytes above 0x7F)."""
        await self.stream.send_all(data if isinstance(data, bytes) else data.encode("latin-1"))

    async def more(self) -> bytes:
        """Some more bytes, or b"" at the end."""
        data = bytes(await self.stream.receive_some(65_536))
        self.rest += data
        return data

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self.rest) < size:
            if not await self.more():
                raise EOFError(f"the stream ended after {self.rest!r}")
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    async def answer(self, method: str = "GET") -> Answer:
        """The next HTTP answer, or the head of a 101, parsed by h11, so that it is known to be correct HTTP."""
        parser = h11.Connection(h11.CLIENT)
        headers = [("Host", HOST), ("Connection", "Upgrade"), ("Upgrade", "websocket")]  # so that a 101 may come
        parser.send(h11.Request(method=method, target="/", headers=headers))
        parser.send(h11.EndOfMessage())
        if self.rest:  # to h11, no bytes are the end
            parser.receive_data(self.rest)
            self.rest = b""
        head, body = None, b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(bytes(await self.stream.receive_some(65_536)))
            elif isinstance(event, h11.InformationalResponse):
                head = event
                if head.status_code == 101:
                    break
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise EOFError(f"the stream ended before an answer ({event!r})")
        assert head is not None
        self.rest = bytes(parser.trailing_data[0])
        named = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, named, bytes(body))

    async def ends(self) -> None:
        """Assert that nothing more comes but the end."""
        assert self.rest == b""
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            return
        assert data == b""

    async def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send a whole request and read its answer."""
        await self.send(request(method, target, headers, body))
        return await self.answer(method)

    async def aclose(self) -> None:
        await self.stream.aclose()


def request(
    method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {target} HTTP/{version}", f"Host: {HOST}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def polling(sid: str | None = None, *, path: str = "/socket.io/", eio: int = 4) -> str:
    """The target of a polling request."""
    return f"{path}?EIO={eio}&transport=polling" + ("" if sid is None else f"&sid={sid}")


UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}


def websocket_target(sid: str | None = None, *, path: str = "/socket.io/", eio: int = 4) -> str:
    """The target of a WebSocket request."""
    return f"{path}?EIO={eio}&transport=websocket" + ("" if sid is None else f"&sid={sid}")


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """One frame as a client sends it, or as one should not."""
    first = (0x80 if final else 0) | rsv << 4 | opcode
    bit = 0x80 if masked else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, bit | len(payload))
    elif len(payload) < 65_536:
        head = struct.pack("!BBH", first, bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(payload))
    if not masked:
        return head + payload
    return head + MASK + mask(payload)


def mask(payload: bytes) -> bytes:
    """The payload as MASK leaves it."""
    key = (MASK * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def text(data: str) -> bytes:
    """A text frame."""
    return frame(1, data.encode())


def closing(code: int, reason: bytes = b"") -> bytes:
    """A CLOSE frame."""
    return frame(8, code.to_bytes(2, "big") + reason)


class Wire:
    """A WebSocket client by hand."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.sid = ""

    @classmethod
    async def open(cls, raw: Raw, target: str | None = None, headers: Mapping[str, str] | None = None) -> "Wire":
        """The handshake, which must succeed, up to the 101."""
        answer = await raw.request("GET", target or websocket_target(), {**UPGRADE, **(headers or {})})
        assert answer.status == 101, answer
        return cls(raw)

    @classmethod
    async def session(cls, raw: Raw, target: str | None = None) -> "Wire":
        """The handshake and the OPEN packet."""
        wire = await cls.open(raw, target)
        opening = await wire.text()
        assert opening[0] == "0"
        wire.sid = json.loads(opening[1:])["sid"]
        return wire

    @classmethod
    async def joined(cls, raw: Raw) -> "Wire":
        """As `session`, and joined to `/`."""
        wire = await cls.session(raw)
        await wire.say("40")
        assert (await wire.text()).startswith('40{"sid":"')
        return wire

    async def say(self, *texts: str) -> None:
        """Send text messages, in one write."""
        await self.raw.send(b"".join(map(text, texts)))

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which must be one that a server may send."""
        first, second = await self.raw.exactly(2)
        assert first & 0xF0 == 0x80
        assert not second & 0x80
        size = second
        if second == 126:
            size = int.from_bytes(await self.raw.exactly(2), "big")
        elif second == 127:
            size = int.from_bytes(await self.raw.exactly(8), "big")
        return first & 0x0F, await self.raw.exactly(size)

    async def text(self) -> str:
        """The next frame, which must be a text message."""
        opcode, payload = await self.frame()
        assert opcode == 1, (opcode, payload)
        return payload.decode()

    async def event(self) -> tuple[Any, ...]:
        """The next text message, which must be an event of `/` without an ack id."""
        message = await self.text()
        assert message.startswith("42["), message
        return tuple(json.loads(message[2:]))

    async def code(self) -> int:
        """The code of the CLOSE frame that must come next (after any messages); 1005 if it has none."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big") if payload else 1005

    async def closed(self) -> int:
        """The close code, and then the end of the stream. Answers the CLOSE as a client does."""
        code = await self.code()
        try:
            await self.raw.send(closing(code) if code != 1005 else frame(8))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return code
        await self.raw.ends()
        return code

    async def aclose(self) -> None:
        await self.raw.aclose()


class Poller:
    """A polling session by hand; every request on a connection of its own."""

    def __init__(self, listener: MemoryListener, eio: int = 4) -> None:
        self.listener = listener
        self.eio = eio
        self.sid: str | None = None
        self.opening: dict[str, Any] = {}

    @classmethod
    async def session(cls, listener: MemoryListener) -> "Poller":
        """A session of revision 4 after its OPEN."""
        poller = cls(listener)
        answer = await poller.get()
        assert answer.status == 200
        assert answer.body[:1] == b"0"
        poller.opening = json.loads(answer.body[1:])
        poller.sid = poller.opening["sid"]
        return poller

    @classmethod
    async def joined(cls, listener: MemoryListener) -> "Poller":
        """As `session`, and joined to `/`."""
        poller = await cls.session(listener)
        assert (await poller.post("40")).body == b"ok"
        assert (await poller.get()).body.startswith(b'40{"sid":"')
        return poller

    async def get(self) -> Answer:
        """One poll."""
        return await self._request("GET", None)

    async def post(self, *packets: str) -> Answer:
        """One POST of these packets."""
        body = "\x1e".join(packets).encode()
        return await self._request("POST", body)

    async def _request(self, method: str, body: bytes | None) -> Answer:
        raw = self.listener.connect()
        answer = await raw.request(method, polling(self.sid, eio=self.eio), body=body)
        await raw.aclose()
        return answer


class Later:
    """Something that runs beside the test: `later = Later(nursery, poller.get)`, then `await later.value()`."""

    def __init__(self, nursery: trio.Nursery, function: Any, *args: Any) -> None:
        self._done = trio.Event()
        self._value: Any = None
        nursery.start_soon(self._run, function, args)

    async def _run(self, function: Any, args: Any) -> None:
        self._value = await function(*args)
        self._done.set()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    async def value(self) -> Any:
        """The result, when it is there."""
        await self._done.wait()
        return self._value


class Ended:
    """Why the sockets of a server ended."""

    def __init__(self, server: SocketServer) -> None:
        self.reasons: list[CloseReason] = []
        self._event = trio.Event()
        server.on("disconnect")(self._heard)

    def _heard(self, socket: Socket, reason: CloseReason) -> None:
        self.reasons.append(reason)
        self._event.set()

    async def reason(self) -> CloseReason:
        """The only reason that was given."""
        await self._event.wait()
        assert len(self.reasons) == 1
        return self.reasons[0]
