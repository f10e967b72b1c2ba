"""The worker processes of one server, as each of them sees the others: whose a session is, and how it gets there.

Every worker has an inbox: a Unix datagram socket that the parent made before the first fork. Whoever has the door can
put a message with a descriptor into it, only its worker takes out; one that takes a dead worker's place takes its inbox
too. There is nothing in the file system, and nobody else can have a door.
"""

import array
import enum
import logging
import mmap
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable

import trio

from engineio_trio.server.admission import session_unknown
from engineio_trio.transport.answer import HttpError
from engineio_trio.transport.http import LINGER_SECONDS
from engineio_trio.transport.socket import READ_SIZE, PlainStream

logger = logging.getLogger("engineio_trio")

PATIENCE = 1.0  # seconds to wait for room in another worker's inbox
ANSWER_TIMEOUT = 2.0  # seconds that another worker has for an answer
INBOX_BYTES = 1_048_576  # wished for; Linux gives no more than twice its net.core.wmem_max
AT_ONCE = 32  # messages taken out before other tasks have their turn
DESCRIPTOR = array.array("i", [0])
CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
LENGTH = struct.Struct("!I")  # before an answer, so that half of one is not taken for a whole one

Adopt = Callable[[socket.socket, str, bytes], Awaitable[None]]
Answer = Callable[[bytes], Awaitable[bytes]]


class Kind(enum.Enum):
    """What a message is about: its first byte."""

    CONNECTION = b"c"  # its peer's address, a zero byte, what has been read of it; with its socket
    QUESTION = b"q"  # with a socket for the answer


class Fate(enum.Enum):
    """What became of a message."""

    TAKEN = "taken"
    FULL = "full"
    NOBODY = "nobody"  # takes anything out there


def random_sid() -> str:
    """A session id: 144 bits, and never taken from the peer."""
    return secrets.token_urlsafe(18)


class Post:
    """The inboxes of all workers, numbered from 1, and which of them are attended. Make it before the first fork."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pairs = [_pair() for _ in range(count)]
        self._attended = mmap.mmap(-1, count)  # shared by all processes; one byte each

    def inbox(self, number: int) -> socket.socket:
        """Where this worker takes out."""
        return self._pairs[number - 1][0]

    def door(self, number: int) -> socket.socket:
        """Where the others put in."""
        return self._pairs[number - 1][1]

    def attended(self, number: int) -> bool:
        """Is there a worker that takes anything out?"""
        return self._attended[number - 1] == 1

    def attend(self, number: int, attended: bool) -> None:
        """From now on there is one, or none."""
        self._attended[number - 1] = attended

    def clear(self, number: int) -> None:
        """Its worker is dead: what is still in its inbox is dropped, and the connections with it."""
        self.attend(number, False)
        buffer = bytearray(1)
        while (taken := self.take(number, buffer)) is not None:
            if taken[1] is not None:
                taken[1].close()

    def close(self) -> None:
        """Close all inboxes and doors."""
        for pair in self._pairs:
            for end in pair:
                end.close()
        self._attended.close()

    def take(self, number: int, buffer: bytearray) -> tuple[int, socket.socket | None] | None:
        """The next message: how many bytes of `buffer` it has, and its socket (None: there was no room for one)."""
        try:
            size, control, _, _ = self.inbox(number).recvmsg_into(
                [buffer], socket.CMSG_SPACE(DESCRIPTOR.itemsize), CLOEXEC
            )
        except BlockingIOError:
            return None
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                (descriptor,) = array.array("i", data)
                return size, socket.socket(fileno=descriptor)
        return size, None


def _pair() -> tuple[socket.socket, socket.socket]:
    inbox, door = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, INBOX_BYTES)
    inbox.setblocking(False)
    door.setblocking(False)
    return inbox, door


class Neighbours:
    """The other workers, from the worker `number` on."""

    def __init__(self, number: int, post: Post) -> None:
        self.number = number
        self.answer: Answer | None = None  # to the others' questions
        self._post = post
        self._others = {str(other): other for other in range(1, post.count + 1) if other != number}
        self._waiting = {other: trio.Lock() for other in self._others.values()}  # for room in an inbox: one at a time
        self._full: set[int] = set()  # those that could not take a connection the last time
        self._attending = trio.CancelScope()
        self._relays = 0
        self._relayed = trio.Event()  # one of them has ended
        self._buffer = bytearray(post.door(number).getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))

    def new_sid(self) -> str:
        """An id for a session of this worker: as random as any, after the worker's number."""
        return f"{self.number}.{random_sid()}"

    def holder(self, sid: str) -> int | None:
        """The other worker whose session this would be; None if it can only be one of ours, or nobody's."""
        return self._others.get(sid.partition(".")[0])

    async def hand_over(self, to: int, stream: trio.abc.Stream, remote: str, data: bytes, write_timeout: float) -> None:
        """Let worker `to` serve a connection from now on, beginning with `data`; the caller closes its own `stream`.

        A plain socket moves to the other process. For any other stream (TLS) bytes are relayed until one side ends,
        then this returns. Raises HttpError, with the connection untouched, when nobody takes it within `PATIENCE`.
        """
        message = remote.encode() + b"\0" + data
        if isinstance(stream, PlainStream):
            self._check(to, await self._put(to, Kind.CONNECTION, message, stream.fileno()))
            return
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._check(to, await self._put(to, Kind.CONNECTION, message, theirs.fileno()))
            self._relays += 1
            try:
                async with _stream(ours) as tunnel:
                    await relay(stream, tunnel, write_timeout)
            finally:
                self._relays -= 1
                self._relayed.set()

    def _check(self, to: int, fate: Fate) -> None:
        if fate is Fate.TAKEN:
            self._full.discard(to)
        if fate is Fate.NOBODY:
            raise session_unknown()  # it went with its worker
        if fate is Fate.FULL:
            if to not in self._full:  # once, not for each client
                logger.warning("worker %d is behind: its clients that come to this one are sent away", to)
            self._full.add(to)
            raise HttpError(503, "the process that has the session is busy", headers={"Retry-After": "1"})

    async def ask(self, question: bytes, timeout: float = ANSWER_TIMEOUT) -> dict[int, bytes]:
        """What the other workers answer to `question` (some thousand bytes at most), by their numbers.

        Who is not there, or does not answer within `timeout` seconds, is left out.
        """
        answers: dict[int, bytes] = {}

        async def ask_one(other: int) -> None:
            answer = await self._ask(other, question)
            if answer is not None:
                answers[other] = answer

        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                for other in self._others.values():
                    nursery.start_soon(ask_one, other)
        return answers

    async def _ask(self, other: int, question: bytes) -> bytes | None:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                fate = await self._put(other, Kind.QUESTION, question, theirs.fileno())
            if fate is not Fate.TAKEN:
                return None
            async with _stream(ours) as stream:
                answer = bytearray()
                try:
                    async for data in stream:
                        answer += data
                except trio.BrokenResourceError:
                    return None
        whole = len(answer) >= LENGTH.size and LENGTH.unpack_from(answer)[0] == len(answer) - LENGTH.size
        return bytes(answer[LENGTH.size :]) if whole else None

    async def _put(self, to: int, kind: Kind, text: bytes, descriptor: int) -> Fate:
        """Put a message into an inbox, waiting a little for room."""
        door = self._post.door(to)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        with trio.move_on_after(PATIENCE):
            async with self._waiting[to]:
                while self._post.attended(to):
                    try:
                        door.sendmsg([kind.value, text], control)
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(door)
                    except OSError as error:  # too long a message, or too many descriptors on their way
                        logger.warning("nothing can be given to worker %d: %s", to, error)
                        return Fate.FULL
                    else:
                        return Fate.TAKEN
                return Fate.NOBODY
        return Fate.FULL

    async def attend(self, adopt: Adopt, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take out of our inbox until cancelled: `adopt(socket, remote, data)` runs for each connection, in a task."""
        async with trio.open_nursery() as nursery:
            self._attending = nursery.cancel_scope
            self._post.attend(self.number, True)
            task_status.started()
            try:
                while True:
                    await trio.lowlevel.wait_readable(self._post.inbox(self.number))
                    for _ in range(AT_ONCE):
                        if not self._take_one(adopt, nursery):
                            break
            finally:
                self._post.attend(self.number, False)

    async def part(self) -> None:
        """Take nothing more, end the connections that were taken, and wait until the others have ended what is relayed.

        When all workers stop at the same time, a session hears of that before the connection to its client is cut.
        """
        self._attending.cancel()
        while self._relays:
            self._relayed = trio.Event()
            await self._relayed.wait()

    def _take_one(self, adopt: Adopt, nursery: trio.Nursery) -> bool:
        taken = self._post.take(self.number, self._buffer)
        if taken is None:
            return False
        size, given = taken
        if given is None:
            logger.warning("a connection handed over to worker %d is lost: no more files may be opened", self.number)
            return True
        given.setblocking(False)
        message = bytes(memoryview(self._buffer)[:size])
        if Kind(message[:1]) is Kind.QUESTION:
            nursery.start_soon(self._answer, _stream(given), message[1:])
        else:
            remote, _, data = message[1:].partition(b"\0")
            nursery.start_soon(adopt, given, remote.decode(), data)
        return True

    async def _answer(self, stream: trio.SocketStream, question: bytes) -> None:
        async with stream:
            if self.answer is None:
                return
            try:
                with trio.move_on_after(ANSWER_TIMEOUT):
                    answer = await self.answer(question)
                    await stream.send_all(LENGTH.pack(len(answer)) + answer)
            except trio.BrokenResourceError:
                return  # who asked has no more patience
            except Exception:  # the boundary of one question: the worker goes on
                logger.exception("another worker's question could not be answered")


def _stream(given: socket.socket) -> trio.SocketStream:
    given.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(given))


async def relay(peer: trio.abc.Stream, tunnel: trio.SocketStream, write_timeout: float) -> None:
    """Carry bytes both ways, until one side ends or does not take them within `write_timeout` seconds."""
    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope

        async def carry(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
            try:
                while data := await source.receive_some(READ_SIZE):
                    with trio.fail_after(write_timeout):
                        await target.send_all(data)
                if isinstance(target, trio.abc.HalfCloseableStream):
                    await target.send_eof()
                else:  # it cannot be told that nothing more comes but by closing, for which the last words have time
                    scope.deadline = trio.current_time() + LINGER_SECONDS
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                scope.cancel()

        nursery.start_soon(carry, peer, tunnel)
        await carry(tunnel, peer)
