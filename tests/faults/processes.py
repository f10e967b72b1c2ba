"""A daemon as a process of its own, and what a test does with one: start, kill, stop, start again, ask, command.

`Deployment(folder, **sections)` is what outlives a process: the configuration, the store, the addresses.
`async with deployment.running() as daemon:` is one process on it. Whatever the processes logged is printed in the end,
so that pytest shows it with a failure.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import trio

from pushd.failpoint import VARIABLE
from tests.patience import PATIENCE
from tests.ports import LOCAL, hold_port

T = TypeVar("T")

LOOK = 0.02  # seconds between two looks at another process
PAGE = 1_000
SHOWN = 50  # lines of each process's log


def surroundings(**variables: str) -> dict[str, str]:
    """The environment for a process of ours: no settings of whoever runs the tests, but these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PUSHD_")}
    return {**kept, "COLUMNS": "200", **variables}


@dataclasses.dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True, slots=True)
class Burden:
    """What a daemon holds: connections of devices, Trio's tasks, open files, bytes of memory."""

    connections: int
    tasks: int
    files: int
    memory: int


async def pushdctl(*arguments: str, folder: Path, **variables: str) -> Ran:
    """Run a command to its end, in `folder`."""
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [sys.executable, "-m", "pushd", *arguments],
            cwd=folder,
            env=surroundings(**variables),
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def asking(admin: str = "") -> httpx.AsyncClient:
    """A client of an admin interface (without one: of those that its URLs name). No proxy is asked."""
    transport = httpx.AsyncHTTPTransport(verify=False)  # reading all the certificates takes longer than a test
    base = f"http://{admin}" if admin else ""
    return httpx.AsyncClient(base_url=base, timeout=2 * PATIENCE, transport=transport)


class Daemon:
    """A daemon that runs: its addresses, its admin interface, its signals."""

    def __init__(self, process: trio.Process, devices: str, admin: str, http: httpx.AsyncClient, folder: Path) -> None:
        self.devices = devices  # host:port
        self.admin = admin
        self._process = process
        self._http = http
        self._folder = folder

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://{self.devices}"

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    # Ending it.

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; does not wait."""
        self._process.send_signal(number)

    async def ended(self, *, within: float = PATIENCE) -> int:
        """Wait until it has ended; its exit code."""
        with trio.fail_after(within):
            return await self._process.wait()

    async def kill(self) -> None:
        """`kill -9`, and wait until it is dead."""
        self._process.kill()
        assert await self.ended() == -signal.SIGKILL

    async def stop(self) -> None:
        """SIGTERM, and a clean end."""
        self.signal(signal.SIGTERM)
        assert await self.ended() == 0

    # Asking it.

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request to the admin interface, whatever the answer."""
        return await self._http.request(method, path, **options)

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON that a path has."""
        return (await self.ask("GET", path, params=query)).raise_for_status().json()

    async def push(self, to: str, data: Any = None, **fields: Any) -> dict[str, Any]:
        """Push by HTTP; the answer, with its receipts."""
        response = await self.ask("POST", "/v1/push", json={"to": to, "data": data, **fields})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def append(self, stream: str, **fields: str) -> str:
        """Write an entry to a services' stream."""
        response = await self.ask("POST", f"/v1/streams/{stream}", json=fields)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    async def stream(self, name: str) -> list[dict[str, str]]:
        """The fields of all entries of a stream, oldest first."""
        entries: list[dict[str, str]] = []
        after = ""
        while True:
            page = await self.get(f"/v1/streams/{name}", after=after, limit=PAGE)
            entries += [entry["fields"] for entry in page["entries"]]
            if len(page["entries"]) < PAGE:
                return entries
            after = page["next"]

    async def told(self, name: str, **expected: str) -> dict[str, str]:
        """The first entry of a stream that has these values, waiting for it."""
        after = ""
        seen: list[dict[str, str]] = []
        with trio.move_on_after(PATIENCE):
            while True:
                page = await self.get(f"/v1/streams/{name}", after=after, wait=PATIENCE)
                after = page["next"]
                for entry in page["entries"]:
                    seen.append(entry["fields"])
                    if expected.items() <= entry["fields"].items():
                        return seen[-1]
        raise AssertionError(f"no entry of {name} has {expected}; there are:\n" + "\n".join(map(str, seen)))

    async def status(self, device: str) -> list[tuple[str, str]]:
        """Event and reason of each status entry of a device."""
        return [(entry["event"], entry["reason"]) for entry in await self.stream("status") if entry["device"] == device]

    async def metrics(self) -> dict[str, float]:
        """The samples of the metrics page, by name with labels."""
        text = (await self.ask("GET", "/metrics")).raise_for_status().text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    async def burdens(self) -> list[Burden]:
        """What it holds just now, or each of its workers."""

        async def whole() -> dict[str, float] | None:
            samples = await self.metrics()
            up = [value for name, value in samples.items() if name.startswith("pushd_store_up")]
            return samples if all(up) else None  # else some are not there

        samples = await until(whole)
        return [
            Burden(
                connections=int(samples[f"pushd_connections{label}"]),
                tasks=int(samples[f"pushd_tasks{label}"]),
                files=int(samples[f"process_open_fds{label}"]),
                memory=int(samples[f"process_resident_memory_bytes{label}"]),
            )
            for label in [name.removeprefix("pushd_tasks") for name in samples if name.startswith("pushd_tasks")]
        ]

    async def command(self, *arguments: str) -> Ran:
        """Run `pushdctl` against it."""
        return await pushdctl(*arguments, folder=self._folder, PUSHD_ADMIN=f"http://{self.admin}")


class Deployment:
    """A folder with a configuration and a store's file, and the addresses that its daemons have one after another."""

    program: Sequence[str] = (sys.executable, "-m", "pushd")

    def __init__(self, folder: Path, url: str = "", /, **sections: Mapping[str, Any]) -> None:
        """`sections` are those of the configuration; a nested one is written `auth__hmac`. `url`: a store in Redis."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.store = folder / "pushd.db"
        self.url = url or f"sqlite:///{self.store}"
        self.log = folder / "log"
        self._devices, self._admin = (f"{LOCAL}:{hold_port(self)}" for _ in range(2))
        self._config = folder / "pushd.toml"
        self._config.write_text("".join(_as_toml(name, section) for name, section in sections.items()))

    def flags(self) -> list[str]:
        """How a daemon is told about all this."""
        addresses = ["--listen", self._devices, "--admin", self._admin, "--ready-file", "ready"]
        return ["--config", self._config.name, "--store", self.url, *addresses]

    async def refused(self, *flags: str) -> Ran:
        """Start a daemon that cannot start, with these flags besides: what it did."""
        return await pushdctl("serve", *self.flags(), *flags, folder=self.folder)

    @contextlib.asynccontextmanager
    async def running(self, *flags: str, **variables: str) -> AsyncIterator[Daemon]:
        """A daemon that is ready; killed at the end of the block if it still runs. The next one has its addresses.

        One with a failpoint among its `variables` may have ended already.
        """
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        start = self.log.stat().st_size if self.log.exists() else 0
        try:
            with self.log.open("ab") as log:
                async with trio.open_nursery() as nursery:
                    run = partial(
                        trio.run_process,
                        [*self.program, "serve", *self.flags(), *flags],
                        cwd=self.folder,
                        env=surroundings(**variables),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        check=False,
                        deliver_cancel=_kill,
                    )
                    process: trio.Process = await nursery.start(run)
                    told = await self._said(ready, process)
                    assert told or VARIABLE in variables, f"the daemon did not start: exit code {process.returncode}"
                    self._devices = told.get("devices", self._devices)
                    self._admin = told.get("admin", self._admin)
                    async with asking(self._admin) as http:
                        yield Daemon(process, self._devices, self._admin, http, self.folder)
                    nursery.cancel_scope.cancel()
        finally:
            lines = self.log.read_bytes()[start:].decode().splitlines()
            print(*lines[-SHOWN:], f"(the last of {len(lines)} lines; all are in {self.log})", sep="\n")

    @staticmethod
    async def _said(ready: Path, process: trio.Process) -> dict[str, str]:
        """What a daemon writes when it is ready; nothing if it has ended before."""

        async def written() -> str | None:
            return _text(ready) or (None if process.returncode is None else "{}")

        told: dict[str, str] = json.loads(await until(written))
        return told


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


async def _kill(process: trio.Process) -> None:
    process.kill()


def _as_toml(name: str, section: Mapping[str, Any]) -> str:
    """A section of the configuration. A JSON text, number, boolean or array of those is a TOML one too."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
    return f"[{name.replace('__', '.')}]\n{lines}"


async def until(question: Callable[[], Awaitable[T]], *, within: float = PATIENCE) -> T:
    """What `await question()` answers as soon as that is true: for what another process brings about."""
    with trio.fail_after(within):
        while not (answer := await question()):  # noqa: ASYNC110 - another process sets no event
            await trio.sleep(LOOK)
    return answer
