"""engineio-trio as several processes on one port, with broadcasts that reach the sockets of all of them.

`python -m tests.bench.peers.workers COUNT PING_INTERVAL`. Broadcasts are gathered for a moment, and each socket gets
those of that moment in one write: what a broadcast costs is the kernel's work for each write, not the message.
"""

import json
import sys
from functools import partial

import trio

from engineio_trio import Settings, Socket, SocketServer
from engineio_trio.workers import Port, Worker, run_workers

GATHER = 0.05  # seconds

server = SocketServer(Settings(cors_origins="*", ping_interval=float(sys.argv[2]), ping_timeout=60.0))
port = Port("127.0.0.1", 0)


@server.on("echo")
def echo(socket: Socket, payload: str) -> None:
    """The same to its sender."""
    socket.emit("echo", payload)


class Broadcasts:
    """What this process is to say to all its sockets."""

    def __init__(self) -> None:
        self._gathered: list[str] = []
        self._some = trio.Event()

    def add(self, payload: str) -> None:
        """Say it soon."""
        self._gathered.append(payload)
        self._some.set()

    async def run(self) -> None:
        """Say what is gathered, until cancelled."""
        while True:
            await self._some.wait()
            await trio.sleep(GATHER)
            self._some = trio.Event()
            with server.together():
                for payload in self._gathered:
                    server.emit("fan", payload)
            self._gathered.clear()


async def main(worker: Worker) -> None:
    """One process."""
    broadcasts = Broadcasts()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(broadcasts.run)

        @server.on("fan")
        def fan(socket: Socket, payload: str) -> None:
            # not awaited: all workers are at it at the same time, and none waits for the slowest
            nursery.start_soon(partial(worker.ask, payload.encode(), timeout=30.0))
            broadcasts.add(payload)

        @worker.on_question
        async def heard(payload: bytes) -> bytes:
            broadcasts.add(payload.decode())
            return b""

        await worker.serve(server, port)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run_workers(main, int(sys.argv[1]), begun=lambda: print(json.dumps({"port": port.address[1]}), flush=True))
