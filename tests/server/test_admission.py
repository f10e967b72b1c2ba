"""Who is let in: `authorize`, session ids, limits, the peer's address; and what abandoned handshakes leave: nothing."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import Handshake, HandshakeRefused, Settings, SocketServer
from tests.raw import (
    HOST,
    UPGRADE,
    Answer,
    MemoryListener,
    Poller,
    Raw,
    Wire,
    at_rest,
    polling,
    request,
    serving,
    websocket_target,
)

TRANSPORTS = ["polling", "websocket"]


async def knock(
    listener: MemoryListener, transport: str, query: str = "", headers: dict[str, str] | None = None
) -> Answer:
    """A handshake that is expected to be answered by plain HTTP."""
    upgrade = UPGRADE if transport == "websocket" else {}
    target = f"/socket.io/?EIO=4&transport={transport}{query}"
    raw = listener.connect()
    answer = await raw.request("GET", target, {**upgrade, **(headers or {})})
    await raw.aclose()
    return answer


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_refusal_has_status_body_and_headers(transport: str, kind: str, autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(cors_origins="*"))
    refusal = HandshakeRefused(429, "too many", headers={"Retry-After": "5"})

    def plain(handshake: Handshake) -> None:
        raise refusal

    async def slow(handshake: Handshake) -> None:
        await trio.sleep(1)
        raise refusal

    server.authorize(plain if kind == "plain" else slow)
    async with serving(server) as listener:
        answer = await knock(listener, transport, headers={"Origin": "https://any.example"})
        assert answer.status == 429
        assert answer.json == {"code": 4, "message": "too many"}
        assert answer.headers["retry-after"] == "5"
        assert answer.headers["access-control-allow-origin"] == "*"
        await at_rest(server)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_authorize_sees_the_request_and_may_leave_something_for_later(transport: str) -> None:
    server = SocketServer()

    @server.authorize
    async def check(handshake: Handshake) -> None:
        assert handshake.path == "/socket.io/"
        assert handshake.query["token"] == ["t 1", "t2"]
        assert handshake.headers["authorization"] == "Bearer x"
        assert handshake.headers["host"] == HOST
        handshake.state["user"] = "u1"

    async with serving(server) as listener:
        target = f"/socket.io/?EIO=4&transport={transport}&token=t%201&token=t2"
        headers = {"Authorization": "Bearer x"}
        if transport == "websocket":
            wire = await Wire.open(listener.connect(), target, headers)
            await wire.text()
            await wire.say("40")
            await wire.text()
        else:
            answer = await listener.connect().request("GET", target, headers)
            poller = Poller(listener)
            poller.sid = answer.body.decode().split('"sid":"')[1].split('"')[0]
            await poller.post("40")
        (socket,) = server.of("/").sockets.values()
        assert socket.handshake.state == {"user": "u1"}
        assert socket.handshake.query["token"] == ["t 1", "t2"]


async def test_requests_of_a_session_are_not_asked_again() -> None:
    server = SocketServer()
    asked: list[str] = []
    server.authorize(lambda handshake: asked.append(handshake.path))
    async with serving(server) as listener:
        poller = await Poller.joined(listener)
        wire = await Wire.open(listener.connect(), websocket_target(poller.sid))
        await wire.say("2probe")
        assert await wire.text() == "3probe"
        assert len(asked) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_authorize_that_fails_lets_nobody_in(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    server = SocketServer()

    @server.authorize
    async def check(handshake: Handshake) -> None:
        raise KeyError("a mistake")

    async with serving(server) as listener:
        assert (await knock(listener, transport)).refusal == (500, 4)
        assert server.connections == 0
    assert "a mistake" in caplog.text


@pytest.mark.parametrize("status", [200, 399, 600])
def test_a_refusal_is_an_error_status(status: int) -> None:
    with pytest.raises(ValueError, match="from 400 to 599"):
        HandshakeRefused(status, "x")


async def test_authorize_is_asked_last_of_all() -> None:
    """What is wrong with the request itself is found before anyone is bothered with it."""
    server = SocketServer()
    server.authorize(lambda handshake: pytest.fail("too early"))
    async with serving(server) as listener:
        for target in ("/socket.io/?EIO=3&transport=polling", "/socket.io/?EIO=4&transport=x", "/other"):
            assert (await listener.connect().request("GET", target)).status in (400, 404)
        assert (await knock(listener, "polling", headers={"Origin": "https://evil.example"})).status == 403


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_h14_h15_every_handshake_gets_a_random_id_of_its_own(transport: str, autojump_clock: MockClock) -> None:
    """Whatever the client sends along: a cookie, a header, a query field of another name."""
    server = SocketServer()
    headers = {"Cookie": "io=mine; sid=mine", "X-Session-Id": "mine", "Sid": "mine"}
    sids = set()
    async with serving(server) as listener:
        for _ in range(50):
            query = "&io=mine&SID=mine&session=mine"
            if transport == "polling":
                body = (await knock(listener, transport, query, headers)).body
            else:
                wire = await Wire.open(listener.connect(), websocket_target() + query, headers)
                body = (await wire.frame())[1]
            sid = body.decode().split('"sid":"')[1].split('"')[0]
            assert sid != "mine"
            assert len(sid) * 6 >= 128
            sids.add(sid)
        assert len(sids) == server.connections == 50


async def test_two_requests_with_one_cookie_are_two_sessions() -> None:
    server = SocketServer()
    async with serving(server) as listener:
        first, second = [await knock(listener, "polling", headers={"Cookie": "io=0123456789abcdef"}) for _ in range(2)]
        assert first.body != second.body
        assert server.connections == 2
        assert "set-cookie" not in first.headers


@pytest.mark.parametrize("sid", ["", "x", "__proto__", "%00", "a" * 1_000, "../..", "1%27--"])
async def test_h15_a_session_id_of_the_clients_choice_is_unknown(sid: str) -> None:
    async with serving(SocketServer()) as listener:
        for transport in TRANSPORTS:
            assert (await knock(listener, transport, f"&sid={sid}")).refusal == (400, 1)


async def test_h15_two_session_ids_are_none() -> None:
    async with serving(SocketServer()) as listener:
        poller = await Poller.session(listener)
        assert (await knock(listener, "polling", f"&sid={poller.sid}&sid={poller.sid}")).refusal == (400, 1)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_h21_a_full_server_says_so(transport: str, autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_connections=3))
    async with serving(server) as listener:
        wire = await Wire.joined(listener.connect())
        await Wire.joined(listener.connect())
        poller = await Poller.joined(listener)
        answer = await knock(listener, transport)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        assert (await poller.post("3")).body == b"ok"  # those that are in can go on
        await wire.aclose()
        await trio.sleep(2)
        assert server.connections == 2
        await Wire.joined(listener.connect())


async def test_h21_all_of_a_full_servers_sessions_can_poll_and_post(autojump_clock: MockClock) -> None:
    """A session on polling may need three streams at once: a GET, a POST, and a WebSocket to move to."""
    server = SocketServer(Settings(max_connections=3))
    server.on("echo")(lambda socket: socket.emit("echo"))
    async with serving(server) as listener, trio.open_nursery() as nursery:
        pollers = [await Poller.joined(listener) for _ in range(3)]
        for poller in pollers:
            raw = listener.connect()
            nursery.start_soon(raw.request, "GET", polling(poller.sid))
        await trio.testing.wait_all_tasks_blocked()
        for poller in pollers:
            await Wire.open(listener.connect(), websocket_target(poller.sid))
        for poller in pollers:
            assert (await poller.post("3")).body == b"ok"
        nursery.cancel_scope.cancel()


async def test_h21_streams_that_say_nothing_are_limited_too(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_connections=3, request_timeout=10))
    async with serving(server) as listener:
        silent = [listener.connect() for _ in range(100)]
        await trio.testing.wait_all_tasks_blocked()
        assert server._streams < 20
        await silent[-1].ends()  # at once
        await trio.sleep(11)
        assert server._streams == 0


async def test_h21_the_limit_holds_while_authorize_thinks(autojump_clock: MockClock) -> None:
    server = SocketServer(Settings(max_connections=5))

    @server.authorize
    async def check(handshake: Handshake) -> None:
        await trio.sleep(1)

    statuses: list[int] = []
    async with serving(server) as listener, trio.open_nursery() as nursery:

        async def ask() -> None:
            statuses.append((await knock(listener, "polling")).status)

        for _ in range(10):
            nursery.start_soon(ask)
        await trio.sleep(2)
        assert sorted(statuses) == [200] * 5 + [503] * 5
        assert server.connections == 5


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("stage", ["connected", "half a head", "asked", "opened", "joined"])
async def test_h21_abandoned_handshakes_leave_nothing(transport: str, stage: str, autojump_clock: MockClock) -> None:
    """Hundreds of them, at each stage: sessions, streams, tasks, namespaces and rooms are back at the base line."""
    server = SocketServer()
    target = polling() if transport == "polling" else websocket_target()
    head = request("GET", target, UPGRADE if transport == "websocket" else None)
    async with serving(server) as listener:
        for _ in range(10):
            raws: list[Raw] = []
            for _ in range(10 if stage == "joined" else 30):
                raw = listener.connect()
                if stage == "half a head":
                    await raw.send(head[:40])
                elif stage == "joined" and transport == "websocket":
                    await Wire.joined(raw)
                elif stage == "joined":
                    await Poller.joined(listener)
                elif stage != "connected":
                    await raw.send(head)
                    if stage == "opened":
                        await raw.more()
                raws.append(raw)
            if stage != "asked":
                await trio.testing.wait_all_tasks_blocked()
            for raw in raws:
                await raw.aclose()
        await at_rest(server, seconds=200)
        assert not server.of("/").sockets
        assert not server.of("/").rooms._members


PEER = "10.0.0.1"
ADDRESSES = [
    # trusted proxies, the peer, X-Forwarded-For, the address that we believe in
    ((), PEER, None, PEER),
    ((), PEER, "1.2.3.4", PEER),
    (("10.0.0.0/8",), PEER, None, PEER),
    (("10.0.0.0/8",), PEER, "1.2.3.4", "1.2.3.4"),
    (("10.0.0.0/8",), PEER, "6.6.6.6, 1.2.3.4", "1.2.3.4"),
    (("10.0.0.0/8",), PEER, "6.6.6.6, 1.2.3.4, 10.0.0.7", "1.2.3.4"),
    (("10.0.0.0/8",), PEER, "10.0.0.9, 10.0.0.7", "10.0.0.9"),
    (("10.0.0.0/8",), PEER, "", PEER),
    (("10.0.0.0/8",), PEER, " , ,1.2.3.4 ,", "1.2.3.4"),
    (("10.0.0.0/8",), "192.168.0.1", "1.2.3.4", "192.168.0.1"),
    (("10.0.0.1", "::1"), "::1", "2001:db8::1", "2001:db8::1"),
    (("10.0.0.0/8",), "::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4"),
    (("10.0.0.0/8",), PEER, "nonsense", "nonsense"),
    (("10.0.0.0/8",), "", "1.2.3.4", ""),
]


@pytest.mark.parametrize(("trusted", "peer", "forwarded", "expected"), ADDRESSES)
async def test_the_peers_address_behind_proxies(
    trusted: tuple[str, ...], peer: str, forwarded: str | None, expected: str
) -> None:
    server = SocketServer(Settings(trusted_proxies=trusted))
    seen: list[str] = []
    server.authorize(lambda handshake: seen.append(handshake.remote))
    async with serving(server), trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()

        async def serve() -> None:
            await server.serve_stream(theirs, remote=peer)

        nursery.start_soon(serve)
        await Raw(ours).request("GET", polling(), {} if forwarded is None else {"X-Forwarded-For": forwarded})
        assert seen == [expected]
        await ours.aclose()


@pytest.mark.parametrize("proxy", ["", "10.0.0.0/33", "example.com", "10.0.0"])
def test_a_trusted_proxy_is_an_address_or_a_network(proxy: str) -> None:
    with pytest.raises(ValueError, match="trusted_proxies"):
        Settings(trusted_proxies=["127.0.0.1", proxy])
