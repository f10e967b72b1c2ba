"""Clients of Socket.IO 2 (Engine.IO revision 3), with `allow_eio3`: their payloads, heartbeat, and implicit connect."""

import json
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, ConnectRefused, Settings, Socket, SocketServer
from tests.raw import (
    UPGRADE,
    Answer,
    Ended,
    Later,
    MemoryListener,
    Wire,
    at_rest,
    frame,
    polling,
    serving,
    websocket_target,
)

pytestmark = pytest.mark.usefixtures("each_kind_of_stream")

EIO3 = Settings(allow_eio3=True, ping_interval=25, ping_timeout=20)


def echoing(settings: Settings = EIO3) -> SocketServer:
    server = SocketServer(settings)
    for name in ("/", "/b"):
        server.of(name).on("echo")(lambda socket, *values: socket.emit("echo", *values))
    return server


class OldPoller:
    """A polling session of revision 3, by hand; `query` is added to every target."""

    def __init__(self, listener: MemoryListener, query: str = "") -> None:
        self.listener = listener
        self.query = query
        self.sid: str | None = None
        self.opening: dict[str, Any] = {}
        self.first: list[str] = []

    @classmethod
    async def session(cls, listener: MemoryListener, query: str = "") -> "OldPoller":
        poller = cls(listener, query)
        packets = texts((await poller.get()).body)
        assert packets[0][0] == "0"
        poller.opening = json.loads(packets[0][1:])
        poller.sid = poller.opening["sid"]
        poller.first = packets[1:]
        return poller

    async def get(self) -> Answer:
        raw = self.listener.connect()
        answer = await raw.request("GET", polling(self.sid, eio=3) + self.query)
        await raw.aclose()
        return answer

    async def next_texts(self) -> list[str]:
        if self.first:
            first, self.first = self.first, []
            return first
        return texts((await self.get()).body)

    async def post(self, body: bytes | str, *, binary: bool = False) -> Answer:
        raw = self.listener.connect()
        headers = {"Content-Type": "application/octet-stream" if binary else "text/plain;charset=UTF-8"}
        data = body if isinstance(body, bytes) else body.encode()
        answer = await raw.request("POST", polling(self.sid, eio=3) + self.query, headers, data)
        await raw.aclose()
        return answer


def texts(body: bytes) -> list[str]:
    """The packets of a text body: `<length in UTF-16 units>:<packet>...`."""
    packets, rest = [], body.decode()
    while rest:
        length, _, rest = rest.partition(":")
        units = rest.encode("utf-16-le")
        packets.append(units[: 2 * int(length)].decode("utf-16-le"))
        rest = units[2 * int(length) :].decode("utf-16-le")
    return packets


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize("eio", ["&EIO=3", ""])
async def test_refused_by_default_with_code_5(transport: str, eio: str) -> None:
    server = SocketServer()
    async with serving(server) as listener:
        headers = UPGRADE if transport == "websocket" else {}
        answer = await listener.connect().request("GET", f"/socket.io/?transport={transport}{eio}", headers)
        assert answer.refusal == (400, 5)
        assert server.connections == 0


async def test_a_missing_revision_is_3() -> None:
    async with serving(echoing()) as listener:
        answer = await listener.connect().request("GET", "/socket.io/?transport=polling")
        assert texts(answer.body)[0].startswith("0{")


async def test_polling_opens_and_is_in_the_main_namespace_at_once() -> None:
    server = echoing()
    async with serving(server) as listener:
        poller = await OldPoller.session(listener)
        assert poller.opening["pingInterval"] == 25_000
        assert await poller.next_texts() == ["40"]
        assert len(server.of("/").sockets) == 1


async def test_text_is_counted_in_utf_16_units_both_ways() -> None:
    async with serving(echoing()) as listener:
        poller = await OldPoller.session(listener)
        assert await poller.next_texts() == ["40"]
        for word in ("a", "€", "😀", "𝕊😀é"):
            packet = f'42["echo","{word}"]'
            units = len(packet.encode("utf-16-le")) // 2
            assert (await poller.post(f"{units}:{packet}")).body == b"ok"
            answer = await poller.get()
            assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
            assert answer.body.decode() == f"{units}:{packet}"


@pytest.mark.parametrize("body", ["", "5", "5:", "9:40", "x:40", "-1:4", "0:", "2:4", "1:😀", ":40", "2:40junk"])
async def test_malformed_text_bodies(body: str, autojump_clock: MockClock) -> None:
    server = echoing()
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await OldPoller.session(listener)
        assert (await poller.post(body)).status == 400
        assert await ended.reason() is CloseReason.PARSE_ERROR


def binary_part(mark: int, data: bytes) -> bytes:
    return bytes([mark, *map(int, str(len(data))), 255]) + data


PLACEHOLDER = '451-["echo",{"_placeholder":true,"num":0}]'


async def test_binary_bodies_both_ways() -> None:
    async with serving(echoing()) as listener:
        poller = await OldPoller.session(listener)
        assert await poller.next_texts() == ["40"]
        body = binary_part(0, PLACEHOLDER.encode()) + binary_part(1, b"\x04\x00\x01\xff")
        assert (await poller.post(body, binary=True)).body == b"ok"
        answer = await poller.get()
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.body == body


@pytest.mark.parametrize(
    "body", [b"", b"\x00", b"\x00\xff", b"\x02\x01\xff4", b"\x00\x0a\xff4", b"\x01\x01\xff\x03", b"40"]
)
async def test_malformed_binary_bodies(body: bytes, autojump_clock: MockClock) -> None:
    server = echoing()
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await OldPoller.session(listener)
        assert (await poller.post(body, binary=True)).status == 400
        assert await ended.reason() is CloseReason.PARSE_ERROR


@pytest.mark.parametrize("b64", ["&b64=1", "&b64=0", "&b64=true"])
async def test_clients_that_cannot_take_binary_get_base64(b64: str) -> None:
    async with serving(echoing()) as listener:
        poller = await OldPoller.session(listener, b64)
        assert await poller.next_texts() == ["40"]
        packets = [PLACEHOLDER, "b4AAH/"]
        body = "".join(f"{len(packet)}:{packet}" for packet in packets)
        assert (await poller.post(body)).body == b"ok"
        answer = await poller.get()
        assert answer.headers["content-type"] == "text/plain; charset=UTF-8"
        assert texts(answer.body) == packets


async def joined(listener: MemoryListener) -> Wire:
    wire = await Wire.session(listener.connect(), websocket_target(eio=3))
    assert await wire.text() == "40"
    return wire


async def test_websocket_binary_frames_bear_the_type() -> None:
    async with serving(echoing()) as listener:
        wire = await joined(listener)
        await wire.say(PLACEHOLDER)
        await wire.raw.send(frame(2, b"\x04\x00\x01"))
        assert await wire.text() == PLACEHOLDER
        assert await wire.frame() == (2, b"\x04\x00\x01")


@pytest.mark.parametrize("payload", [b"", b"\x03", b"\x00\x01"])
async def test_websocket_binary_frames_of_another_type(payload: bytes, autojump_clock: MockClock) -> None:
    async with serving(echoing()) as listener:
        wire = await joined(listener)
        await wire.say(PLACEHOLDER)
        await wire.raw.send(frame(2, payload))
        assert await wire.closed() == 1002


@pytest.mark.parametrize("data", ["", "hello", "probe", "\x1e", "😀"])
async def test_the_client_pings_and_gets_a_plain_pong(data: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(echoing()) as listener:
        wire = await joined(listener)
        await wire.say(f"2{data}")
        assert await wire.text() == "3"
        poller = await OldPoller.session(listener)
        await poller.next_texts()
        packet = f"2{data}"
        assert (await poller.post(f"{len(packet.encode('utf-16-le')) // 2}:{packet}")).body == b"ok"
        assert await poller.next_texts() == ["3"]
    assert not caplog.records


async def test_the_server_does_not_ping_and_misses_the_clients_ping(autojump_clock: MockClock) -> None:
    server = echoing()
    ended = Ended(server)
    async with serving(server) as listener:
        wire = await joined(listener)
        await trio.sleep(40)
        await wire.say("2")
        assert await wire.text() == "3"
        pinged = trio.current_time()
        await wire.say('42["echo"]')  # shows nothing
        assert await wire.text() == '42["echo"]'
        assert await ended.reason() is CloseReason.PING_TIMEOUT
        assert trio.current_time() - pinged == pytest.approx(45)
        await wire.raw.ends()
        await at_rest(server)


async def test_a_pong_of_the_client_is_the_wrong_direction(autojump_clock: MockClock) -> None:
    async with serving(echoing()) as listener:
        wire = await joined(listener)
        await wire.say("3")
        assert await wire.closed() == 1002


@pytest.mark.parametrize("query", ["", "?token=1&a=b%20c"])
async def test_namespaces_and_the_credentials_in_their_name(query: str) -> None:
    server = echoing()
    seen: list[Any] = []
    server.of("/b").on("connect")(lambda socket, auth: seen.append(auth))
    async with serving(server) as listener:
        wire = await joined(listener)
        await wire.say(f"40/b{query},")
        assert await wire.text() == "40/b,"
        await wire.say('42/b,["echo",1]')
        assert await wire.text() == '42/b,["echo",1]'
        assert seen == [{"token": "1", "a": "b c"} if query else None]
        await wire.say("41/b,", "40/b")
        assert await wire.text() == "40/b,"


async def test_an_unknown_namespace() -> None:
    async with serving(echoing()) as listener:
        wire = await joined(listener)
        await wire.say("40/random,")
        assert (await wire.text()).startswith("44/random,")


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize(("data", "said"), [(None, "not you"), ("why", "why"), ({"code": 401}, {"code": 401})])
async def test_a_refusal_is_an_error_packet(kind: str, data: Any, said: Any, autojump_clock: MockClock) -> None:
    server = SocketServer(EIO3)

    def plain(socket: Socket) -> None:
        raise ConnectRefused("not you", data=data)

    async def slow(socket: Socket) -> None:
        await trio.sleep(1)
        plain(socket)

    server.on("connect")(plain if kind == "plain" else slow)
    async with serving(server) as listener:
        wire = await Wire.session(listener.connect(), websocket_target(eio=3))
        answer = await wire.text()
        assert answer[:2] == "44"
        assert json.loads(answer[2:]) == said
        poller = await OldPoller.session(listener)
        (answer,) = await poller.next_texts()
        assert json.loads(answer[2:]) == said


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_connect_handler_that_fails_leaves_no_session(
    transport: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = SocketServer(EIO3)

    @server.on("connect")
    def fail(socket: Socket) -> None:
        socket.join("lobby")
        raise KeyError("a mistake")

    async with serving(server) as listener:
        raw = listener.connect()
        if transport == "websocket":
            wire = await Wire.open(raw, websocket_target(eio=3))
            assert await wire.code() == 1011
        else:
            await raw.request("GET", polling(eio=3))
        await raw.aclose()
        await at_rest(server)
        assert not server.of("/").rooms._members
    assert "a mistake" in caplog.text


async def test_the_upgrade(autojump_clock: MockClock) -> None:
    async with serving(echoing()) as listener, trio.open_nursery() as nursery:
        poller = await OldPoller.session(listener)
        assert poller.opening["upgrades"] == ["websocket"]
        await poller.next_texts()
        poll = Later(nursery, poller.get)
        await trio.testing.wait_all_tasks_blocked()
        wire = await Wire.open(listener.connect(), websocket_target(poller.sid, eio=3))
        await wire.say("2probe")
        assert await wire.text() == "3probe"
        assert texts((await poll.value()).body) == ["6"]
        await wire.say("5", '42["echo","up"]')
        assert await wire.text() == '42["echo","up"]'
        await wire.say("2")
        assert await wire.text() == "3"


async def test_both_revisions_share_one_fan_out() -> None:
    """One event with an attachment, in every form of the wire."""
    server = echoing()
    async with serving(server) as listener:
        new = await Wire.joined(listener.connect())
        old = await joined(listener)
        old_poller = await OldPoller.session(listener)
        assert await old_poller.next_texts() == ["40"]
        base64_poller = await OldPoller.session(listener, "&b64=1")
        assert await base64_poller.next_texts() == ["40"]
        server.emit("a", b"\x00\x01")
        head = '451-["a",{"_placeholder":true,"num":0}]'
        for wire, data in ((new, b"\x00\x01"), (old, b"\x04\x00\x01")):
            assert await wire.text() == head
            assert await wire.frame() == (2, data)
        body = (await old_poller.get()).body
        assert body == binary_part(0, head.encode()) + binary_part(1, b"\x04\x00\x01")
        assert texts((await base64_poller.get()).body) == [head, "b4AAE="]


async def test_close_goes_both_ways(autojump_clock: MockClock) -> None:
    server = echoing()
    ended = Ended(server)
    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await OldPoller.session(listener)
        await poller.next_texts()
        poll = Later(nursery, poller.get)
        await trio.testing.wait_all_tasks_blocked()
        next(iter(server.of("/").sockets.values())).disconnect(close=True)
        assert texts((await poll.value()).body) == ["41"]
        assert await poller.next_texts() == ["1"]
        assert await ended.reason() is CloseReason.SERVER_DISCONNECT
        other = await OldPoller.session(listener)
        assert (await other.post("1:1")).body == b"ok"
        await at_rest(server)
