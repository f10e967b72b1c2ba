"""A plain socket as a stream with doors: besides waiting for bytes, it can be written to at once, as far as it goes.

Trio's own SocketStream gives the scheduler a turn in every call; on the hot path that turn costs more than the call.
TLS and every other stream have no such doors and take the ordinary way.
"""

import os

import trio

from engineio_trio.transport.poller import Poller, Reader


class PlainStream(trio.abc.HalfCloseableStream):
    """`stream` by its descriptor. Closing it closes `stream`. With a `poller`, it can be watched."""

    __slots__ = ("_descriptor", "_poller", "_stream")

    def __init__(self, stream: trio.SocketStream, poller: Poller | None = None) -> None:
        self._stream = stream
        self._descriptor = stream.socket.fileno()
        self._poller = poller

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, waiting for it; empty at the end. Raises BrokenResourceError, ClosedResourceError."""
        data: bytes | None = None
        while data is None:
            if self._descriptor < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._descriptor)
            data = self.read_nowait(max_bytes or 65_536)
        return data

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """What has come; None if nothing has, empty at the end. Raises BrokenResourceError, ClosedResourceError."""
        if self._descriptor < 0:
            raise trio.ClosedResourceError
        try:
            return os.read(self._descriptor, max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
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
        if self._descriptor < 0:
            raise trio.ClosedResourceError
        await self._poller.watch(self._descriptor, reader)

    def write_nowait(self, data: bytes) -> int:
        """Write as much as goes at once; how many bytes went. Raises BrokenResourceError, ClosedResourceError."""
        if self._descriptor < 0:
            raise trio.ClosedResourceError
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a write might go through at once."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more comes from here."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close it; who waits in `receive_some` gets ClosedResourceError."""
        if self._descriptor >= 0:
            if self._poller is not None:
                self._poller.release(self._descriptor)
            trio.lowlevel.notify_closing(self._descriptor)
            self._descriptor = -1
        await self._stream.aclose()
