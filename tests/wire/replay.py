"""Replay the client's side of a transcript against a server, over real sockets, and compare what the server says.

Compared are the packets of each channel (the polling side and the WebSocket side of each session) in their order, the
answers to every other request, and the close codes. Differences that are allowed, each for a reason:

- How many polls carry the packets, and noops: the server decides by timing what shares a body. The replay polls as a
  client does: one request at a time, until the polling side ends.
- `access-control-*` headers where the request has no Origin: they mean nothing then, but node's cors package sends
  them.
- Headers that were not recorded, `cache-control` on an error for one; not those by which a server would want something.
- The answer to the close packet that a client posts after its poll was cut: the server may not have noticed the cut.
"""

import base64
import secrets
from collections import defaultdict
from collections.abc import Callable
from itertools import groupby
from urllib.parse import parse_qs, urlsplit

import trio

from tests.patience import PATIENCE
from tests.raw import Answer
from tests.wire import raw
from tests.wire.matching import Names
from tests.wire.transcript import CLOSE, NOOP, SEPARATOR, Step, Transcript, packets_of

PROBE = "2probe"
UPGRADE = "5"

Channel = tuple[str, str]  # the session's placeholder, and "polling" or "websocket"


async def replay(transcript: Transcript, port: int) -> None:
    """Play the client against the server on this port of 127.0.0.1; AssertionError tells the first difference."""
    await _Replay(transcript, port).run()


class _Replay:
    def __init__(self, transcript: Transcript, port: int) -> None:
        self._port = port
        self._names = Names()
        self._connections = [list(steps) for _, steps in groupby(transcript.steps, lambda step: step["connection"])]
        self._recorded: dict[Channel, list[str]] = defaultdict(list)
        for steps in self._connections:
            self._recorded[_channel(steps)] += [told for step in steps for told in _said_by_server(step)]
        self._said: dict[Channel, int] = defaultdict(int)  # how much of each channel has come
        self._served = 0  # packets that came, over all channels, as `after` counts them
        self._news = trio.Event()
        self._polls: dict[str, trio.Event] = {}  # by session: set when its polling side has ended
        self._ending: set[str] = set()  # sessions that the client closes or upgrades: no further poll
        self._posts: dict[str, list[int]] = defaultdict(list)  # by session: the connections of POSTs not yet answered
        for steps in self._connections:
            if steps[0]["method"] == "POST":
                self._posts[_channel(steps)[0]].append(steps[0]["connection"])

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for steps in self._connections:
                play = self._play_of(steps)
                if play is not None:
                    nursery.start_soon(play, steps)
        for channel, recorded in self._recorded.items():
            assert self._said[channel] == len(recorded), f"{channel}: missing {recorded[self._said[channel] :]}"

    def _play_of(self, steps: list[Step]) -> Callable[[list[Step]], object] | None:
        """What plays a connection; None for the second and later polls of a session, which the first one stands for."""
        if steps[0]["kind"] == "ws-open":
            return self._websocket
        session = _channel(steps)[0]
        if steps[0]["method"] == "POST" or "sid=" not in steps[0]["target"]:
            return self._request
        if session in self._polls:
            return None
        self._polls[session] = trio.Event()
        return self._poll

    # --- waiting and comparing

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        with trio.move_on_after(PATIENCE):
            while not condition():
                await self._news.wait()
            return
        raise AssertionError(f"{what}: nothing came in {PATIENCE} s; so far {dict(self._said)}, {self._served} packets")

    async def _turn(self, step: Step) -> None:
        """Wait until the server has said what the client knew when it took this step."""
        await self._until(lambda: self._served >= step["after"], f"before {step}")

    def _announce(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _hear(self, channel: Channel, told: str) -> None:
        """Compare the next thing that a channel says with the recorded one."""
        if told == NOOP:
            return
        index = self._said[channel]
        recorded = self._recorded[channel]
        assert index < len(recorded), f"{channel} says more than was recorded: {told!r}"
        assert self._names.match(recorded[index], told), f"{channel} says {told!r}, but recorded is {recorded[index]!r}"
        self._said[channel] += 1
        self._served += not told.startswith("close ")
        self._announce()

    # --- polling

    async def _request(self, steps: list[Step]) -> None:
        """A handshake by polling, or a POST in its turn: the client has one under way at a time."""
        session = _channel(steps)[0]
        request, recorded = steps
        await self._turn(request)
        if request["method"] == "POST":
            await self._until(lambda: self._posts[session][0] == request["connection"], f"before {request}")
        if CLOSE in packets_of(request):
            self._ending.add(session)
        response = await self._exchange(request)
        if request["method"] == "POST":
            self._posts[session].pop(0)
            self._announce()
        if CLOSE in packets_of(request) and self._was_cut(session):
            return
        self._compare_heads(steps, response)
        if "packets" in recorded:
            for packet in response.text.split(SEPARATOR):
                self._hear((session, "polling"), packet)
        else:
            assert self._names.match(recorded.get("body", ""), response.text), f"{request}: {response}"

    async def _poll(self, steps: list[Step]) -> None:
        """All polls of a session, one after another, until the client has left the polling side or it is cut."""
        session = _channel(steps)[0]
        cut_at = self._cut_poll(session)
        await self._turn(steps[0])
        while session not in self._ending:
            if cut_at is not None and self._served >= cut_at:
                await self._abandon(steps[0])
                break
            response = await self._exchange(steps[0])
            if response.status != 200:
                break
            self._compare_heads(steps, response)
            for packet in response.text.split(SEPARATOR):
                self._hear((session, "polling"), packet)
        self._polls[session].set()

    def _cut_poll(self, session: str) -> int | None:
        """The `after` of the poll of this session that the network cut, if one was."""
        cut = [steps[0]["after"] for steps in self._connections if _is_cut(steps) and _channel(steps)[0] == session]
        return cut[0] if cut else None

    def _was_cut(self, session: str) -> bool:
        return self._cut_poll(session) is not None

    async def _exchange(self, step: Step) -> Answer:
        """Send a request on a connection of its own; gives the response."""
        return await raw.request(self._port, step["method"], self._target(step), step["headers"], _body(step))

    async def _abandon(self, step: Step) -> None:
        """Send a request and hang up, as a lost network would."""
        await raw.abandon(self._port, self._target(step), step["headers"])

    def _target(self, step: Step) -> str:
        return self._names.fill(step["target"].replace("$T", secrets.token_urlsafe(6)))

    def _compare_heads(self, steps: list[Step], response: Answer) -> None:
        """Status and headers; see the allowed differences above."""
        request, recorded = steps[0], next(step for step in steps if step["from"] == "server")
        assert response.status == recorded["status"], f"{request}: status {response.status}"
        sent = request["headers"]
        said = response.headers
        for name, value in recorded["headers"].items():
            if name == "sec-websocket-accept" or (name.startswith("access-control-") and "origin" not in sent):
                continue
            assert said.get(name, "").lower() == value.lower(), (
                f"{request}: {name} is {said.get(name)!r}, not {value!r}"
            )
        for name in said.keys() & {"set-cookie", "sec-websocket-extensions", "sec-websocket-protocol"}:
            assert name in recorded["headers"], f"{request}: an unexpected {name}: {said[name]!r}"

    # --- WebSocket

    async def _websocket(self, steps: list[Step]) -> None:
        """One WebSocket: the opening, then each step of the client in its turn, while the answers are compared."""
        await self._turn(steps[0])
        async with (
            raw.open_websocket(self._port, self._target(steps[0]), steps[0]["headers"]) as websocket,
            trio.open_nursery() as nursery,
        ):
            self._compare_heads(steps, websocket.answer)
            nursery.start_soon(self._listen, _channel(steps), websocket)
            await self._speak(steps, websocket)
            if _is_cut(steps):
                nursery.cancel_scope.cancel()

    async def _speak(self, steps: list[Step], websocket: raw.WebSocket) -> None:
        channel = _channel(steps)
        for index, step in enumerate(steps[1:], start=1):
            if step["from"] == "server":
                continue
            if step["kind"] == "cut":
                heard = sum(len(_said_by_server(earlier)) for earlier in steps[:index])
                await self._until(lambda heard=heard: self._said[channel] >= heard, "before the cut")
                return
            await self._turn(step)
            if step.get("data") == PROBE:
                self._ending.add(channel[0])
            elif step.get("data") == UPGRADE:
                with trio.fail_after(PATIENCE):
                    await self._polls[channel[0]].wait()
            if step["kind"] == "ws-close":
                await websocket.close(step["code"])
            else:
                await websocket.send(step["data"] if step["kind"] == "text" else base64.b64decode(step["data"]))

    async def _listen(self, channel: Channel, websocket: raw.WebSocket) -> None:
        """Compare what comes until the server's close frame."""
        while not isinstance(message := await websocket.receive(within=3 * PATIENCE), raw.Closed):
            self._hear(channel, message if isinstance(message, str) else _binary(message))
        self._hear(channel, f"close {message.code}")


def _is_cut(steps: list[Step]) -> bool:
    return steps[-1]["kind"] == "cut"


def _channel(steps: list[Step]) -> Channel:
    """Which session a connection belongs to, and by which transport."""
    query = parse_qs(urlsplit(steps[0]["target"]).query)
    opened = [packet for step in steps if step["from"] == "server" for packet in packets_of(step) if packet[:2] == "0{"]
    session = query["sid"][0] if "sid" in query else opened[0].partition('"sid":"')[2].partition('"')[0]
    return session, query["transport"][0]


def _said_by_server(step: Step) -> list[str]:
    """What `_hear` is to be told for a recorded step."""
    if step["from"] != "server":
        return []
    if step["kind"] == "binary":
        return [_binary(base64.b64decode(step["data"]))]
    if step["kind"] == "ws-close":
        return [f"close {step['code']}"]
    return [packet for packet in packets_of(step) if packet != NOOP]


def _binary(data: bytes) -> str:
    return f"binary {base64.b64encode(data).decode()}"


def _body(step: Step) -> str:
    return SEPARATOR.join(step.get("packets", ()))
