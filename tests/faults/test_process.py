"""The daemon as a process: what it needs to start, what it says when it cannot, and what it never says."""

import contextlib
import os
import resource
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from engineio_trio import ConnectRefused, HandshakeRefused
from engineio_trio.client import connect
from tests.faults.processes import Deployment, pushdctl, until
from tests.pushd.node_support import SECRET, token

ADMIN_TOKEN = "a-token-for-operators-only"


@contextlib.asynccontextmanager
async def taken() -> AsyncIterator[str]:
    """An address that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


class Unconfigured(Deployment):
    """One that is told nothing but not to use the usual ports, which may be in use on this machine."""

    def flags(self) -> list[str]:
        return ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--ready-file", "ready"]


async def test_without_a_configuration_it_works(tmp_path: Path) -> None:
    """Its state goes to ./pushd.db, and any program on this machine is believed."""
    async with Unconfigured(tmp_path).running() as daemon, connect(daemon.url, query={"deviceId": "d1"}) as device:
        assert await device.call("hello") is None
        assert [entry["event"] for entry in await daemon.stream("uplink")] == ["hello"]
    assert "pushd.db" in os.listdir(tmp_path)


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
async def test_a_port_in_use_is_one_line_and_nothing_is_written(tmp_path: Path, flag: str) -> None:
    """F22: exit 1."""
    deployment = Deployment(tmp_path)
    async with taken() as address:
        ran = await deployment.refused(flag, address)
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert address in line
    assert "in use" in line
    assert ran.out == ""
    assert sorted(os.listdir(tmp_path)) == ["pushd.toml"]


async def test_a_wrong_configuration_is_exit_2_before_any_port_is_bound(tmp_path: Path) -> None:
    """F21: all mistakes at once with their paths. The port is in use, and that is not what it stumbles over."""
    deployment = Deployment(tmp_path, takeover={"max": 0}, delivery={"windows": 3}, auth={"kind": "hmac"})
    async with taken() as address:
        ran = await deployment.refused("--listen", address)
    assert ran.code == 2
    first, *rest = ran.err.splitlines()
    assert first == "pushdctl: the configuration has 3 mistakes:"
    assert {line.split(":")[0].strip() for line in rest} == {"takeover.max", "delivery.windows", "auth.hmac.secret"}
    assert sorted(os.listdir(tmp_path)) == ["pushd.toml"]


async def test_a_second_signal_is_obeyed_at_once(tmp_path: Path) -> None:
    """F24: the store is away, so the first one would wait for its logouts; the next start does them, once."""
    deployment = Deployment(tmp_path, node={"drain": 300.0})
    async with deployment.running() as daemon, connect(daemon.url, query={"deviceId": "d1"}) as device:
        with contextlib.closing(sqlite3.connect(deployment.store, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            daemon.signal(signal.SIGTERM)
            await device.wait_closed()
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended() == 0
            assert "SIGTERM again" in deployment.log.read_text()
    async with deployment.running() as daemon:
        assert await daemon.status("d1") == [("online", "login"), ("offline", "node lost")]


async def test_the_log_never_contains_a_secret(tmp_path: Path) -> None:
    """H18: whatever way a token comes, accepted or refused, at the device listener or at the admin interface."""
    deployment = Deployment(tmp_path, auth={"kind": "hmac"}, auth__hmac={"secret": SECRET}, takeover={"max": 1})
    good, bad = token("d1"), token("d1", exp=1)
    async with deployment.running(PUSHD_ADMIN__TOKEN=ADMIN_TOKEN) as daemon:
        ways = [
            {"query": {"deviceId": "d1", "token": good}},
            {"query": {"deviceId": "d1", "token": bad}},
            {"headers": {"authorization": f"Bearer {bad}"}},
            {"auth": {"deviceId": "d1", "token": bad}},
            {"auth": {"deviceId": "d1", "token": good}, "query": {"deviceId": "d2", "token": good}},
        ]
        async with connect(daemon.url, headers={"authorization": f"Bearer {good}"}) as first:
            for way in ways:
                for transport in ("polling", "websocket"):
                    with contextlib.suppress(HandshakeRefused, ConnectRefused):
                        async with connect(daemon.url, transports=[transport], **way) as device:  # type: ignore[arg-type]
                            await device.call("hello", good)
            assert first.closed is not None
        for header in (f"Bearer {ADMIN_TOKEN}", f"Bearer {ADMIN_TOKEN}x"):
            for path in ("/v1/stats", f"/v1/stats?token={ADMIN_TOKEN}", "/v1/nothing"):
                await daemon.ask("GET", path, headers={"authorization": header})
        told = await pushdctl(
            *("devices", "--admin", f"http://{daemon.admin}", "--admin-token", ADMIN_TOKEN), folder=tmp_path
        )
        assert told.code == 0
        await daemon.stop()
    log = deployment.log.read_text()
    assert "d1" in log
    for secret in (good, bad, ADMIN_TOKEN, SECRET):
        assert secret not in log
        assert secret.rpartition(".")[2] not in log, "the signature alone is enough to guess the rest"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="cannot run here: no prlimit on this system")
async def test_h22_without_files_for_more_connections_it_waits_for_some(tmp_path: Path) -> None:
    """And says so, without filling the log (see `say_seldom`)."""
    deployment = Deployment(tmp_path)
    async with deployment.running() as daemon:
        host, port = daemon.devices.rsplit(":", 1)
        files = len(os.listdir(f"/proc/{daemon.pid}/fd")) + 10
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (files, files))

        async def said() -> bool:
            return "Too many open files" in deployment.log.read_text()

        async with contextlib.AsyncExitStack() as crowd:
            for _ in range(30):
                await crowd.enter_async_context(await trio.open_tcp_stream(host, int(port)))
            await until(said)
        async with connect(daemon.url, query={"deviceId": "d1"}) as device:
            assert await device.call("hello") is None
    assert "Traceback" not in deployment.log.read_text()
