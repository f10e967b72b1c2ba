"""Instructions a message: a guard against slower hot paths that does not depend on how busy the machine is.

callgrind counts what `counting/program.py` executes while a client plays a fixed script with it, step by step, so that
every run wakes the server as often. The same interpreter and libraries give the same counts within about one per cent,
on any machine of one kind.

`python -m tests.bench.instructions` prints the counts beside the recorded ones; with `--record` it writes them to
instructions.json. Record after a change that is meant to cost more (say in the commit why it may), after one that made
things cheaper (or the guard lets the gain be lost again), and when the interpreter or a library changes. With
`--daemon` it does the same for pushd's paths over Redis (`counting/daemon.py`, daemon.json), which vary more.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.bench.counting import script
from tests.bench.counting.program import PAYLOAD, ROUNDS
from tests.bench.provision import BUILD, NotHere, compile_c
from tests.raw import Raw, Wire, polling
from tests.redis.servers import Server
from tests.redis.servers import server as redis_server

HERE = Path(__file__).parent
LIMIT = 600.0  # seconds for the whole run, on a busy machine
LIBRARIES = ("trio", "trio-websocket", "wsproto", "h11", "msgspec")
EVENTS = 200
HEADERS = {"Connection": "keep-alive", "User-Agent": "node-XMLHttpRequest", "Accept": "*/*"}
CONNECTS = 20
MEMBERS, BROADCASTS = 40, 10
WARMUP = 5

DUMP_NAME = re.compile(r"^desc: Trigger: Client Request: (.*)$", re.MULTILINE)
DUMP_TOTAL = re.compile(r"^(?:totals|summary): (\d+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Baseline:
    """Counts a message by name, and what they were counted with."""

    interpreter: str
    libraries: dict[str, str]
    counts: dict[str, int]

    @classmethod
    def load(cls, path: Path) -> "Baseline":
        """What is recorded there; nothing if there is no such file."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls("", {}, {})

    def save(self, path: Path) -> None:
        """Record it."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


@dataclasses.dataclass(frozen=True, slots=True)
class Guarded:
    """A program whose counts are recorded, and how much more, as a fraction, is a regression.

    `unsteady` are counts that differ too much from run to run to guard anything; they are for people.
    """

    path: Path
    measure: Callable[[], Baseline]
    tolerance: float
    unsteady: frozenset[str] = frozenset()

    def record(self, counted: Baseline) -> None:
        """Write it down, to be compared with."""
        steady = {name: count for name, count in counted.counts.items() if name not in self.unsteady}
        dataclasses.replace(counted, counts=steady).save(self.path)


def interpreter() -> str:
    """The interpreter as far as it decides how many instructions a line of Python takes."""
    build = (platform.python_version(), platform.python_compiler(), platform.machine())
    return f"{platform.python_implementation()} {' '.join(build)}"


def _measure_library() -> Baseline:
    return _baseline(_count("program", (), _play_library), MESSAGES)


def _measure_daemon() -> Baseline:
    with redis_server() as redis:
        return _baseline(_count("daemon", (redis.url,), partial(_play_daemon, redis)), script.MESSAGES)


def _baseline(totals: dict[str, int], messages: dict[str, int]) -> Baseline:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return Baseline(interpreter(), versions, {name: round(totals[name] / per) for name, per in messages.items()})


def _count(program: str, arguments: Sequence[str], play: Callable[[dict[str, Any]], Awaitable[None]]) -> dict[str, int]:
    """The instructions of each thing that a program counts while a client plays with it."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise NotHere("there is no valgrind on PATH")
    marks = BUILD / "marks.so"
    compile_c(["-O2", "-shared", "-fPIC"], [str(HERE / "counting" / "marks.c")], marks)
    with tempfile.TemporaryDirectory() as folder:
        command = [valgrind, "--quiet", "--tool=callgrind", "--instr-atstart=no"]
        command += [f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, "-m", f"tests.bench.counting.{program}", str(marks), *arguments]
        trio.run(_play, command, play)
        return _totals(Path(folder))


MESSAGES = {
    "decode": ROUNDS,
    "encode": ROUNDS,
    "echo, one at a time": EVENTS,
    "echo, four at a time": EVENTS,
    "event with acknowledgement": EVENTS,
    "delivery of a broadcast": BROADCASTS * MEMBERS,
    "connect": CONNECTS,
    "echo over long-polling": EVENTS,
}


def _totals(folder: Path) -> dict[str, int]:
    """The instructions of each dump by its name. A dump is zero where nothing was counted."""
    totals = {}
    for dump in folder.iterdir():
        text = dump.read_text()
        name, total = DUMP_NAME.search(text), DUMP_TOTAL.search(text)
        if name is not None and total is not None:
            totals[name[1]] = int(total[1])
    return totals


# The client's script. It runs in this process, outside valgrind.


async def _play(command: list[str], play: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Run a program and its script; the program ends by itself. Raises NotHere when it cannot run."""
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    run = partial(trio.run_process, env=environment, cwd=HERE.parents[1], stdout=subprocess.PIPE, check=False)
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run, command)
        with trio.fail_after(LIMIT):
            await play(await _told(process))
            await process.wait()


async def _play_library(told: dict[str, Any]) -> None:
    async with contextlib.AsyncExitStack() as wires:
        await Client(told["port"], wires).play()


async def _play_daemon(redis: Server, told: dict[str, Any]) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", told["marks"]) as marks:
        await script.Script(redis, marks).play(told["devices"])


async def _told(process: trio.Process) -> dict[str, Any]:
    """What the first line of the program says."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        more = await process.stdout.receive_some()
        if not more:
            raise NotHere("the counted program ended before it served (its complaint stands above)")
        line += bytes(more)
    told: dict[str, Any] = json.loads(line)
    return told


class Client:
    """Plays the script: each step waits for all its answers, so that nothing depends on who is faster."""

    def __init__(self, port: int, stack: contextlib.AsyncExitStack) -> None:
        self._port = port
        self._stack = stack
        self._members: list[Wire] = []

    async def play(self) -> None:
        """Everything that is counted, one after the other."""
        first = await self._connect()
        await self._count("echo, one at a time", partial(self._echo, first, 1), EVENTS)
        await self._count("echo, four at a time", partial(self._echo, first, 4), EVENTS // 4)
        await self._count("event with acknowledgement", partial(self._ask, first), EVENTS)
        await self._count("connect", self._connect, CONNECTS)
        while len(self._members) < MEMBERS:
            await self._connect()
        await self._count("delivery of a broadcast", self._fan, BROADCASTS)
        await self._count("echo over long-polling", (await self._poll()).echo, EVENTS)
        await first.say('42["quit"]')

    async def _count(self, name: str, step: Callable[[], Awaitable[object]], times: int) -> None:
        """Count `times` steps, after a few that are not counted."""
        for _ in range(WARMUP):
            await step()
        await self._mark('420["begin"]')
        for _ in range(times):
            await step()
        await self._mark(f'420["end",{json.dumps(name)}]')

    async def _mark(self, event: str) -> None:
        await self._members[0].say(event)
        assert await self._members[0].text() == "430[true]"

    async def _poll(self) -> "Polls":
        raws = [Raw(await trio.open_tcp_stream("127.0.0.1", self._port)) for _ in range(2)]
        for raw in raws:
            self._stack.push_async_callback(raw.aclose)
        return await Polls.joined(*raws)

    async def _connect(self) -> Wire:
        wire = await Wire.joined(Raw(await trio.open_tcp_stream("127.0.0.1", self._port)))
        self._stack.push_async_callback(wire.aclose)
        self._members.append(wire)
        return wire

    async def _echo(self, wire: Wire, events: int) -> None:
        await wire.say(*[f'42["echo","{PAYLOAD}"]'] * events)
        for _ in range(events):
            assert await wire.event() == ("echo", PAYLOAD)

    async def _ask(self, wire: Wire) -> None:
        await wire.say(f'421["ask","{PAYLOAD}"]')
        assert await wire.text() == f'431["{PAYLOAD}"]'

    async def _fan(self) -> None:
        await self._members[0].say(f'42["fan","{PAYLOAD}"]')
        for wire in self._members:
            assert await wire.event() == ("fan", PAYLOAD)


class Polls:
    """A session by long-polling, on two connections as a browser has it: the same headers in every request."""

    def __init__(self, gets: Raw, posts: Raw, sid: str) -> None:
        self._gets = gets
        self._posts = posts
        self._sid = sid

    @classmethod
    async def joined(cls, gets: Raw, posts: Raw) -> "Polls":
        """A session that is in `/`."""
        opening = await gets.request("GET", polling())
        polls = cls(gets, posts, json.loads(opening.body[1:])["sid"])
        await polls._say("40")
        assert (await polls._heard()).startswith(b"40")
        return polls

    async def echo(self) -> None:
        """A POST, and then the GET that brings its echo."""
        await self._say(f'42["echo","{PAYLOAD}"]')
        assert await self._heard() == f'42["echo","{PAYLOAD}"]'.encode()

    async def _say(self, packet: str) -> None:
        answer = await self._posts.request("POST", polling(self._sid), HEADERS, packet.encode())
        assert answer.body == b"ok"

    async def _heard(self) -> bytes:
        return (await self._gets.request("GET", polling(self._sid), HEADERS)).body


# Each raises NotHere without valgrind, its headers, or a C compiler.
LIBRARY = Guarded(HERE / "instructions.json", _measure_library, 0.10)
# What wakes the daemon is Redis: in how many pieces a push and what follows from it come depends on who is faster.
DAEMON = Guarded(
    HERE / "daemon.json", _measure_daemon, 0.20, frozenset(name for name in script.MESSAGES if "push" in name)
)


# The command.


def compare(now: Baseline, recorded: Baseline) -> dict[str, float]:
    """By name, how many times the recorded count it is now."""
    return {name: now.counts[name] / count for name, count in recorded.counts.items() if name in now.counts}


def differences(now: Baseline, recorded: Baseline) -> str:
    """What else is not as it was when the counts were recorded, for people; empty if nothing."""
    changed = [
        f"{name} {recorded.libraries.get(name)} -> {version}"
        for name, version in now.libraries.items()
        if recorded.libraries.get(name) != version
    ]
    if now.interpreter != recorded.interpreter:
        changed.append(f"{recorded.interpreter} -> {now.interpreter}")
    return ", ".join(changed)


def main() -> None:
    """Print the counts, or record them."""
    parser = argparse.ArgumentParser("tests.bench.instructions", description="Count the instructions of hot paths.")
    parser.add_argument("--record", action="store_true", help="write them down, to be compared with")
    parser.add_argument("--daemon", action="store_true", help="count pushd's paths instead")
    options = parser.parse_args()
    guarded = DAEMON if options.daemon else LIBRARY
    try:
        now = guarded.measure()
    except NotHere as missing:
        sys.exit(f"tests.bench.instructions: {missing}")
    recorded = Baseline.load(guarded.path)
    ratios = compare(now, recorded)
    for name, count in now.counts.items():
        told = f"{ratios[name]:.3f} of what is recorded" if name in ratios else "not recorded"
        print(f"{name:<28} {count:>10,} instructions  {told}")
    if changed := differences(now, recorded):
        print(f"since then: {changed}")
    if options.record:
        guarded.record(now)


if __name__ == "__main__":
    main()
