"""A whole node in this process, over real sockets and a file, for the tests of the gateway and of real clients."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import trio

from pushd.auth import open_authenticator
from pushd.config import Config
from pushd.gateway import Gateway
from pushd.hub import Hub
from pushd.metrics import Metrics
from pushd.model import Stream
from pushd.node import Node
from pushd.store import open_store
from pushd.store.base import Store
from tests.patience import PATIENCE
from tests.pushd.raw_device import RawDevice, raw_device

SECRET = "0123456789abcdef0123456789abcdef"
HMAC = {"auth": {"kind": "hmac", "hmac": {"secret": SECRET}}}


@dataclasses.dataclass
class Running:
    """A node that serves."""

    gateway: Gateway
    store: Store
    devices: str  # host:port
    admin: str  # URL

    async def push(self, **fields: Any) -> dict[str, Any]:
        """Push by HTTP."""
        async with httpx.AsyncClient(base_url=self.admin, timeout=20) as http:
            response = await http.post("/v1/push", json={"data": 1} | fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def told(self, stream: Stream, *names: str) -> list[tuple[str, ...]]:
        """These fields of everything in a stream."""
        return [tuple(e.fields[n] for n in names) for e in await self.store.read_stream(stream, "", 1_000)]

    async def tells(self, stream: Stream, expected: tuple[str, ...], *names: str, within: float = PATIENCE) -> None:
        """Return when an entry of the stream has these values in these fields."""
        with trio.fail_after(within):
            position = ""
            while True:
                for entry in await self.store.read_stream(stream, position, 100, 10.0):
                    position = entry.id
                    if tuple(entry.fields[name] for name in names) == expected:
                        return

    def device(self, device: str | None = None, **options: Any) -> contextlib.AbstractAsyncContextManager[RawDevice]:
        """A raw device connected to this node."""
        return raw_device(self.devices, device, **options)


@contextlib.asynccontextmanager
async def running(folder: Path, **sections: Any) -> AsyncIterator[Running]:
    """A node on a file in `folder`, with these sections of the configuration."""
    config = Config.model_validate(sections)
    hub, metrics = Hub(), Metrics()
    async with (
        open_store(f"sqlite:///{folder}/p.db", node="n1", control=hub, limits=config.store_limits()) as store,
        open_authenticator(config) as authenticator,
        trio.open_nursery() as nursery,
    ):
        node = Node.over(store, "n1", hub, metrics, config.delivery, config.limits.uplink_rate)
        gateway = Gateway(config, node, authenticator)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        admin_listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        devices, admin = await nursery.start(gateway.run, listeners, admin_listeners)
        yield Running(gateway, store, f"{devices[0]}:{devices[1]}", f"http://{admin[0]}:{admin[1]}")
        nursery.cancel_scope.cancel()


def token(device: str, **claims: Any) -> str:
    return jwt.encode({"sub": device} | claims, SECRET, algorithm="HS256")
