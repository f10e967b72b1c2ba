"""What happened, as those outside the daemon saw it: one record after the other, in memory and in a file.

A record is a dict with `t` (Unix seconds), `who`, `what`, and what belongs to it. Devices note `connected`, `leaving`,
`closed`, `received`, `acking`, `said`, `heard`; producers `pushing`, `accepted`, `appended`; the one who runs the nodes
`started`, `ending`, `ended`, and `cutting` and `mended` for a node that cannot renew its lease, with the node as `who`.
What is done is noted before it is done, what is learned after it was learned: so what was noted as `acking` may have
arrived, and what was noted as `accepted` surely was.
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import trio

from tests.patience import PATIENCE

Record = dict[str, Any]

TURN = 0.1  # seconds between two looks at the clock


class History:
    """The records of one run, in the order in which they happened. All who note are tasks of this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self.late = 0.0  # seconds by which this process, at the worst, noticed later than it could have
        self._file = path.open("w")
        self._more = trio.Event()

    def note(self, who: str, what: str, **more: Any) -> None:
        """Something happened; never waits."""
        record = {"t": time.time(), "who": who, "what": what, **more}
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._more.set()
        self._more = trio.Event()

    async def grows(self, by: int) -> None:
        """Return when so many more things have happened, however slowly; fail when nothing happens any more."""
        until = len(self.records) + by
        while len(self.records) < until:
            with trio.move_on_after(PATIENCE) as silence:
                await self._more.wait()
            last = self.records[-9:]
            assert not silence.cancelled_caught, f"nothing has happened for {PATIENCE:g} s, the last: {last}"

    async def has(self, worth: Callable[[list[Record]], bool]) -> None:
        """Return when what has happened is worth judging; fail as `grows` does."""
        with trio.move_on_after(5 * PATIENCE) as patience:
            while not worth(self.records):
                await self.grows(1)
        counts = Counter(record["what"] for record in self.records)
        assert not patience.cancelled_caught, f"it never comes to what is to be judged: {counts}"

    async def watch(self) -> None:
        """Find out how late this process is, for ever. That excuses a witness, and no daemon."""
        while True:
            due = trio.current_time() + TURN
            await trio.sleep_until(due)
            self.late = max(self.late, trio.current_time() - due)

    def close(self) -> None:
        """The run is over: the file is whole."""
        self._file.close()


@contextlib.asynccontextmanager
async def recording(path: Path) -> AsyncIterator[History]:
    """A history, written to `path`, as long as the block lasts."""
    with contextlib.closing(History(path)) as history:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(history.watch)
            yield history
            nursery.cancel_scope.cancel()
