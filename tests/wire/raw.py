"""The raw client of `tests.raw` on real sockets, with a deadline on each wait: for any server, also node's."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import trio

from tests.patience import PATIENCE, PROMPT
from tests.raw import UPGRADE, Answer, Raw, Wire, closing, frame
from tests.raw import request as bytes_of_request

ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # for KEY: both are the example of RFC 6455 section 1.3
TEXT, BINARY, CLOSE = 1, 2, 8
NO_CODE = 1005  # stands for a CLOSE frame without a code


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of a WebSocket: the code of the server's close frame, None when the connection ended without one."""

    code: int | None


class Refused(Exception):
    """The server answered an opening handshake with something else than 101."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status}: {answer.text}")
        self.answer = answer


async def request(
    port: int, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | str = b""
) -> Answer:
    """One request on a connection of its own."""
    data = body.encode() if isinstance(body, str) else body
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(PATIENCE):
            return await Raw(stream).request(method, target, headers, data or None)


async def abandon(port: int, target: str, headers: Mapping[str, str]) -> None:
    """Send a GET and hang up, as a lost network would."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(bytes_of_request("GET", target, headers))


class WebSocket:
    """An open WebSocket. Made by `open_websocket`; `answer` is the head of the server's 101."""

    def __init__(self, raw: Raw, answer: Answer) -> None:
        self.answer = answer
        self._wire = Wire(raw)

    async def send(self, message: str | bytes) -> None:
        """Send one message: text for a str, binary for bytes."""
        if isinstance(message, str):
            await self._wire.say(message)
        else:
            await self._wire.raw.send(frame(BINARY, message))

    async def close(self, code: int = 1000) -> None:
        """Send a close frame; 1005 sends one without a code. The answer comes from `receive`."""
        await self._wire.raw.send(frame(CLOSE) if code == NO_CODE else closing(code))

    async def receive(self, *, within: float = PROMPT) -> str | bytes | Closed:
        """The next message, which the servers here send in one frame, or Closed."""
        with trio.fail_after(within):
            try:
                opcode, payload = await self._wire.frame()
            except (EOFError, trio.BrokenResourceError):
                return Closed(None)
        if opcode == CLOSE:
            return Closed(int.from_bytes(payload[:2], "big") if payload else NO_CODE)
        assert opcode in (TEXT, BINARY), opcode
        return payload.decode() if opcode == TEXT else payload


@contextlib.asynccontextmanager
async def open_websocket(port: int, target: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[WebSocket]:
    """A WebSocket, dropped when the block ends. Raises Refused when the server does not answer 101."""
    ours = {name.lower(): value for name, value in UPGRADE.items()}
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        raw = Raw(stream)
        with trio.fail_after(PATIENCE):
            answer = await raw.request("GET", target, {**(headers or {}), **ours})
        if answer.status != 101:
            raise Refused(answer)
        assert answer.headers["sec-websocket-accept"] == ACCEPT
        yield WebSocket(raw, answer)
