"""What the tests of the admin interface share: the real interface on port 0 over a real store, and raw HTTP clients."""

import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import trio

from pushd.admin import serve
from pushd.config.sections import Delivery
from pushd.hub import Hub
from pushd.metrics import Metrics
from pushd.model import Bound, Message
from pushd.node import Node
from pushd.requests import PushDefaults
from pushd.service import Service
from pushd.store import open_store
from pushd.store.base import Limits


@dataclasses.dataclass
class Holder:
    """A connection of a device that only remembers what it was told."""

    device: str
    conn: str
    epoch: int
    seen: float = 0.0
    kicked: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def wake(self) -> None: ...

    def cast(self, message: Message) -> bool:
        return True

    def kick(self, reason: str, by: str) -> None:
        self.kicked.append((reason, by))

    def lost(self) -> None: ...


@dataclasses.dataclass
class Admin:
    """The interface under test: its service and node, a client, and its address."""

    service: Service
    node: Node
    http: httpx.AsyncClient
    host: str
    port: int
    nursery: trio.Nursery
    serving: trio.CancelScope
    stopped: trio.Event

    async def stop(self) -> None:
        """Stop serving, as the daemon does, and return when that is over."""
        self.serving.cancel()
        await self.stopped.wait()

    async def online(self, device: str, *topics: str) -> Holder:
        """Bind a device, as its login would."""
        conn = f"conn-{device}"
        bound = await self.service.store.login(device, conn, topics)
        assert isinstance(bound, Bound)
        holder = Holder(device, conn, bound.epoch)
        self.node.hub.join(holder)
        return holder

    async def connect(self) -> trio.SocketStream:
        """A plain TCP connection."""
        return await trio.open_tcp_stream(self.host, self.port)

    async def tail(self, path: str, *headers: str) -> "Tail":
        """A reader of server-sent events whose answer has begun."""
        stream = await self.connect()
        head = [f"GET {path} HTTP/1.1", "Host: localhost", "Accept: text/event-stream", *headers, "", ""]
        await stream.send_all("\r\n".join(head).encode())
        tail = Tail(stream)
        await tail.begin()
        return tail


class Tail:
    """A reader of server-sent events on a socket: as little HTTP as it needs."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.head = ""
        self._rest = b""

    async def begin(self) -> None:
        """Read the response's head."""
        head = await self._until(b"\r\n\r\n")
        self.head = head.decode()

    async def block(self) -> dict[str, str]:
        """The next event or comment (under the key `""`), as its lines."""
        chunk = b""
        while not chunk.endswith(b"\n\n"):
            size = int(await self._until(b"\r\n"), 16)
            if size == 0:
                raise EOFError
            chunk += (await self._exactly(size + 2))[:-2]
        lines = [line.partition(": ") for line in chunk.decode().split("\n\n")[0].split("\n")]
        self._rest = self._again(chunk) + self._rest
        return {name.rstrip(":"): value for name, _, value in lines}

    async def end(self) -> None:
        """Return when the server has ended the answer properly (a last chunk); then hang up."""
        with contextlib.suppress(EOFError):
            while True:
                await self.block()
        await self.stream.aclose()

    @staticmethod
    def _again(chunk: bytes) -> bytes:
        """What came with the first block of a chunk, as a chunk again."""
        _, _, rest = chunk.partition(b"\n\n")
        return f"{len(rest):x}\r\n".encode() + rest + b"\r\n" if rest else b""

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            await self._more()
        found, _, self._rest = self._rest.partition(mark)
        return found

    async def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            await self._more()
        found, self._rest = self._rest[:count], self._rest[count:]
        return found

    async def _more(self) -> None:
        data = await self.stream.receive_some(65536)
        assert data, "the connection ended in the middle"
        self._rest += data


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path, *, token: str = "", limits: Limits | None = None, ready: bool = True
) -> AsyncIterator[Admin]:
    """The interface over a store on a file, served for as long as the context lasts."""
    hub, metrics = Hub(), Metrics()
    url = f"sqlite:///{tmp_path / 'pushd.db'}"
    async with open_store(url, node="n1", control=hub, limits=limits or Limits()) as store:
        node = Node.over(store, "n1", hub, metrics, Delivery(), uplink_rate=1_000)
        service = Service(node, PushDefaults(), lambda: len(hub))
        service.set_ready(None if ready else "starting")
        serving, stopped = trio.CancelScope(), trio.Event()

        async def serve_in_scope(task_status: trio.TaskStatus[tuple[str, int]]) -> None:
            with serving:
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                await serve(service, listeners, token=token, task_status=task_status)
            stopped.set()

        async with trio.open_nursery() as nursery:
            host, port = await nursery.start(serve_in_scope)
            async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=20) as http:
                yield Admin(service, node, http, host, port, nursery, serving, stopped)
            nursery.cancel_scope.cancel()


def metric(text: str, name: str) -> float:
    """The value of one sample of a metrics page, named with its labels."""
    [value] = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(value)
