"""Calls that go together: each gets its own answer, whatever happens to the others."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from pushd.errors import StoreUnavailable
from pushd.store.redis.rounds import Rounds


class Server:
    """Doubles numbers, when it is let; notes what comes in one call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.free = trio.Event()
        self.away = False

    async def carry(self, items: Sequence[int]) -> list[int]:
        self.calls.append(list(items))
        await self.free.wait()
        if self.away:
            raise StoreUnavailable("gone")
        if 13 in items:
            raise ResponseError("WRONGTYPE")
        return [2 * item for item in items]


async def test_what_comes_during_one_round_goes_with_the_next(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    answers: dict[int, int] = {}
    async with trio.open_nursery() as nursery:
        rounds = Rounds(server.carry, nursery, 4)

        async def ask(number: int) -> None:
            answers[number] = await rounds.call(number)

        nursery.start_soon(ask, 0)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1, 7):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        server.free.set()
    assert server.calls == [[0], [1, 2, 3, 4], [5, 6]]
    assert answers == {number: 2 * number for number in range(7)}


async def test_an_item_that_the_server_does_not_like_fails_alone(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    server.free.set()
    answers: dict[int, int | str] = {}
    async with trio.open_nursery() as nursery:
        rounds = Rounds(server.carry, nursery, 100)

        async def ask(number: int) -> None:
            try:
                answers[number] = await rounds.call(number)
            except ResponseError as error:
                answers[number] = str(error)

        for number in (11, 12, 13, 14):
            nursery.start_soon(ask, number)
    assert answers == {11: 22, 12: 24, 13: "WRONGTYPE", 14: 28}


async def test_an_outage_is_told_to_all_and_is_over_with_the_next_call(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    server.away = True
    server.free.set()
    failures: list[StoreUnavailable] = []
    async with trio.open_nursery() as nursery:
        rounds = Rounds(server.carry, nursery, 100)

        async def ask(number: int) -> None:
            with pytest.raises(StoreUnavailable, match="gone") as failed:
                await rounds.call(number)
            failures.append(failed.value)

        async with trio.open_nursery() as asking:
            asking.start_soon(ask, 1)
            asking.start_soon(ask, 2)
        server.away = False
        assert await rounds.call(3) == 6
    assert len({id(failure) for failure in failures}) == 2, "each has its own to raise"


async def test_one_that_waits_no_longer_disturbs_nobody(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    async with trio.open_nursery() as nursery:
        rounds = Rounds(server.carry, nursery, 100)
        with trio.move_on_after(1):
            await rounds.call(1)
        server.free.set()
        assert await rounds.call(2) == 4


async def test_one_that_is_given_up_before_its_round_is_not_carried_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody would know what came of it: a login would hold its device for a connection that has gone."""
    server = Server()
    async with trio.open_nursery() as nursery:
        rounds = Rounds(server.carry, nursery, 2)
        nursery.start_soon(rounds.call, 1)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await rounds.call(2)
        nursery.start_soon(rounds.call, 3)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(rounds.call, 4)
        await trio.testing.wait_all_tasks_blocked()
        server.free.set()
    assert server.calls == [[1], [3, 4]]


async def test_whoever_waits_when_the_store_closes_is_told(autojump_clock: trio.testing.MockClock) -> None:
    server = Server()
    told = 0
    async with trio.open_nursery() as outer:

        async def ask(number: int) -> None:
            nonlocal told
            with pytest.raises(StoreUnavailable, match="closed"):
                await rounds.call(number)
            told += 1

        async with trio.open_nursery() as nursery:
            rounds = Rounds(server.carry, nursery, 1)
            for number in range(3):
                outer.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await ask(4)
    assert told == 4
