"""The daemon as a process: how it starts, what it says, how it ends, and what a kill leaves (F8, F21, F22, F24, I8)."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.pushd.raw_device import raw_device

PATIENCE = 20.0  # a Python process on a busy machine
LOOK = 0.02  # between two looks at another process


@dataclasses.dataclass
class Daemon:
    """A daemon that has said where it listens."""

    process: trio.Process
    devices: str
    admin: str
    log: Path

    async def stopped(self) -> int:
        """Its exit code."""
        with trio.fail_after(PATIENCE):
            return await self.process.wait()

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(base_url=f"http://{self.admin}") as http:
            return (await http.get(path)).raise_for_status().json()

    async def push(self, **fields: Any) -> Any:
        async with httpx.AsyncClient(base_url=f"http://{self.admin}") as http:
            return (await http.post("/v1/push", json={"data": 1} | fields)).raise_for_status().json()

    async def told(self, stream: str, count: int) -> None:
        """Return when the stream has this many entries."""
        position = ""
        while count > 0:
            page = await self.get(f"/v1/streams/{stream}?after={position}&wait=3")
            position, count = page["next"], count - len(page["entries"])

    async def statuses(self) -> list[tuple[str, str]]:
        """The event and reason of each entry of the status stream."""
        entries = (await self.get("/v1/streams/status"))["entries"]
        return [(entry["fields"]["event"], entry["fields"]["reason"]) for entry in entries]


def command(folder: Path, *arguments: str) -> list[str]:
    listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store", f"sqlite:///{folder}/p.db"]
    return [sys.executable, "-m", "pushd", "serve", *listen, "--ready-file", str(folder / "ready"), *arguments]


@contextlib.asynccontextmanager
async def daemon(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[Daemon]:
    """A daemon on a file in `folder`; killed at the end if it still runs."""
    ready, log = folder / "ready", folder / "log"
    ready.unlink(missing_ok=True)
    with log.open("ab") as output:
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                command(folder, *arguments),
                stdout=output,
                stderr=output,
                check=False,
                env=os.environ | environment,
            )
            process = await nursery.start(run)
            with trio.fail_after(PATIENCE):
                while not ready.exists():
                    assert process.returncode is None, log.read_text()
                    await trio.sleep(LOOK)
            told = json.loads(ready.read_text())
            assert told["pid"] == process.pid
            yield Daemon(process, told["devices"], told["admin"], log)
            nursery.cancel_scope.cancel()


async def fails(folder: Path, *arguments: str) -> tuple[int, str]:
    """Start a daemon that cannot start: its exit code, and what it wrote."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            command(folder, *arguments), check=False, stdout=subprocess.DEVNULL, capture_stderr=True
        )
    return done.returncode, done.stderr.decode()


async def test_the_first_line_says_where_it_listens(tmp_path: Path) -> None:
    async with daemon(tmp_path) as running:
        first = running.log.read_text().splitlines()[0]
        assert f"devices on http://{running.devices}/socket.io/  admin on http://{running.admin}/" in first


async def test_sigterm_logs_everybody_out_and_exits_0(tmp_path: Path) -> None:
    """I8, F24."""
    async with daemon(tmp_path) as running, raw_device(running.devices, "d1") as device:
        running.process.send_signal(signal.SIGTERM)
        assert await device.close_code() == 1012
        assert await running.stopped() == 0
    async with daemon(tmp_path) as again:
        assert await again.statuses() == [("online", "login"), ("offline", "server shutting down")]
    assert "Traceback" not in (tmp_path / "log").read_text()


async def test_after_a_kill_nothing_accepted_is_lost_and_nobody_stays_online(tmp_path: Path) -> None:
    """I1, I4, F8, F18: exactly one `offline`, and what was not acknowledged comes again, marked."""
    async with daemon(tmp_path) as running, raw_device(running.devices, "d1") as device:
        for id in ("a", "b", "c"):
            await running.push(to="device:d1", id=id)
        ack, *_ = await device.push()
        await device.ack(ack)
        assert (await running.push(to="device:other", id="x", wait=0))["counts"] == {"stored": 1}
        await device.push()
        await running.told("receipt", 5)  # four are stored, one is acknowledged
        running.process.kill()
        assert await running.stopped() == -signal.SIGKILL
    async with daemon(tmp_path) as again:
        assert [event for event, _ in await again.statuses()] == ["online", "offline"]
        assert not (await again.get("/v1/devices/d1"))["online"]
        async with raw_device(again.devices, "d1") as device:
            metas = [(await device.push())[2] for _ in range(2)]
            assert [(meta["id"], meta["redelivered"]) for meta in metas] == [("b", True), ("c", True)]


async def test_a_failpoint_kills_between_two_side_effects(tmp_path: Path) -> None:
    """F18: stored, but the device was not told; it will send again, so a service may see it twice, never not at all."""
    async with (
        daemon(tmp_path, PUSHD_FAILPOINT="uplink.stored:exit") as running,
        raw_device(running.devices, "d1") as device,
    ):
        await device.emit("reading", 1)
        assert await running.stopped() == 137
    async with daemon(tmp_path) as again:
        entries = (await again.get("/v1/streams/uplink"))["entries"]
        assert [entry["fields"]["event"] for entry in entries] == ["reading"]


async def test_a_second_signal_does_not_spoil_the_end(tmp_path: Path) -> None:
    async with daemon(tmp_path) as running:
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGTERM)
        assert await running.stopped() == 0


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """F22: for either listener; exit 1, no traceback."""
    other = tmp_path / "other"
    other.mkdir()
    async with daemon(tmp_path) as running:
        for flag, taken, section in (
            ("--listen", running.devices, "devices"),
            ("--admin", running.admin, "admin"),
        ):
            code, text = await fails(other, flag, taken)
            assert code == 1
            (line,) = text.splitlines()
            assert f"{section}.listen" in line
            assert taken in line
            assert "in use" in line


async def test_a_store_that_belongs_to_another_daemon_is_one_clear_line(tmp_path: Path) -> None:
    async with daemon(tmp_path):
        code, text = await fails(tmp_path)
        assert code == 1
        assert len(text.splitlines()) == 1, text
        assert "p.db" in text
