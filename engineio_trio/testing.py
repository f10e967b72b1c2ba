"""For your own tests: a server and its clients in one program, over memory, without a socket or a thread.

All of it is the real thing except the streams, so it goes well with `trio.testing` clocks (`autojump_clock`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
import trio.testing

from engineio_trio.client.connecting import CLIENT_SETTINGS, TRANSPORTS, bare_errors, join
from engineio_trio.client.endpoint import Endpoint, Query
from engineio_trio.client.socket import ClientSocket
from engineio_trio.server.serve import Service
from engineio_trio.server.server import SocketServer
from engineio_trio.settings import Settings

GRACE = 5.0


@asynccontextmanager
async def serving(server: Service) -> AsyncIterator[None]:
    """The server serves, without listening anywhere, for the length of the block; then it is shut down."""
    with bare_errors():
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_listeners, ())
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await server.shutdown(GRACE)


@asynccontextmanager
async def connected(
    server: SocketServer,
    *,
    path: str = "/socket.io/",
    namespace: str = "/",
    auth: dict[str, Any] | None = None,
    query: Query | None = None,
    headers: Mapping[str, str] | None = None,
    transports: Sequence[str] = TRANSPORTS,
    timeout: float = 20.0,
    remote: str = "",
    settings: Settings = CLIENT_SETTINGS,
) -> AsyncIterator[ClientSocket]:
    """A client of a server that is being served (see `serving`): what `client.connect` gives, and raises, over memory.

    `remote` is the peer's address that the server's handshake shows.

        async with serving(server), connected(server) as one, connected(server) as two:
            assert await one.call("add", 1, 2) == 3
    """
    with bare_errors():
        async with trio.open_nursery() as streams:

            async def dial() -> trio.abc.Stream:
                ours, theirs = trio.testing.memory_stream_pair()
                streams.start_soon(partial(server.serve_stream, theirs, remote=remote))
                return ours

            endpoint = Endpoint(dial, "memory", path, query or {}, headers or {}, settings)
            async with join(endpoint, namespace, auth, transports, timeout) as socket:
                yield socket
