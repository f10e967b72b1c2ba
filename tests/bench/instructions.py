"""Instructions a message: a guard against slower hot paths that does not depend on how busy the machine is.

callgrind counts what `counting/program.py` executes while a client plays a fixed script with it, step by step, so that
every run wakes the server as often. The same interpreter and libraries give the same counts within about one per cent,
on any machine of one kind.

`python -m tests.bench.instructions` prints the counts beside the recorded ones; with `--record` it writes them to
instructions.json. Record after a change that is meant to cost more (say in the commit why it may), after one that made
things cheaper (or the guard lets the gain be lost again), and when the interpreter or a library changes. With
`--daemon` it counts pushd's paths over Redis instead (`counting/daemon.py`), of which nothing is recorded.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import math
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
BASELINE = HERE / "instructions.json"
TOLERANCE = 0.10  # a tenth more is a regression
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
    def load(cls) -> "Baseline":
        """What is recorded."""
        return cls(**json.loads(BASELINE.read_text()))

    def save(self) -> None:
        """Record it."""
        BASELINE.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def interpreter() -> str:
    """The interpreter as far as it decides how many instructions a line of Python takes."""
    build = (platform.python_version(), platform.python_compiler(), platform.machine())
    return f"{platform.python_implementation()} {' '.join(build)}"


def measure() -> Baseline:
    """Count what is recorded, in this interpreter. Raises NotHere without valgrind, its headers, or a C compiler."""
    totals = _count("program", (), _play_library)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return Baseline(interpreter(), versions, {name: round(totals[name] / per) for name, per in MESSAGES.items()})


def measure_daemon() -> dict[str, int]:
    """Count pushd's paths a message. Raises NotHere, as `measure`.

    They are to be compared by eye, on an idle machine: what wakes the daemon is Redis, and in how many pieces its
    answers come depends on who is faster.
    """
    with redis_server() as redis:
        totals = _count("daemon", (redis.url,), partial(_play_daemon, redis))
    return {name: round(totals[name] / per) for name, per in script.MESSAGES.items()}


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


# The command.


def compare(now: Baseline, recorded: Baseline) -> dict[str, float]:
    """By name, how many times the recorded count it is now. What was never recorded counts as infinitely more."""
    return {
        name: count / recorded.counts.get(name, 0) if name in recorded.counts else math.inf
        for name, count in now.counts.items()
    }


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
    parser.add_argument("--record", action="store_true", help=f"write them to {BASELINE.name}")
    parser.add_argument("--daemon", action="store_true", help="count pushd's paths instead")
    options = parser.parse_args()
    try:
        if options.daemon:
            for name, count in measure_daemon().items():
                print(f"{name:<28} {count:>10,} instructions")
            return
        now = measure()
    except NotHere as missing:
        sys.exit(f"tests.bench.instructions: {missing}")
    recorded = Baseline.load() if BASELINE.exists() else Baseline("", {}, {})
    for name, ratio in compare(now, recorded).items():
        print(f"{name:<28} {now.counts[name]:>10,} instructions  {ratio:.3f} of what is recorded")
    if changed := differences(now, recorded):
        print(f"since then: {changed}")
    if options.record:
        now.save()


if __name__ == "__main__":
    main()
