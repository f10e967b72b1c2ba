"""The counted daemon: a whole node over Redis, with nothing of its own to do meanwhile.

`python -m tests.bench.counting.daemon MARKS URL` prints one JSON line, `{"devices", "marks"}`: where devices connect,
and where a client says what to count: `begin` and `end NAME`, a line each, answered by a line; it ends with that
connection.
"""

import gc
import json
import sys

import trio
import trio.testing

from pushd import sweeper
from pushd.admin import metrics as metrics_page
from pushd.auth import open_authenticator
from pushd.config import Config
from pushd.daemon import COLLECTION
from pushd.gateway import Gateway
from pushd.hub import Hub
from pushd.metrics import Metrics
from pushd.node import Node
from pushd.store import open_store
from tests.bench.counting.program import QUIET, Marks

SETTINGS = {
    "heartbeat": {"interval": QUIET, "stale_after": 10 * QUIET},
    "node": {"lease": 10 * QUIET, "refresh": QUIET},
    "protocol": {"ping_interval": QUIET, "ping_timeout": QUIET},
}


SILENCE = 0.1  # seconds without a turn of any task: then what was begun is done

metrics_page.LAG_INTERVAL = QUIET  # type: ignore[misc]
sweeper.INTERVAL = QUIET  # type: ignore[misc]


async def listen(marks: Marks, stream: trio.SocketStream) -> None:
    """Do what the client says, until it leaves."""
    async for data in stream:
        for line in bytes(data).decode().splitlines():
            word, _, name = line.partition(" ")
            await trio.testing.wait_all_tasks_blocked(SILENCE)
            marks.begin() if word == "begin" else marks.end(name)
            await stream.send_all(b"done\n")


async def main(marks: Marks, url: str) -> None:
    """Serve, until the client that marks has left."""
    gc.set_threshold(*COLLECTION)
    config = Config.model_validate({**SETTINGS, "store": {"url": url}})
    hub, metrics = Hub(), Metrics()
    limits, deployment = config.store_limits(), config.deployment()
    async with (
        open_store(url, node="counted", control=hub, limits=limits, deployment=deployment) as store,
        open_authenticator(config) as authenticator,
        trio.open_nursery() as nursery,
    ):
        node = Node.over(store, "counted", hub, metrics, config.delivery, config.limits.uplink_rate)
        gateway = Gateway(config, node, authenticator)
        devices, admin, (listener,) = [await trio.open_tcp_listeners(0, host="127.0.0.1") for _ in range(3)]
        (address, port), _ = await nursery.start(gateway.run, devices, admin)
        told = {"devices": f"{address}:{port}", "marks": listener.socket.getsockname()[1]}
        print(json.dumps(told), flush=True)
        async with await listener.accept() as stream:
            await listen(marks, stream)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Marks(sys.argv[1]), sys.argv[2])
