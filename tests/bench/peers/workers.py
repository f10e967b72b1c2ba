"""engineio-trio as several processes on one port, with broadcasts that reach the sockets of all of them.

`python -m tests.bench.peers.workers COUNT PING_INTERVAL`.
"""

import json
import sys
from functools import partial

import trio

from engineio_trio import Settings, Socket, SocketServer
from engineio_trio.workers import Port, Worker, run_workers

server = SocketServer(Settings(cors_origins="*", ping_interval=float(sys.argv[2]), ping_timeout=60.0))
port = Port("127.0.0.1", 0)


@server.on("echo")
def echo(socket: Socket, payload: str) -> None:
    """The same to its sender."""
    socket.emit("echo", payload)


async def main(worker: Worker) -> None:
    """One process."""
    async with trio.open_nursery() as nursery:

        @server.on("fan")
        async def fan(socket: Socket, payload: str) -> None:
            # not awaited: all workers are at it at the same time, and none waits for the slowest
            nursery.start_soon(partial(worker.ask, payload.encode(), timeout=30.0))
            await trio.lowlevel.checkpoint()
            server.emit("fan", payload)

        @worker.on_question
        async def heard(payload: bytes) -> bytes:
            server.emit("fan", payload.decode())
            return b""

        await worker.serve(server, port)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run_workers(main, int(sys.argv[1]), begun=lambda: print(json.dumps({"port": port.address[1]}), flush=True))
