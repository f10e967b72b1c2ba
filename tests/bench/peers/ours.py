"""engineio-trio as a peer: the whole server, through its public face, with plain handlers."""

import importlib.metadata
import json
import platform

import trio

from engineio_trio import Settings, Socket, SocketServer

BACKLOG = 4096
SHOWN = ("engineio-trio", "trio", "trio-websocket", "msgspec")

server = SocketServer(Settings(cors_origins="*"))


@server.on("echo")
def echo(socket: Socket, payload: str) -> None:
    """The same to its sender."""
    socket.emit("echo", payload)


@server.on("fan")
def fan(socket: Socket, payload: str) -> None:
    """The same to everybody."""
    server.emit("fan", payload)


async def main() -> None:
    """Serve on a free port, which the first line of output names."""
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in SHOWN}}
    async with trio.open_nursery() as nursery:
        ((_, port),) = await nursery.start(lambda **status: server.serve("127.0.0.1", 0, backlog=BACKLOG, **status))
        print(json.dumps({"port": port, "versions": versions}), flush=True)


if __name__ == "__main__":
    trio.run(main)
