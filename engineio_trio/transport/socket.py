"""Plain sockets: accepting them, many in one turn, and each as a stream with doors.

Besides waiting for bytes, such a stream can be read and written at once, as far as it goes, and be watched by a poller.
Trio's own SocketStream gives the scheduler a turn in every call; on the hot path that turn costs more than the call.
TLS and every other stream have no such doors and take the ordinary way.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable

import trio

from engineio_trio.transport.poller import Poller, Reader

logger = logging.getLogger("engineio_trio")

READ_SIZE = 65_536
MOST_ACCEPTED = 64  # in one turn, for those who are here already have something to say, too
FATAL = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP))  # that will never be a listener
PAUSE = 0.1  # seconds until the next try, when there are too many open files, or no memory


class PlainStream(trio.abc.HalfCloseableStream):
    """A connected, non-blocking socket, which is closed with it. With a `poller`, it can be watched."""

    __slots__ = ("_descriptor", "_poller", "_socket")

    def __init__(self, socket: socket.socket, poller: Poller | None = None) -> None:
        self._socket = socket
        self._descriptor = socket.fileno()  # -1 when closed
        self._poller = poller

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, waiting for it; empty at the end. Raises BrokenResourceError, ClosedResourceError."""
        data: bytes | None = None
        while data is None:
            await trio.lowlevel.wait_readable(self.fileno())
            data = self.read_nowait(max_bytes or READ_SIZE)
        return data

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """What has come; None if nothing has, empty at the end. Raises BrokenResourceError, ClosedResourceError."""
        try:
            return os.read(self._descriptor, max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            self.fileno()
            raise trio.BrokenResourceError(str(error)) from None

    @property
    def can_be_watched(self) -> bool:
        """Whether `watch` may be called."""
        return self._poller is not None and self._poller.is_running

    async def watch(self, reader: Reader) -> None:
        """Have the poller call `reader` whenever there is something to read, until it says that this task is to look.

        Raises ClosedResourceError.
        """
        assert self._poller is not None
        await self._poller.watch(self.fileno(), reader)

    def interrupt(self) -> bool:
        """Have `watch` return, if a task waits there. Cancelling it does the same for five times as much."""
        return self._poller is not None and self._poller.release(self._descriptor)

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write as much as goes at once; how many bytes went. Raises BrokenResourceError, ClosedResourceError."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.fileno()
            raise trio.BrokenResourceError(str(error)) from None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`. Raises BrokenResourceError, ClosedResourceError."""
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest := rest[self.write_nowait(rest) :]:
            await self.wait_send_all_might_not_block()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a write might go through at once."""
        await trio.lowlevel.wait_writable(self.fileno())

    async def send_eof(self) -> None:
        """Say that nothing more comes from here."""
        await trio.lowlevel.checkpoint()
        self.fileno()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from None

    async def aclose(self) -> None:
        """Close it; who waits in it gets ClosedResourceError."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """As `aclose`, at once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            if self._poller is not None:
                self._poller.release(descriptor)
            trio.lowlevel.notify_closing(descriptor)
            self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for another process to have it too; closing ours then does not end the connection.

        Raises ClosedResourceError.
        """
        if self._descriptor < 0:
            raise trio.ClosedResourceError
        return self._descriptor


async def accept_plain(listener: trio.SocketListener, accepted: Callable[[socket.socket, str], object]) -> None:
    """Accept until cancelled, then close the listener: `accepted(socket, address of the peer)` for each connection.

    The address is empty where there is none. When no more fit in (too many open files), it tries again a little later.
    """
    async with listener:
        with socket.socket(fileno=os.dup(listener.socket.fileno())) as door:  # the same one, without Trio's turns
            door.setblocking(False)
            while True:
                await trio.lowlevel.wait_readable(door)
                try:
                    for _ in range(MOST_ACCEPTED):
                        _accept(door, accepted)
                except (BlockingIOError, ConnectionError):
                    continue  # no more are waiting, or one has left again
                except OSError as error:
                    if error.errno in FATAL:
                        raise
                    logger.error("cannot accept a connection, trying again: %s", error)
                    await trio.sleep(PAUSE)


def _accept(door: socket.socket, accepted: Callable[[socket.socket, str], object]) -> None:
    given, address = door.accept()
    given.setblocking(False)
    if given.family in (socket.AF_INET, socket.AF_INET6):
        given.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    accepted(given, str(address[0]) if isinstance(address, tuple) else "")
