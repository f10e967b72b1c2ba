"""What happened, as those outside the daemon saw it: one record after the other, in memory and in a file.

A record is a dict with `t` (Unix seconds), `who`, `what`, and what belongs to it. Devices note `connected`, `leaving`,
`closed`, `received`, `acking`, `said`, `heard`; producers `pushing`, `accepted`, `appended`; the one who runs the nodes
`started`, `ending`, `ended`, and `cutting` and `mended` for a node that cannot renew its lease, with the node as `who`.
What is done is noted before it is done, what is learned after it was learned: so what was noted as `acking` may have
arrived, and what was noted as `accepted` surely was.
"""

import json
import time
from pathlib import Path
from typing import Any

import trio

Record = dict[str, Any]


class History:
    """The records of one run, in the order in which they happened. All who note are tasks of this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
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
        """Return when so many more things have happened."""
        until = len(self.records) + by
        while len(self.records) < until:
            await self._more.wait()

    def close(self) -> None:
        """The run is over: the file is whole."""
        self._file.close()
