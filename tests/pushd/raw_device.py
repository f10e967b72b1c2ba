"""A device without a Socket.IO library: raw packets over a WebSocket, so that a test sees and controls every one."""

import contextlib
import json
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import trio
import trio_websocket

from tests.patience import PROMPT


class Refused(Exception):
    """The server answered CONNECT with CONNECT_ERROR; `data` is what it said."""

    def __init__(self, data: Any) -> None:
        super().__init__(str(data))
        self.data = data


class RawDevice:
    """A device that has joined `/`. It answers pings; it acknowledges only when told to."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection) -> None:
        self._websocket = websocket
        self._acks = 0

    async def packet(self) -> str:
        """The next Socket.IO packet, without its Engine.IO type; pings are answered on the way. EOFError at the end."""
        with trio.fail_after(PROMPT):
            while True:
                try:
                    message = await self._websocket.get_message()
                except trio_websocket.ConnectionClosed as closed:
                    raise EOFError(closed.reason.code if closed.reason else None) from None
                if message == "2":
                    await self._websocket.send_message("3")
                elif message.startswith("4"):
                    return str(message[1:])

    async def event(self) -> tuple[int | None, list[Any]]:
        """The next event: the id of the acknowledgement that it asks for, and its name and arguments."""
        packet = await self.packet()
        assert packet.startswith("2"), packet
        digits = packet[1 : packet.index("[")]
        return int(digits) if digits else None, json.loads(packet[packet.index("[") :])

    async def push(self) -> tuple[int | None, Any, dict[str, Any]]:
        """The next push: its acknowledgement's id, its data, and what is known about it."""
        ack, (_, data, meta) = await self.event()
        return ack, data, meta

    async def ack(self, id: int | None, *values: Any) -> None:
        """Acknowledge an event."""
        await self._websocket.send_message(f"43{id}{json.dumps(values)}")

    async def call(self, event: str, *args: Any) -> list[Any]:
        """Emit an event and wait for its acknowledgement; nothing else may come before it."""
        self._acks += 1
        await self._websocket.send_message(f"42{self._acks}{json.dumps([event, *args])}")
        packet = await self.packet()
        assert packet.startswith(f"3{self._acks}["), packet
        values: list[Any] = json.loads(packet[len(f"3{self._acks}") :])
        return values

    async def emit(self, event: str, *args: Any) -> None:
        """Emit an event."""
        await self._websocket.send_message(f"42{json.dumps([event, *args])}")

    async def leave(self) -> None:
        """Send DISCONNECT."""
        await self._websocket.send_message("41")

    async def close_code(self) -> int | None:
        """Read on to the end; the code of the server's close frame."""
        while True:
            try:
                await self.packet()
            except EOFError as end:
                code: int | None = end.args[0]
                return code


@contextlib.asynccontextmanager
async def raw_device(
    address: str, device: str | None = None, *, auth: Any = None, path: str = "/socket.io/", **query: str
) -> AsyncIterator[RawDevice]:
    """A device connected to `host:port`. Raises Refused, or trio_websocket.ConnectionRejected at the handshake.

    When the block ends the TCP connection is dropped, as by a lost network.
    """
    named = {} if device is None else {"deviceId": device}
    resource = f"{path}?{urllib.parse.urlencode({'EIO': '4', 'transport': 'websocket'} | named | query)}"
    host, _, port = address.rpartition(":")
    refusal: Exception | None = None
    stream = await trio.open_tcp_stream(host, int(port))
    try:
        async with trio.open_nursery() as nursery:
            try:
                raw = await _joined(await _opened(nursery, stream, address, resource), auth)
            except (Refused, trio_websocket.ConnectionRejected) as error:
                refusal = error
            else:
                yield raw
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
    if refusal is not None:
        raise refusal


async def _opened(
    nursery: trio.Nursery, stream: trio.SocketStream, address: str, resource: str
) -> trio_websocket.WebSocketConnection:
    with trio.fail_after(PROMPT):
        websocket = await trio_websocket.wrap_client_stream(nursery, stream, address, resource)
        assert (await websocket.get_message()).startswith("0{")
    return websocket


async def _joined(websocket: trio_websocket.WebSocketConnection, auth: Any) -> RawDevice:
    raw = RawDevice(websocket)
    await websocket.send_message("40" + ("" if auth is None else json.dumps(auth)))
    answer = await raw.packet()
    if answer.startswith("4"):
        raise Refused(json.loads(answer[1:]))
    assert answer.startswith("0{"), answer
    return raw
