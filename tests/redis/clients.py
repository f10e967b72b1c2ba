"""What tests of the client share."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from pushd.errors import StoreUnavailable
from pushd.store.redis.address import parse_address
from pushd.store.redis.topology import Client, open_client
from tests import patience
from tests.patience import PATIENCE
from tests.redis.servers import Server

WRITERS = 20
TIMEOUT = 2.0  # seconds for one call


def client(url: str, *, timeout: float = TIMEOUT, patience: float = 10.0) -> Any:
    """A client on the servers of a URL, as an async context manager."""
    return open_client(parse_address(url), timeout=timeout, patience=patience)


async def again(call: Callable[[], Awaitable[Any]]) -> Any:
    """The answer of a call as soon as the store gives one."""
    return await patience.again(call, StoreUnavailable)


async def eventually(question: Callable[[], bool]) -> None:
    """Wait until the question is answered with yes; it is about another process, or what follows from one."""
    with trio.fail_after(PATIENCE):
        while True:
            if question():
                return
            await trio.sleep(0.01)


class Writers:
    """Tasks that append numbers to streams, each number once, and note what came of it."""

    def __init__(self, client: Client, keys: tuple[str, ...] = ("log",)) -> None:
        self.acked: set[str] = set()
        self.failed: set[str] = set()  # the outcome is unknown
        self.reasons: set[str] = set()
        self.longest = 0.0  # seconds that one write took, whatever its outcome
        self._client = client
        self._keys = keys

    async def run(self) -> None:
        """Write until cancelled."""
        async with trio.open_nursery() as nursery:
            for number in range(WRITERS):
                nursery.start_soon(self._write, number)

    async def _write(self, writer: int) -> None:
        turn = 0
        while True:
            turn += 1
            entry, key = f"{writer}-{turn}", self._keys[(writer + turn) % len(self._keys)]
            start = trio.current_time()
            try:
                await self._client.execute(key, "XADD", key, "*", "n", entry)
            except StoreUnavailable as error:
                self.failed.add(entry)
                self.reasons.add(str(error))
                await trio.sleep(0.01)
            else:
                self.acked.add(entry)
            self.longest = max(self.longest, trio.current_time() - start)

    async def more(self, count: int = 200) -> None:
        """Wait until so many more writes have been acked."""
        goal = len(self.acked) + count
        await eventually(lambda: len(self.acked) >= goal)

    def check(self, stored: list[str]) -> None:
        """Everything acked is there, and nothing twice."""
        assert not self.acked - set(stored), "acked, but missing"
        assert len(stored) == len(set(stored)), "stored twice"
        assert set(stored) <= self.acked | self.failed | self._under_way(stored)

    def _under_way(self, stored: list[str]) -> set[str]:
        """What was cancelled at the end, one entry a writer at most, is neither acked nor failed."""
        rest = set(stored) - self.acked - self.failed
        assert len(rest) <= WRITERS
        return rest


def entries(server: Server, key: str = "log") -> list[str]:
    """The numbers in a stream."""
    return [fields["n"] if isinstance(fields, dict) else fields[1] for _, fields in server.ask("XRANGE", key, "-", "+")]


async def steady(longest: list[float]) -> None:
    """Note the longest time for which the event loop did not turn; until cancelled."""
    longest.append(0.0)
    while True:
        start = trio.current_time()
        await trio.sleep(0.01)
        longest[0] = max(longest[0], trio.current_time() - start - 0.01)
