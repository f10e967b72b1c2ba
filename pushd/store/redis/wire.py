"""One connection to a server, used once: many tasks write to it together, and each gets its own replies.

Commands of all tasks that ran since the last send go out in one piece; one receive is parsed into as many replies as
it has. Replies come in the order of the commands, so a reply can only be matched wrongly if one were skipped. That
never happens: a task that no longer waits leaves its place in the line behind, and a reply that is late ends the whole
connection. Nothing is ever sent twice.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import hiredis
import trio
from redis.exceptions import DataError, ResponseError

from pushd.errors import StoreUnavailable
from pushd.store.redis.replies import Argument, Command, Reply, error_reply

MOST_COMMANDS: Final = 20_000  # waiting for their replies
MOST_BYTES: Final = 16 * 2**20  # not yet taken by the kernel
RECEIVE: Final = 64 * 1024
IDLE: Final = 5.0  # seconds of silence after which the server is asked whether it is there
LAST_WORD: Final = 0.1  # seconds for what the server sent before it closed
_NOTHING: Final = object()
_pack_one: Final = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)
_CONFIRMATIONS: Final = (b"subscribe", b"unsubscribe")  # the replies to SUBSCRIBE and UNSUBSCRIBE, one for each channel


class Awaited:
    """Something that one task waits for; `task` is None once nobody does."""

    __slots__ = ("task",)

    def __init__(self, task: trio.lowlevel.Task | None) -> None:
        self.task = task

    def abandon(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        """The task has been cancelled: what comes for it will be swallowed."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Let the task go on, if one still waits."""
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None


class Batch(Awaited):
    """Commands that one task sent together, and their replies so far."""

    __slots__ = ("deadline", "failure", "replies", "wanted")

    def __init__(self, task: trio.lowlevel.Task | None, wanted: int, deadline: float) -> None:
        super().__init__(task)
        self.wanted = wanted
        self.deadline = deadline
        self.replies: list[Reply] = []
        self.failure: str | None = None


class _Lost(Exception):
    """Why the connection ends."""


def _no_push(push: list[Reply]) -> None:
    """A server says nothing unasked unless it was asked to (SUBSCRIBE)."""


class Wire:
    """A connection. `run` is its life; until then, and after it, `execute` raises StoreUnavailable or waits for it.

    `timeout`: seconds that a reply may take, counted from the call. `on_push` gets what the server says unasked.
    """

    def __init__(
        self, stream: trio.abc.Stream, timeout: float, on_push: Callable[[list[Reply]], None] = _no_push
    ) -> None:
        self.timeout = timeout
        self.failure: str | None = None  # why it ended
        self.ended = trio.Event()  # nothing waits any more, and the stream is closed
        self._stream = stream
        self._on_push = on_push
        self._scope = trio.CancelScope()
        self._reader = hiredis.Reader(
            protocolError=hiredis.ProtocolError, replyError=error_reply, notEnoughData=_NOTHING
        )
        self._pending: deque[Batch] = deque()
        self._commands = 0  # in _pending
        self._out: list[bytes] = []
        self._bytes = 0  # in _out, or being sent
        self._more = trio.Event()
        self._heard = 0  # how often something was received

    # For those who use it.

    async def execute(self, commands: Sequence[Command], hold: float = 0.0) -> list[Reply]:
        """The replies to the commands, which stand next to each other on the wire; error replies are among them.

        A reply may take `timeout` seconds, and `hold` more, for which a command asks the server to wait. Cancelling
        the call does not disturb the connection: the commands may or may not be carried out, their replies are
        swallowed. Raises StoreUnavailable when the connection is or gets lost (the outcome is then unknown) or when
        too much waits already (then nothing was sent); DataError for an argument that is no text, bytes or number.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        batch = self._post(trio.lowlevel.current_task(), commands, hold)
        await trio.lowlevel.wait_task_rescheduled(batch.abandon)
        if batch.failure is not None:
            raise StoreUnavailable(batch.failure)
        return batch.replies

    def close(self, failure: str) -> None:
        """End the connection at once; whoever waits gets StoreUnavailable with this text."""
        if self.failure is None:
            self.failure = failure
            self._scope.cancel()

    async def aclose(self) -> None:
        """End the connection, and wait until it has; shielded, it takes no time."""
        self.close("closed")
        with trio.CancelScope(shield=True):
            await self.ended.wait()

    # Its life.

    async def run(self) -> None:
        """Send, receive and watch until the connection ends. Its end is no exception, but `failure`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for part in (self._send, self._receive, self._watch):
                        nursery.start_soon(self._guard, part)
        finally:
            self.close("closed")
            self._fail_all(str(self.failure))
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
            self.ended.set()

    async def _guard(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except _Lost as loss:
            self.close(str(loss))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            word = self._last_word()  # a server that closes without having read everything resets the connection
            cause = error.__cause__ or error
            self.close(f"the server closed the connection{word}" if word else f"the connection broke ({cause})")

    async def _send(self) -> None:
        while True:
            if not self._out:
                self._more = trio.Event()
                await self._more.wait()
            data = b"".join(self._out)
            self._out.clear()
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError:
                await trio.sleep(LAST_WORD)  # a server that closed may have said why
                raise
            self._bytes -= len(data)

    async def _receive(self) -> None:
        feed, gets = self._reader.feed, self._reader.gets
        while True:
            data = await self._stream.receive_some(RECEIVE)
            if not data:
                raise _Lost(f"the server closed the connection{self._last_word()}")
            self._heard += 1
            feed(bytes(data))
            try:
                while (reply := gets()) is not _NOTHING:
                    self._take(reply)
            except hiredis.ProtocolError as error:
                raise _Lost(f"what came is no Redis protocol ({error})") from None

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.PushNotification) and reply[0] not in _CONFIRMATIONS:
            self._on_push(reply)
            return
        if not self._pending:
            raise _Lost(f"the server said something unasked ({reply!r:.200})")
        batch = self._pending[0]
        batch.replies.append(reply)
        if len(batch.replies) == batch.wanted:
            self._pending.popleft()
            self._commands -= batch.wanted
            batch.wake()

    def _last_word(self) -> str:
        """What the server complained of before it closed, if it did."""
        replies = self._pending[0].replies if self._pending else []
        return f" ({replies[-1]})" if replies and isinstance(replies[-1], ResponseError) else ""

    async def _watch(self) -> None:
        """End the connection when a reply is late. Ask for one when nothing has been heard for long.

        No command that is sent while this sleeps can be late before it wakes.
        """
        while True:
            heard = self._heard
            if self._pending:
                await trio.sleep_until(min(self._pending[0].deadline, trio.current_time() + self.timeout))
                if self._late():
                    await trio.lowlevel.checkpoint()  # if it was we who slept, the reply is there to be received
                    if self._late():
                        raise _Lost(f"no reply within {self.timeout:g} s")
            else:
                await trio.sleep(min(IDLE, self.timeout))
                if not self._pending and heard == self._heard:
                    self._post(None, [("PING",)])

    def _late(self) -> bool:
        return bool(self._pending) and self._pending[0].deadline <= trio.current_time()

    # The two ends of the line.

    def _post(self, task: trio.lowlevel.Task | None, commands: Sequence[Command], hold: float = 0.0) -> Batch:
        if self.failure is not None:
            raise StoreUnavailable(self.failure)
        packed = _pack(commands)
        if self._commands >= MOST_COMMANDS or (self._bytes and self._bytes + len(packed) > MOST_BYTES):
            raise StoreUnavailable(f"too many commands wait for it ({self._commands} of {self._bytes} bytes)")
        batch = Batch(task, len(commands), trio.current_time() + self.timeout + hold)
        self._pending.append(batch)
        self._commands += batch.wanted
        self._out.append(packed)
        self._bytes += len(packed)
        self._more.set()
        return batch

    def _fail_all(self, failure: str) -> None:
        for batch in self._pending:
            batch.failure = failure
            batch.wake()
        self._pending.clear()


def _pack(commands: Sequence[Command]) -> bytes:
    try:
        return b"".join([_pack_one(tuple(command)) for command in commands])
    except (TypeError, UnicodeEncodeError) as error:
        raise DataError(f"a command's arguments are text, bytes or numbers: {error}") from None
