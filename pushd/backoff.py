"""Waiting for a store that is away: jittered, ever longer, never given up by itself."""

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from pushd.errors import StoreUnavailable

FIRST: Final = 0.1  # seconds
LONGEST: Final = 5.0

T = TypeVar("T")


class Backoff:
    """How long to wait before the next try: doubles up to `longest` seconds, each spread over its upper half."""

    def __init__(self, longest: float = LONGEST) -> None:
        self._next = FIRST
        self._longest = longest

    async def sleep(self) -> None:
        """Wait before trying again."""
        delay = self._next
        self._next = min(2 * delay, self._longest)
        await trio.sleep(delay * random.uniform(0.5, 1.0))


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of `await call()`, tried again for as long as the store is away.

    The call must be one that may be repeated. Everything but StoreUnavailable goes through; so does cancellation.
    """
    backoff: Backoff | None = None
    while True:
        try:
            return await call()
        except StoreUnavailable:
            backoff = backoff or Backoff()
            await backoff.sleep()
