"""PollingTransport and GuardedStream alone: where the order of two tasks decides, which a client cannot choose."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from engineio_trio import CloseReason
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Packet, PacketType
from engineio_trio.protocol.frame import FrameGuard
from engineio_trio.transport.answer import Response
from engineio_trio.transport.base import TransportEnded, TransportReplaced
from engineio_trio.transport.polling import Overlap, PollingTransport, SessionOver
from engineio_trio.transport.stream import GuardedStream, Line
from tests.raw import Later

SAID = [Packet(PacketType.MESSAGE, "said")]
WORD = Encoded.engine(Packet(PacketType.MESSAGE, "word"))


class Get:
    """A poll on a stream without doors, and its answer."""

    def __init__(self, go: trio.Event | None = None) -> None:
        self.body: bytes | None = None
        self.answered = False
        self._go = go  # the answer is written when this is set
        self._woken = trio.Event()

    async def respond(self, response: Response) -> None:
        await trio.lowlevel.checkpoint()
        self.body = response.body
        if self._go is not None:
            await self._go.wait()
        self.answered = True

    def respond_nowait(self, response: Response) -> int | None:
        return None

    async def finish(self) -> None:
        raise AssertionError("nothing is left over")

    async def wait(self, deadline: float) -> None:
        with trio.CancelScope(deadline=deadline):
            await self._woken.wait()
        self._woken = trio.Event()

    def wake(self) -> None:
        self._woken.set()


async def test_a_post_that_the_upgrade_overtook_before_it_was_taken() -> None:
    """The session still takes it first, and the POST is answered though nobody asks here again."""
    transport = PollingTransport()
    async with trio.open_nursery() as nursery:
        post = Later(nursery, transport.post, SAID)
        await trio.testing.wait_all_tasks_blocked()
        transport.replace()
        assert await transport.receive() == SAID
        await post.value()
        with pytest.raises(TransportReplaced):
            await transport.receive()
        with pytest.raises(SessionOver):
            await transport.post(SAID)


async def test_a_batch_that_no_poll_took_goes_to_the_other_transport() -> None:
    transport, get = PollingTransport(), Get()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(TransportReplaced):
                await transport.send([WORD])

        sent = Later(nursery, send)
        await trio.testing.wait_all_tasks_blocked()
        transport.replace()
        await sent.value()
        await transport.poll(get)
        assert get.body == b"6"


async def test_a_batch_that_a_poll_is_writing_stays_with_it() -> None:
    """It counts as sent only when it has been written; until then the poll is vital, even after the upgrade."""
    transport, go = PollingTransport(), trio.Event()
    get = Get(go)

    async with trio.open_nursery() as nursery:
        sent = Later(nursery, transport.send, [WORD])
        poll = Later(nursery, transport.poll, get)
        await trio.testing.wait_all_tasks_blocked()
        transport.replace()
        await trio.testing.wait_all_tasks_blocked()
        assert get.body == b"4word"
        assert not sent.done
        assert transport.vital
        go.set()
        await poll.value()
        await sent.value()
        assert not transport.vital


async def test_the_end_releases_everyone() -> None:
    transport, get = PollingTransport(), Get()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(TransportEnded):
                await transport.send([WORD])

        async def receive() -> None:
            with pytest.raises(TransportEnded) as caught:
                await transport.receive()
            assert caught.value.reason is CloseReason.PING_TIMEOUT

        poll = Later(nursery, transport.poll, get)
        received = Later(nursery, receive)
        await trio.testing.wait_all_tasks_blocked()
        transport.end(CloseReason.PING_TIMEOUT)
        transport.probing(False)  # a probe that fails late wakes nothing up again
        await poll.value()
        await received.value()
        await Later(nursery, send).value()
        assert get.body == b"1"
        with pytest.raises(SessionOver):
            await transport.poll(Get())


async def test_overlaps() -> None:
    transport, get = PollingTransport(), Get()
    async with trio.open_nursery() as nursery:
        Later(nursery, transport.poll, get)
        Later(nursery, transport.post, SAID)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overlap):
            await transport.poll(Get())
        with pytest.raises(Overlap):
            await transport.post(SAID)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["cancelled", "too slow"])
async def test_after_a_write_that_was_cut_short_nothing_is_written(way: str, autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    line = Line(theirs, b"", b"", 100, 5 if way == "too slow" else 1_000)
    stream = GuardedStream(line, FrameGuard(max_payload=100, max_fragments=10))
    await stream.send_all(b"the answer to the handshake")
    sender = theirs.send_stream
    sender.send_all_hook = trio.sleep_forever
    if way == "cancelled":
        with trio.move_on_after(1):
            await line.write(b"half a frame")
        assert line.failure is None
    else:
        with pytest.raises(trio.BrokenResourceError):
            await line.write(b"half a frame")
        assert line.failure is CloseReason.SLOW_CONSUMER
    sender.send_all_hook = None
    for write in (line.write, stream.send_all):
        with pytest.raises(trio.BrokenResourceError):
            await write(b"more")
    await stream.aclose()
    assert sender.get_data_nowait() == b"half a frame"
    await ours.aclose()
    await theirs.aclose()
