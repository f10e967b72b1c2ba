"""A program with workers, for the tests: `python -m tests.server.workers_program COUNT WAY FOLDER`.

What happens is written to standard output, a line each. `WAY` is what is odd about it. `FOLDER` is where the processes
leave marks for each other.
"""

import logging
import os
import sys
import time
from pathlib import Path

import trio

from engineio_trio import SocketServer
from engineio_trio.workers import Port, Worker, WorkersFailed, run_workers

COUNT, WAY, FOLDER = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
PATIENCE = 1.0 if WAY in ("deaf", "stuck") else 20.0

server = SocketServer()
port = Port("127.0.0.1", 0)


def say(*words: object) -> None:
    """One line, whole, however many processes write."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


@server.on("who")
def who(socket):  # type: ignore[no-untyped-def]
    return os.getpid()


async def main(worker: Worker) -> int | None:
    """What each of them does."""
    again = (FOLDER / f"{worker.number}").exists()
    (FOLDER / f"{worker.number}").touch()
    if (WAY == "never" and worker.number == 2) or (WAY == "not again" and again):
        raise RuntimeError("it cannot start")
    if WAY == "code":
        return 7
    say("worker", worker.number, os.getpid())
    if WAY == "slow" and worker.number == 2:
        await trio.sleep_forever()

    @worker.on_question
    async def answer(question: bytes) -> bytes:
        return question + str(worker.number).encode()

    @server.on("others")
    async def others(socket):  # type: ignore[no-untyped-def]
        return {str(number): text.decode() for number, text in (await worker.ask(b"I am ")).items()}

    if WAY in ("deaf", "stuck", "slow end"):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_listeners, port.listen())
            worker.ready()
            async for order in worker.orders:
                say("heard", worker.number, order.name)
                if WAY == "stuck":
                    time.sleep(60)  # noqa: ASYNC251 - as a program would that is broken
    await worker.serve(server, port, grace=1.0, reload=lambda: say("reload", worker.number))
    say("stopped", worker.number)
    return None


def begun() -> None:
    """All are ready."""
    if WAY == "begun":
        raise RuntimeError("no")
    say("begun", port.address[1])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        run_workers(main, COUNT, patience=PATIENCE, begun=begun)
    except WorkersFailed as failure:
        say("failed", failure)
        sys.exit(failure.code)
    say("ended")
