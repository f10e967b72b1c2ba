"""The HAProxy configuration for several nodes in docs/pushd.md: a device stays with its node."""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from engineio_trio.client import connect
from tests.documents import sections
from tests.faults.processes import Deployment
from tests.patience import PATIENCE
from tests.redis import servers
from tests.redis.services import ROOT

DEVICES = [f"d{number}" for number in range(8)]


def configuration(port: int, nodes: Sequence[str]) -> str:
    """The block of the document, with our addresses and without TLS."""
    (section,) = [s for s in sections(ROOT / "docs" / "pushd.md") if s.title == "Behind a proxy"]
    (text,) = [b.text for b in section.blocks if b.language == "haproxy" and "backend nodes" in b.text]
    text = re.sub(r"bind .*", f"bind 127.0.0.1:{port}", text)
    for shown, node in zip(("10.0.0.1:8780", "10.0.0.2:8780"), nodes, strict=True):
        assert shown in text
        text = text.replace(shown, node)
    return text


@contextlib.asynccontextmanager
async def haproxy(folder: Path, nodes: Sequence[str]) -> AsyncIterator[str]:
    """HAProxy before two nodes; gives its URL."""
    program = shutil.which("haproxy")
    if program is None:
        pytest.skip("cannot run here: there is no haproxy on PATH")
    port = servers.free_port()
    (folder / "haproxy.cfg").write_text(configuration(port, nodes))
    with (folder / "haproxy.log").open("wb") as log:
        run = partial(
            trio.run_process,
            [program, "-db", "-f", folder / "haproxy.cfg"],
            check=False,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        async with trio.open_nursery() as nursery:
            process = await nursery.start(run)
            with trio.fail_after(PATIENCE):
                while not await _listens(port):
                    assert process.returncode is None, (folder / "haproxy.log").read_text()
                    await trio.sleep(servers.LOOK)
            yield f"http://127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


async def _listens(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


TRANSPORTS = [["polling"], ["polling", "websocket"], ["websocket"]]


@pytest.mark.parametrize("transports", TRANSPORTS, ids="-".join)
async def test_devices_reach_their_nodes(tmp_path: Path, transports: list[str]) -> None:
    """Every device says something through the balancer; both nodes have some of them."""
    with servers.server("valkey", tcp=True) as redis:
        async with (
            Deployment(tmp_path / "one", redis.url).running("--node", "one") as first,
            Deployment(tmp_path / "two", redis.url).running("--node", "two") as second,
            haproxy(tmp_path, [first.devices, second.devices]) as balanced,
        ):
            for device in DEVICES:
                async with connect(balanced, query={"deviceId": device}, transports=transports) as socket:
                    for number in range(3):
                        await socket.call("reading", number, timeout=PATIENCE)
            rows = redis.ask("XRANGE", "pushd:{0}:uplink", "-", "+")
            entries = [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in rows]
    assert [(entry["device"], json.loads(entry["data"])) for entry in entries] == [
        (device, number) for device in DEVICES for number in range(3)
    ]
    assert {entry["node"] for entry in entries} == {"one", "two"}
