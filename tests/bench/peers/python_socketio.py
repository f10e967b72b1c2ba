"""python-socketio on aiohttp as a peer, with the same two handlers."""

import asyncio
import importlib.metadata
import json
import platform

import socketio
from aiohttp import web

BACKLOG = 4096
SHOWN = ("python-socketio", "python-engineio", "aiohttp")

server = socketio.AsyncServer(async_mode="aiohttp", cors_allowed_origins="*")


@server.on("echo")
async def echo(sid, payload):
    """The same to its sender."""
    await server.emit("echo", payload, to=sid)


@server.on("fan")
async def fan(sid, payload):
    """The same to everybody."""
    await server.emit("fan", payload)


async def main():
    """Serve on a free port, which the first line of output names."""
    application = web.Application()
    server.attach(application)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in SHOWN}}
    print(json.dumps({"port": runner.addresses[0][1], "versions": versions}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
