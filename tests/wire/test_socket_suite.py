"""The cases of the official Socket.IO 5 test suite, by their names, over real WebSockets.

They run against our twin of the reference server and against node itself, so that a wrong expectation is noticed.
"""

import json
from collections.abc import AsyncIterator

import pytest
import trio

from tests.wire.javascript import need_node, reference_server
from tests.wire.raw import Closed, WebSocket, open_websocket
from tests.wire.twin import twin_server

TARGET = "/socket.io/?EIO=4&transport=websocket"


@pytest.fixture(params=["ours", pytest.param("node", marks=pytest.mark.javascript)])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """A server with the handlers of reference.mjs, which closes connections that join nothing within 2 s."""
    if request.param == "ours":
        async with twin_server(connect_timeout=2.0) as number:
            yield number
    else:
        need_node()
        async with reference_server(connectTimeout=2_000) as server:
            yield server["port"]


@pytest.fixture
async def websocket(port: int) -> AsyncIterator[WebSocket]:
    """A WebSocket whose Engine.IO session is open; no namespace is joined."""
    async with open_websocket(port, TARGET) as connected:
        assert str(await connected.receive()).startswith("0{")
        yield connected


async def join(websocket: WebSocket, packet: str = "40", auth: str = "{}") -> str:
    """Send a CONNECT and check the two answers; gives the socket's id."""
    await websocket.send(packet)
    namespace = packet[2:].partition(",")[0] + "," if packet[2:3] == "/" else ""
    answer = str(await websocket.receive())
    assert answer.startswith(f"40{namespace}{{")
    fields = json.loads(answer.removeprefix(f"40{namespace}"))
    assert fields.keys() == {"sid"}
    event = str(await websocket.receive())
    assert event.startswith(f"42{namespace}[")
    assert json.loads(event.removeprefix(f"42{namespace}")) == ["auth", json.loads(auth)]
    return str(fields["sid"])


async def json_of(websocket: WebSocket, prefix: str) -> object:
    """The JSON of the next message, which begins with `prefix`."""
    message = await websocket.receive()
    assert isinstance(message, str)
    assert message.startswith(prefix), message
    return json.loads(message.removeprefix(prefix))


class TestConnect:
    @pytest.mark.parametrize(
        ("packet", "auth"),
        [
            ("40", "{}"),
            ('40{"token":"123"}', '{"token":"123"}'),
            ("40/custom,", "{}"),
            ('40/custom,{"token":"abc"}', '{"token":"abc"}'),
        ],
    )
    async def test_should_allow_connection(self, websocket: WebSocket, packet: str, auth: str) -> None:
        await join(websocket, packet, auth)

    async def test_should_disallow_connection_to_an_unknown_namespace(self, websocket: WebSocket) -> None:
        await websocket.send("40/random")
        assert await json_of(websocket, "44/random,") == {"message": "Invalid namespace"}

    @pytest.mark.parametrize("packet", ["4", "4abc", "40abc"])
    async def test_should_disallow_connection_with_an_invalid_handshake(
        self, websocket: WebSocket, packet: str
    ) -> None:
        await websocket.send(packet)
        assert isinstance(await websocket.receive(), Closed)

    async def test_should_close_the_connection_if_no_handshake_is_received(self, websocket: WebSocket) -> None:
        assert isinstance(await websocket.receive(), Closed)


class TestDisconnect:
    async def test_should_disconnect_from_the_main_namespace(self, websocket: WebSocket) -> None:
        await join(websocket)
        await websocket.send("41")
        with pytest.raises(trio.TooSlowError):  # the connection stays, and nothing is said
            await websocket.receive(within=0.1)

    async def test_should_connect_then_disconnect_from_a_custom_namespace(self, websocket: WebSocket) -> None:
        await join(websocket)
        await join(websocket, "40/custom,")
        await websocket.send("41/custom,")
        await websocket.send('42["message","message to main namespace"]')
        assert await json_of(websocket, "42") == ["message-back", "message to main namespace"]


class TestMessage:
    async def test_should_send_a_plain_text_packet(self, websocket: WebSocket) -> None:
        await join(websocket)
        await websocket.send('42["message",1,"2",{"3":[true]}]')
        assert await json_of(websocket, "42") == ["message-back", 1, "2", {"3": [True]}]

    async def test_should_send_a_packet_with_binary_attachments(self, websocket: WebSocket) -> None:
        await join(websocket)
        text = '["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        await websocket.send(f"452-{text}")
        await websocket.send(b"\x01\x02\x03")
        await websocket.send(b"\x04\x05\x06")
        assert await json_of(websocket, "452-") == json.loads(text.replace("message", "message-back"))
        assert await websocket.receive() == b"\x01\x02\x03"
        assert await websocket.receive() == b"\x04\x05\x06"

    async def test_should_send_a_plain_text_packet_with_an_ack(self, websocket: WebSocket) -> None:
        await join(websocket)
        await websocket.send('42456["message-with-ack",1,"2",{"3":[false]}]')
        assert await json_of(websocket, "43456") == [1, "2", {"3": [False]}]

    async def test_should_send_a_packet_with_binary_attachments_and_an_ack(self, websocket: WebSocket) -> None:
        await join(websocket)
        placeholders = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
        await websocket.send(f'452-789["message-with-ack",{placeholders}]')
        await websocket.send(b"\x01\x02\x03")
        await websocket.send(b"\x04\x05\x06")
        assert await json_of(websocket, "462-789") == json.loads(f"[{placeholders}]")
        assert await websocket.receive() == b"\x01\x02\x03"
        assert await websocket.receive() == b"\x04\x05\x06"

    @pytest.mark.parametrize(
        "packet",
        [
            pytest.param("4abc", id="unknown packet type"),
            pytest.param("42{}", id="invalid payload format"),
            pytest.param('42abc["message-with-ack",1,"2",{"3":[false]}]', id="invalid ack id"),
        ],
    )
    async def test_should_close_the_connection_upon_invalid_format(self, websocket: WebSocket, packet: str) -> None:
        await join(websocket)
        await websocket.send(packet)
        assert isinstance(await websocket.receive(), Closed)
