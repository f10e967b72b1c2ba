"""A plain socket as a stream with doors: besides waiting for bytes, it can be written to at once, as far as it goes.

Trio's own SocketStream gives the scheduler a turn in every call; on the hot path that turn costs more than the call.
TLS and every other stream have no such doors and take the ordinary way.
"""

import os

import trio


class PlainStream(trio.abc.HalfCloseableStream):
    """`stream` by its descriptor. Closing it closes `stream`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._descriptor = stream.socket.fileno()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, waiting for it; empty at the end. Raises BrokenResourceError, ClosedResourceError."""
        while True:
            if self._descriptor < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                return os.read(self._descriptor, max_bytes or 65_536)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from None

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
            trio.lowlevel.notify_closing(self._descriptor)
            self._descriptor = -1
        await self._stream.aclose()
