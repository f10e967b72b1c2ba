"""The daemon as a process, with the stock client: how it ends, and how its clients find it again."""

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import Deployment
from tests.wire.javascript import JavaScriptClient

pytestmark = pytest.mark.javascript

WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "websocket": {"transports": ["websocket"]},
    "polling": {"transports": ["polling"]},
}
BACK_SOON = {"reconnectionDelay": 100, "reconnectionDelayMax": 200, "answers": {"push": []}}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
async def test_a_clean_end_logs_all_out_and_they_come_back(
    js: JavaScriptClient, tmp_path: Path, number: signal.Signals
) -> None:
    """I8, F24: exit 0, one `offline` each; clients see a closed transport, not 41, so they return, and miss nothing."""
    deployment = Deployment(tmp_path)
    async with deployment.running() as daemon:
        devices = {
            name: await js.connect(daemon.url, query={"deviceId": name}, **BACK_SOON, **options)
            for name, options in WAYS.items()
        }
        daemon.signal(number)
        for name, device in devices.items():
            end = await device.wait("disconnect")
            assert end["reason"] in ("transport close", "transport error"), name
            assert end["active"], "it comes back by itself"
        assert await daemon.ended() == 0
    async with deployment.running() as daemon:
        for name, device in devices.items():
            await device.connected()
            assert await daemon.status(name) == [
                ("online", "login"),
                ("offline", "server shutting down"),
                ("online", "login"),
            ]
            await daemon.push(f"device:{name}", "welcome back")
            assert (await device.next("push"))[0] == "welcome back"


async def test_clients_come_back_after_a_kill_and_nothing_is_lost(js: JavaScriptClient, tmp_path: Path) -> None:
    """I1, I2, F8: what was sent and not acknowledged comes again, marked; what came while they were away, in order."""
    deployment = Deployment(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(deployment.running())
        devices = {
            name: await js.connect(daemon.url, query={"deviceId": name}, **{**BACK_SOON, "answers": {}}, **options)
            for name, options in WAYS.items()
        }
        for number in range(3):
            await daemon.push("all", number)
        for device in devices.values():
            assert [(await device.next("push"))[0] for _ in range(3)] == [0, 1, 2]
            assert await device.call("reading", "before") == []
        await daemon.kill()
        for device in devices.values():
            await device.answer("push")
        await stack.aclose()
        daemon = await stack.enter_async_context(deployment.running())
        await daemon.push("all", 3)
        for name, device in devices.items():
            pushes = [await device.next("push") for _ in range(4)]
            assert [data for data, _ in pushes] == [0, 1, 2, 3], name
            # The last one may be marked, too: it may have come while the device was still reading what waited.
            assert all(meta["redelivered"] for _, meta in pushes[:3]), name
            assert await device.call("reading", "after") == []
            await daemon.told("receipt", device=name, seq="4", state="acked")
            status = await daemon.status(name)
            assert status == [("online", "login"), ("offline", "node lost"), ("online", "login")]
            said = [entry["data"] for entry in await daemon.stream("uplink") if entry["device"] == name]
            assert said == ['"before"', '"after"']
