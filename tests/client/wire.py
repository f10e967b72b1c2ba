"""A wire of memory between a client and a server, with its misfortunes: delays, cuts, silence."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
import trio.testing

from engineio_trio import SocketServer
from engineio_trio.client import ClientSocket
from engineio_trio.client.connecting import CLIENT_SETTINGS, bare_errors, join
from engineio_trio.client.endpoint import Endpoint


class WireStream(trio.abc.Stream):
    """The client's end of one stream."""

    def __init__(self, stream: trio.abc.Stream, wire: "Wire") -> None:
        self._stream = stream
        self._wire = wire
        self._websocket = False
        self._received = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._websocket and self._received == self._wire.cut_websocket_at:
            await trio.aclose_forcefully(self._stream)
        data = await self._stream.receive_some(max_bytes)
        self._received += 1
        await self._wire.pass_by()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._websocket = self._websocket or b"pgrade: websocket" in bytes(data[:1_000])
        if not self._wire.silent:
            await self._wire.pass_by()
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Wire:
    """All streams between one client and a server. `longest` is the delay in seconds of a piece, at most.

    `cut_websocket_at`: WebSockets break when they have received so many pieces. `silent`: from now on nothing passes,
    and nobody is told.
    """

    def __init__(self, server: SocketServer, *, seed: int = 0, longest: float = 0.0, cut_websocket_at: int = -1):
        self.cut_websocket_at = cut_websocket_at
        self.silent = False
        self._server = server
        self._random = random.Random(seed)
        self._longest = longest

    async def pass_by(self) -> None:
        if self.silent:
            await trio.sleep_forever()
        if self._longest:
            await trio.sleep(self._random.uniform(0, self._longest))
        if self.silent:
            await trio.sleep_forever()

    @asynccontextmanager
    async def connected(self, *transports: str, timeout: float = 20.0, **more: Any) -> AsyncIterator[ClientSocket]:
        with bare_errors():
            async with trio.open_nursery() as streams:

                async def dial() -> trio.abc.Stream:
                    ours, theirs = trio.testing.memory_stream_pair()
                    streams.start_soon(partial(self._server.serve_stream, theirs))
                    return WireStream(ours, self)

                endpoint = Endpoint(dial, "memory", "/socket.io/", {}, {}, more.get("settings", CLIENT_SETTINGS))
                async with join(endpoint, "/", None, transports or ("polling", "websocket"), timeout) as socket:
                    yield socket
                streams.cancel_scope.cancel()
