"""A process to be killed: it works on a store with all its might and prints, as JSON lines, what was acknowledged.

`python -m tests.pushd.store_child URL SEED`. It ends only when it is killed.
"""

import json
import os
import random
import sys

import trio

from pushd.errors import StaleEpoch
from pushd.model import Bound, ReceiptState, Stream
from pushd.store import open_store
from pushd.store.base import Limits, Store
from tests.pushd.stores import Node, push

DEVICES = [f"d{number}" for number in range(5)]


def say(kind: str, *values: object) -> None:
    """In one write, at once: what was said is known, whatever happens next."""
    os.write(1, json.dumps([kind, *values]).encode() + b"\n")


async def live(store: Store, device: str, name: str) -> None:
    """One connection after another of a device: fetch, ack, say something, perhaps leave."""
    for turn in range(1_000_000):
        bound = await store.login(device, f"{name}-{turn}", ["all"])
        assert isinstance(bound, Bound)
        say("login", device, bound.epoch)
        try:
            await converse(store, device, f"{name}-{turn}", bound.epoch)
        except StaleEpoch:
            continue
        if await store.logout(device, bound.epoch, "bye"):
            say("logout", device, bound.epoch)


async def converse(store: Store, device: str, conn: str, epoch: int) -> None:
    cursor = 0
    for turn in range(random.randrange(5)):
        messages = await store.fetch(device, epoch, cursor, 3)
        say("fetch", device, [message.seq for message in messages])
        cursor = messages[-1].seq if messages else cursor
        seqs = [message.seq for message in messages if random.random() < 0.7]
        await store.ack(device, epoch, seqs, ReceiptState.ACKED)
        say("ack", device, seqs)
        await store.uplink(device, epoch, conn, f"{conn}-{turn}", "report", "1")
        say("uplink", f"{conn}-{turn}")


async def produce(store: Store, name: str) -> None:
    for turn in range(1_000_000):
        for receipt in await store.enqueue(push(f"{name}-{turn}"), random.sample(DEVICES, 2)):
            if receipt.state is ReceiptState.STORED:
                say("stored", receipt.device, receipt.id, receipt.seq)
        say("append", await store.append(Stream.PUSH, {"to": f"{name}-{turn}"}), f"{name}-{turn}")


async def main(url: str, seed: str) -> None:
    random.seed(seed)
    limits = Limits(takeovers=1_000_000, inbox_max=1_000_000)
    async with open_store(url, node=f"n{seed}", control=Node(), limits=limits) as store, trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(produce, store, f"p{seed}-{number}")
        for number, device in enumerate(2 * DEVICES):  # two that fight for each device
            nursery.start_soon(live, store, device, f"c{seed}-{number}")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
