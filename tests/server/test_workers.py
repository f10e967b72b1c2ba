"""`run_workers` with real processes: how they start, are replaced, hear signals and end."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from engineio_trio.client import connect
from engineio_trio.workers import Port, run_workers

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0  # seconds for processes on a busy machine


async def logged(folder: Path, text: str) -> None:
    """Return when the parent has said so in its log."""
    with trio.fail_after(PATIENCE):
        while text not in (folder / "log").read_text():  # noqa: ASYNC110 - another process
            await trio.sleep(0.02)


class Program:
    """A running tests/server/workers_program.py: its lines, its workers' processes."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = trio.Event()

    async def read(self) -> None:
        """Take in what it writes."""
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *whole, rest = (rest + data).split(b"\n")
            self.lines += [line.decode() for line in whole]
            self._news.set()
            self._news = trio.Event()

    async def said(self, pattern: str, times: int = 1) -> list[str]:
        """What the group in `pattern` is in each line that matches, as soon as there are so many."""
        with trio.move_on_after(PATIENCE):
            while True:
                found = [match[1] for line in self.lines if (match := re.fullmatch(pattern, line))]
                if len(found) >= times:
                    return found
                await self._news.wait()
        raise AssertionError(f"{times} lines like {pattern!r} did not come; there are: {self.lines}")

    async def url(self) -> str:
        """Where clients connect, as soon as all workers are ready."""
        (port,) = await self.said(r"begun (\d+)")
        return f"http://127.0.0.1:{port}"

    async def pid(self, number: int, which: int = 1) -> int:
        """The process of a worker: the first, or the `which`th that had its place."""
        return int((await self.said(rf"worker {number} (\d+)", which))[which - 1])

    async def ended(self) -> int:
        """Its exit code."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def program(folder: Path, count: int = 2, way: str = "plain") -> AsyncIterator[Program]:
    """A program that has been started. Whatever it has started does not outlive the block."""
    log = folder / "log"
    marks = folder / "marks"
    marks.mkdir()
    command = [sys.executable, "-m", "tests.server.workers_program", str(count), way, str(marks)]
    with log.open("wb") as errors:
        run = partial(trio.run_process, command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=errors)
        async with trio.open_nursery() as nursery:
            one = Program(await nursery.start(run))
            nursery.start_soon(one.read)
            try:
                yield one
            finally:
                print(*one.lines, log.read_text(), sep="\n")
                if one.process.returncode is None:
                    one.process.terminate()
                for match in re.finditer(r"worker \d+ (\d+)", "\n".join(one.lines)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(match[1]), signal.SIGKILL)
                nursery.cancel_scope.cancel()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(*pids: int) -> None:
    """Return when none of these processes is there any more."""
    with trio.fail_after(PATIENCE):
        while any(map(alive, pids)):  # noqa: ASYNC110 - another process sets no event
            await trio.sleep(0.02)


@pytest.mark.parametrize("transports", [["polling"], ["polling", "websocket"], ["websocket"]], ids="-".join)
async def test_all_of_them_serve_one_port(tmp_path: Path, transports: list[str]) -> None:
    async with program(tmp_path, 3) as one:
        url = await one.url()
        pids = {await one.pid(number) for number in (1, 2, 3)}
        met: set[int] = set()
        with trio.fail_after(PATIENCE):
            while met != pids:  # which one the system gives a connection to is not ours to say
                async with connect(url, transports=transports) as client:
                    first = await client.call("who")
                    assert [await client.call("who") for _ in range(3)] == [first] * 3
                    others = await client.call("others")
                    met.add(first)
                assert len(others) == 2
                assert all(text == f"I am {number}" for number, text in others.items())
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0
        assert sorted(await one.said(r"stopped (\d)", 3)) == ["1", "2", "3"]
        await one.said("(ended)")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGRTMIN + 3])
async def test_one_that_ends_is_replaced(tmp_path: Path, number: int) -> None:
    """And the other one's clients do not notice."""
    async with program(tmp_path, 2) as one, contextlib.AsyncExitStack() as stack:
        url = await one.url()
        victim = await one.pid(1)
        while True:
            client = await stack.enter_async_context(connect(url, transports=["polling"]))
            if await client.call("who") != victim:
                break
        os.kill(victim, number)
        replacement = await one.pid(1, 2)
        assert await client.call("who") == await one.pid(2)
        await gone(victim)
        with trio.fail_after(PATIENCE):
            while True:
                async with connect(url) as another:
                    if await another.call("who") == replacement:
                        break
        one.process.send_signal(signal.SIGINT)
        assert await one.ended() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="cannot run here: only Linux has prlimit")
async def test_one_that_cannot_be_forked_just_now(tmp_path: Path) -> None:
    """The others go on, and it is tried again."""
    async with program(tmp_path, 2) as one:
        url = await one.url()
        soft, hard = resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        os.kill(await one.pid(1), signal.SIGKILL)
        await logged(tmp_path, "worker 1 cannot be started")
        async with connect(url) as client:
            assert await client.call("who") == await one.pid(2)
        resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        await one.pid(1, 2)
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0


async def test_sighup_reaches_all(tmp_path: Path) -> None:
    async with program(tmp_path, 3) as one:
        await one.url()
        one.process.send_signal(signal.SIGHUP)
        assert sorted(await one.said(r"reload (\d)", 3)) == ["1", "2", "3"]
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0


async def test_a_stop_while_they_start(tmp_path: Path) -> None:
    """One that serves nobody yet has nothing to wait for."""
    async with program(tmp_path, 3, "slow") as one:
        pids = [await one.pid(1), await one.pid(2)]
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0
        assert not any(map(alive, pids))


async def test_a_second_signal_is_obeyed_at_once(tmp_path: Path) -> None:
    async with program(tmp_path, 2, "slow end") as one:
        await one.url()
        one.process.send_signal(signal.SIGTERM)
        await one.said(r"heard (\d) STOP", 2)
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0


async def test_one_that_cannot_start_ends_it(tmp_path: Path) -> None:
    async with program(tmp_path, 3, "never") as one:
        assert await one.ended() == 1
        assert await one.said("failed (.*)") == ["worker 2 ended with exit code 1 before it was ready"]
        assert (tmp_path / "log").read_text().count("RuntimeError: it cannot start") == 1


async def test_the_exit_code_of_one_that_cannot_start(tmp_path: Path) -> None:
    """Only the first was started: what keeps all from starting is not said three times."""
    async with program(tmp_path, 3, "code") as one:
        assert await one.ended() == 7
        assert await one.said("failed (.*)") == ["worker 1 ended with exit code 7 before it was ready"]


async def test_when_nobody_is_left_it_gives_up(tmp_path: Path) -> None:
    """Pauses grow meanwhile: 0.1, 0.2, 0.4, 0.8 seconds."""
    async with program(tmp_path, 2, "not again") as one:
        await one.url()
        for number in (1, 2):
            os.kill(await one.pid(number), signal.SIGKILL)
        assert await one.ended() == 1
        (why,) = await one.said("failed (.*)")
        assert why.endswith("ended with exit code 1 before it was ready")
        pauses = re.findall(r"worker 1 .* takes its place in (\S+) s", (tmp_path / "log").read_text())
        assert pauses == ["0.1", "0.2", "0.4", "0.8", "1.6"][: len(pauses)]
        assert len(pauses) >= 3


async def test_as_long_as_one_serves_it_goes_on(tmp_path: Path) -> None:
    async with program(tmp_path, 2, "not again") as one:
        url = await one.url()
        os.kill(await one.pid(1), signal.SIGKILL)
        await logged(tmp_path, "takes its place in 1.6 s")
        async with connect(url) as client:
            assert await client.call("who") == await one.pid(2)
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0


@pytest.mark.parametrize("way", ["deaf", "stuck"])
async def test_one_that_does_not_end_in_time(tmp_path: Path, way: str) -> None:
    """It is told to end at once, and killed if it does not hear that either."""
    async with program(tmp_path, 2, way) as one:
        await one.url()
        pids = [await one.pid(1), await one.pid(2)]
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 1
        assert await one.said("failed (.*)") == ["2 of 2 workers did not end within 1 s"]
        assert not any(map(alive, pids))
        assert ("killing it" in (tmp_path / "log").read_text()) == (way == "stuck")


async def test_they_do_not_outlive_their_parent(tmp_path: Path) -> None:
    async with program(tmp_path, 2) as one:
        await one.url()
        pids = [await one.pid(1), await one.pid(2)]
        one.process.kill()
        await one.ended()
        await gone(*pids)
        assert sorted(await one.said(r"stopped (\d)", 2)) == ["1", "2"]


async def test_an_error_of_the_program_leaves_nobody_behind(tmp_path: Path) -> None:
    async with program(tmp_path, 2, "begun") as one:
        pids = [await one.pid(1), await one.pid(2)]
        assert await one.ended() == 1
        assert not any(map(alive, pids))


async def test_port_0_is_one_port_for_all_addresses() -> None:
    with contextlib.closing(Port("localhost", 0)) as port:
        listeners = port.listen() + port.listen()
        assert {listener.socket.getsockname()[1] for listener in listeners} == {port.address[1]} != {0}
        for listener in listeners:
            await listener.aclose()


async def test_a_port_that_somebody_listens_on() -> None:
    """Even one who would share it: another program of the same user, perhaps this one a second time."""
    with contextlib.closing(Port("127.0.0.1", 0)) as first:
        (listener,) = first.listen()
        with pytest.raises(OSError, match="in use"):
            Port("127.0.0.1", first.address[1])
        await listener.aclose()
    (taken,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with taken:
        with pytest.raises(OSError, match="in use"):
            Port("127.0.0.1", taken.socket.getsockname()[1])


@pytest.mark.parametrize(("count", "patience"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, float("inf"))])
def test_numbers_that_are_none(count: int, patience: float) -> None:
    async def main(worker: object) -> None:
        raise AssertionError("started")

    with pytest.raises(ValueError, match="at least one"):
        run_workers(main, count, patience=patience)
