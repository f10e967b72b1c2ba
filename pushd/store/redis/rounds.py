"""Calls of many tasks that go to the server together: what comes while one round is under way goes with the next.

A call of a script costs more than its work, here and there. One at a time is enough: the busier it is, the more goes
with each round (the SQLite store's group commit, in other words).
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import trio
from redis.exceptions import ResponseError

from pushd.errors import StoreUnavailable
from pushd.store.redis.wire import Awaited

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MOST_WAITING: Final = 20_000  # calls


class _Call(Awaited, Generic[Item, Answer]):
    """One call on its way. Abandoned, it may or may not be carried out."""

    __slots__ = ("answer", "error", "item")

    def __init__(self, item: Item, task: trio.lowlevel.Task) -> None:
        super().__init__(task)
        self.item = item
        self.answer: Answer | None = None
        self.error: Exception | None = None


class Rounds(Generic[Item, Answer]):
    """`carry` does up to `most` items in one step, and answers each; it may be asked for one again."""

    def __init__(
        self, carry: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], nursery: trio.Nursery, most: int
    ) -> None:
        self._carry = carry
        self._nursery = nursery
        self._most = most
        self._waiting: deque[_Call[Item, Answer]] = deque()
        self._busy = False

    async def call(self, item: Item) -> Answer:
        """The answer for one item. Cancelled, it may or may not have been carried out.

        Raises StoreUnavailable, also if too many wait already, or the ResponseError that this very item meets with.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._nursery.cancel_scope.cancel_called:
            raise StoreUnavailable("the store is closed")
        if len(self._waiting) >= MOST_WAITING:
            raise StoreUnavailable(f"too many calls wait for it ({MOST_WAITING})")
        call: _Call[Item, Answer] = _Call(item, trio.lowlevel.current_task())
        self._waiting.append(call)
        if not self._busy:
            self._busy = True
            self._nursery.start_soon(self._run, name="rounds")
        await trio.lowlevel.wait_task_rescheduled(call.abandon)
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value]  # there is one where there is no error

    async def _run(self) -> None:
        """Carry out what waits, until nothing does."""
        try:
            while calls := self._next():
                await self._turn(calls)
        finally:
            self._busy = False
            for call in self._waiting:  # cancelled: the store is being closed
                self._fail(call, StoreUnavailable("the store is closed"))
            self._waiting.clear()

    def _next(self) -> Sequence[_Call[Item, Answer]]:
        """The calls of the next round. Those that were abandoned are left out: nobody would know what came of them."""
        calls: list[_Call[Item, Answer]] = []
        while self._waiting and len(calls) < self._most:
            call = self._waiting.popleft()
            if call.task is not None:
                calls.append(call)
        return calls

    async def _turn(self, calls: Sequence[_Call[Item, Answer]]) -> None:
        """One round. Items that the server does not like fail alone: then each is carried out by itself."""
        try:
            answers = await self._carry([call.item for call in calls])
        except StoreUnavailable as error:
            for call in calls:
                self._fail(call, error)
        except ResponseError as error:
            if len(calls) > 1:
                log.warning("%d calls are repeated one by one, for one of them the server said: %s", len(calls), error)
                for call in calls:
                    await self._turn([call])
            else:
                self._fail(calls[0], error)
        except BaseException:
            for call in calls:
                self._fail(call, StoreUnavailable("the store is closed"))
            raise
        else:
            for call, answer in zip(calls, answers, strict=True):
                call.answer = answer
                call.wake()

    @staticmethod
    def _fail(call: _Call[Item, Answer], error: Exception) -> None:
        """Each call gets an exception of its own: the tasks that raise it write into it."""
        call.error = type(error)(*error.args)
        call.error.__cause__ = error.__cause__
        call.wake()
