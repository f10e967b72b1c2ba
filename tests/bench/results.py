"""Results of measurements: every run as it was, what it ran on, and the medians that tables are made of."""

import dataclasses
import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.figures import Better, Figure

BUSY = 0.95  # of a processor: more, and a process may have been what limited the others


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One load on one server in one round: what was measured, or why nothing was."""

    round: int
    load: str
    peer: str
    measured: Mapping[str, Any]
    failure: str = ""


@dataclasses.dataclass(slots=True)
class Results:
    """All runs of one measurement, in their order, and where and when it was."""

    date: str
    machine: dict[str, str]
    remarks: list[str] = dataclasses.field(default_factory=list)
    versions: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    runs: list[Run] = dataclasses.field(default_factory=list)

    @classmethod
    def begin(cls) -> "Results":
        """Nothing measured yet, here and today."""
        return cls(datetime.datetime.now(datetime.UTC).date().isoformat(), describe_machine())

    @classmethod
    def load(cls, path: Path) -> "Results":
        """What `save` wrote."""
        told = json.loads(path.read_text())
        return cls(**{**told, "runs": [Run(**run) for run in told["runs"]]})

    def save(self, path: Path) -> None:
        """Write everything as JSON, one run a line."""
        head = {"date": self.date, "machine": self.machine, "remarks": self.remarks, "versions": self.versions}
        runs = ",\n".join(json.dumps(dataclasses.asdict(run)) for run in self.runs)
        path.write_text(f'{json.dumps(head)[:-1]}, "runs": [\n{runs}\n]}}\n')

    def values(self, figure: Figure, peer: str) -> list[float]:
        """The figure of this server in every round that gave it."""
        read = [figure.read(run.measured) for run in self.runs if (run.load, run.peer) == (figure.load, peer)]
        return [value for value in read if value is not None]

    def median(self, figure: Figure, peer: str) -> float | None:
        """The median of the rounds, None if none gave the figure."""
        values = self.values(figure, peer)
        return statistics.median(values) if values else None

    def advantage(self, figure: Figure, ours: str, theirs: str) -> float | None:
        """How many times better the median of `ours` is; None if one of them has none."""
        our, their = self.median(figure, ours), self.median(figure, theirs)
        if not our or not their:
            return None
        return our / their if figure.better is Better.MORE else their / our

    def limited(self, load: str, peer: str) -> bool:
        """Whether the generator, and not the server, may have been the limit of some run."""
        measured = [run.measured for run in self.runs if (run.load, run.peer) == (load, peer)]
        return any(one.get("load_cpu", 0) > BUSY and one.get("server_cpu", 0) < BUSY for one in measured)


def describe_machine() -> dict[str, str]:
    """What it is measured on, for people."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _cpu_model(),
        "processors": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
