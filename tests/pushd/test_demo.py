"""The demonstration as a stranger runs it: as a process, to its end and to Ctrl-C."""

import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.patience import PATIENCE

COMMAND = [sys.executable, "-m", "pushd.demo", "--pace", "0.02"]

# What one turn has to show, each line anywhere: uplinks, pushes, receipts, what waited for a device, a takeover.
SHOWN = [
    r"  uplink   kitchen reading \{.*\}",
    r"  kitchen  gets show \"hello, turn 1\"",
    r"  receipt  kitchen acked \(seq 1\)",
    r"  service  pushes light \{\"on\": true\} to topic:lamps: 3 stored",
    r"  lamp-2   gets light \{\"on\": true\}",
    r"  status   porch offline \(client namespace disconnect\)",
    r"  porch    gets show \"first\"",
    r"  porch    gets show \"second\"",
    r"  kitchen  gets kicked \{\"reason\": \"takeover\", .*\}",
    r"  status   kitchen takeover \(login\)",
]


@pytest.fixture
async def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[trio.Process]:
    """The demonstration, with its temporary files in `tmp_path`; killed at the end if it still runs."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        yield await nursery.start(run)
        nursery.cancel_scope.cancel()


async def read_until(process: trio.Process, wanted: list[str]) -> str:
    """What the process says until each of the patterns has been a line of it."""
    assert process.stdout is not None
    text = ""
    with trio.move_on_after(PATIENCE):
        async for chunk in process.stdout:
            text += chunk.decode()
            if all(re.search(f"^{pattern}$", text, re.MULTILINE) for pattern in wanted):
                return text
    missing = [pattern for pattern in wanted if not re.search(f"^{pattern}$", text, re.MULTILINE)]
    raise AssertionError("\n".join(["never said:", *missing, "all that was said:", text]))


def stores(folder: Path) -> list[Path]:
    """The stores of demonstrations in this directory."""
    return list(folder.glob("pushd-demo-*/pushd.db"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_messages_go_both_ways_until_it_is_told_to_end(
    demo: trio.Process, tmp_path: Path, number: signal.Signals
) -> None:
    """By Ctrl-C, or by a terminal that closes: the daemon, which has a session of its own, must not stay behind."""
    await read_until(demo, SHOWN if number is signal.SIGINT else SHOWN[:1])
    assert stores(tmp_path)
    demo.send_signal(number)
    rest = await read_until(demo, ["The end: .*"])
    with trio.fail_after(PATIENCE):
        assert await demo.wait() == 0
    assert "Traceback" not in rest
    assert not stores(tmp_path)


async def test_it_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with trio.fail_after(PATIENCE):
        done = await trio.run_process([*COMMAND, "--seconds", "0.1"], capture_stdout=True, capture_stderr=True)
    assert done.stdout.decode().endswith("\nThe end: the devices have left, the daemon stops, its directory goes.\n")
    assert done.stderr == b""


async def test_it_says_why_the_daemon_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the daemon's own words, here on a directory whose name no store's URL can have; and without a traceback."""
    odd = tmp_path / "what?"
    odd.mkdir()
    monkeypatch.setenv("TMPDIR", str(odd))
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(COMMAND, check=False, capture_stdout=True, capture_stderr=True)
    assert done.returncode == 1
    first, told = done.stderr.decode().split("\n", 1)
    assert first == "pushd.demo: the daemon did not start:"
    assert "store.url" in told
    assert "Traceback" not in told
