"""The example services of docs/examples, as processes."""

import contextlib
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.faults.processes import surroundings
from tests.patience import PATIENCE
from tests.wire.javascript import JS, lines, need_node

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SUFFIXES = {"python": "py", "javascript": "mjs", "php": "php"}


@functools.cache
def _php() -> str:
    """PHP with its Redis extension. Skips the test where there is none."""
    found = shutil.which("php")
    if found is None:
        pytest.skip("cannot run here: there is no php on PATH")
    modules = subprocess.run([found, "-m"], capture_output=True, text=True, check=True).stdout.split()
    if "redis" not in modules:
        pytest.skip("cannot run here: php has no extension redis")
    return found


def _interpreter(language: str) -> list[str]:
    match language:
        case "python":
            return [sys.executable, "-W", "error"]
        case "javascript":
            return [need_node()]
        case "php":
            return [_php(), "-d", "display_errors=stderr", "-d", "error_reporting=-1"]
    raise AssertionError(language)


@dataclasses.dataclass
class Consumer:
    """A consumer that runs: what it prints, line by line."""

    process: trio.Process
    lines: AsyncIterator[str]

    async def next(self) -> dict[str, Any]:
        """The fields of the next entry that it has dealt with."""
        with trio.fail_after(PATIENCE):
            fields: dict[str, Any] = json.loads(await anext(self.lines))
        return fields

    async def kill(self) -> None:
        """`kill -9`, and wait until it is dead."""
        self.process.kill()
        await self.process.wait()


class Service:
    """The programs of one language, in a directory of their own, with the environment that finds the server."""

    def __init__(self, language: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.language = language
        self._command = _interpreter(language)
        self._folder = folder / language
        shutil.copytree(EXAMPLES / language, self._folder)
        if language == "javascript":
            (self._folder / "node_modules").symlink_to(JS / "node_modules")
        self._environment = surroundings(**environment)

    async def produce(self, *arguments: str) -> str:
        """Run the producer to its end: what it printed, the entry's id."""
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(self._program("produce", *arguments), capture_stdout=True, **self._place())
        return str(done.stdout.decode().strip())

    @contextlib.asynccontextmanager
    async def consume(self, *arguments: str, name: str = "c1", idle: float = 60.0) -> AsyncIterator[Consumer]:
        """A consumer, as long as the block lasts. `idle`: seconds after which it takes what others have left."""
        async with (
            self.started("consume", *arguments, name=name, idle=idle) as process,
            contextlib.aclosing(lines(process)) as said,
        ):
            yield Consumer(process, said)

    @contextlib.asynccontextmanager
    async def started(
        self, program: str, *arguments: str, name: str = "c1", idle: float = 60.0
    ) -> AsyncIterator[trio.Process]:
        """One of the programs as a process, killed at the end of the block."""
        run = partial(
            trio.run_process,
            self._program(program, *arguments),
            stdout=subprocess.PIPE,
            check=False,
            **self._place(NAME=name, IDLE=str(round(idle * 1_000))),
        )
        async with trio.open_nursery() as nursery:
            yield await nursery.start(run)
            nursery.cancel_scope.cancel()

    def _program(self, name: str, *arguments: str) -> list[str]:
        return [*self._command, f"{name}.{SUFFIXES[self.language]}", *arguments]

    def _place(self, **environment: str) -> dict[str, Any]:
        return {"cwd": self._folder, "env": self._environment | environment}
