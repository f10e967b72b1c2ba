"""Row H1 end to end, and its like: hostile bytes against a real server's socket, beside a good client that goes on."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from engineio_trio import Settings, SocketServer
from tests.patience import PATIENCE
from tests.raw import UPGRADE, Raw, Wire, closing, frame, polling, request, text, websocket_target

HOSTILE = ["Host", "Connection", "Upgrade", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol", "Sec-WebSocket-Key",
           "Origin", "Cookie"]  # fmt: skip


class Target:
    """A server on a port, and a good client that has been there from the start."""

    def __init__(self, address: tuple[str, int], good: Wire) -> None:
        self.address = address
        self.good = good
        self.echoed = 0

    async def connect(self) -> Raw:
        return Raw(await trio.open_tcp_stream(*self.address))

    async def attack(self, data: bytes) -> bytes:
        """Send bytes, and read to the end of whatever comes back."""
        raw = await self.connect()
        try:
            await raw.stream.send_all(data)
            await raw.stream.send_eof()  # type: ignore[attr-defined]
            while await raw.more():
                pass
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(raw.stream)
        return raw.rest

    async def lives_on(self) -> None:
        """The good client is served, and another one gets in."""
        self.echoed += 1
        await self.good.say(f'42["echo",{self.echoed}]')
        assert await self.good.event() == ("echo", self.echoed)
        wire = await Wire.joined(await self.connect())
        await wire.raw.send(closing(1000))
        assert await wire.code() == 1000
        await wire.aclose()


@asynccontextmanager
async def target() -> AsyncIterator[Target]:
    settings = Settings(connect_timeout=2, max_payload=10_000)  # so that a session that nobody joins ends soon
    server = SocketServer(settings)
    server.on("echo")(lambda socket, number: socket.emit("echo", number))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(partial(server.serve, "127.0.0.1", 0))
        good = await Wire.joined(Raw(await trio.open_tcp_stream(*address)))
        yield Target(address, good)
        await good.aclose()
        with trio.fail_after(PATIENCE):
            while server.connections or server._streams:  # noqa: ASYNC110 - nobody tells a test
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("header", HOSTILE)
async def test_h1_bytes_that_once_took_a_whole_server_down(header: str, caplog: pytest.LogCaptureFixture) -> None:
    """One non-ASCII byte in these raises inside the WebSocket stack; here it never gets that far."""
    async with target() as server:
        for byte in (0x80, 0xE9, 0xFF, 0x00, 0x01, 0x7F):
            for transport in ("websocket", "polling"):
                headers = {"Host": "x", **(UPGRADE if transport == "websocket" else {})}
                headers[header] = headers.get(header, "a") + chr(byte)
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                data = f"GET /socket.io/?EIO=4&transport={transport} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
                assert (await server.attack(data)).startswith(b"HTTP/1.1 400 "), (byte, transport)
        await server.lives_on()
    assert not caplog.records


@pytest.mark.parametrize("seed", range(4))
async def test_mutated_conversations(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Good conversations with a few bytes changed, dropped or doubled: whatever they mean, the server lives on."""
    dice = random.Random(seed)
    upgrade = request("GET", websocket_target(), UPGRADE)
    conversations = [
        upgrade
        + text("40")
        + text('42["echo",1]')
        + frame(9, b"x")
        + frame(1, b'42["e', final=False)
        + frame(0, b'"]'),
        upgrade + text('451-["echo",{"_placeholder":true,"num":0}]') + frame(2, b"\x00\x01") + closing(1000),
        request("GET", polling()) + request("POST", polling("unknown"), body=b"40"),
        request("POST", polling("unknown"), {"Transfer-Encoding": "chunked"}) + b"2\r\n40\r\n0\r\n\r\n",
    ]
    async with target() as server:
        for _ in range(30):
            data = bytearray(dice.choice(conversations))
            for _ in range(dice.randint(1, 6)):
                at = dice.randrange(len(data))
                match dice.randrange(4):
                    case 0:
                        data[at] = dice.randrange(256)
                    case 1:
                        del data[at]
                    case 2:
                        data[at:at] = data[at : at + dice.randint(1, 40)]
                    case _:
                        data[at:at] = dice.randbytes(dice.randint(1, 8))
            await server.attack(bytes(data))
        await server.lives_on()
    assert not caplog.records


async def test_a_refused_body_does_not_reset_its_answer_away() -> None:
    """The unread rest of a large body in the socket would make the kernel send RST, which destroys the 413."""
    async with target() as server:
        head = b"POST /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"
        for _ in range(20):
            answer = await server.attack(head + b"x" * 60_000)
            assert answer.startswith(b"HTTP/1.1 400 ")
        await server.lives_on()


async def test_a_websocket_close_is_not_reset_away() -> None:
    async with target() as server:
        for _ in range(20):
            wire = await Wire.joined(await server.connect())
            await wire.raw.send(frame(1, b"4" * 40_000))
            assert await wire.code() == 1009
            await wire.aclose()
        await server.lives_on()


async def test_h21_a_thousand_abandoned_connections() -> None:
    async with target() as server:
        for _ in range(20):
            raws = [await server.connect() for _ in range(50)]
            for index, raw in enumerate(raws):
                await raw.stream.send_all(
                    [b"", b"GET /", request("GET", polling()), request("GET", websocket_target(), UPGRADE)][index % 4]
                )
            for raw in raws:
                await trio.aclose_forcefully(raw.stream)
        await server.lives_on()
