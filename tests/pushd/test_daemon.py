"""The daemon as a process: how it starts, what it says, how it ends, and what a kill leaves (F8, F21, F22, F24, I8)."""

import json
import os
import signal
import ssl
import sys
from pathlib import Path

import pytest
import trio
import trustme

from engineio_trio.client import connect
from tests.faults.processes import Daemon, Deployment, until
from tests.pushd.raw_device import raw_device


async def events(daemon: Daemon, device: str = "d1") -> list[str]:
    """How the device came and went."""
    return [event for event, _ in await daemon.status(device)]


async def test_the_first_line_says_where_it_listens(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    async with deployment.running() as daemon:
        first = deployment.log.read_text().splitlines()[0]
        assert f"devices on {daemon.url}/socket.io/  admin on http://{daemon.admin}/" in first


async def test_sigterm_logs_everybody_out_and_exits_0(tmp_path: Path) -> None:
    """I8, F24."""
    deployment = Deployment(tmp_path)
    async with deployment.running() as daemon, raw_device(daemon.devices, "d1") as device:
        daemon.signal(signal.SIGTERM)
        assert await device.close_code() == 1012
        assert await daemon.ended() == 0
    async with deployment.running() as again:
        assert await again.status("d1") == [("online", "login"), ("offline", "server shutting down")]
    assert "Traceback" not in deployment.log.read_text()


class InATerminal(Deployment):
    """Its process is the terminal: whoever ends that closes it. What the daemon says still goes to the log."""

    program = (
        sys.executable,
        "-c",
        "import pty, sys; pty.spawn(['/bin/sh', '-c', 'exec \"$0\" \"$@\" 2>>log', *sys.argv[1:]])",
        *Deployment.program,
    )


async def test_a_terminal_that_closes_ends_it_as_well(tmp_path: Path) -> None:
    """I8: its SIGHUP says so, unless whoever started it (nohup) has asked for that to be ignored."""
    deployment = InATerminal(tmp_path)
    async with deployment.running() as daemon, raw_device(daemon.devices, "d1"):
        await daemon.kill()
        await until(lambda: said(deployment, "pushd: stopped"))
    async with Deployment(tmp_path).running() as again:
        assert await again.status("d1") == [("online", "login"), ("offline", "server shutting down")]


async def said(deployment: Deployment, text: str) -> bool:
    return text in deployment.log.read_text()


async def test_sighup_reads_the_certificate_again(tmp_path: Path) -> None:
    """F23: for new connections; a broken one is not taken, and old connections stay."""
    authority = trustme.CA()
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def issue() -> bytes:
        issued = authority.issue_cert("localhost")
        key.write_bytes(issued.private_key_pem.bytes())
        pem.write_bytes(issued.cert_chain_pems[0].bytes())
        return ssl.PEM_cert_to_DER_cert(pem.read_text())

    context = ssl.create_default_context()
    authority.configure_trust(context)
    first = issue()
    deployment = Deployment(tmp_path, devices__tls={"certificate": str(pem), "key": str(key)})
    async with deployment.running() as daemon:
        port = daemon.devices.rpartition(":")[2]

        async def shown() -> bytes:
            stream = await trio.open_ssl_over_tcp_stream("localhost", int(port), ssl_context=context)
            async with stream:
                await stream.do_handshake()
                return bytes(stream.getpeercert(binary_form=True))

        assert await shown() == first
        async with connect(f"https://localhost:{port}", query={"deviceId": "d1"}, ssl_context=context) as device:
            second = issue()
            daemon.signal(signal.SIGHUP)
            await until(lambda: said(deployment, f"{pem} was read again"))
            assert await shown() == second != first
            issue()
            pem.write_text("no certificate")
            daemon.signal(signal.SIGHUP)
            await until(lambda: said(deployment, "new connections go on with what was read before"))
            assert await shown() == second
            await device.call("hello")
        await daemon.stop()


async def test_after_a_kill_nothing_accepted_is_lost_and_nobody_stays_online(tmp_path: Path) -> None:
    """I1, I4, F8, F18: exactly one `offline`, and what was not acknowledged comes again, marked."""
    deployment = Deployment(tmp_path)
    async with deployment.running() as daemon, raw_device(daemon.devices, "d1") as device:
        for id in ("a", "b", "c"):
            await daemon.push("device:d1", 1, id=id)
        ack, *_ = await device.push()
        await device.ack(ack)
        assert (await daemon.push("device:other", 1, id="x", wait=0))["counts"] == {"stored": 1}
        await device.push()
        await daemon.told("receipt", id="a", state="acked")
        await daemon.kill()
    async with deployment.running() as again:
        assert await events(again) == ["online", "offline"]
        assert not (await again.get("/v1/devices/d1"))["online"]
        async with raw_device(again.devices, "d1") as device:
            metas = [(await device.push())[2] for _ in range(2)]
            assert [(meta["id"], meta["redelivered"]) for meta in metas] == [("b", True), ("c", True)]


async def test_a_failpoint_kills_between_two_side_effects(tmp_path: Path) -> None:
    """F18: stored, but the device was not told; it will send again, so a service may see it twice, never not at all."""
    deployment = Deployment(tmp_path)
    async with (
        deployment.running(PUSHD_FAILPOINT="uplink.stored:exit") as daemon,
        raw_device(daemon.devices, "d1") as device,
    ):
        await device.emit("reading", 1)
        assert await daemon.ended() == 137
    async with deployment.running() as again:
        assert [entry["event"] for entry in await again.stream("uplink")] == ["reading"]


async def test_a_second_signal_does_not_spoil_the_end(tmp_path: Path) -> None:
    async with Deployment(tmp_path).running() as daemon:
        daemon.signal(signal.SIGINT)
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended() == 0


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    """F22: for either listener; exit 1, no traceback."""
    other = Deployment(tmp_path / "other")
    async with Deployment(tmp_path).running() as daemon:
        for flag, taken, section in (
            ("--listen", daemon.devices, "devices"),
            ("--admin", daemon.admin, "admin"),
        ):
            ran = await other.refused(flag, taken)
            assert ran.code == 1
            (line,) = ran.err.splitlines()
            assert f"{section}.listen" in line
            assert taken in line
            assert "in use" in line


async def test_a_store_that_belongs_to_another_daemon_is_one_clear_line(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    async with deployment.running():
        ran = await deployment.refused("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        assert ran.code == 1
        assert len(ran.err.splitlines()) == 1, ran.err
        assert "pushd.db" in ran.err


async def test_the_ready_file_says_where_it_is_and_who(tmp_path: Path) -> None:
    async with Deployment(tmp_path).running() as daemon:
        told = json.loads((tmp_path / "ready").read_text())
        assert (told["devices"], told["admin"]) == (daemon.devices, daemon.admin)
        os.kill(told["pid"], signal.SIGTERM)
        assert await daemon.ended() == 0


@pytest.mark.parametrize("file", ["nowhere/ready", "."])
async def test_a_ready_file_that_cannot_be_written_is_one_clear_line(tmp_path: Path, file: str) -> None:
    ran = await Deployment(tmp_path).refused("--ready-file", file)
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("pushdctl: --ready-file: ")
    assert "Traceback" not in ran.err
