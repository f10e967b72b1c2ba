"""How long tests wait, in real seconds, for what comes at once unless it is broken."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

Answer = TypeVar("Answer")

# No figure that a slow machine could miss: a test that fails with it has waited for what never came.
PATIENCE = 60.0

# For what comes to a device: less than the 30 s after which its pump looks by itself, or lost wake-ups would not show.
PROMPT = 25.0


async def again(call: Callable[[], Awaitable[Answer]], meanwhile: type[Exception]) -> Answer:
    """The answer of a call as soon as it has one; until then it may fail with this, and is made again."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                return await call()
            except meanwhile:
                await trio.sleep(0.02)
