"""From polling to a WebSocket (protocol v4, "Upgrade"): rows H24 and H25. A failed upgrade costs its WebSocket only."""

import itertools

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason, Settings, Socket, SocketServer
from tests.raw import (
    UPGRADE,
    Answer,
    Ended,
    Later,
    MemoryListener,
    Poller,
    Wire,
    at_rest,
    closing,
    frame,
    polling,
    request,
    serving,
    websocket_target,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("each_kind_of_stream")


async def probe(listener: MemoryListener, poller: Poller) -> Wire:
    """A WebSocket on a session, probed."""
    wire = await Wire.open(listener.connect(), websocket_target(poller.sid))
    await wire.say("2probe")
    assert await wire.text() == "3probe"
    return wire


async def alive(poller: Poller) -> None:
    """The session is still carried by polling, both ways."""
    assert (await poller.post('42["echo",1]')).body == b"ok"
    answer = await poller.get()
    while answer.body == b"6":
        answer = await poller.get()
    assert answer.body == b'42["echo",1]'


def echoing(settings: Settings | None = None) -> SocketServer:
    server = SocketServer(settings)
    server.on("echo")(lambda socket, value: socket.emit("echo", value))
    return server


async def test_the_upgrade(autojump_clock: MockClock) -> None:
    server = echoing()
    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        poll = Later(nursery, poller.get)
        await trio.testing.wait_all_tasks_blocked()
        wire = await probe(listener, poller)
        assert (await poll.value()).body == b"6"  # so that the client can stop polling
        await wire.say("5", '42["echo",1]')
        assert await wire.text() == '42["echo",1]'
        assert server.connections == 1
        for method, body in (("GET", None), ("POST", b'42["echo",2]')):
            assert (await listener.connect().request(method, polling(poller.sid), body=body)).refusal == (400, 3)
        await wire.say('42["echo",3]')
        assert await wire.text() == '42["echo",3]'  # and nothing was delivered of the POST


async def test_polling_carries_the_session_until_the_upgrade_packet(autojump_clock: MockClock) -> None:
    server = echoing()
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        wire = await probe(listener, poller)
        server.emit("a")
        assert (await poller.get()).body == b'42["a"]'
        started = trio.current_time()
        assert (await poller.get()).body == b"6"  # a client may poll again while it probes
        assert trio.current_time() - started <= 0.11
        await alive(poller)
        await wire.say("5")
        server.emit("b")
        assert await wire.text() == '42["b"]'


async def test_the_upgrade_answers_a_poll_that_still_waits() -> None:
    async with serving(SocketServer()) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        wire = await probe(listener, poller)
        poll = Later(nursery, poller.get)
        await trio.testing.wait_all_tasks_blocked()
        await wire.say("5")
        assert (await poll.value()).body == b"6"


async def test_the_upgrade_answers_a_post_that_still_waits(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(handler_queue=1))
    heard: list[int] = []

    @server.on("a")
    async def slow(socket: Socket, number: int) -> None:
        await trio.sleep(1)
        heard.append(number)
        socket.emit("done", number)

    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        wire = await probe(listener, poller)
        post = Later(nursery, poller.post, *[f'42["a",{number}]' for number in range(4)])
        await trio.testing.wait_all_tasks_blocked()
        await wire.say("5", '42["a",4]')
        with trio.fail_after(20):
            assert (await post.value()).body == b"ok"
            for number in range(5):
                assert await wire.event() == ("done", number)


@pytest.mark.parametrize("packet", ["2", "2other", "5", "3probe", "40", "1", "6", "", "x", "4", "0{}"])
async def test_a_wrong_probe_costs_its_websocket_only(packet: str, autojump_clock: MockClock) -> None:
    server = echoing()
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        wire = await Wire.open(listener.connect(), websocket_target(poller.sid))
        await wire.say(packet)
        assert await wire.closed() == 1008
        await alive(poller)
        wire = await probe(listener, poller)  # and another one may try
        await wire.say("5", '42["echo",2]')
        assert await wire.text() == '42["echo",2]'


@pytest.mark.parametrize("packet", ["2probe", "2", "3", "40", '42["echo",1]', "1", "6", "x"])
async def test_a_wrong_packet_after_the_probe_costs_its_websocket_only(packet: str, autojump_clock: MockClock) -> None:
    server = echoing()
    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        wire = await probe(listener, poller)
        await wire.say(packet)
        assert await wire.closed() == 1008
        await alive(poller)
        poll = Later(nursery, poller.get)
        await trio.sleep(5)
        assert not poll.done  # polls are long again
        wire = await probe(listener, poller)
        assert (await poll.value()).body == b"6"
        await wire.say("5", '42["echo",2]')
        assert await wire.text() == '42["echo",2]'


@pytest.mark.parametrize("way", ["eof", "close frame", "bad frame"])
@pytest.mark.parametrize("probed", [False, True])
async def test_a_client_that_dies_on_the_probe_stays_on_polling(
    way: str, probed: bool, autojump_clock: MockClock
) -> None:
    server = echoing()
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        wire = await Wire.open(listener.connect(), websocket_target(poller.sid))
        if probed:
            await wire.say("2probe")
            assert await wire.text() == "3probe"
        if way == "eof":
            await wire.aclose()
        else:
            await wire.raw.send(closing(1000) if way == "close frame" else frame(1, b"5", masked=False))
            assert await wire.code() == (1000 if way == "close frame" else 1002)
        await alive(poller)
        started = trio.current_time()
        later = trio.current_time() + 1
        server.emit("a")
        assert (await poller.get()).body == b'42["a"]'
        assert started <= trio.current_time() < later


@pytest.mark.parametrize("probed", [False, True])
async def test_an_upgrade_that_is_not_finished_loses_its_websocket_only(
    probed: bool, autojump_clock: MockClock
) -> None:
    server = echoing(Settings(upgrade_timeout=7))
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        started = trio.current_time()
        wire = await Wire.open(listener.connect(), websocket_target(poller.sid))
        if probed:
            await wire.say("2probe")
            assert await wire.text() == "3probe"
        assert await wire.closed() == 1008
        assert trio.current_time() - started == pytest.approx(7)
        await alive(poller)


@pytest.mark.parametrize("stage", ["open", "probed", "upgraded"])
async def test_a_second_upgrade_is_refused_and_changes_nothing(stage: str, autojump_clock: MockClock) -> None:
    """Two probes at once: the second could take the session with the UPGRADE that the first had earned."""
    server = echoing()
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        wire = await Wire.open(listener.connect(), websocket_target(poller.sid))
        if stage != "open":
            await wire.say("2probe")
            assert await wire.text() == "3probe"
        if stage == "upgraded":
            await wire.say("5", '42["echo",0]')
            assert await wire.text() == '42["echo",0]'
        second = await listener.connect().request("GET", websocket_target(poller.sid), UPGRADE)
        assert second.refusal == (400, 3)
        if stage == "open":
            await wire.say("2probe")
            assert await wire.text() == "3probe"
        if stage != "upgraded":
            await wire.say("5")
        await wire.say('42["echo",1]')
        assert await wire.text() == '42["echo",1]'


async def test_a_websocket_session_is_not_upgraded() -> None:
    server = echoing()
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        assert (await listener.connect().request("GET", websocket_target(wire.sid), UPGRADE)).refusal == (400, 3)
        await wire.say('42["echo",1]')
        assert await wire.text() == '42["echo",1]'


@pytest.mark.parametrize("packet", ["2probe", "5"])
async def test_a_probe_after_the_upgrade_ends_the_session(packet: str, autojump_clock: MockClock) -> None:
    server = echoing()
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        wire = await probe(listener, poller)
        await wire.say("5", packet)
        assert await wire.closed() == 1002
        assert await ended.reason() is CloseReason.PARSE_ERROR
        await at_rest(server)


async def test_a_poll_given_up_after_the_upgrade_does_not_end_the_session(autojump_clock: MockClock) -> None:
    """A browser aborts the poll that it needs no more."""
    server = echoing()
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        wire = await probe(listener, poller)
        raw = listener.connect()
        listener.stop_reading()
        await raw.send(request("GET", polling(poller.sid)))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await wire.say("5")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await raw.aclose()
        await wire.say('42["echo",1]')
        assert await wire.text() == '42["echo",1]'
        assert ended.reasons == []


async def test_the_session_ends_with_its_new_transport(autojump_clock: MockClock) -> None:
    server = SocketServer()
    ended = Ended(server)
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        wire = await probe(listener, poller)
        await wire.say("5")
        await trio.testing.wait_all_tasks_blocked()
        await wire.aclose()
        assert await ended.reason() is CloseReason.TRANSPORT_CLOSE
        await at_rest(server)


async def test_the_heartbeat_goes_on_over_the_upgrade(autojump_clock: MockClock) -> None:
    async with serving(SocketServer(Settings(ping_interval=25, ping_timeout=20))) as listener:
        started = trio.current_time()
        poller = await Poller.joined(listener)
        wire = await probe(listener, poller)
        await wire.say("5")
        for beat in (1, 2, 3):
            assert await wire.text() == "2"
            assert trio.current_time() - started == pytest.approx(25 * beat)
            await wire.say("3")


@pytest.mark.parametrize("when", list(itertools.product(range(3), repeat=3)), ids=str)
async def test_h25_messages_keep_their_order_over_the_upgrade(
    when: tuple[int, int, int], autojump_clock: MockClock
) -> None:
    """Numbered messages both ways, some said before the probe, after it, and after the upgrade: none lost or twice."""
    server = SocketServer()
    heard: list[int] = []
    server.on("n")(lambda socket, number: heard.append(number))
    said, got, numbers = itertools.count(), [], itertools.count()

    def speak(times: int) -> None:
        for _ in range(times):
            server.emit("n", next(said))

    async def tell(post: bool, times: int) -> None:
        packets = [f'42["n",{next(numbers)}]' for _ in range(times)]
        if packets and post:
            assert (await poller.post(*packets)).body == b"ok"
        elif packets:
            await wire.say(*packets)

    def take(answer: Answer) -> None:
        got.extend(int(part[7:-1]) for part in answer.body.split(b"\x1e") if part.startswith(b"42"))

    async with serving(server) as listener, trio.open_nursery() as nursery:
        poller = await Poller.joined(listener)
        poll = Later(nursery, poller.get)
        speak(when[0])
        await tell(True, when[0])
        wire = await probe(listener, poller)
        speak(when[1])
        await tell(True, when[1])
        take(await poll.value())
        await wire.say("5")
        await tell(False, when[2])
        speak(when[2])
        while len(got) < sum(when):
            _, number = await wire.event()
            got.append(number)
        await trio.testing.wait_all_tasks_blocked()
        assert got == list(range(sum(when)))
        assert heard == list(range(sum(when)))
