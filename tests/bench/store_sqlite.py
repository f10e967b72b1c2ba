"""How many durable operations a second the SQLite store carries out, as one JSON line.

Run it with `python -m tests.bench.store_sqlite`. Options: --tasks N (callers at once, 200), --operations N (of each
kind, 20000), --directory DIR (the disk to measure).
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from pushd.model import Bound, Message, Push, ReceiptState
from pushd.store import open_store
from pushd.store.base import Limits, Store


class Silent:
    """A node that nothing needs to be told."""

    def wake(self, device: str) -> None:
        pass

    def deliver(self, device: str, message: Message, after: int) -> None:
        pass

    def holds(self, device: str) -> bool:
        return True

    def kick(self, device: str, epoch: int, reason: str, by: str) -> None:
        pass

    def cast(self, device: str, message: Message) -> bool:
        return True


async def rate(tasks: int, operations: int, act: Callable[[int, int], Awaitable[object]]) -> int:
    """Operations a second when `tasks` callers do `operations` between them: act(caller, turn)."""

    async def caller(number: int) -> None:
        for turn in range(operations // tasks):
            await act(number, turn)

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(caller, number)
    return round(operations / (time.perf_counter() - begin))


async def measure(store: Store, tasks: int, operations: int) -> dict[str, int]:
    epochs: dict[int, int] = {}

    async def login(number: int, turn: int) -> None:
        bound = await store.login(f"device-{number}-{turn % 50}", f"conn-{number}-{turn}", ())
        assert isinstance(bound, Bound)
        if turn % 50 == 0:
            epochs[number] = bound.epoch

    def enqueue(number: int, turn: int) -> Awaitable[object]:
        device = f"device-{number}-0"
        return store.enqueue(
            Push(f"device:{device}", '{"hello": "world, this is a push"}', f"{number}-{turn}"), [device]
        )

    async def drain(number: int, turn: int) -> None:
        device, epoch = f"device-{number}-0", epochs[number]
        messages = await store.fetch(device, epoch, 0, 16)
        await store.ack(device, epoch, [message.seq for message in messages], ReceiptState.ACKED)

    def uplink(number: int, turn: int) -> Awaitable[object]:
        device = f"device-{number}-0"
        return store.uplink(device, epochs[number], "c", f"{number}-{turn}", "report", '{"temperature": 21.5}')

    return {
        "login/s": await rate(tasks, operations // 4, login),
        "uplink/s": await rate(tasks, operations, uplink),
        "enqueue/s": await rate(tasks, operations, enqueue),
        "fetch and ack of 16/s": await rate(tasks, operations // 16, drain),
    }


async def main(tasks: int, operations: int, directory: str | None) -> None:
    limits = Limits(inbox_max=operations, takeovers=operations)
    with tempfile.TemporaryDirectory(dir=directory) as where:
        url = f"sqlite:///{where}/bench.db"
        async with open_store(url, node="bench", control=Silent(), limits=limits) as store:
            print(json.dumps({"bench": "store_sqlite", "tasks": tasks, **await measure(store, tasks, operations)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--directory")
    options = parser.parse_args()
    trio.run(partial(main, options.tasks, options.operations, options.directory))
    sys.exit(0)
