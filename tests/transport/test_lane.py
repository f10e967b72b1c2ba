"""The express lane: for any bytes, cut anywhere, the session gets what trio-websocket alone would have given it.

The same order, the same messages, and where it ends badly the same close code.
"""

import itertools
import struct
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from engineio_trio.protocol.engine import Packet, PacketType
from engineio_trio.protocol.lane import Head, take, unmask
from engineio_trio.settings import Settings
from engineio_trio.transport.base import TransportEnded
from engineio_trio.transport.stream import Line
from engineio_trio.transport.websocket import WebSocketTransport
from tests.patience import PATIENCE

MAX_PAYLOAD = 2_000


def frame(first: int, payload: bytes, mask: bytes = b"\x01\x02\x03\x04", masked: bool = True) -> bytes:
    """A client's frame; `first` is its first byte, FIN and opcode."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
    head = bytes([first, length[0] | (0x80 if masked else 0)]) + length[1:]
    if not masked:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


texts = st.text(max_size=40).map(str.encode)
masks = st.binary(min_size=4, max_size=4)
whole = st.one_of(
    st.builds(frame, st.just(0x81), texts, masks),
    st.builds(frame, st.just(0x82), st.binary(max_size=300), masks),
    st.builds(frame, st.just(0x81), st.integers(120, 400).map(lambda size: b"x" * size), masks),
)
split = st.builds(
    lambda text, at, ping: frame(0x01, text[:at]) + ping + frame(0x80, text[at:]),
    texts,
    st.integers(0, 20),
    st.sampled_from([b"", frame(0x89, b"?"), frame(0x00, b"")]),
)
controls = st.sampled_from([frame(0x89, b"ping"), frame(0x8A, b"pong")])
endings = st.sampled_from(
    [
        b"",
        frame(0x88, b"\x03\xe8"),
        frame(0x88, b""),
        frame(0x88, b"\x00\x01"),
        frame(0x81, b"\xff\xfe"),
        frame(0x01, b"\xff") + frame(0x80, b""),
        frame(0xC1, b"rsv"),
        frame(0x83, b"opcode"),
        frame(0x81, b"naked", masked=False),
        frame(0x80, b"orphan"),
        frame(0x81, b"y" * (MAX_PAYLOAD + 1)),
        b"\x82\xfe\x00\x05\x01\x02\x03\x04hello",
        b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x81",
        frame(0x81, b"cut off")[:-3],
    ]
)
conversations = st.tuples(st.lists(st.one_of(whole, whole, split, controls), max_size=12), endings).map(
    lambda parts: [*parts[0], parts[1]]
)


class Collector:
    """A lane that keeps what it gets; `slow` makes it full after each message, until somebody asks for room."""

    def __init__(self, messages: list[str | bytes], slow: bool) -> None:
        self.messages = messages
        self.slow = slow
        self.full = False

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()
        self.full = False

    def deliver(self, message: str | bytes) -> None:
        self.messages.append(message)
        self.full = self.slow

    def pause(self) -> None:
        """Nothing waits to be written."""


class Undecoded(WebSocketTransport):
    """Every message is a packet."""

    def _decode(self, message: str | bytes) -> Packet:
        return Packet(PacketType.MESSAGE, message)


async def converse(pieces: Sequence[bytes], lane: str) -> tuple[list[str | bytes], bytes]:
    """What the session got, and the body of the CLOSE frame that the peer got.

    Without a lane trio-websocket has it all from the start.
    """
    client, server = trio.testing.memory_stream_pair()
    messages: list[str | bytes] = []
    line = Line(server, b"", b"", MAX_PAYLOAD, 5.0)
    transport = Undecoded(line, Settings(max_payload=MAX_PAYLOAD, max_fragments=20), 4)
    collector = Collector(messages, slow=lane == "slow")
    heard = bytearray()

    async def listen() -> None:
        async for data in client:
            heard.extend(data)

    async def speak() -> None:
        for piece in pieces:
            await client.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        await client.send_eof()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as peer:
            peer.start_soon(listen)
            async with trio.open_nursery() as nursery:
                if lane == "none":
                    await transport.wake(nursery)
                else:
                    transport.open_lane(collector)
                nursery.start_soon(speak)
                try:
                    while True:
                        packets = await transport.receive(nursery)
                        messages += [packet.data for packet in packets]
                        collector.full = False
                except TransportEnded:
                    pass
                nursery.cancel_scope.cancel()
            await server.aclose()
    return messages, _close_body(bytes(heard))


def _close_body(frames: bytes) -> bytes:
    while frames:
        size = frames[1]
        if frames[0] == 0x88:
            return frames[2 : 2 + size]
        frames = frames[2 + size :]
    return b"none"


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(at % (len(data) + 1) for at in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=150, deadline=None)
@given(conversations, st.lists(st.integers(0, 5_000), max_size=6), st.sampled_from(["lane", "slow"]))
def test_the_lane_changes_nothing(frames: list[bytes], cuts: list[int], lane: str) -> None:
    """Without the lane the bytes come frame by frame: a bad frame takes with it what came in one piece with it."""
    reference = trio.run(converse, [piece for piece in frames if piece], "none")
    assert trio.run(converse, cut(b"".join(frames), cuts), lane) == reference


@settings(max_examples=60, deadline=None)
@given(conversations, st.binary(max_size=30), st.lists(st.integers(0, 5_000), max_size=6))
def test_noise_ends_it_as_before(frames: list[bytes], noise: bytes, cuts: list[int]) -> None:
    """The same code, and no message less; those before the noise that came with it are not lost any more.

    One thing is told later: a text is judged when it is whole, so one that the peer never ends gets no 1007.
    """
    data = b"".join(frames)
    pieces = cut(data[: len(data) // 2] + noise + data[len(data) // 2 :], cuts)
    messages, code = trio.run(converse, pieces, "lane")
    before, code_before = trio.run(converse, pieces, "none")
    assert messages[: len(before)] == before
    assert code == code_before or (code, code_before) == (b"none", b"\x03\xef")


@given(masks, st.binary(max_size=500))
def test_unmask_is_a_loop_over_the_bytes(mask: bytes, payload: bytes) -> None:
    assert unmask(mask, payload) == bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535])
def test_take_finds_the_end_of_a_frame(size: int) -> None:
    data = b"--" + frame(0x82, b"z" * size) + b"next"
    assert take(data, 2, 70_000) == (b"z" * size, len(data) - 4)
    for end in range(2, min(len(data) - 4, 20)):
        assert take(data[:end], 2, 70_000) is Head.PARTIAL


@pytest.mark.parametrize(
    "data",
    [
        frame(0x01, b"fragment"),
        frame(0x80, b"continuation"),
        frame(0x89, b"ping"),
        frame(0x88, b""),
        frame(0xC1, b"reserved bit"),
        frame(0x81, b"naked", masked=False),
        frame(0x81, b"q" * 300),
        b"\x82\xfe\x00\x7d\x00\x00\x00\x00" + bytes(125),
        b"\x82\xff" + (1 << 62).to_bytes(8, "big"),
    ],
)
def test_take_leaves_the_rest_alone(data: bytes) -> None:
    """Too big and out of order by the header alone: the payload need not have come."""
    assert take(data, 0, 200) is Head.ODD
