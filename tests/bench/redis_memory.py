"""What one offline device with one message of 200 bytes costs the server, by layout of its inbox, as one JSON line.

Run it with `python -m tests.bench.redis_memory`. Options: --devices N (20000), --flavour valkey|redis. `inbox` has
bytes for a device's inbox alone, in layouts that could be, the key and its name included; `store` has what the store
really writes: all keys of the device (by the growth of `used_memory` over all devices), and each of them.
"""

import argparse
import json
import struct
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import trio

from pushd.model import Bound, Push
from pushd.store.base import Deployment, Limits
from pushd.store.redis.store import open_redis
from tests.bench.store_redis import Silent
from tests.redis.servers import FLAVOURS, Server, server

SIZE = 200  # bytes of a message's data
DATA = json.dumps("x" * (SIZE - 2))
IN_STREAM = ("id", "push-1700000000000-0", "event", "push", "data", DATA, "expires", "1700604800000000")
ENTRY = struct.pack(">dd", 1.7e15, 1.7e15) + b"\0\x14push-1700000000000-0\0\4push" + DATA.encode()
SEQ = 1_700_000_000_000_000

LAYOUTS: dict[str, tuple[Any, ...]] = {
    "list": ("RPUSH", ENTRY),
    "hash by seq": ("HSET", SEQ, ENTRY),
    "zset by seq": ("ZADD", SEQ, ENTRY),
    "stream": ("XADD", f"{SEQ}-0", *IN_STREAM),
    "string, one key a message": ("SET", ENTRY),
}


def devices(count: int) -> Iterable[str]:
    return (f"device-{number:08}" for number in range(count))


def used(redis: Server) -> int:
    return int(redis.info("memory")["used_memory"])


def growth(redis: Server, count: int, write: Callable[[Any, str], None]) -> int:
    """Bytes for each device that writing makes the server grow by."""
    redis.ask("FLUSHALL", "SYNC")
    before = used(redis)
    with redis.plain() as client, client.pipeline(transaction=False) as pipe:
        for number, device in enumerate(devices(count)):
            write(pipe, device)
            if number % 500 == 499:
                pipe.execute()
        pipe.execute()
    return round((used(redis) - before) / count)


def inbox(name: str, rest: tuple[Any, ...], pipe: Any, device: str) -> None:
    pipe.execute_command(name, f"pushd:{{0}}:q:{device}", *rest)


async def fill(url: str, count: int, messages: int) -> None:
    """Every device was there, has left, and then was sent so many messages."""
    limits, deployment = Limits(stream_max=1), Deployment(lease=120.0, refresh=40.0)
    async with open_redis(url, node="n", control=Silent(), limits=limits, deployment=deployment) as store:
        names = list(devices(count))
        for start in range(0, count, 500):
            async with trio.open_nursery() as nursery:
                for device in names[start : start + 500]:
                    nursery.start_soon(visit, store, device)
        for turn in range(messages):
            for start in range(0, count, 500):
                await store.enqueue(Push("all", DATA, f"push-170000000000{turn}-0"), names[start : start + 500])


async def visit(store: Any, device: str) -> None:
    bound = await store.login(device, f"conn-{device}", ())
    assert isinstance(bound, Bound)
    await store.logout(device, bound.epoch, "transport close")


def really(redis: Server, count: int, messages: int) -> dict[str, int]:
    """What the store makes of it, without the streams, which are for all devices together."""
    redis.ask("FLUSHALL", "SYNC")
    before = used(redis)
    trio.run(fill, redis.url, count, messages)
    redis.ask("DEL", *[f"pushd:{{0}}:{name}" for name in ("status", "receipt")])
    found = {"all": round((used(redis) - before) / count)}
    for name, pattern in (("device", "d"), ("inbox", "q"), ("marks", "x")):
        if size := redis.ask("MEMORY", "USAGE", f"pushd:{{0}}:{pattern}:device-00000007"):
            found[name] = int(size)
    for name, key in (("in the list of all", "all"), ("in the list of ends", "ttl")):
        if size := redis.ask("MEMORY", "USAGE", f"pushd:{{0}}:{key}", "SAMPLES", 0):
            found[name] = round(int(size) / count)
    return found


def main(count: int, flavour: str) -> None:
    with server(flavour, "--appendonly", "no") as redis:
        layouts = {name: growth(redis, count, partial(inbox, *write[:1], write[1:])) for name, write in LAYOUTS.items()}
        redis.ask("CONFIG", "SET", "stream-node-max-bytes", 512)
        layouts["stream, nodes of 512 bytes"] = growth(redis, count, partial(inbox, "XADD", LAYOUTS["stream"][1:]))
        store = {f"{messages} messages": really(redis, count, messages) for messages in (0, 1, 10)}
    print(json.dumps({"bench": "redis_memory", "flavour": flavour, "devices": count, "inbox": layouts, "store": store}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=20_000)
    parser.add_argument("--flavour", choices=FLAVOURS, default="valkey")
    options = parser.parse_args()
    main(options.devices, options.flavour)
    sys.exit(0)
