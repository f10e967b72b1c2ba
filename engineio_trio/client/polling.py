"""Long-polling as a client: the reader's GETs, the writer's POSTs, and the rest between them that an upgrade needs."""

import enum
from collections.abc import Sequence

import trio

from engineio_trio.client.endpoint import Endpoint
from engineio_trio.client.http import Answer, HttpFailure, HttpLane, refusal
from engineio_trio.errors import CloseReason, RemoteProtocolError
from engineio_trio.protocol import payload
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Open, Packet, PacketType, encode_text
from engineio_trio.transport.base import Lane, TransportEnded, TransportReplaced

MAX_PACKETS = 1_000  # in one POST: servers bound the bytes, and some the packets
CLOSE = encode_text(Packet(PacketType.CLOSE))


class Phase(enum.Enum):
    """Who carries the session."""

    CARRYING = "carrying"
    RESTING = "resting"  # an upgrade is about to be said: no request begins
    REPLACED = "replaced"


class ClientPolling:
    """A session on long-polling: a `Transport`. One GET and one POST at a time, each on a connection of its own."""

    asked = True

    name = "polling"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._gets, self._posts = HttpLane(endpoint), HttpLane(endpoint)
        self._target = ""
        self._max_post = 0
        self._first: Sequence[Packet] = ()  # what came together with OPEN
        self._phase = Phase.CARRYING
        self._requests = 0  # in flight
        self._changed = trio.lowlevel.ParkingLot()

    async def open(self) -> Open:
        """Ask for a session. Raises HandshakeRefused, RemoteProtocolError, TransportEnded, or OSError."""
        try:
            answer = await self._gets.request("GET", self._endpoint.target("polling"))
        except HttpFailure as failure:
            raise TransportEnded(CloseReason.TRANSPORT_ERROR, str(failure)) from failure
        if answer.status != 200:
            raise refusal(answer.status, answer.body)
        first, *rest = payload.decode(answer.body, max_packets=self._endpoint.settings.max_packets)
        if first.type is not PacketType.OPEN or isinstance(first.data, bytes):
            raise RemoteProtocolError(f"a session begins with OPEN, not with {first.type.name}")
        opening = Open.parse(first.data)
        self._target = self._endpoint.target("polling", opening.sid)
        self._max_post = opening.max_payload
        self._first = rest
        return opening

    async def receive(self, nursery: trio.Nursery | None = None) -> Sequence[Packet]:
        if self._first:
            packets, self._first = self._first, ()
            return packets
        answer = await self._exchange(self._gets, ("GET", b""))
        return payload.decode(answer.body, max_packets=self._endpoint.settings.max_packets)

    async def send(self, batch: Sequence[Encoded]) -> None:
        texts = [encode_text(packet) for encoded in batch for packet in encoded.packets]
        await self._exchange(self._posts, *(("POST", body) for body in _bodies(texts, self._max_post)))

    def open_lane(self, lane: Lane) -> None:
        """There is none."""

    def interrupt(self) -> bool:
        return False

    def soon(self) -> bool:
        return False

    def send_nowait(self, batch: Sequence[Encoded]) -> int | None:
        return None

    async def goodbye(self, reason: CloseReason, nursery: trio.Nursery) -> None:
        await self._request(self._posts, "POST", payload.encode([CLOSE]))

    async def _exchange(self, lane: HttpLane, *requests: tuple[str, bytes]) -> Answer:
        """Requests that a rest does not come between; the last one's answer."""
        while self._phase is Phase.RESTING:
            await self._changed.park()
        if self._phase is Phase.REPLACED:
            raise TransportReplaced
        self._requests += 1
        try:
            for method, body in requests:
                answer = await self._request(lane, method, body)
            return answer
        finally:
            self._requests -= 1
            self._changed.unpark_all()

    async def _request(self, lane: HttpLane, method: str, body: bytes) -> Answer:
        try:
            answer = await lane.request(method, self._target, body)
        except (HttpFailure, OSError) as failure:
            raise TransportEnded(CloseReason.TRANSPORT_ERROR, str(failure)) from failure
        if answer.status == 413:
            raise TransportEnded(CloseReason.TOO_BIG, f"a message of {len(body)} bytes is too big for the server")
        if answer.status != 200:
            raise TransportEnded(CloseReason.TRANSPORT_ERROR, str(refusal(answer.status, answer.body)))
        return answer

    async def rest(self) -> None:
        """Return when no request is under way; none begins until `resume` or `replace`."""
        self._phase = Phase.RESTING
        while self._requests:
            await self._changed.park()

    def resume(self) -> None:
        """The upgrade came to nothing: go on."""
        self._phase = Phase.CARRYING
        self._changed.unpark_all()

    def replace(self) -> None:
        """Another transport carries the session from now on."""
        self._phase = Phase.REPLACED
        self._changed.unpark_all()

    async def aclose(self) -> None:
        """Close both connections, at once."""
        await self._gets.aclose()
        await self._posts.aclose()


def _bodies(texts: list[str], limit: int) -> list[bytes]:
    """The texts as POST bodies of at most `limit` bytes; a single text that is larger is left to the server's word."""
    bodies: list[list[str]] = []
    size = 0
    for text in texts:
        length = len(text.encode()) + 1
        if not bodies or size + length - 1 > limit or len(bodies[-1]) >= MAX_PACKETS:
            bodies.append([])
            size = 0
        bodies[-1].append(text)
        size += length
    return [payload.encode(body) for body in bodies]
