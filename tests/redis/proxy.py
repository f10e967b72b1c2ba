"""A proxy that does to a connection what networks do: delay, swallow, cut after N bytes, reset, leave half of it open.

async with proxied(server) as proxy:         # to a Server of tests.redis.servers, or any (host, port) or path
    open_client(parse_address(proxy.url))    # over TCP; proxied(server, unix=folder) listens on a Unix socket
    proxy.delay = 0.5                        # seconds, for every piece in either direction
    proxy.black_hole = True                  # passes on nothing, closes nothing; False: what was sent meanwhile comes
    release = proxy.hold()                   # the same for the connections that are there now; the next ones work
    proxy.cut_after(1000)                    # cuts the connection that brings the 1000th byte from now on
    await proxy.cut(1000)                    # the same, and waits until it has
    proxy.reset(); proxy.half_open(); proxy.refuse = True
"""

import contextlib
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import trio

from tests.patience import PATIENCE
from tests.redis.servers import LOCAL, Server

Target: TypeAlias = Server | tuple[str, int] | Path
CHUNK = 65_536


class _Pair:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self.client = client
        self.server = server
        self.held = trio.Event()  # never set: what waits for it stays open
        self.halved = False
        self.passable = trio.Event()  # set but for one that is held back
        self.passable.set()


class Proxy:
    """Passes bytes on, but for what a test told it. `url` is that of a Redis store behind it."""

    def __init__(self, target: Target, host: str, port: int) -> None:
        self.host = host
        self.port = port  # 0: `host` is the path of a Unix socket
        self.delay = 0.0
        self.refuse = False  # new connections are closed at once
        self.connections = 0  # so far
        self.forwarded = 0  # bytes to the server, so far
        self.cuts = 0  # by cut_after, so far
        self.target = target  # of new connections
        self._cut_at: int | None = None
        self._was_cut = trio.Event()
        self._passable = trio.Event()  # set but for a black hole
        self._passable.set()
        self._pairs: set[_Pair] = set()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}" if self.port else f"redis+unix://{self.host}"

    # Faults.

    @property
    def black_hole(self) -> bool:
        """Is nothing passed on? As in a network that is parted, nothing is lost from the middle of a connection."""
        return not self._passable.is_set()

    @black_hole.setter
    def black_hole(self, on: bool) -> None:
        if on:
            self._passable = trio.Event()
        else:
            self._passable.set()

    def hold(self) -> Callable[[], None]:
        """Pass on nothing of today's connections until what this answers is called."""
        passable = trio.Event()
        for pair in self._pairs:
            pair.passable = passable
        return passable.set

    def cut_after(self, count: int) -> None:
        """Pass on `count` more bytes to the server, and close the connection right after them: no reply comes back."""
        self._cut_at = self.forwarded + count
        self._was_cut = trio.Event()

    async def cut(self, count: int) -> None:
        """`cut_after`, and return when it has happened."""
        self.cut_after(count)
        with trio.fail_after(PATIENCE):
            await self._was_cut.wait()

    def reset(self) -> None:
        """Cut all connections with RST on either side."""
        for pair in list(self._pairs):
            for stream in (pair.client, pair.server):
                with contextlib.suppress(OSError):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()

    def half_open(self) -> None:
        """The server's halves of all connections are closed; the clients are not told."""
        for pair in list(self._pairs):
            pair.halved = True
            pair.server.socket.close()

    # Its work.

    async def serve(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Accept for ever."""
        while True:
            client = await listener.accept()
            self.connections += 1
            nursery.start_soon(self._carry, client)

    async def _carry(self, client: trio.SocketStream) -> None:
        async with client:
            if self.refuse:
                return
            try:
                server = await self._connect()
            except OSError:
                return  # as a server that is away: the client sees its connection closed
            async with server, trio.open_nursery() as nursery:
                pair = _Pair(client, server)
                self._pairs.add(pair)
                try:
                    nursery.start_soon(self._pump, pair, client, server, nursery.cancel_scope)
                    await self._pump(pair, server, client, nursery.cancel_scope)
                finally:
                    self._pairs.discard(pair)

    async def _pump(
        self, pair: _Pair, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(CHUNK):
                if self.delay:
                    await trio.sleep(self.delay)
                await self._passable.wait()
                await pair.passable.wait()
                if sink is pair.server:
                    data, cut = self._up_to_the_cut(data)
                    await sink.send_all(data)
                    if cut:
                        break
                else:
                    await sink.send_all(data)
        await self._passable.wait()
        await pair.passable.wait()
        if pair.halved:
            await pair.held.wait()
        scope.cancel()

    def _up_to_the_cut(self, data: bytes) -> tuple[bytes, bool]:
        cut = self._cut_at is not None and self.forwarded + len(data) >= self._cut_at
        if cut and self._cut_at is not None:
            data = data[: self._cut_at - self.forwarded]
            self._cut_at = None
            self.cuts += 1
            self._was_cut.set()
        self.forwarded += len(data)
        return data, cut

    async def _connect(self) -> trio.SocketStream:
        target = self.target
        if isinstance(target, Server):
            target = target.socket
        if isinstance(target, Path):
            return await trio.open_unix_socket(str(target))
        return await trio.open_tcp_stream(*target)


@contextlib.asynccontextmanager
async def proxied(target: Target, unix: Path | None = None) -> AsyncIterator[Proxy]:
    """A proxy before a server, over TCP, or over a Unix socket in the folder `unix`; closed at the end of the block."""
    if unix is None:
        [listener] = await trio.open_tcp_listeners(0, host=LOCAL)
        host, port = listener.socket.getsockname()[:2]
    else:
        host, port = str(unix / f"p{uuid.uuid4().hex[:8]}"), 0
        bound = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await bound.bind(host)
        bound.listen()
        listener = trio.SocketListener(bound)
    async with listener, trio.open_nursery() as nursery:
        proxy = Proxy(target, host, port)
        nursery.start_soon(proxy.serve, listener, nursery)
        yield proxy
        nursery.cancel_scope.cancel()
