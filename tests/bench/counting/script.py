"""What a service and a few devices do with the counted daemon, step by step: each step waits for all its effects."""

import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from tests.bench.counting.program import PAYLOAD
from tests.pushd.raw_device import RawDevice, raw_device
from tests.redis.servers import Server

DEVICES = 20
UPLINKS = 100
TURNS = 5  # times one of each device, or for each
WARMUP = 3
LOOK = 0.005  # seconds between two looks at a stream
PREFIX = "pushd:{0}:"

MESSAGES = {
    "login, many devices at once": DEVICES * TURNS,
    "uplink": UPLINKS,
    "uplink, many devices at once": DEVICES * TURNS,
    "push to its acknowledgement": DEVICES * TURNS,
    "push of qos 0": DEVICES * TURNS,
}


class Script:
    """Plays it."""

    def __init__(self, redis: Server, marks: trio.SocketStream) -> None:
        self._redis = redis
        self._marks = marks
        self._all: dict[int, RawDevice] = {}
        self._numbers = itertools.count()

    async def play(self, address: str) -> None:
        """Everything that is counted, one after the other."""
        login, uplink, uplinks, push, cast = MESSAGES
        async with trio.open_nursery() as holding:
            await self._count(login, partial(self._log_in, address, holding), TURNS)
            await self._count(uplink, self._uplink, UPLINKS)
            await self._count(uplinks, self._uplinks, TURNS)
            await self._count(push, partial(self._push, "1"), TURNS)
            await self._count(cast, partial(self._push, "0"), TURNS)
            holding.cancel_scope.cancel()

    async def _count(self, name: str, step: Callable[[], Awaitable[object]], times: int) -> None:
        for _ in range(WARMUP):
            await step()
        await self._mark("begin")
        for _ in range(times):
            await step()
        await self._mark(f"end {name}")

    async def _mark(self, line: str) -> None:
        await self._marks.send_all(f"{line}\n".encode())
        assert await self._marks.receive_some() == b"done\n"

    async def _log_in(self, address: str, holding: trio.Nursery) -> None:
        """So many more devices, which stay."""
        async with trio.open_nursery() as nursery:
            for number in itertools.islice(self._numbers, DEVICES):
                nursery.start_soon(holding.start, self._hold, address, number)

    async def _hold(self, address: str, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with raw_device(address, f"d{number}") as raw:
            self._all[number] = raw
            task_status.started()
            await trio.sleep_forever()

    @property
    def _devices(self) -> list[RawDevice]:
        """The first ones, which do everything else."""
        return [self._all[number] for number in range(DEVICES)]

    async def _uplink(self) -> None:
        await self._devices[0].call("report", PAYLOAD)

    async def _uplinks(self) -> None:
        async with trio.open_nursery() as nursery:
            for device in self._devices:
                nursery.start_soon(device.call, "report", PAYLOAD)

    async def _push(self, qos: str) -> None:
        """One push to each device, all in the queue at once; whoever is asked to acknowledges."""
        before = self._receipts()
        with self._redis.plain() as client:
            queue: Any = client.pipeline(transaction=True)
            for number in range(DEVICES):
                queue.xadd(f"{PREFIX}push", {"to": f"device:d{number}", "data": f'"{PAYLOAD}"', "qos": qos})
            queue.execute()
        for device in self._devices:
            ack, _, _ = await device.push()
            if ack is not None:
                await device.ack(ack)
        while self._receipts() < before + DEVICES * (2 if qos == "1" else 1):  # noqa: ASYNC110 - it is another process
            await trio.sleep(LOOK)

    def _receipts(self) -> int:
        return int(self._redis.ask("XLEN", f"{PREFIX}receipt"))
