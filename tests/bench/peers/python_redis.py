"""python-socketio on aiohttp with its Redis manager as a peer. Two programs in one:

python_redis.py serve URL CONNECTIONS    each device in a room of its own; says when so many are connected
python_redis.py emit URL DEVICES COUNT   a service that emits to the rooms in turn
"""

import asyncio
import importlib.metadata
import json
import sys
import time
from urllib.parse import parse_qs

import socketio
from aiohttp import web

BACKLOG = 4096
SHOWN = ("python-socketio", "python-engineio", "aiohttp", "redis")


def room_of(device):
    """The room in which one device is alone."""
    return f"device:{device}"


async def serve(url, expected):
    """Serve for ever."""
    server = socketio.AsyncServer(async_mode="aiohttp", client_manager=socketio.AsyncRedisManager(url))
    connected = 0

    @server.on("connect")
    async def connect(sid, environ, auth=None):
        nonlocal connected
        (device,) = parse_qs(environ["QUERY_STRING"])["deviceId"]
        await server.enter_room(sid, room_of(device))
        connected += 1
        if connected == expected:
            print(json.dumps({"connected": expected}), flush=True)

    application = web.Application()
    server.attach(application)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
    versions = {name: importlib.metadata.version(name) for name in SHOWN}
    print(json.dumps({"port": runner.addresses[0][1], "versions": versions}), flush=True)
    await asyncio.Event().wait()


def emit(url, devices, count):
    """Emit so many events, one after the other: there is no other way."""
    service = socketio.RedisManager(url, write_only=True)
    for number in range(count):
        data = f"{time.monotonic_ns():016x}{'x' * 16}"
        service.emit("push", data, room=room_of(f"bench-{number % devices}"))


if __name__ == "__main__":
    role, url, *numbers = sys.argv[1:]
    if role == "serve":
        asyncio.run(serve(url, *map(int, numbers)))
    else:
        emit(url, *map(int, numbers))
