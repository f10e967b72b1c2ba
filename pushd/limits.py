"""How much may be done in a time: by each key (a peer's address, say), or at all. No clock here: `now` comes in."""

import logging
import math
from collections import OrderedDict


class Budget:
    """A token bucket for each key: `burst` at once, `burst` again over `period` seconds.

    It remembers at most `max_keys` keys; beyond, the one that was longest not heard of is forgotten (and starts
    afresh), so memory stays bounded whatever comes from outside.
    """

    def __init__(self, burst: float, period: float, max_keys: int = 10_000) -> None:
        self._burst = burst
        self._rate = burst / period
        self._max_keys = max_keys
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> (spent, as of)

    def wait(self, key: str, now: float) -> float:
        """Seconds until the key may spend one again; 0.0 when it may now. Changes nothing."""
        return self._short(self._spent_now(key, now) + 1.0)

    def take(self, key: str, now: float) -> float:
        """Spend one if the key may now, and 0.0; else the seconds until it may, and nothing is changed."""
        spent = self._spent_now(key, now) + 1.0
        if wait := self._short(spent):
            return wait
        self._note(key, spent, now)
        return 0.0

    def spend(self, key: str, now: float) -> None:
        """The key has used one, whether or not it had one left (debts do not grow: waiting out one is enough)."""
        self._note(key, min(self._spent_now(key, now) + 1.0, self._burst), now)

    def _short(self, spent: float) -> float:
        """Seconds until that much may have been spent."""
        return max(0.0, (spent - self._burst) / self._rate)

    def _note(self, key: str, spent: float, now: float) -> None:
        self._spent[key] = (spent, now)
        self._spent.move_to_end(key)
        if len(self._spent) > self._max_keys:
            self._spent.popitem(last=False)

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._spent)

    def _spent_now(self, key: str, now: float) -> float:
        spent, then = self._spent.get(key, (0.0, now))
        return max(0.0, spent - (now - then) * self._rate)


class Seldom:
    """Lets one through every `period` seconds, and counts the others: for logs that many peers could fill."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._next = -math.inf
        self._count = 0

    def count(self, now: float) -> int:
        """0 if this one is held back; else how many there were since the last that was let through, itself included."""
        self._count += 1
        if now < self._next:
            return 0
        self._next = now + self._period
        count, self._count = self._count, 0
        return count


def say_seldom(logger: str, period: float) -> None:
    """From now on a logger of somebody else's says one line in `period` seconds, without its traceback."""
    seldom = Seldom(period)

    def is_due(record: logging.LogRecord) -> bool:
        record.exc_info = None
        return seldom.count(record.created) > 0

    logging.getLogger(logger).addFilter(is_due)
