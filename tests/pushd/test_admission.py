"""Who waits, and how long, when all devices come at once (F13)."""

import trio
import trio.testing

from engineio_trio import Handshake, HandshakeRefused
from pushd.admission import IDENTITY, PATIENCE, TURNS, Admission
from pushd.model import Identity
from tests.pushd.core_support import open_world, until

Clock = trio.testing.MockClock


class Busy:
    """An authenticator that has not made up its mind about anybody until it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.decide = trio.Event()

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        self.asked += 1
        await self.decide.wait()
        return Identity(str(device))


class Crowd:
    """Requests of so many devices, all at once."""

    def __init__(self, admission: Admission, count: int) -> None:
        self.let_in: list[str] = []
        self.refused: list[HandshakeRefused] = []
        self._admission = admission
        self._count = count

    async def come(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self._count):
                query = {"deviceId": [f"d{number}"], "token": ["t"]}
                nursery.start_soon(self._ask, Handshake("/socket.io/", query, {}, "127.0.0.1"))

    async def _ask(self, handshake: Handshake) -> None:
        try:
            await self._admission.at_request(handshake)
            self.let_in.append(handshake.state[IDENTITY].device)
        except HandshakeRefused as refusal:
            self.refused.append(refusal)


async def test_a_crowd_is_judged_in_turn(mock_clock: Clock) -> None:
    """The others cost no time of the loop meanwhile; in the end all are in."""
    async with open_world(mock_clock) as world:
        busy = Busy()
        crowd = Crowd(Admission(world.node, busy), 3 * TURNS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.come)
            await trio.testing.wait_all_tasks_blocked()
            assert busy.asked == TURNS
            busy.decide.set()
        assert len(set(crowd.let_in)) == busy.asked == 3 * TURNS


async def test_who_waits_too_long_for_a_turn_is_told_to_come_again(mock_clock: Clock) -> None:
    async with open_world(mock_clock) as world:
        busy = Busy()
        crowd = Crowd(Admission(world.node, busy), TURNS + 5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crowd.come)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(PATIENCE)
            await until(lambda: len(crowd.refused) >= 5)
        told = [refusal.message for refusal in crowd.refused]
        assert told.count("too many devices come at once") == 5
        for refusal in crowd.refused:
            assert refusal.status == 503
            assert 1 <= int(refusal.headers["Retry-After"]) <= 10
