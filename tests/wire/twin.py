"""js/reference.mjs on our own library: the same events, namespaces and answers. Change both together.

`twin(**settings)` makes the server, `serving(server)` runs one on a free port, `twin_server(**settings)` does both.
"""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import trio

from engineio_trio import AckTimeout, ConnectRefused, EngineServer, Settings, SocketServer


def twin(**settings: Any) -> SocketServer:
    """A server with the handlers of the reference; `settings` are fields of Settings."""
    server = SocketServer(Settings(**{"cors_origins": "*", **settings}))
    for name in ("/", "/custom"):
        _serve(server, name)

    @server.of("/refuse").on("connect")
    def refuse(_socket: Any, _auth: Any) -> None:
        raise ConnectRefused("not here", data={"code": 401})

    return server


def _serve(server: SocketServer, name: str) -> None:
    namespace = server.of(name)

    @namespace.on("connect")
    async def connect(socket: Any, auth: Any) -> None:
        socket.emit("auth", auth or {})

    @namespace.on("echo")
    def echo(socket: Any, *args: Any) -> None:
        socket.emit("echo", *args)

    @namespace.on("binary")
    def binary(socket: Any, *args: Any) -> None:
        socket.emit("binary", *args)

    @namespace.on("add")
    async def add(_socket: Any, a: Any, b: Any) -> Any:
        return a + b

    @namespace.on("swap")
    async def swap(_socket: Any, a: Any, b: Any) -> Any:
        return b, a

    @namespace.on("ask")
    async def ask(socket: Any, *question: Any) -> None:
        try:
            answer = await socket.call("question", *question, timeout=5)
        except AckTimeout:
            socket.emit("unanswered")
        else:
            socket.emit("answered", *(answer if isinstance(answer, tuple) else (answer,)))

    @namespace.on("join")
    def join(socket: Any, room: str) -> str:
        socket.join(room)
        return room

    @namespace.on("leave")
    def leave(socket: Any, room: str) -> str:
        socket.leave(room)
        return room

    @namespace.on("room")
    def room(_socket: Any, target: str, *args: Any) -> None:
        namespace.emit("room", target, *args, to=target)

    @namespace.on("bye")
    def bye(socket: Any) -> None:
        socket.disconnect()

    @namespace.on("message")
    def message(socket: Any, *args: Any) -> None:
        socket.emit("message-back", *args)

    @namespace.on("message-with-ack")
    def message_with_ack(_socket: Any, *args: Any) -> Any:
        return args


@contextlib.asynccontextmanager
async def serving(server: SocketServer | EngineServer) -> AsyncIterator[int]:
    """A server on a free port of 127.0.0.1, as long as the block lasts; gives the port."""
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(partial(server.serve, host="127.0.0.1", port=0))
        yield bound[0][1]
        nursery.cancel_scope.cancel()


def twin_server(**settings: Any) -> contextlib.AbstractAsyncContextManager[int]:
    """The twin with these settings, serving; gives the port."""
    return serving(twin(**settings))
