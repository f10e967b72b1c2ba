"""A server that is measured: started pinned to one processor, known by its processes, ended by its process group."""

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from tests.bench import provision

ROOT = Path(__file__).parents[2]
STOP = 10.0  # seconds for a server to end when asked


@dataclasses.dataclass(frozen=True, slots=True)
class Processors:
    """Which processor serves and which loads; the same one on a machine that has one only."""

    server: int
    load: int

    @classmethod
    def choose(cls) -> "Processors":
        """The first two that this process may use."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[min(1, len(allowed) - 1)])


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A server that can be compared. `command` sets it up if need be; it may raise provision.NotHere."""

    name: str
    command: Callable[[], list[str]]


PEERS = (
    Peer("engineio-trio", provision.our_peer),
    Peer("node socket.io", provision.node_peer),
    Peer("python-socketio", provision.python_peer),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A server that runs: its process, its port, what it says of its versions."""

    pid: int
    port: int
    versions: dict[str, str]

    def pids(self) -> list[int]:
        """The server's processes: the one that was started, and all that it started."""
        return process_tree(self.pid)


def process_tree(pid: int) -> list[int]:
    """A process and its descendants, as /proc has them now."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return found


def allow_files() -> None:
    """Raise this process's limit of open files as far as it may go; those that it starts inherit it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def pinned(processor: int | None) -> Callable[[], None] | None:
    """What a new process does to stay on a processor."""
    return None if processor is None else partial(os.sched_setaffinity, 0, {processor})


@contextlib.contextmanager
def shared(processors: Processors) -> Iterator[None]:
    """What is started in the block may use both processors, and only these."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processors.server, processors.load})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def process(
    command: Sequence[str],
    processor: int | None,
    environment: dict[str, str] | None = None,
    output: int | IO[bytes] = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, pinned to a processor if one is named; at the end the whole group is ended."""
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=output,
        stderr=None if output is subprocess.PIPE else output,
        start_new_session=True,
        preexec_fn=pinned(processor),
    )
    try:
        yield started
    finally:
        started.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(STOP)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        if started.stdout is not None:
            started.stdout.close()


@contextlib.contextmanager
def serving(peer: Peer, processor: int) -> Iterator[Running]:
    """A peer that serves, until the end of the block. Raises provision.NotHere if it does not start."""
    with process(peer.command(), processor) as started:
        assert started.stdout is not None
        line = started.stdout.readline()
        if not line:
            raise provision.NotHere(f"{peer.name} ended before it served (its complaint stands above)")
        told = json.loads(line)
        yield Running(started.pid, told["port"], told["versions"])
