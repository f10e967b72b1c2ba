"""Where a node listens: the addresses of devices and of the admin interface, and TLS whose certificate can change."""

import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from engineio_trio.workers import Port
from pushd.config import Config
from pushd.config.sections import Listener, Tls
from pushd.errors import PushdError

log = logging.getLogger("pushd")


class CannotStart(PushdError):
    """The daemon cannot begin, or go on; the text says why, and what to do."""


class Certificates:
    """The TLS of new connections: that of the files when they were last good."""

    def __init__(self, tls: Tls) -> None:
        """Raises OSError if a file cannot be used."""
        self._tls = tls
        self.context = tls.context()

    def reload(self) -> None:
        """Read the files again. When they are not good, what was read before stays, and the log says so."""
        if self.context is None:
            log.info("there is no certificate to read again: devices.tls is off")
            return
        try:
            self.context = self._tls.context()
        except OSError as error:  # ssl.SSLError is one
            log.error("devices.tls: %s; new connections go on with what was read before", error)
        else:
            log.info("devices.tls: %s was read again, for new connections", self._tls.certificate)


class TlsListener(trio.abc.Listener[trio.SSLStream[trio.SocketStream]]):
    """As Trio's SSLListener, but each connection has the certificate of its time."""

    def __init__(self, transport_listener: trio.SocketListener, certificates: Certificates) -> None:
        self.transport_listener = transport_listener
        self._certificates = certificates

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        """The next connection; its handshake happens when it is first used."""
        stream = await self.transport_listener.accept()
        assert self._certificates.context is not None
        return trio.SSLStream(stream, self._certificates.context, server_side=True)

    async def aclose(self) -> None:
        """Stop listening."""
        await self.transport_listener.aclose()


@dataclass(frozen=True, slots=True)
class Doors:
    """The open listeners of a node."""

    devices: Sequence[trio.abc.Listener[Any]]
    admin: Sequence[trio.SocketListener]
    certificates: Certificates = field(repr=False)


async def listen(config: Config) -> tuple[list[trio.SocketListener], list[trio.SocketListener]]:
    """Listeners for devices, and for the admin interface. Raises CannotStart if one cannot be opened."""
    devices = await _listen("devices", config.devices)
    try:
        return devices, await _listen("admin", config.admin)
    except CannotStart:
        for listener in devices:
            await listener.aclose()
        raise


async def _listen(section: str, where: Listener) -> list[trio.SocketListener]:
    host, port = where.address
    try:
        return list(await trio.open_tcp_listeners(port, host=host))
    except OSError as error:
        raise _cannot_listen(section, where.listen, error) from None


def reserve(config: Config) -> tuple[Port, Port]:
    """The same for several processes: each then listens on both. Raises CannotStart."""
    return _reserve("devices", config.devices), _reserve("admin", config.admin)


def _reserve(section: str, where: Listener) -> Port:
    try:
        return Port(*where.address)
    except OSError as error:
        raise _cannot_listen(section, where.listen, error) from None


@contextlib.asynccontextmanager
async def doors(
    config: Config, devices: Sequence[trio.SocketListener], admin: Sequence[trio.SocketListener]
) -> AsyncIterator[Doors]:
    """Listeners as a node needs them, with TLS if there is any; closed at the end. Raises CannotStart."""
    try:
        certificates = _certificates(config.devices.tls)
        outer: Sequence[trio.abc.Listener[Any]] = devices
        if certificates.context is not None:
            outer = [TlsListener(listener, certificates) for listener in devices]
        yield Doors(outer, admin, certificates)
    finally:
        for listener in (*devices, *admin):
            await listener.aclose()


def _certificates(tls: Tls) -> Certificates:
    try:
        return Certificates(tls)
    except OSError as error:
        raise CannotStart(f"devices.tls: {error}") from None


def _cannot_listen(section: str, address: str, error: OSError) -> CannotStart:
    reason = error.strerror
    if error.errno == errno.EADDRINUSE:
        reason = "the address is in use; stop the other program, or choose another port (0 picks a free one)"
    return CannotStart(f"{section}.listen: cannot listen on {address}: {reason or error}")
