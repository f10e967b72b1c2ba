"""A client without a protocol of its own: bare HTTP requests through h11, bare WebSocket messages through wsproto."""

import base64
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import h11
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Message, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import generate_accept_token

PATIENCE = 10.0  # seconds for each wait on the server

UPGRADE = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}


@dataclass(frozen=True, slots=True)
class Response:
    """What the server answered; the names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def text(self) -> str:
        """The body, decoded."""
        return self.body.decode()


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a WebSocket: the code of the server's close frame, None when the connection ended without one."""

    code: int | None


class Refused(Exception):
    """The server answered an opening handshake with something else than 101."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.status}: {response.text}")
        self.response = response


async def send_request(
    stream: trio.SocketStream, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> h11.Connection:
    """Write a request; gives the protocol that will read the response."""
    protocol = h11.Connection(h11.CLIENT)
    named = {"host": f"127.0.0.1:{stream.socket.getpeername()[1]}", **(headers or {})}
    if body:
        named["content-length"] = str(len(body))
    sent = protocol.send(h11.Request(method=method, target=target, headers=list(named.items()))) or b""
    sent += (protocol.send(h11.Data(data=body)) or b"") if body else b""
    protocol.send(h11.EndOfMessage())
    await stream.send_all(sent)
    return protocol


async def read_response(protocol: h11.Connection, stream: trio.SocketStream) -> Response:
    """The response to the request, whole, or the head of a 101. Raises AssertionError when none comes."""
    head, body = None, b""
    with trio.fail_after(PATIENCE):
        while not isinstance(event := await _next_event(protocol, stream), h11.EndOfMessage):
            if isinstance(event, h11.InformationalResponse):
                return _response(event)
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                raise AssertionError(f"the server closed the connection before it had answered ({event!r})")
    assert head is not None
    return _response(head, body)


async def request(
    port: int, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | str = b""
) -> Response:
    """One request on a connection of its own to 127.0.0.1."""
    data = body.encode() if isinstance(body, str) else body
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        return await read_response(await send_request(stream, method, target, headers, data), stream)


async def _next_event(protocol: h11.Connection, stream: trio.SocketStream) -> Any:
    while (event := protocol.next_event()) is h11.NEED_DATA:
        protocol.receive_data(bytes(await stream.receive_some()))
    return event


def _response(head: h11.Response | h11.InformationalResponse, body: bytes = b"") -> Response:
    return Response(head.status_code, {k.decode(): v.decode() for k, v in head.headers}, body)


class WebSocket:
    """An open WebSocket. Made by `open_websocket`; `response` is the head of the server's 101."""

    def __init__(self, stream: trio.SocketStream, response: Response, rest: bytes) -> None:
        self.response = response
        self.stream = stream
        self._protocol = Connection(ConnectionType.CLIENT)
        self._protocol.receive_data(rest)
        self._parts: list[Any] = []

    async def send(self, message: str | bytes) -> None:
        """Send one message: text for a str, binary for bytes."""
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        await self.stream.send_all(self._protocol.send(event))

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE) -> None:
        """Send a close frame; 1005 sends one without a code. The answer comes from `receive`."""
        await self.stream.send_all(self._protocol.send(CloseConnection(code=CloseReason(code))))

    async def receive(self, *, within: float = PATIENCE) -> str | bytes | Closed:
        """The next message, whole, or Closed."""
        with trio.fail_after(within):
            while True:
                for event in self._protocol.events():
                    if isinstance(event, CloseConnection):
                        return Closed(int(event.code))
                    if isinstance(event, Message) and (whole := self._whole(event)) is not None:
                        return whole
                try:
                    data = await self.stream.receive_some()
                except trio.BrokenResourceError:
                    return Closed(None)
                if not data:
                    return Closed(None)
                self._protocol.receive_data(data)

    def _whole(self, event: Message) -> str | bytes | None:
        self._parts.append(event.data)
        if not event.message_finished:
            return None
        parts, self._parts = self._parts, []
        return "".join(parts) if isinstance(event, TextMessage) else b"".join(parts)


@contextlib.asynccontextmanager
async def open_websocket(port: int, target: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[WebSocket]:
    """A WebSocket to 127.0.0.1, dropped when the block ends. Raises Refused when the server does not answer 101."""
    key = base64.b64encode(secrets.token_bytes(16))
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        sent = {**UPGRADE, **(headers or {}), "sec-websocket-key": key.decode()}
        protocol = await send_request(stream, "GET", target, sent)
        response = await read_response(protocol, stream)
        if response.status != 101:
            raise Refused(response)
        assert response.headers["sec-websocket-accept"].encode() == generate_accept_token(key)
        yield WebSocket(stream, response, protocol.trailing_data[0])
