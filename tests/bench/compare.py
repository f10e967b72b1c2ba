"""The measurement behind `make bench`: every load against every server, in rounds; then the page and its charts.

    python -m tests.bench.compare [--quick] [--rounds N] [--only LOADS] [--peers SERVERS] [--store URL] [--output DIR]

Give options to make as ARGS: `make bench ARGS="--quick --only 'fan*'"`. `--list` names the loads. What is measured in
full goes to docs/performance.*; with --quick, --only or --peers to build/bench, for it is not worth publishing.
"""

import argparse
import dataclasses
import fnmatch
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import daemon, figures, generator, page, provision, scale, servers, through_redis
from tests.bench.figures import Load
from tests.bench.results import Results, Run
from tests.bench.servers import Peer, Processors

DOCS = Path(__file__).parents[2] / "docs"
ROUNDS = 5
MOST_QUICK = 3_000  # connections: what has more is left out of a quick run
QUICK = {"seconds": 2, "warmup": 1}
SHOWN = (
    *("messages_per_s", "acked_per_s", "delivered_per_s", "connects_per_s", "cpu_us_per_message", "connect_cpu_us"),
    *("memory_kb", "seconds", "cpu", "server_cpu", "load_cpu"),
)
QUICK_PUSHES = 10  # a quick run has so many times fewer


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One run to do in each round: what to call, and what it is called."""

    load: str
    peer: str
    measure: Callable[[], dict[str, Any]]


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser("tests.bench.compare", description="Measure against other servers.")
    parser.add_argument("--rounds", type=int, help=f"how often everything is measured (default {ROUNDS}; quick: 1)")
    parser.add_argument(
        "--quick", action="store_true", help="short runs of at most 3,000 connections, to see that it works"
    )
    parser.add_argument("--only", default="*", help="loads, separated by commas; * and ? are patterns")
    parser.add_argument("--peers", default="*", help="servers by name (and `pushd*`), in the same way")
    parser.add_argument(
        "--store", default=",".join(daemon.STORES), help="of pushd: sqlite, redis (both by default), URLs"
    )
    parser.add_argument("--output", type=Path, help="directory for the page, its charts and the raw results")
    parser.add_argument("--list", action="store_true", help="name the loads, and end")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Run the command; its exit code: 1 if a server could not be measured at all."""
    options = read_arguments(words)
    processors = Processors.choose()
    tasks = list(_tasks(options, processors))
    if options.list:
        print("\n".join(dict.fromkeys(task.load for task in tasks)))
        return 0
    if not tasks:
        print(f"no load is called {options.only!r}; --list names them", file=sys.stderr)
        return 2
    servers.allow_files()
    os.sched_setaffinity(0, {processors.load})
    results = _begin(options, processors)
    try:
        _prepare(tasks, processors, results)
        _run_rounds(tasks, options.rounds or (1 if options.quick else ROUNDS), results)
    except provision.NotHere as missing:
        print(f"make bench: {missing}", file=sys.stderr)
        return 1
    incomplete = options.quick or options.only != "*" or options.peers != "*"
    written = page.write(results, options.output or (provision.BUILD if incomplete else DOCS))
    print(f"\n{page.summary(results)}\nwritten: {written}")
    return int(any(run.failure for run in results.runs))


def _begin(options: argparse.Namespace, processors: Processors) -> Results:
    results = Results.begin()
    if options.quick:
        results.remarks.append("A quick run: too short to be quoted.")
    if processors.server == processors.load:
        results.remarks.append("One processor for the server and the load: only ratios mean anything.")
    return results


def _prepare(tasks: Sequence[Task], processors: Processors, results: Results) -> None:
    """Make everything that is needed, before the first measurement. Raises NotHere."""
    provision.generator()
    wanted = {task.peer for task in tasks}
    for peer in servers.PEERS:
        if peer.name in wanted:
            with servers.serving(peer, processors.server) as running:
                results.versions[peer.name] = running.versions


def _run_rounds(tasks: Sequence[Task], rounds: int, results: Results) -> None:
    for number in range(1, rounds + 1):
        for task in tasks:
            run = _run(number, task)
            results.runs.append(run)
            told = run.failure or _told(run.measured)
            print(f"round {number}/{rounds}  {task.load:<16} {task.peer:<16} {told}", file=sys.stderr, flush=True)


def _run(number: int, task: Task) -> Run:
    try:
        return Run(number, task.load, task.peer, task.measure())
    except generator.LoadFailed as failure:
        return Run(number, task.load, task.peer, {}, str(failure))


def _told(measured: Mapping[str, Any]) -> str:
    return "  ".join(f"{key} {measured[key]:g}" for key in SHOWN if key in measured)


def _tasks(options: argparse.Namespace, processors: Processors) -> Iterator[Task]:
    """What to do in a round, in order: the servers of one load follow each other."""
    for load in _sized(figures.LOADS.values(), options):
        for peer in servers.PEERS:
            if _is_wanted(load.name, options.only) and _is_wanted(peer.name, options.peers):
                yield Task(load.name, peer.name, _library_run(load, peer, processors))
    if not options.quick and _is_wanted(scale.NAME, options.only) and _is_wanted(scale.PEER, options.peers):
        yield Task(scale.NAME, scale.PEER, partial(scale.measure, scale.SIZE, processors))
    count = through_redis.QUICK_COUNT if options.quick else through_redis.COUNT
    for name, devices in through_redis.LOADS.items():
        for route in through_redis.ROUTES:
            if _is_wanted(name, options.only) and _is_wanted(route.name, options.peers):
                yield Task(name, route.name, partial(through_redis.measure, route, devices, count, processors))
    for name, measure in _pushd_runs(options, processors).items():
        for store in options.store.split(","):
            if name == daemon.HEARTBEATS and store == daemon.SQLITE:
                continue  # its devices are of one process: they are not as many
            if _is_wanted(name, options.only) and _is_wanted(daemon.name_of(store), options.peers):
                yield Task(name, daemon.name_of(store), partial(_on_store, store, measure))


def _is_wanted(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern.strip()) for pattern in patterns.split(","))


def _sized(loads: Iterable[Load], options: argparse.Namespace) -> list[Load]:
    if not options.quick:
        return list(loads)
    return [dataclasses.replace(load, keys={**load.keys, **QUICK}) for load in loads if load.connections <= MOST_QUICK]


def _library_run(load: Load, peer: Peer, processors: Processors) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        """A fresh server, one run of the generator."""
        with servers.serving(peer, processors.server) as running:
            started = generator.start(
                load.mode, running.port, load.connections, load.keys, running.pids(), processors.load
            )
            return generator.finish(started)

    return measure


def _on_store(store: str, measure: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    with daemon.open_store(store) as opened:
        return measure(opened)


def _pushd_runs(options: argparse.Namespace, processors: Processors) -> dict[str, Callable[[str], dict[str, Any]]]:
    pushes = list(daemon.PUSHES)
    if options.quick:
        pushes = [dataclasses.replace(one, count=max(one.count // QUICK_PUSHES, 2)) for one in pushes]
    runs: dict[str, Callable[[str], dict[str, Any]]] = {}
    for load in _sized(daemon.LOADS, options):
        runs[load.name] = partial(daemon.run_load, load=load, processors=processors)
    for one in pushes:
        runs[one.name] = partial(daemon.run_pushes, pushes=one, processors=processors)
    beats = daemon.FLUSH // QUICK_PUSHES if options.quick else daemon.FLUSH
    runs[daemon.HEARTBEATS] = partial(daemon.run_flush, devices=beats, processors=processors)
    return runs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
