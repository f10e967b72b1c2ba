"""The tools of this folder do what they say: the driver of the real client, against node's own server."""

import pytest
import trio

from tests.patience import PATIENCE
from tests.wire.javascript import JavaScriptClient, find_node, pack, unpack

pytestmark = pytest.mark.javascript


async def test_connects_upgrades_emits_and_acknowledges(js: JavaScriptClient, node_url: str) -> None:
    socket = await js.connect(node_url, answers={"question": ["yes", 2]}, auth={"token": "t"})
    assert await socket.next("auth") == [{"token": "t"}]
    assert (await socket.wait("upgrade"))["transport"] == "websocket"
    assert await socket.call("add", 1, 2) == [3]
    await socket.emit("ask", "?")
    assert await socket.next("question") == ["?"]
    assert await socket.next("answered") == ["yes", 2]


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_carries_binary_both_ways(js: JavaScriptClient, node_url: str, transport: str) -> None:
    socket = await js.connect(node_url, transports=[transport])
    await socket.emit("binary", b"\x00\xff", {"nested": [b""]}, "text")
    assert await socket.next("binary") == [b"\x00\xff", {"nested": [b""]}, "text"]


async def test_reports_a_refusal_and_a_disconnect(js: JavaScriptClient, node_url: str) -> None:
    refused = await js.socket(f"{node_url}/refuse")
    report = await refused.wait("connect_error")
    assert (report["message"], report["data"], report["active"]) == ("not here", {"code": 401}, False)
    socket = await js.connect(f"{node_url}/custom")
    await socket.emit("bye")
    assert (await socket.wait("disconnect"))["reason"] == "io server disconnect"


async def test_reports_reconnecting(js: JavaScriptClient, node_url: str) -> None:
    socket = await js.connect(node_url, transports=["websocket"], reconnectionDelay=10)
    first = socket.id
    await socket.drop()
    assert (await socket.wait("reconnect"))["attempt"] == 1
    await socket.connected()
    assert socket.id != first


async def test_a_wait_in_vain_tells_all_that_was_said(js: JavaScriptClient, node_url: str) -> None:
    socket = await js.connect(node_url)
    with pytest.raises(AssertionError, match=r"(?s)no event .*nonsense.*all that was said.*\"op\": \"connect\""):
        await socket.next("nonsense", within=0.1)


async def test_a_command_that_fails_fails_the_test(js: JavaScriptClient, node_url: str) -> None:
    await js.command(op="emit", socket="nobody", event="x")
    socket = await js.socket(node_url)
    with pytest.raises(AssertionError, match=r"client\.mjs failed"):
        await socket.wait("never")


def test_bytes_travel_as_base64() -> None:
    value = {"a": [b"\x00", {"b": b"xy"}], "c": 1}
    assert unpack(pack(value)) == value


async def test_node_ends_with_the_block() -> None:
    from tests.wire.javascript import node_process

    async with node_process("client.mjs") as process:
        assert process.returncode is None
    with trio.fail_after(PATIENCE):
        await process.wait()
    assert find_node() is not None
