"""The counted program: protocol code in a loop, then a whole server whose client says from where to where to count.

`python -m tests.bench.counting.program MARKS` with the library made of marks.c. It prints one JSON line, `{"port"}`,
and ends when the client says `quit`. Counted is what this process executes itself: not the client, not the kernel.
"""

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from functools import partial

import trio

from engineio_trio import Settings, Socket, SocketServer
from engineio_trio.protocol.codec import Decoder
from engineio_trio.protocol.encoded import Encoded

PAYLOAD = "x" * 32
ROUNDS = 500  # of protocol code
WARMUP = 50  # rounds before, after which the interpreter has specialised the code
QUIET = 3_600.0  # seconds: nothing may become due while the program runs fifty times slower

settings = Settings(ping_interval=QUIET, ping_timeout=QUIET, keep_alive=QUIET)
server = SocketServer(settings)


class Marks:
    """Where counting begins and ends."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)

    def begin(self) -> None:
        """Count from here. What is garbage now is collected first, so that later collections fall alike."""
        gc.collect()
        self._library.begin()

    def end(self, name: str) -> None:
        """Count until here, under this name."""
        self._library.end(name.encode())


def count_protocol(marks: Marks) -> None:
    """The protocol floor alone: one incoming event, one outgoing event."""
    decoder = Decoder(
        max_attachments=settings.max_attachments, max_bytes=settings.max_payload, max_depth=settings.max_depth
    )
    count_rounds(marks, "decode", partial(decoder.feed, f'2["echo","{PAYLOAD}"]'))
    count_rounds(marks, "encode", lambda: Encoded.event("echo", (PAYLOAD,)).websocket)


def count_rounds(marks: Marks, name: str, act: Callable[[], object]) -> None:
    """Count `ROUNDS` calls."""
    for _ in range(WARMUP):
        act()
    marks.begin()
    for _ in range(ROUNDS):
        act()
    marks.end(name)


def register(marks: Marks, quit: Callable[[], None]) -> None:
    """The handlers: those that do what a benchmark's do, and those that mark."""

    @server.on("echo")
    def echo(socket: Socket, payload: str) -> None:
        socket.emit("echo", payload)

    @server.on("fan")
    def fan(socket: Socket, payload: str) -> None:
        server.emit("fan", payload)

    @server.on("ask")
    async def ask(socket: Socket, payload: str) -> str:
        return payload

    @server.on("begin")
    def begin(socket: Socket) -> bool:
        marks.begin()
        return True

    @server.on("end")
    def end(socket: Socket, name: str) -> bool:
        marks.end(name)
        return True

    @server.on("quit")
    def stop(socket: Socket) -> None:
        quit()


async def main(marks: Marks) -> None:
    """Count the protocol code, then serve."""
    count_protocol(marks)
    async with trio.open_nursery() as nursery:
        register(marks, nursery.cancel_scope.cancel)
        ((_, port),) = await nursery.start(partial(server.serve, "127.0.0.1", 0))
        print(json.dumps({"port": port}), flush=True)


if __name__ == "__main__":
    trio.run(main, Marks(sys.argv[1]))
