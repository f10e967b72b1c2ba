"""Results for people: docs/performance.md, with its charts and the raw figures beside it.

`python -m tests.bench.page FILE.json` writes the page and the charts of results again, beside the file.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import daemon, scale, through_redis
from tests.bench.chart import Series, chart
from tests.bench.figures import ECHO_SIZES, LATENCY, PAYLOADS, SWEPT, THROUGHPUT, Better, Figure
from tests.bench.results import Results
from tests.bench.servers import PEERS

NAME = "performance"
NAMES = [peer.name for peer in PEERS]
ROUTES = [route.name for route in through_redis.ROUTES]
LIMITED = "\N{DAGGER}"

HEAD = """# Performance

<!-- Made by `make bench`; what was measured is in performance.json. -->

Medians of one run on one machine, {date}. The server has a processor of its own, the load generator the other one.
Ratios say how many times better engineio-trio is. Absolute numbers belong to this machine and this hour: compare
columns, not pages.
"""

METHOD = """## How it was measured

- One command, `make bench`, sets everything up and runs it in rounds. In each round every load runs against every
  server in turn, so that what disturbs the machine disturbs all of them.
- Each run has a fresh server process, and a generator in C ([tests/bench/load](../tests/bench/load)) that speaks
  Socket.IO 5 over WebSocket or long-polling. A dagger ({limited}) marks a server whose load the generator could not
  keep up with: that figure is a lower bound.
- The servers have the same two handlers: `echo` answers its sender, `fan` sends to everybody. All checks are on. Ours
  is [tests/bench/peers/ours.py](../tests/bench/peers/ours.py), through the public interface.
- *Window* is how many events a connection has in flight. Fan-out: one connection asks for a broadcast to all, four at a
  time (two with payloads over 1 KB); each delivery counts.
- *us of CPU each* is the processor time of the server for a whole handshake and CONNECT. *Memory* is the growth of the
  proportional set size in a fresh process.
- Latency under a fixed load counts from when an event was due, not from when it could be sent, so lateness cannot hide.
  *Event-loop lag* is what a quiet connection with 100 echoes a second sees.
- *Two workers* ([their program](../tests/bench/peers/workers.py)) share both processors with the generator, and one
  process may open 20,000 files. A broadcast reaches the connections of both; each gathers those of 50 ms, and
  gives them to a connection in one write. Four are under way at a time. The generator sleeps for a millisecond before
  each look, so that it need not be woken for each message.
- pushd: `pushdctl serve` with its defaults. A stored event or an acknowledgement counts when the store has it; SQLite
  commits with `synchronous=FULL`; the Redis server has a log of changes, and shares the load's processor. Pushes are
  written to the `push` stream, over HTTP for SQLite and by XADD for Redis. *Processor time* is all that the daemon
  spends: a million divided by it is what one core carries. The flush of heartbeats is the store's part alone.
- Pushes through Redis: a service on the other processor writes as fast as it can, to each device in turn: to `push`, or
  with the emitters of the adapters ([node](../tests/bench/peers/node/redis.mjs),
  [Python](../tests/bench/peers/python_redis.py)), which reach whoever is connected and keep nothing. That is `qos` 0;
  with `qos` 1 pushd stores the push, has it acknowledged by the device, and writes receipts of both.
"""


def write(results: Results, folder: Path) -> Path:
    """Write the page, the charts and the raw results into `folder`; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    results.save(folder / f"{NAME}.json")
    charts = _charts(results)
    for name, drawing in charts.items():
        (folder / name).write_text(drawing)
    page = folder / f"{NAME}.md"
    page.write_text(render(results, sorted(charts)))
    return page


def render(results: Results, charts: Sequence[str]) -> str:
    """The page as Markdown."""
    parts = [HEAD.format(date=results.date), *(f"**{remark}**\n" for remark in results.remarks)]
    parts += _compared("## Throughput, connects, memory", results, THROUGHPUT, NAMES)
    parts += [f"![{name.removesuffix('.svg').replace('-', ' ')}]({name})\n" for name in charts]
    parts += _compared("## Latency under a fixed load", results, LATENCY, NAMES)
    parts += _compared("## Two workers on the whole machine", results, scale.FIGURES, [scale.PEER])
    parts += _alone("## pushd", results, daemon.FIGURES)
    parts += _compared("## Pushes through Redis", results, through_redis.FIGURES, ROUTES)
    parts += [METHOD.format(limited=LIMITED), _machine(results), *_failures(results)]
    return "\n".join(parts)


def summary(results: Results) -> str:
    """The tables alone, for a terminal."""
    tables = [_compared("", results, [*THROUGHPUT, *LATENCY], NAMES), _alone("", results, daemon.FIGURES)]
    tables.append(_compared("", results, through_redis.FIGURES, ROUTES))
    return "\n".join(part for table in tables for part in table)


def _compared(heading: str, results: Results, figures: Sequence[Figure], names: Sequence[str]) -> list[str]:
    """The table of servers, with a ratio behind each but the first; nothing if nothing was measured."""
    ours, *theirs = names
    rows = []
    for figure in figures:
        if not any(results.values(figure, name) for name in names):
            continue
        cells = [f"{figure.title}, {figure.unit}", _cell(results, figure, ours)]
        for peer in theirs:
            ratio = results.advantage(figure, ours, peer)
            cells += [_cell(results, figure, peer), f"**{ratio:.2f}x**" if ratio else ""]
        rows.append(cells)
    head = ["", ours, *(cell for peer in theirs for cell in (peer, "ratio"))]
    return [heading, "", _table(head, rows)] if rows else []


def _alone(heading: str, results: Results, figures: Sequence[Figure]) -> list[str]:
    """The table of pushd, with a column for each store that it was measured on; nothing if it was not."""
    names = list(dict.fromkeys(map(daemon.name_of, daemon.STORES)))
    names = [name for name in names if any(run.peer == name for run in results.runs)]
    rows = [[f"{figure.title}, {figure.unit}", *(_cell(results, figure, name) for name in names)] for figure in figures]
    rows = [row for row in rows if any(row[1:])]
    return [heading, "", _table(["", *names], rows)] if rows else []


def _cell(results: Results, figure: Figure, peer: str) -> str:
    median = results.median(figure, peer)
    if median is None:
        return "failed" if any((run.load, run.peer) == (figure.load, peer) for run in results.runs) else ""
    mark = LIMITED if figure.better is Better.MORE and results.limited(figure.load, peer) else ""
    return f"{median:,.1f}{mark}" if median < 100 else f"{median:,.0f}{mark}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _machine(results: Results) -> str:
    rows = [[name, text] for name, text in results.machine.items()]
    rows += [
        [peer, ", ".join(f"{name} {version}" for name, version in told.items())]
        for peer, told in results.versions.items()
    ]
    rows += [
        [f"{name}, through Redis", ", ".join(f"{what} {version}" for what, version in told.items())]
        for name, told in {run.peer: run.measured.get("versions") for run in results.runs}.items()
        if told
    ]
    rows.append(["rounds", str(max((run.round for run in results.runs), default=0))])
    return f"## Machine and versions\n\n{_table(['', ''], rows)}"


def _failures(results: Results) -> list[str]:
    failed = [run for run in results.runs if run.failure]
    lines = [f"- {run.load}, {run.peer}, round {run.round}: {run.failure.splitlines()[0]}" for run in failed]
    return ["## Failed runs\n", *lines, ""] if lines else []


def _charts(results: Results) -> dict[str, str]:
    """Throughput against connections and against payload, each where at least one server has two points."""
    sweeps = {
        f"{NAME}-connections.svg": (
            "Echo, window 1, 32 B: throughput against connections",
            ("connections", "messages a second"),
            {size: f"echo-{size}-1" for size in ECHO_SIZES},
        ),
        f"{NAME}-payload.svg": (
            f"Fan-out to {SWEPT} connections: throughput against payload",
            ("bytes of payload", "deliveries a second"),
            {size: f"fan-{SWEPT}-{size}" for size in PAYLOADS},
        ),
    }
    charts = {}
    for name, (title, axes, loads) in sweeps.items():
        series = [Series(peer.name, _points(results, peer.name, loads)) for peer in PEERS]
        series = [one for one in series if len(one.points) > 1]
        if series:
            charts[name] = chart(title, *axes, series)
    return charts


def _points(results: Results, peer: str, loads: dict[int, str]) -> list[tuple[float, float]]:
    points = []
    for x, load in loads.items():
        median = results.median(Figure(load, "messages_per_s", "", "", Better.MORE), peer)
        if median is not None:
            points.append((float(x), median))
    return points


if __name__ == "__main__":
    path = Path(sys.argv[1])
    print(write(Results.load(path), path.parent))
