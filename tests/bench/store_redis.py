"""How many operations a second the Redis store carries out, beside a server on this machine, as one JSON line.

Run it with `python -m tests.bench.store_redis`. Options: --tasks N (callers at once, 200), --operations N (of each
kind, 20000), --beats N (devices in one flush of heartbeats, 100000), --only-beats, --flavour valkey|redis or --url URL
(of a server that is there). Rates are operations a second; `cpu_us` has this process's time for each operation.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import trio

from pushd.heartbeat import CHUNK
from pushd.model import Bound, Message, Push, ReceiptState
from pushd.store import open_store
from pushd.store.base import Limits, Store
from tests.redis.servers import FLAVOURS, server

WINDOW = 16


class Silent:
    """A node that nothing needs to be told."""

    def wake(self, device: str) -> None:
        pass

    def deliver(self, device: str, message: Message, after: int) -> None:
        pass

    def holds(self, device: str) -> bool:
        return True

    def together(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def wake_all(self) -> None:
        pass

    def kick(self, device: str, epoch: int, reason: str, by: str) -> None:
        pass

    def cast(self, device: str, message: Message) -> bool:
        return True

    def lost_all(self) -> None:
        pass


class Figures:
    """Rates, and what each operation costs this process."""

    def __init__(self, tasks: int, operations: int) -> None:
        self.rates: dict[str, int] = {}
        self.cpu: dict[str, float] = {}
        self._tasks = tasks
        self._operations = operations

    async def take(self, name: str, share: int, act: Callable[[int, int], Awaitable[object]]) -> None:
        """Let all callers do their part of operations / share: act(caller, turn)."""
        turns = self._operations // share // self._tasks

        async def caller(number: int) -> None:
            for turn in range(turns):
                await act(number, turn)

        begin, begin_cpu = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for number in range(self._tasks):
                nursery.start_soon(caller, number)
        count = turns * self._tasks
        self.rates[name] = round(count / (time.perf_counter() - begin))
        self.cpu[name] = round((time.process_time() - begin_cpu) / count * 1e6, 1)


async def measure(store: Store, figures: Figures) -> None:
    epochs: dict[int, int] = {}
    data = '{"hello": "world, this is a push"}'

    async def login(number: int, turn: int) -> None:
        bound = await store.login(f"device-{number}-{turn % 50}", f"conn-{number}-{turn}", ())
        assert isinstance(bound, Bound)
        if turn % 50 == 0:
            epochs[number] = bound.epoch

    def enqueue(number: int, turn: int) -> Awaitable[object]:
        device = f"device-{number}-0"
        return store.enqueue(Push(f"device:{device}", data, f"{number}-{turn}"), [device])

    async def drain(number: int, turn: int) -> None:
        device, epoch = f"device-{number}-0", epochs[number]
        messages = await store.fetch(device, epoch, 0, WINDOW)
        await store.ack(device, epoch, [message.seq for message in messages], ReceiptState.ACKED)

    async def through(number: int, turn: int) -> None:
        device, epoch = f"device-{number}-0", epochs[number]
        await store.enqueue(Push(f"device:{device}", data, f"t-{number}-{turn}"), [device])
        messages = await store.fetch(device, epoch, 0, WINDOW)
        await store.ack(device, epoch, [message.seq for message in messages], ReceiptState.ACKED)

    def uplink(number: int, turn: int) -> Awaitable[object]:
        device = f"device-{number}-0"
        return store.uplink(device, epochs[number], "c", f"{number}-{turn}", "report", '{"temperature": 21.5}')

    def cast(number: int, turn: int) -> Awaitable[object]:
        device = f"device-{number}-0"
        return store.cast(Push(f"device:{device}", data, f"{number}-{turn}", qos=0), [device])

    await figures.take("login", 2, login)
    await figures.take("uplink", 1, uplink)
    await figures.take("enqueue", 1, enqueue)
    await figures.take(f"fetch_and_ack_of_{WINDOW}", WINDOW, drain)
    await figures.take("enqueue_fetch_ack", 2, through)
    await figures.take("cast", 1, cast)


async def flush(store: Store, count: int) -> dict[str, float]:
    """Seconds for the heartbeats of so many devices, in the pieces in which the daemon sends them; of them, our own."""
    alive: list[tuple[str, int]] = []
    for start in range(0, count, 1_000):
        async with trio.open_nursery() as nursery:
            for number in range(start, min(start + 1_000, count)):
                nursery.start_soon(_bind, store, f"beat-{number}", alive)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for start in range(0, count, CHUNK):
        assert await store.beat(alive[start : start + CHUNK]) == []
    seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    return {"devices": count, "seconds": round(seconds, 2), "cpu": round(cpu, 2)}


async def _bind(store: Store, device: str, alive: list[tuple[str, int]]) -> None:
    bound = await store.login(device, device, ())
    assert isinstance(bound, Bound)
    alive.append((device, bound.epoch))


async def main(options: argparse.Namespace) -> None:
    limits = Limits(inbox_max=options.operations, takeovers=options.operations)
    figures = Figures(options.tasks, options.operations)
    given = contextlib.nullcontext(options.url)
    with given if options.url else server(options.flavour, "--appendonly", "no") as at:
        url = at if isinstance(at, str) else at.url
        async with open_store(url, node="bench", control=Silent(), limits=limits) as store:
            if not options.only_beats:
                await measure(store, figures)
            flushed = await flush(store, options.beats)
    about = {"bench": "store_redis", "flavour": options.flavour, "tasks": options.tasks}
    print(json.dumps({**about, "rates": figures.rates, "cpu_us": figures.cpu, "flush": flushed}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--beats", type=int, default=100_000)
    parser.add_argument("--only-beats", action="store_true")
    parser.add_argument("--url", default="")
    parser.add_argument("--flavour", choices=FLAVOURS, default="valkey")
    trio.run(main, parser.parse_args())
    sys.exit(0)
