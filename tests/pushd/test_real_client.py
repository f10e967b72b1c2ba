"""The whole job with a stock `socket.io-client`: what a device's program sees."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pushd.model import Stream
from tests.pushd.node_support import HMAC, Running, running, token
from tests.wire.javascript import JavaScriptClient, javascript_client

pytestmark = pytest.mark.javascript

TRANSPORTS: list[dict[str, Any]] = [{}, {"transports": ["websocket"]}, {"transports": ["polling"]}]
IDS = ["default", "websocket", "polling"]


@pytest.fixture
async def js() -> AsyncIterator[JavaScriptClient]:
    async with javascript_client() as client:
        yield client


def url(node: Running) -> str:
    return f"http://{node.devices}/"


@pytest.mark.parametrize("options", TRANSPORTS, ids=IDS)
async def test_the_main_job(tmp_path: Path, js: JavaScriptClient, options: dict[str, Any]) -> None:
    """Pushed while offline, replayed in order, pushed live, acknowledged; events go up, binary both ways."""
    async with running(tmp_path, **HMAC) as node:
        for number in range(3):
            await node.push(to="device:d1", data=number, id=f"p{number}")
        auth = {"deviceId": "d1", "token": token("d1")}
        device = await js.connect(url(node), auth=auth, answers={"push": []}, **options)
        for number in range(3):
            data, meta = await device.next("push")
            assert (data, meta["id"], meta["redelivered"]) == (number, f"p{number}", False)
        answer = await node.push(to="device:d1", data={"raw": {"$bytes": "AAH/"}}, wait=10)
        assert answer["counts"] == {"acked": 1}
        data, _ = await device.next("push")
        assert data == {"raw": b"\x00\x01\xff"}
        assert await device.call("reading", {"t": 21, "raw": b"\x00\xff"}) == []
        assert await node.told(Stream.UPLINK, "event", "data") == [("reading", '{"t":21,"raw":{"$bytes":"AP8="}}')]
        assert (await node.store.counts()).inbox == 0


@pytest.mark.parametrize("options", TRANSPORTS, ids=IDS)
async def test_refused_with_401(tmp_path: Path, js: JavaScriptClient, options: dict[str, Any]) -> None:
    async with running(tmp_path, **HMAC) as node:
        query = {"deviceId": "d1", "token": "nonsense"}
        device = await js.socket(url(node), query=query, reconnection=False, **options)
        assert (await device.wait("connect_error"))["status"] == 401
        device = await js.socket(url(node), auth=query, reconnection=False, **options)
        refusal = await device.wait("connect_error")
        assert refusal["data"] == {"code": 401}
        assert not refusal["active"]


@pytest.mark.parametrize("options", TRANSPORTS, ids=IDS)
async def test_kicked_and_does_not_come_back(tmp_path: Path, js: JavaScriptClient, options: dict[str, Any]) -> None:
    """The reconnect war that the project exists to prevent: the old one stays away."""
    async with running(tmp_path) as node:
        old = await js.connect(url(node), auth={"deviceId": "d1"}, **options)
        new = await js.connect(url(node), auth={"deviceId": "d1"}, **options)
        (why,) = await old.next("kicked")
        assert why["reason"] == "takeover"
        end = await old.wait("disconnect")
        assert (end["reason"], end["active"]) == ("io server disconnect", False)
        assert await new.call("alive") == []
        assert old.seen("reconnect_attempt") == []
        assert await node.told(Stream.STATUS, "event") == [("online",), ("takeover",)]


@pytest.mark.parametrize("options", TRANSPORTS, ids=IDS)
async def test_a_client_comes_back_after_the_node_has_gone(
    tmp_path: Path, js: JavaScriptClient, options: dict[str, Any]
) -> None:
    """F24: a drained node closes the transport, which a stock client takes as a reason to reconnect."""
    async with running(tmp_path) as node:
        device = await js.connect(url(node), auth={"deviceId": "d1"}, reconnectionDelay=50, **options)
        await node.gateway.drain(5.0)
        end = await device.wait("disconnect")
        assert end["active"], "it tries again by itself"
        await device.wait("reconnect_attempt")
