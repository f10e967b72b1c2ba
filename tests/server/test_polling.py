"""Long-polling as engine.io has it (protocol v4, "HTTP long-polling"): overlaps, aborts, closes, and their order."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from tests.raw import UPGRADE, Ended, Later, Poller, Wire, at_rest, polling, request, serving, websocket_target

pytestmark = pytest.mark.usefixtures("each_kind_of_stream")


async def test_the_opening(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(ping_interval=25, ping_timeout=20, max_payload=5_000))) as listener:
        poller = await Poller.session(listener)
        assert poller.opening == {
            "sid": poller.sid,
            "upgrades": ["websocket"],
            "pingInterval": 25_000,
            "pingTimeout": 20_000,
            "maxPayload": 5_000,
        }


async def test_a_poll_waits_until_there_is_something_to_say(autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        poll = Later(nursery, poller.get)
        await trio.sleep(10)
        assert not poll.done
        server.emit("a", 1)
        server.emit("b", 2)
        assert (await poll.value()).body == b'42["a",1]\x1e42["b",2]'


async def test_what_is_said_between_polls_is_kept_in_order() -> None:
    server = SocketServer()
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        heard: list[bytes] = []
        for number in range(10):
            server.emit("n", number)
            if number % 3 == 2:
                heard += (await poller.get()).body.split(b"\x1e")
        heard += (await poller.get()).body.split(b"\x1e")
        assert heard == [f'42["n",{number}]'.encode() for number in range(10)]


async def test_binary_travels_as_base64_after_its_packet() -> None:
    server = SocketServer()
    server.on("echo")(lambda socket, data: socket.emit("echo", data))
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        packet = ('451-["echo",{"_placeholder":true,"num":0}]', "bAQID")
        assert (await poller.post(*packet)).body == b"ok"
        assert (await poller.get()).body == "\x1e".join(packet).encode()


async def test_h23_a_second_poll_ends_the_session(autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        first = Later(nursery, poller.get)
        await trio.testing.wait_all_tasks_blocked()
        assert (await poller.get()).refusal == (400, 3)
        answer = await first.value()
        assert (answer.status, answer.body) == (200, b"1")
        assert (await poller.get()).refusal == (400, 1)
        assert await ended.reason() is CloseReason.TRANSPORT_ERROR


async def test_h23_a_second_post_ends_the_session(autojump_clock: MockClock) -> None:
    """The first one waits for a handler that is behind."""
    server = SocketServer(Settings(handler_queue=1, close_timeout=2))
    ended = Ended(server)

    @server.on("a")
    async def slow(socket: Socket) -> None:
        await trio.sleep(10)

    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        first = Later(nursery, poller.post, '42["a"]', '42["a"]', '42["a"]')
        await trio.testing.wait_all_tasks_blocked()
        assert not first.done
        assert (await poller.post("3")).refusal == (400, 3)
        assert (await first.value()).refusal == (400, 3)
        assert await ended.reason() is CloseReason.TRANSPORT_ERROR


async def test_a_post_is_answered_when_its_packets_have_been_handled() -> None:
    server = SocketServer()
    heard: list[int] = []
    server.on("a")(lambda socket, number: heard.append(number))
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        assert (await poller.post(*[f'42["a",{number}]' for number in range(100)])).body == b"ok"
        assert heard == list(range(100))


async def test_a_post_waits_for_handlers_that_are_behind(autojump_clock: MockClock) -> None:
    """Back-pressure: the client's next POST comes when there is room again."""
    server = SocketServer(Settings(handler_queue=2))

    @server.on("a")
    async def slow(socket: Socket) -> None:
        await trio.sleep(1)

    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        started = trio.current_time()
        assert (await poller.post(*['42["a"]'] * 10)).body == b"ok"
        assert trio.current_time() - started == pytest.approx(8)


async def test_an_aborted_poll_ends_the_session(autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        raw = listener.connect()
        await raw.send(request("GET", polling(poller.sid)))
        await trio.testing.wait_all_tasks_blocked()
        await raw.aclose()
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        await at_rest(server)


async def test_an_aborted_handshake_leaves_nothing(autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener:
        raw = listener.connect()
        await raw.send(request("GET", polling()))
        await raw.aclose()
        await at_rest(server, seconds=120)


async def test_the_peers_close_answers_its_poll_with_a_noop(autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        poll = Later(nursery, poller.get)
        await trio.testing.wait_all_tasks_blocked()
        assert (await poller.post("1")).body == b"ok"
        assert (await poll.value()).body == b"6"
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        assert (await poller.get()).refusal == (400, 1)


async def test_packets_behind_a_close_are_dropped(autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    heard: list[str] = []
    server.on("a")(lambda socket, word: heard.append(word))
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        started = trio.current_time()
        assert (await poller.post('42["a","before"]', "1", '42["a","after"]', "41")).body == b"ok"
        assert trio.current_time() == started
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        assert heard == ["before"]


async def test_the_servers_close_answers_the_waiting_poll(autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        poll = Later(nursery, poller.get)
        await trio.testing.wait_all_tasks_blocked()
        next(iter(server.of("/").sockets.values())).close()
        assert (await poll.value()).body == b"1"
        assert (await poller.get()).refusal == (400, 1)


async def test_the_servers_close_waits_a_while_for_the_next_poll(autojump_clock: MockClock) -> None:
    """What was said before, and then the goodbye."""
    server = SocketServer(Settings(close_timeout=2))
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        socket = next(iter(server.of("/").sockets.values()))
        socket.emit("last", "words")
        socket.disconnect(close=True)
        await trio.sleep(1)
        assert (await poller.get()).body == b'42["last","words"]\x1e41'
        assert (await poller.get()).body == b"1"
        assert await ended.reason() is CloseReason.SERVER_DISCONNECT
        assert (await poller.get()).refusal == (400, 1)


async def test_the_servers_close_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(close_timeout=2))
    ended = Ended(server)
    async with serving(server) as listener:
        await Poller.joined(listener)
        started = trio.current_time()
        next(iter(server.of("/").sockets.values())).close()
        await ended.reason()
        assert trio.current_time() - started == pytest.approx(2)
        await at_rest(server)


MALFORMED = ["", "x", "4", "42[", "\x1e", "40\x1e", "\x1e40", "40\x1e\x1e41", "7", "b*", "b===", "2", "5", "0", "d=40"]


@pytest.mark.parametrize("body", [*[text.encode() for text in MALFORMED], b"\xff\xfe", b"4\xed\xa0\x80"])
async def test_s2_s3_malformed_bodies(body: bytes, autojump_clock: MockClock) -> None:
    """400 for the POST, and the session is over: at once, for the 400 has told it."""
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        started = trio.current_time()
        assert (await listener.connect().request("POST", polling(poller.sid), body=body)).refusal == (400, 3)
        assert (await poller.get()).refusal[0] == 400
        assert trio.current_time() == started
        assert await ended.reason() is CloseReason.PARSE_ERROR


async def test_s1_a_body_of_too_many_packets_is_refused(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_packets=100))
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        assert (await poller.post(*["3"] * 100)).body == b"ok"
        assert (await poller.post(*["3"] * 101)).refusal == (400, 3)
        assert await ended.reason() is CloseReason.POLICY


async def test_w8_a_peer_that_does_not_poll_is_a_slow_consumer(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(outbox_bytes=10_000))
    ended = Ended(server)
    async with serving(server) as listener:
        await Poller.joined(listener)
        for _ in range(101):
            server.emit("n", "x" * 100)
        assert await ended.reason() is CloseReason.SLOW_CONSUMER
        await at_rest(server)


async def test_w8_a_poll_that_is_not_read_is_cut_off(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(write_timeout=7, ping_interval=1_000))
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        raw = listener.connect()
        listener.stop_reading()
        await raw.send(request("GET", polling(poller.sid)))
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        server.emit("a")
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        assert trio.current_time() - started == pytest.approx(7)
        await at_rest(server)


async def test_h14_a_session_that_never_was_and_one_that_is_over_are_answered_alike(autojump_clock: MockClock) -> None:
    server = SocketServer()
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        await poller.post("1")
        assert poller.sid is not None
        for method in ("GET", "POST"):
            answers = []
            for sid in (poller.sid, "x" * len(poller.sid)):
                body = None if method == "GET" else b"40"
                raw = listener.connect()
                await raw.send(request(method, polling(sid), body=body))
                answers.append(await raw.answer(method))
            assert answers[0] == answers[1]
            assert answers[0].refusal == (400, 1)
        websocket = await listener.connect().request("GET", websocket_target(poller.sid), UPGRADE)
        assert websocket.refusal == (400, 1)


async def test_h24_a_websocket_session_is_not_polled() -> None:
    async with serving(SocketServer()) as listener:
        wire = await Wire.joined(listener.connect())
        for method, body in (("GET", None), ("POST", b"41")):
            assert (await listener.connect().request(method, polling(wire.sid), body=body)).refusal == (400, 3)
        await wire.say('42["nobody hears"]', "3")
        await trio.testing.wait_all_tasks_blocked()
        assert not wire.raw.rest
