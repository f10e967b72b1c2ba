"""H25: while a session moves from polling to a WebSocket, nothing is lost, doubled or reordered, either way."""

import dataclasses
import random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from engineio_trio import Socket, SocketServer
from engineio_trio.client.connecting import CLIENT_SETTINGS
from engineio_trio.testing import serving
from tests.client.wire import Wire

COUNT = 60
NEVER, BEFORE_ANSWER, BEFORE_PONG = -1, 0, 1  # where the WebSocket breaks


Talk = tuple[list[int], list[int], list[int], str]


async def converse(seed: int, longest: float, cut: int, patience: float) -> Talk:
    """Numbered messages both ways, some of them binary, some asking for an acknowledgement, at random times.

    The answer is what the server got, what the client got, the client's acknowledgements, and the last transport.
    """
    chance = random.Random(seed)
    server = SocketServer()
    up: list[int] = []
    down: list[int] = []
    acked: list[int] = []

    @server.on("up")
    def heard(socket: Socket, number: int, data: bytes | None) -> int:
        up.append(number)
        return number

    @server.on("talk")
    async def talk(socket: Socket) -> None:
        for number in range(COUNT):
            socket.emit("down", number, b"x" if number % 7 == 0 else None)
            await trio.sleep(chance.choice((0, 0, 0.01, 0.05)))

    wire = Wire(server, seed=seed, longest=longest, cut_websocket_at=cut)
    given = dataclasses.replace(CLIENT_SETTINGS, upgrade_timeout=patience)
    async with serving(server), wire.connected(settings=given) as socket:
        socket.on("down")(lambda number, data: down.append(number))
        socket.emit("talk")
        async with trio.open_nursery() as nursery:
            for number in range(COUNT):
                if number % 10 == 5:

                    async def ask(number: int = number) -> None:
                        acked.append(await socket.call("up", number, None))

                    nursery.start_soon(ask)
                    await trio.testing.wait_all_tasks_blocked()
                else:
                    socket.emit("up", number, b"y" * number if number % 5 == 0 else None)
                await trio.sleep(chance.choice((0, 0, 0.01, 0.05)))
        with trio.fail_after(60):
            while len(up) < COUNT or len(down) < COUNT:  # noqa: ASYNC110
                await trio.sleep(1)
        await trio.sleep(5)  # for what should not come
        assert socket.closed is None
        return up, down, acked, socket.transport


def check(seed: int, longest: float, cut: int, patience: float) -> str:
    """Converse; all must have arrived once and in order. The answer is the transport at the end."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    up, down, acked, transport = trio.run(converse, seed, longest, cut, patience, clock=clock)
    assert up == list(range(COUNT))
    assert down == list(range(COUNT))
    assert sorted(acked) == [number for number in range(COUNT) if number % 10 == 5]
    return transport


seeds = st.integers(0, 10_000)
delays = st.sampled_from([0.0, 0.001, 0.03, 0.2])


@pytest.mark.parametrize("cut", [NEVER, BEFORE_ANSWER, BEFORE_PONG])
@given(seed=seeds, longest=delays)
@settings(max_examples=20, deadline=None)
def test_nothing_is_lost_or_reordered(cut: int, seed: int, longest: float) -> None:
    transport = check(seed, longest, cut, patience=10.0)
    assert transport == ("websocket" if cut == NEVER else "polling")


@given(seed=seeds, longest=delays, patience=st.floats(0.001, 1.5))
@settings(max_examples=40, deadline=None)
def test_upgrade_that_is_given_up_changes_nothing(seed: int, longest: float, patience: float) -> None:
    """At any moment before UPGRADE: also while the last poll is awaited."""
    check(seed, longest, NEVER, patience)
