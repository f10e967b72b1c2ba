"""How many commands a second the Redis client carries, beside a server on this machine, as one JSON line.

Run it with `python -m tests.bench.redis_wire`. Options: --tasks N (callers at once, 200), --commands N (in all, 100k),
--flavour valkey|redis. Rates are commands a second; `cpu_us` is this process's time for each of the shared XADDs.
"""

import argparse
import json
import sys
import time
from collections.abc import Awaitable, Callable

import trio

from pushd.store.redis.address import parse_address
from pushd.store.redis.topology import Client, open_client
from tests.redis.servers import FLAVOURS, server

BATCH = 500


async def rate(tasks: int, turns: int, act: Callable[[int], Awaitable[object]], each: int = 1) -> tuple[int, float]:
    """Commands a second when `tasks` callers take `turns` turns of `each` commands; and us of CPU for a command."""

    async def caller(number: int) -> None:
        for _ in range(turns):
            await act(number)

    count = tasks * turns * each
    begin, begin_cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(caller, number)
    return round(count / (time.perf_counter() - begin)), (time.process_time() - begin_cpu) / count * 1e6


async def measure(client: Client, tasks: int, commands: int) -> dict[str, float]:
    """Each kind of use, after a warm-up."""
    entry = ("XADD", "bench", "*", "device", "device-1", "event", "tick", "data", "x" * 32)
    few = max(1, commands // 20)

    def add(_caller: int) -> Awaitable[object]:
        return client.execute("bench", *entry)

    def batch(_caller: int) -> Awaitable[object]:
        return client.pipeline("bench", [entry] * BATCH)

    def read(_caller: int) -> Awaitable[object]:
        return client.blocking("list", "LPOP", "list", timeout=1.0)

    await rate(tasks, few // tasks + 1, add)
    shared, cpu = await rate(tasks, commands // tasks, add)
    return {
        "xadd_shared": shared,
        "cpu_us": round(cpu, 1),
        "xadd_one_by_one": (await rate(1, few, add))[0],
        "xadd_pipeline": (await rate(1, commands // BATCH, batch, BATCH))[0],
        "blocking": (await rate(1, few, read))[0],
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--commands", type=int, default=100_000)
    parser.add_argument("--flavour", choices=FLAVOURS, default="valkey")
    args = parser.parse_args()
    with server(args.flavour, "--appendonly", "no") as redis:
        async with open_client(parse_address(redis.url)) as client:
            figures = await measure(client, args.tasks, args.commands)
    json.dump({"tasks": args.tasks, "commands": args.commands, "flavour": args.flavour, **figures}, sys.stdout)
    print()


if __name__ == "__main__":
    trio.run(main)
