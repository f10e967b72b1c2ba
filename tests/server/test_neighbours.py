"""Two workers of one server, both in this process: a request goes to the one that has its session, with its socket.

Each test of a connection runs on a plain socket, which moves to the other worker, and on another kind of stream, whose
bytes are relayed.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import resource
import socket as stdlib_socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import h11
import pytest
import trio

from engineio_trio import Handshake, HandshakeRefused, Settings, SocketServer
from engineio_trio.server.neighbours import INBOX_BYTES, Fate, Kind, Neighbours, Post, random_sid
from tests.raw import UPGRADE, MemoryListener, Raw, Wire, polling, request, text, websocket_target

PATIENCE = 10.0  # seconds, of a test
NEVER = 60.0
MANY = 60  # connections, with 50,000 bytes each: more than an inbox holds


@dataclasses.dataclass
class Place:
    """A worker: its server, and a way to it."""

    server: SocketServer
    neighbours: Neighbours
    connect: Callable[[], "contextlib.AbstractAsyncContextManager[Raw]"]

    async def session(self) -> str:
        """A polling session that has joined `/`; its id."""
        async with self.connect() as raw:
            sid = json.loads((await raw.request("GET", polling())).body[1:])["sid"]
            assert (await raw.request("POST", polling(sid), body=b"40")).text == "ok"
            assert (await raw.request("GET", polling(sid))).body.startswith(b'40{"sid":"')
        return str(sid)

    async def left(self) -> None:
        """Return when no connection is served here any more."""
        with trio.fail_after(PATIENCE):
            while self.server._streams:  # noqa: ASYNC110 - nobody tells a test
                await trio.sleep(0.01)


def make_server(settings: Settings | None = None) -> SocketServer:
    server = SocketServer(settings)
    server.on("echo")(lambda socket, value: value)
    return server


@contextlib.asynccontextmanager
async def workers(way: str, *servers: SocketServer) -> AsyncIterator[list[Place]]:
    """As many workers as there are servers."""
    places = []
    async with contextlib.AsyncExitStack() as stack:
        post = stack.enter_context(contextlib.closing(Post(len(servers))))
        nursery = await stack.enter_async_context(trio.open_nursery())
        for number, server in enumerate(servers, 1):
            neighbours = Neighbours(number, post)
            memory = MemoryListener()
            tcp = await trio.open_tcp_listeners(0, host="127.0.0.1")

            async def serve(server=server, neighbours=neighbours, listeners=(memory, *tcp), *, task_status):  # type: ignore[no-untyped-def]
                await server.serve_listeners(listeners, neighbours=neighbours, task_status=task_status)

            address = (await nursery.start(serve))[1]

            @contextlib.asynccontextmanager
            async def connect(memory=memory, address=address) -> AsyncIterator[Raw]:  # type: ignore[no-untyped-def]
                raw = memory.connect() if way == "relayed" else Raw(await trio.open_tcp_stream(*address))
                with trio.fail_after(PATIENCE):
                    yield raw
                await raw.aclose()

            places.append(Place(server, neighbours, connect))
        yield places
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["moved", "relayed"])
def way(request: pytest.FixtureRequest) -> str:
    """How a connection gets to the other worker."""
    return str(request.param)


@pytest.fixture
def post() -> Iterator[Post]:
    """The inboxes of twelve workers."""
    with contextlib.closing(Post(12)) as made:
        yield made


def test_an_id_is_as_random_as_ever_after_its_number(post: Post) -> None:
    one = Neighbours(1, post)
    ids = {one.new_sid() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert {sid[:2] for sid in ids} == {"1."}
    assert {len(sid) - 2 for sid in ids} == {len(random_sid())} == {24}


@pytest.mark.parametrize(
    ("sid", "holder"),
    [
        ("2.x", 2),
        ("12.x", 12),
        ("12", 12),
        ("1.x", None),  # ours
        ("0.x", None),
        ("13.x", None),
        ("-2.x", None),
        ("02.x", None),
        ("2_.x", None),
        (" 2.x", None),
        ("２.x", None),
        ("", None),
        (".2", None),
        ("x" * 10_000, None),
    ],
)
def test_whose_a_session_can_be(post: Post, sid: str, holder: int | None) -> None:
    assert Neighbours(1, post).holder(sid) == holder


async def test_a_session_is_found_from_everywhere(way: str) -> None:
    """The connection goes to and fro, with the worker that has the next request's session."""
    async with workers(way, make_server(), make_server(), make_server()) as places:
        sids = [await place.session() for place in places]
        for sid, place in itertools.product(sids, places):
            async with place.connect() as raw:
                for number in range(3):
                    event = f'42{number}["echo","{sid}"]'.encode()
                    assert (await raw.request("POST", polling(sid), body=event)).text == "ok"
                    assert (await raw.request("GET", polling(sid))).text == f'43{number}["{sid}"]'
        async with places[0].connect() as raw:
            for number, sid in enumerate(sids * 3):
                event = f'42{number}["echo",{number}]'.encode()
                assert (await raw.request("POST", polling(sid), body=event)).text == "ok"
                assert (await raw.request("GET", polling(sid))).text == f"43{number}[{number}]"
        for place in places:
            await place.left()
            assert place.server.connections == 1


async def test_what_was_read_already_goes_along(way: str) -> None:
    """Part of a body, a whole body with the next request behind it, chunks, and a body as long as one read."""
    big = "x" * 60_000
    async with workers(way, make_server(), make_server()) as (one, two):
        sid = await two.session()
        async with one.connect() as raw:
            post = request("POST", polling(sid), body=b'421["echo",1]')
            await raw.send(post[:-5])
            await trio.sleep(0.05)  # it would be the same test without, only less certain to see two parts
            await raw.send(post[-5:])
            assert (await raw.answer("POST")).text == "ok"
            assert (await raw.request("GET", polling(sid))).text == "431[1]"
        async with one.connect() as raw:
            await raw.send(post + request("GET", polling(sid)))
            assert (await raw.answer("POST")).text == "ok"
            assert (await raw.answer()).text == "431[1]"
        async with one.connect() as raw:
            head = request("POST", polling(sid), {"Transfer-Encoding": "chunked"})
            await raw.send(head + b'7\r\n421["ec\r\n' + b'6\r\nho",2]\r\n0\r\n\r\n')
            assert (await raw.answer("POST")).text == "ok"
            assert (await raw.request("GET", polling(sid))).text == "431[2]"
        async with one.connect() as raw:
            await raw.send(request("POST", polling(sid), {"X": "y" * 7_000}, body=f'422["echo","{big}"]'.encode()))
            assert (await raw.answer("POST")).text == "ok"
            assert (await raw.request("GET", polling(sid))).text == f'432["{big}"]'


async def test_an_upgrade(way: str) -> None:
    """With the probe in the same packet as the request."""
    async with workers(way, make_server(), make_server()) as (one, two):
        sid = await two.session()
        async with one.connect() as raw, two.connect() as poll:
            await poll.send(request("GET", polling(sid)))
            await raw.send(request("GET", websocket_target(sid), UPGRADE) + text("2probe"))
            assert (await raw.answer()).status == 101
            wire = Wire(raw)
            assert await wire.text() == "3probe"
            assert (await poll.answer()).text == "6"
            await wire.say("5", '421["echo","over"]')
            assert await wire.text() == '431["over"]'
            big = "x" * 300_000
            await wire.say(f'422["echo","{big}"]')
            assert await wire.text() == f'432["{big}"]'
        await one.left()
        await two.left()


async def test_a_peer_that_leaves_is_noticed(way: str) -> None:
    async with workers(way, make_server(), make_server()) as (one, two):
        sid = await two.session()
        async with one.connect() as raw:
            await raw.send(request("GET", polling(sid)))
            with trio.fail_after(PATIENCE):
                while not two.server._streams:  # noqa: ASYNC110 - nobody tells a test
                    await trio.sleep(0.01)
        with trio.fail_after(PATIENCE):
            while two.server.connections:  # noqa: ASYNC110 - nobody tells a test
                await trio.sleep(0.01)
        await one.left()


async def test_a_server_that_closes_is_noticed(way: str) -> None:
    """Its last words come through, and then the end."""
    async with workers(way, make_server(), make_server()) as (one, two):
        sid = await two.session()
        async with one.connect() as raw:
            answer = await raw.request("PUT", polling(sid))
            assert answer.status == 405
            await raw.ends()
        await one.left()


async def test_a_new_session_on_a_connection_that_was_handed_over(way: str) -> None:
    """The peer's address has come along, and `authorize` is the new worker's."""
    asked: list[str] = []

    async def refuse(handshake: Handshake) -> None:
        asked.append(handshake.remote)
        if len(asked) > 1:
            raise HandshakeRefused(401, "no")

    two_server = make_server()
    two_server.authorize(refuse)
    async with workers(way, make_server(), two_server) as (one, two):
        sid = await two.session()
        async with one.connect() as raw:
            assert (await raw.request("POST", polling(sid), body=b"3")).text == "ok"
            assert (await raw.request("GET", polling())).status == 401
    assert asked[1] == ("127.0.0.1" if way == "moved" else "")


@pytest.mark.parametrize("sid", ["2.unknown", "2", "1.unknown", "3.unknown", "unknown", ""])
async def test_a_session_that_is_nowhere(way: str, sid: str) -> None:
    async with workers(way, make_server(), make_server()) as (one, _), one.connect() as raw:
        for _ in range(2):
            assert (await raw.request("GET", polling(sid))).refusal == (400, 1)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_worker_that_is_gone(way: str, method: str) -> None:
    """Its sessions went with it."""
    async with workers(way, make_server(), make_server()) as (one, two):
        sid = await two.session()
        await two.server.shutdown()
        async with one.connect() as raw:
            answer = await raw.request(method, polling(sid), body=b"3" if method == "POST" else None)
            assert answer.status == 400
            if method != "HEAD":
                assert answer.refusal == (400, 1)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="cannot run here: there is no /proc")
async def test_a_worker_that_takes_nothing_out(way: str, post: Post) -> None:
    """Its inbox fills; then clients are told to come again. When it dies, what it was given is closed."""
    post.attend(2, True)
    server, before = make_server(), open_files()
    refused, full, ended = [], trio.Event(), []

    async def ask(raw: Raw) -> None:
        try:
            await raw.send(request("POST", polling("2.x"), body=b"x" * 50_000))
            refused.append((await raw.answer("POST")).refusal)
            full.set()
        except (h11.RemoteProtocolError, trio.BrokenResourceError):
            ended.append(raw)
        finally:
            await trio.aclose_forcefully(raw.stream)

    async with trio.open_nursery() as nursery:
        tcp, memory = await trio.open_tcp_listeners(0, host="127.0.0.1"), MemoryListener()
        serve = partial(server.serve_listeners, [memory, *tcp], neighbours=Neighbours(1, post))
        address = (await nursery.start(serve))[1]
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as asking:
                for _ in range(MANY):
                    raw = memory.connect() if way == "relayed" else Raw(await trio.open_tcp_stream(*address))
                    asking.start_soon(ask, raw)
                await full.wait()
                post.clear(2)
        assert set(refused) <= {(503, 3), (400, 1)}
        assert (503, 3) in refused
        assert ended
        assert len(refused) + len(ended) == MANY
        nursery.cancel_scope.cancel()
    assert open_files() == before


async def test_no_room_for_another_file(post: Post) -> None:
    """The connection is lost; the worker goes on."""
    ours, theirs = stdlib_socket.socketpair()
    post.attend(2, True)
    with theirs:
        assert await Neighbours(1, post)._put(2, Kind.CONNECTION, b"text", theirs.fileno()) is Fate.TAKEN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(ours.fileno())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        assert post.take(2, bytearray(100)) == (5, None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(spare)
    with ours:
        assert ours.recv(1) == b""
    assert post.take(2, bytearray(100)) is None


async def test_a_message_that_is_too_long(post: Post) -> None:
    post.attend(2, True)
    ours, theirs = stdlib_socket.socketpair()
    with ours, theirs:
        text = b"x" * 4 * INBOX_BYTES
        assert await Neighbours(1, post)._put(2, Kind.CONNECTION, text, theirs.fileno()) is Fate.FULL
    post.clear(2)


async def test_questions() -> None:
    """Who is not there, cannot answer or does not in time is left out."""
    servers = [make_server() for _ in range(5)]

    async def answer(question: bytes) -> bytes:
        return question * 100_000

    async def fail(question: bytes) -> bytes:
        raise RuntimeError("no")

    async def sleep(question: bytes) -> bytes:
        await trio.sleep(NEVER)
        return b""

    async with workers("moved", *servers) as places:
        for place, function in zip(places[1:4], (answer, fail, sleep), strict=True):
            place.neighbours.answer = function
        assert await places[0].neighbours.ask(b"abc", timeout=0.5) == {2: b"abc" * 100_000}
        await servers[1].shutdown()
        assert await places[0].neighbours.ask(b"abc", timeout=0.5) == {}
