"""The task that reads many sockets: who else has a turn, and what happens to those who leave."""

import socket
import time
from collections.abc import Callable

import trio

from engineio_trio.transport.poller import TURN, Poller


class Slow:
    """A reader that takes longer than a turn of the poller, and then has its task look."""

    def __init__(self, note: Callable[[], None]) -> None:
        self._note = note

    def advance(self) -> bool:
        self._note()
        end = time.perf_counter() + TURN
        while time.perf_counter() <= end:
            pass
        return True


class Still:
    """Nothing is to be held back while it reads."""

    def hold(self) -> None:
        """It begins."""

    def let_go(self) -> None:
        """It has read."""


async def test_other_tasks_have_a_turn_between_floods() -> None:
    """However many sockets have much to read, nobody else waits for all of them."""
    seen: list[str] = []
    pairs = [socket.socketpair() for _ in range(5)]
    poller = Poller(Still())

    async def tick() -> None:
        while seen.count("read") < len(pairs):
            await trio.lowlevel.checkpoint()
            seen.append("turn")

    async with poller.running(), trio.open_nursery() as nursery:
        for near, far in pairs:
            far.send(b"x")
            nursery.start_soon(poller.watch, near.fileno(), Slow(lambda: seen.append("read")))
        nursery.start_soon(tick)
    for ends in pairs:
        for end in ends:
            end.close()
    assert "read read read" not in " ".join(seen), (
        seen
    )  # two, where one ends a round of the scheduler and one begins the next
