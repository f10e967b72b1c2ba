"""Who waits, and how long, when all devices come at once (F13)."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from engineio_trio import Handshake, HandshakeRefused
from pushd.admission import IDENTITY, PATIENCE, TURN_PATIENCE, TURNS, Admission
from pushd.auth.authenticators import OpenAuthenticator
from pushd.hub import Hub
from pushd.model import Identity, Message, ReceiptState
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
            mock_clock.jump(TURN_PATIENCE)
            await until(lambda: len(crowd.refused) == 5)
            mock_clock.jump(PATIENCE - TURN_PATIENCE)
        told = [refusal.message for refusal in crowd.refused]
        assert told == ["too many devices come at once"] * 5 + ["who you are cannot be found out now"] * TURNS
        for refusal in crowd.refused:
            assert refusal.status == 503
            assert 1 <= int(refusal.headers["Retry-After"]) <= 10


async def test_what_comes_into_the_inbox_while_a_device_logs_in_is_not_missed(mock_clock: Clock) -> None:
    """F17: the login has looked into the inbox, and nobody is there yet whom the node could tell."""
    async with open_world(mock_clock) as world:
        admission = Admission(world.node, OpenAuthenticator())
        login = world.store._store.login
        news = ["p"]

        async def slow_login(*args: object) -> object:
            outcome = await login(*args)
            await world.push(*news)
            return outcome

        world.store._store.login = slow_login  # type: ignore[method-assign,assignment]
        handshake = Handshake("/socket.io/", {"deviceId": ["d1"]}, {}, "127.0.0.1")
        _, bound = await admission.at_connect(handshake, {"deviceId": "d1"}, "c1")
        assert bound.waiting
        [message] = await world.store.fetch("d1", bound.epoch, 0, 10)
        await world.store.ack("d1", bound.epoch, [message.seq], ReceiptState.ACKED)
        news.clear()
        _, bound = await admission.at_connect(handshake, {"deviceId": "d1"}, "c2")
        assert not bound.waiting
        assert world.node.hub._coming == {}
        assert world.node.hub._called == {}


NEWS: dict[str, Callable[[Hub], object]] = {
    "a wake-up": lambda hub: hub.wake("d1"),
    "a message": lambda hub: hub.deliver("d1", Message(1, "p", "push", "1", False), 0),
    "wake-ups may be lost": lambda hub: hub.wake_all(),
    "a kick": lambda hub: hub.kick("d1", 5, "takeover", "c2"),
    "a loss": lambda hub: hub.lost("d1", 5),
    "the loss of all": lambda hub: hub.lost_all(),
}


@pytest.mark.parametrize("news", NEWS.values(), ids=NEWS)
def test_a_hub_remembers_what_it_was_told_of_a_device_that_is_still_to_come(news: Callable[[Hub], object]) -> None:
    """I3: who was taken over before it had joined must find out."""
    hub = Hub()
    news(hub)
    with hub.expecting("d1") as called, hub.expecting("d1") as called_too:
        hub.wake("d2")
        hub.kick("d1", 4, "takeover", "c1")  # by this login
        assert not called(5)
        news(hub)
        assert called(5)
        assert called_too(5)
    with hub.expecting("d1") as called:
        assert not called(5)
