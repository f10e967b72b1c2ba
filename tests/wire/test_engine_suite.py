"""The cases of the official Engine.IO 4 test suite, by their names, over real sockets against EngineServer.

As there, the server echoes every message and pings each 300 ms; it waits 2 s for the pong, for a busy machine.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from engineio_trio import EngineServer, Session, Settings
from tests.raw import Answer
from tests.wire.raw import Closed, Refused, WebSocket, open_websocket, request
from tests.wire.twin import serving

POLLING = "/engine.io/?EIO=4&transport=polling"
WEBSOCKET = "/engine.io/?EIO=4&transport=websocket"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def echo(session: Session) -> None:
        async for message in session:
            session.send(message)

    server = EngineServer(echo, Settings(ping_interval=0.3, ping_timeout=2.0, max_payload=1_000_000, cors_origins="*"))
    async with serving(server) as number:
        yield number


def opened(packet: Any) -> dict[str, Any]:
    """The fields of an OPEN packet."""
    assert packet[0] == "0"
    fields: dict[str, Any] = json.loads(packet[1:])
    return fields


async def open_polling(port: int) -> str:
    """A new polling session; gives the target of its polls."""
    response = await request(port, "GET", POLLING)
    return f"{POLLING}&sid={opened(response.text)['sid']}"


async def poll(port: int, target: str) -> str:
    """The body of the next poll that has more than a noop or a ping, which is answered."""
    while True:
        response = await request(port, "GET", target)
        assert response.status == 200, response
        if response.text == "2":
            await request(port, "POST", target, body="3")
        elif response.text != "6":
            return response.text


async def receive(websocket: WebSocket) -> str | bytes | Closed:
    """The next message that is not a ping; pings are answered."""
    while (message := await websocket.receive()) == "2":
        await websocket.send("3")
    return message


async def gone(port: int, target: str) -> None:
    """The session does not exist any more."""
    assert (await request(port, "GET", target)).status == 400


class TestHandshakeByPolling:
    async def test_opens_a_session(self, port: int) -> None:
        response = await request(port, "GET", POLLING)
        assert response.status == 200
        fields = opened(response.text)
        assert fields.keys() == {"sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"}
        assert isinstance(fields.pop("sid"), str)
        assert fields == {"upgrades": ["websocket"], "pingInterval": 300, "pingTimeout": 2_000, "maxPayload": 1_000_000}

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("transport=polling", 5),
            ("EIO=abc&transport=polling", 5),
            ("EIO=3&transport=polling", 5),
            ("EIO=4", 0),
            ("EIO=4&transport=abc", 0),
        ],
    )
    async def test_fails_with_an_invalid_parameter(self, port: int, query: str, code: int) -> None:
        response = await request(port, "GET", f"/engine.io/?{query}")
        assert (response.status, json.loads(response.text)["code"]) == (400, code)

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    async def test_fails_with_an_invalid_method(self, port: int, method: str) -> None:
        assert (await request(port, method, POLLING)).status == 400


class TestHandshakeByWebSocket:
    async def test_opens_a_session(self, port: int) -> None:
        async with open_websocket(port, WEBSOCKET) as websocket:
            fields = opened(await websocket.receive())
            assert isinstance(fields.pop("sid"), str)
            assert fields == {"upgrades": [], "pingInterval": 300, "pingTimeout": 2_000, "maxPayload": 1_000_000}

    @pytest.mark.parametrize(
        "query", ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc"]
    )
    async def test_fails_with_an_invalid_parameter(self, port: int, query: str) -> None:
        with pytest.raises(Refused, match="400"):
            async with open_websocket(port, f"/engine.io/?{query}"):
                pass


class TestMessageByPolling:
    @pytest.mark.parametrize("payload", ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA=="])
    async def test_sends_and_receives_a_payload(self, port: int, payload: str) -> None:
        target = await open_polling(port)
        posted = await request(port, "POST", target, body=payload)
        assert (posted.status, posted.text) == (200, "ok")
        back = ""
        while len(back) < len(payload):
            back += ("\x1e" if back else "") + await poll(port, target)
        assert back == payload

    async def test_closes_the_session_upon_an_invalid_packet(self, port: int) -> None:
        target = await open_polling(port)
        assert (await request(port, "POST", target, body="abc")).status == 400
        await gone(port, target)

    async def test_closes_the_session_upon_duplicate_polls(self, port: int) -> None:
        target = await open_polling(port)
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await request(port, "GET", target))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        assert sorted((answer.status, answer.text[:1]) for answer in answers) == [(200, "1"), (400, "{")]
        await gone(port, target)


class TestMessageByWebSocket:
    @pytest.mark.parametrize(("sent", "back"), [("4hello", "4hello"), (b"\x01\x02\x03", b"\x01\x02\x03")])
    async def test_sends_and_receives_a_packet(self, port: int, sent: str | bytes, back: str | bytes) -> None:
        async with open_websocket(port, WEBSOCKET) as websocket:
            opened(await websocket.receive())
            await websocket.send(sent)
            assert await receive(websocket) == back

    async def test_closes_the_session_upon_an_invalid_packet(self, port: int) -> None:
        async with open_websocket(port, WEBSOCKET) as websocket:
            opened(await websocket.receive())
            await websocket.send("abc")
            assert isinstance(await websocket.receive(), Closed)


class TestHeartbeat:
    async def test_pings_by_polling(self, port: int) -> None:
        target = await open_polling(port)
        for _ in range(3):
            assert (await request(port, "GET", target)).text == "2"
            assert (await request(port, "POST", target, body="3")).text == "ok"

    async def test_closes_a_polling_session_that_sends_no_pong(self, port: int) -> None:
        target = await open_polling(port)
        assert (await request(port, "GET", target)).text == "2"
        assert (await request(port, "GET", target)).text == "1"  # waits until the pong is overdue
        await gone(port, target)

    async def test_pings_by_websocket(self, port: int) -> None:
        async with open_websocket(port, WEBSOCKET) as websocket:
            opened(await websocket.receive())
            for _ in range(3):
                assert await websocket.receive() == "2"
                await websocket.send("3")

    async def test_closes_a_websocket_that_sends_no_pong(self, port: int) -> None:
        async with open_websocket(port, WEBSOCKET) as websocket:
            opened(await websocket.receive())
            assert await websocket.receive() == "2"
            assert isinstance(await websocket.receive(), Closed)


class TestClose:
    async def test_forcefully_closes_a_polling_session(self, port: int) -> None:
        target = await open_polling(port)

        async def pending() -> None:
            assert (await request(port, "GET", target)).text == "6"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pending)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await request(port, "POST", target, body="1")).text == "ok"
        await gone(port, target)

    async def test_forcefully_closes_a_websocket_session(self, port: int) -> None:
        async with open_websocket(port, WEBSOCKET) as websocket:
            opened(await websocket.receive())
            await websocket.send("1")
            assert isinstance(await websocket.receive(), Closed)


class TestUpgrade:
    async def upgrade(self, port: int, target: str, websocket: WebSocket) -> None:
        """Probe while a poll waits, then upgrade."""

        async def pending() -> None:
            assert (await request(port, "GET", target)).text in ("6", "2")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pending)
            await websocket.send("2probe")
            assert await websocket.receive() == "3probe"
        await websocket.send("5")

    def websocket_target(self, target: str) -> str:
        return target.replace("transport=polling", "transport=websocket")

    async def test_upgrades_from_polling_to_websocket(self, port: int) -> None:
        target = await open_polling(port)
        async with open_websocket(port, self.websocket_target(target)) as websocket:
            await self.upgrade(port, target, websocket)
            await websocket.send("4hello")
            assert await receive(websocket) == "4hello"

    async def test_ignores_http_requests_with_the_same_sid_after_the_upgrade(self, port: int) -> None:
        target = await open_polling(port)
        async with open_websocket(port, self.websocket_target(target)) as websocket:
            await self.upgrade(port, target, websocket)
            await websocket.send("4upgraded")
            assert await receive(websocket) == "4upgraded"
            await gone(port, target)
            await websocket.send("4hello")
            assert await receive(websocket) == "4hello"

    async def test_ignores_a_websocket_with_the_same_sid_after_the_upgrade(self, port: int) -> None:
        target = await open_polling(port)
        async with open_websocket(port, self.websocket_target(target)) as websocket:
            await self.upgrade(port, target, websocket)
            await websocket.send("4upgraded")
            assert await receive(websocket) == "4upgraded"
            with pytest.raises(Refused, match="400"):
                async with open_websocket(port, self.websocket_target(target)):
                    pass
            await websocket.send("4hello")
            assert await receive(websocket) == "4hello"
