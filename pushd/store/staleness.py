"""Who may be called stale: shared by all stores."""

import math


class Staleness:
    """Since when a device must have been seen to count as alive.

    A binding may look old because nobody could note alive times: the process was stopped, the store away, the clock
    set. The sweeper then missed its turns too, so a gap between two sweeps tells; from there on everybody gets the full
    time.
    """

    def __init__(self, stale_after: float, now: float) -> None:
        self._stale_after = stale_after
        self._swept = now
        self._since = now

    def before(self, now: float) -> float:
        """Bindings not seen since this moment (Unix seconds) are stale; minus infinity: none can be called so."""
        if self._missed_turns(now) or now - self._since < self._stale_after:
            return -math.inf
        return now - self._stale_after

    def swept(self, now: float) -> None:
        """A sweep has taken place."""
        if self._missed_turns(now):
            self._since = now
        self._swept = now

    def _missed_turns(self, now: float) -> bool:
        return not 0 <= now - self._swept <= self._stale_after / 2
