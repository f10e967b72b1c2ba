"""EngineServer: bare sessions, each with a handler of its own."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Disconnected, EngineServer, LocalProtocolError, Settings
from engineio_trio.server.server import Session
from tests.raw import (
    UPGRADE,
    Answer,
    MemoryListener,
    Wire,
    at_rest,
    frame,
    polling,
    request,
    serving,
    text,
    websocket_target,
)

PATH = "/engine.io/"


async def echo(session: Session) -> None:
    async for message in session:
        session.send(message)


async def connect(listener: MemoryListener) -> Wire:
    return await Wire.session(listener.connect(), websocket_target(path=PATH))


async def test_echo_over_a_websocket() -> None:
    async with serving(EngineServer(echo)) as listener:
        wire = await connect(listener)
        await wire.say("4hello", "4", "4true", "4 1")
        await wire.raw.send(frame(2, b"\x00\x01"))
        assert [await wire.text() for _ in range(4)] == ["4hello", "4", "4true", "4 1"]
        assert await wire.frame() == (2, b"\x00\x01")


async def test_echo_over_polling() -> None:
    async with serving(EngineServer(echo)) as listener:
        raw = listener.connect()
        opening = await raw.request("GET", polling(path=PATH))
        sid = opening.body.decode().split('"sid":"')[1].split('"')[0]
        body = "4hello\x1ebAAE=\x1e4€".encode()
        answer: Answer = await raw.request("POST", polling(sid, path=PATH), body=body)
        assert answer.body == b"ok"
        assert (await raw.request("GET", polling(sid, path=PATH))).body == body


async def test_a_handler_that_returns_closes_its_session(autojump_clock: MockClock) -> None:
    async def one(session: Session) -> None:
        async for message in session:
            session.send(message)
            return

    server = EngineServer(one)
    async with serving(server) as listener:
        wire = await connect(listener)
        await wire.say("4a")
        assert await wire.text() == "4a"
        assert await wire.closed() == 1000
        await at_rest(server)  # type: ignore[arg-type]


async def test_a_handler_that_fails_ends_its_session_only(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fragile(session: Session) -> None:
        async for message in session:
            session.send(str(int(message)))

    server = EngineServer(fragile)
    async with serving(server) as listener:
        good, bad = await connect(listener), await connect(listener)
        await bad.say("4x")
        assert await bad.closed() == 1011
        await good.say("47")
        assert await good.text() == "47"
    assert "invalid literal for int" in caplog.text


@pytest.mark.parametrize("way", ["vanish", "close frame"])
async def test_the_iteration_ends_with_the_session_after_what_has_come(
    way: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str | bytes] = []

    async def slow(session: Session) -> None:
        async for message in session:
            await trio.sleep(0.1)
            heard.append(message)
        heard.append(f"ended by {session.closed}")

    server = EngineServer(slow)
    async with serving(server) as listener:
        wire = await connect(listener)
        await wire.say("41", "42", "43")
        if way == "vanish":
            await wire.aclose()
        else:
            await wire.raw.send(frame(8))
            await wire.code()
        await at_rest(server)  # type: ignore[arg-type]
    assert heard == ["1", "2", "3", f"ended by {CloseReason.TRANSPORT_CLOSE}"]
    assert not caplog.records


async def test_an_echo_to_a_peer_that_has_left_is_no_error(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow_echo(session: Session) -> None:
        async for message in session:
            await trio.sleep(0.1)
            session.send(message)

    server = EngineServer(slow_echo)
    async with serving(server) as listener:
        wire = await connect(listener)
        await wire.say("41", "42", "43")
        await wire.aclose()
        await at_rest(server)  # type: ignore[arg-type]
    assert not caplog.records


async def test_send_after_close_raises(autojump_clock: MockClock) -> None:
    sessions: list[Session] = []

    async def keep(session: Session) -> None:
        sessions.append(session)
        async for _ in session:
            pass

    server = EngineServer(keep)
    async with serving(server) as listener:
        wire = await connect(listener)
        with pytest.raises(LocalProtocolError, match=r"U\+001E"):
            sessions[0].send("a\x1eb")
        sessions[0].close()
        assert await wire.closed() == 1000
        with pytest.raises(Disconnected) as caught:
            sessions[0].send("late")
        assert caught.value.reason is CloseReason.SERVER_CLOSE
        assert sessions[0].closed is CloseReason.SERVER_CLOSE


async def test_back_pressure(autojump_clock: MockClock) -> None:
    """A handler that does not take its messages stops the reading, not the heartbeat."""
    go = trio.Event()
    heard: list[str | bytes] = []

    async def late(session: Session) -> None:
        await go.wait()
        async for message in session:
            heard.append(message)  # noqa: PERF401 - one by one, as handlers do

    server = EngineServer(late, Settings(handler_queue=8, ping_interval=25, ping_timeout=20))
    async with serving(server) as listener, trio.open_nursery() as nursery:
        wire = await connect(listener)
        await wire.raw.send(b"".join(text(f"4{number}") for number in range(20_000)))
        pings = 0

        async def answer() -> None:
            nonlocal pings
            while True:
                assert await wire.text() == "2"
                pings += 1
                await wire.say("3")

        nursery.start_soon(answer)
        await trio.sleep(300)
        assert len(listener.accepted[0].receive_stream._incoming._data) > 100_000  # type: ignore[attr-defined]
        assert pings >= 6
        go.set()
        with trio.fail_after(10):
            while len(heard) < 20_000:  # noqa: ASYNC110 - nobody tells a test
                await trio.sleep(0.01)
        assert heard == [str(number) for number in range(20_000)]
        nursery.cancel_scope.cancel()


async def test_the_session_knows_its_handshake_and_flushes() -> None:
    done = trio.Event()

    async def greet(session: Session) -> None:
        session.send(session.handshake.query["name"][0])
        await session.flush()
        done.set()
        await trio.sleep_forever()

    async with serving(EngineServer(greet)) as listener:
        raw = listener.connect()
        await raw.send(request("GET", websocket_target(path=PATH) + "&name=Ada", UPGRADE))
        await done.wait()
