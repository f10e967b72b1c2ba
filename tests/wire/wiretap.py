"""A TCP proxy between a client and a server that writes down what they say: HTTP/1.1 and WebSocket, as steps.

Bytes pass unchanged. Two things can be ordered from outside: WebSockets can be held back until a scenario lets them
through (so that an upgrade begins at a known point), and everything can be cut, as a lost network would.
"""

import base64
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h11
import trio
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from tests.patience import PATIENCE
from tests.wire.transcript import CLOSE, KEPT_HEADERS, NOOP, SEPARATOR, Step, packets_of

Headers = list[tuple[bytes, bytes]]


class Tap:
    """One TCP connection, parsed on the side: `from_client` and `from_server` give the steps that are in the bytes."""

    def __init__(self) -> None:
        self._fresh = True
        self._asked: h11.Request | None = None
        self._begin()
        self._frames: tuple[FrameProtocol, FrameProtocol] | None = None
        self._parts: dict[str, bytes] = {"client": b"", "server": b""}

    def _begin(self, rest: tuple[bytes, bytes] = (b"", b"")) -> None:
        """Be ready for a request and its response, of which `rest` may be the first bytes."""
        self._request = h11.Connection(h11.SERVER)
        self._response = h11.Connection(h11.CLIENT)
        for connection, data in zip((self._request, self._response), rest, strict=True):
            if data:
                connection.receive_data(data)
        self._body = bytearray()

    @property
    def waiting(self) -> bool:
        """Whether a request has been made and not been answered in full."""
        return self._asked is not None

    @property
    def is_websocket(self) -> bool:
        """Whether the connection has become a WebSocket."""
        return self._frames is not None

    @property
    def polling(self) -> bool:
        """Whether the request that waits is a poll (or any other GET)."""
        return self._asked is not None and self._asked.method == b"GET"

    @property
    def posting(self) -> bool:
        """Whether the request that waits is a POST, or none was made yet: it may be one."""
        return self._fresh if self._asked is None else self._asked.method == b"POST"

    @property
    def opening(self) -> bool:
        """Whether the request that waits asks for a WebSocket."""
        return self._asked is not None and (b"upgrade", b"websocket") in self._asked.headers

    def from_client(self, data: bytes) -> Iterator[Step]:
        """The steps that these bytes from the client complete."""
        if self._frames is not None:
            yield from self._messages("client", self._frames[0], data)
            return
        self._request.receive_data(data)
        yield from self._requests()

    def from_server(self, data: bytes) -> Iterator[Step]:
        """The steps that these bytes from the server complete."""
        if self._frames is not None:
            yield from self._messages("server", self._frames[1], data)
            return
        self._response.receive_data(data)
        while not isinstance(event := self._response.next_event(), h11.NEED_DATA | h11.PAUSED | h11.ConnectionClosed):
            yield from self._answer(event)
            if self._frames is not None:
                yield from self._messages("server", self._frames[1], self._response.trailing_data[0])
                return

    def _requests(self) -> Iterator[Step]:
        while not isinstance(event := self._request.next_event(), h11.NEED_DATA | h11.PAUSED | h11.ConnectionClosed):
            if isinstance(event, h11.Request):
                self._asked, self._fresh = event, False
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                yield self._ask()

    def _ask(self) -> Step:
        assert self._asked is not None
        kept = [(b"host", b"x"), *((k, v) for k, v in self._asked.headers if k in (b"connection", b"upgrade"))]
        self._response.send(h11.Request(method=self._asked.method, target="/", headers=kept))
        self._response.send(h11.EndOfMessage())
        kind = "ws-open" if self.opening else "http-request"
        step = {"from": "client", "kind": kind, "method": self._asked.method.decode()}
        step["target"] = self._asked.target.decode()
        return step | {"headers": _kept(self._asked.headers)} | self._take_body(packets=self._body != b"")

    def _answer(self, event: Any) -> Iterator[Step]:
        if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
            self._asked = None
            self._frames = (FrameProtocol(client=False, extensions=[]), FrameProtocol(client=True, extensions=[]))
            yield {"from": "server", "kind": "ws-open", "status": 101, "headers": _kept(event.headers)}
        elif isinstance(event, h11.Response):
            self._said = event
        elif isinstance(event, h11.Data):
            self._body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert self._asked is not None
            step = {"from": "server", "kind": "http-response", "status": self._said.status_code}
            polled = self._asked.method == b"GET" and self._said.status_code == 200
            yield step | {"headers": _kept(self._said.headers)} | self._take_body(packets=polled)
            self._asked = None
            self._begin((self._request.trailing_data[0], self._response.trailing_data[0]))
            yield from self._requests()

    def _take_body(self, *, packets: bool) -> Step:
        text = self._body.decode()
        self._body.clear()
        if packets:
            return {"packets": text.split(SEPARATOR)}
        return {"body": text} if text else {}

    def _messages(self, side: str, frames: FrameProtocol, data: bytes) -> Iterator[Step]:
        frames.receive_bytes(data)
        for frame in frames.received_frames():
            if frame.opcode is Opcode.CLOSE:
                code, _reason = frame.payload
                yield {"from": side, "kind": "ws-close", "code": int(code or CloseReason.NO_STATUS_RCVD)}
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                payload = frame.payload
                self._parts[side] += payload.encode() if isinstance(payload, str) else bytes(payload)
                if frame.message_finished:
                    whole, self._parts[side] = self._parts[side], b""
                    yield _message(side, frame.opcode, whole)


def _message(side: str, opcode: Opcode, data: bytes) -> Step:
    if opcode is Opcode.TEXT:
        return {"from": side, "kind": "text", "data": data.decode()}
    return {"from": side, "kind": "binary", "data": base64.b64encode(data).decode()}


def _kept(headers: Any) -> dict[str, str]:
    said = {name.decode().lower(): value.decode() for name, value in headers}
    return {name: said[name] for name in sorted(said.keys() & KEPT_HEADERS)}


class Wiretap:
    """The proxy. `steps` grows while it runs; `port` is where clients are to connect."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.steps: list[Step] = []
        self._server_port = server_port
        self._served = 0  # packets that the server has sent, as `after` counts them
        self._sessions = 0  # that were opened and not closed
        self._open: dict[int, tuple[Tap, trio.CancelScope]] = {}
        self._news = trio.Event()  # set, and replaced, at each step and each closing
        self._websockets = trio.Event()
        self._websockets.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and relay until cancelled. Connections are numbered in the order in which they are accepted."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        async with listener, trio.open_nursery() as nursery:
            task_status.started()
            number = 0
            while True:
                client = await listener.accept()
                number += 1
                self._open[number] = (Tap(), trio.CancelScope())
                nursery.start_soon(self._relay, number, client)

    def hold_websockets(self) -> None:
        """Let no request for a WebSocket through until `release_websockets`."""
        self._websockets = trio.Event()

    def release_websockets(self) -> None:
        """Let the held requests through."""
        self._websockets.set()

    async def cut(self) -> None:
        """Once the only connection is a WebSocket or a poll that waits, drop it without a goodbye to either side."""
        with trio.fail_after(PATIENCE):
            while len(self._open) != 1 or not all(tap.is_websocket or tap.polling for tap, _ in self._open.values()):
                await self._news.wait()
        for number, (tap, scope) in self._open.items():
            self._note(number, {"from": "network", "kind": "cut"})
            self._sessions -= tap.is_websocket  # a client that polls still says goodbye, by a POST
            scope.cancel()

    async def ended(self, *, within: float = PATIENCE) -> None:
        """Wait until every session has been closed by the client, or was cut, and no connection is open."""
        with trio.fail_after(within):
            while self._open or self._sessions > 0:
                await self._news.wait()

    async def _relay(self, number: int, client: trio.SocketStream) -> None:
        tap, scope = self._open[number]
        with scope:
            server = await trio.open_tcp_stream("127.0.0.1", self._server_port)
            async with client, server, trio.open_nursery() as nursery:
                nursery.start_soon(self._upwards, number, tap, client, server)
                await self._downwards(number, tap, server, client)
                nursery.cancel_scope.cancel()
        del self._open[number]
        self._announce()

    async def _upwards(self, number: int, tap: Tap, client: trio.SocketStream, server: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in client:
                for step in tap.from_client(bytes(data)):
                    self._note(number, {**step, "after": self._served})
                await self._turn(number, tap)
                await server.send_all(data)
            if tap.waiting:
                self._note(number, {"from": "client", "kind": "abort", "after": self._served})
            await server.send_eof()

    async def _turn(self, number: int, tap: Tap) -> None:
        """Wait until it is this connection's turn to speak to the server.

        The client makes a POST and a poll at once, on two connections: the poll is held until the POST that came first
        is answered, so that chance does not decide which packets share a body.
        """
        if tap.opening:
            await self._websockets.wait()
        elif tap.polling:
            while any(other < number and earlier.posting for other, (earlier, _scope) in self._open.items()):
                await self._news.wait()

    async def _downwards(self, number: int, tap: Tap, server: trio.SocketStream, client: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in server:
                for step in tap.from_server(bytes(data)):
                    self._note(number, step)
                    self._served += _counted(step)
                await client.send_all(data)

    def _note(self, number: int, step: Step) -> None:
        self.steps.append({"connection": number, **step})
        self._sessions += _opens(step) - _ends(step)
        self._announce()

    def _announce(self) -> None:
        self._news.set()
        self._news = trio.Event()


def _counted(step: Step) -> int:
    """How much a step of the server adds to `after`: its packets except noop."""
    if step["kind"] in ("text", "binary"):
        return int(step["data"] != NOOP)
    return sum(packet != NOOP for packet in step.get("packets", ()))


def _opens(step: Step) -> bool:
    """Whether a session begins here: the server's OPEN packet."""
    return step["from"] == "server" and any(packet.startswith("0{") for packet in packets_of(step))


def _ends(step: Step) -> bool:
    """Whether a session ends here: the client closes it, by a frame or by a packet."""
    return step["from"] == "client" and (step["kind"] == "ws-close" or CLOSE in packets_of(step))
