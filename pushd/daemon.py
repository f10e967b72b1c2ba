"""The process: what it starts in which order, the signals that end it, what it says, and its exit code."""

import contextlib
import errno
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from pushd.auth import open_authenticator
from pushd.config import Config
from pushd.config.sections import Admin
from pushd.confirmations import Confirmations
from pushd.errors import ConfigError, PushdError, StoreBusy, StoreUnavailable
from pushd.gateway import Address, Gateway
from pushd.goodbye import Goodbyes
from pushd.hub import Hub
from pushd.limits import say_seldom
from pushd.metrics import Metrics
from pushd.node import Node
from pushd.store import open_store
from pushd.store.base import Store
from pushd.store.redis.address import without_password

log = logging.getLogger("pushd")

DONE: Final = 0
FAILED: Final = 1
WRONG_CONFIG: Final = 2
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last: the terminal has closed


class CannotStart(PushdError):
    """The daemon cannot begin, or go on; the text says why, and what to do."""


def run(config: Config, ready_file: Path | None = None) -> int:
    """Run the daemon until SIGTERM, SIGINT or SIGHUP.

    The exit code: 0 after a clean end, 1 if it cannot start, 2 for a wrong configuration that only the start could
    find. `ready_file` gets `{"devices", "admin", "pid"}` as JSON when both listeners are open. A second signal ends it
    at once.
    """
    _start_logging()
    files = _raise_file_limit()
    code = DONE
    try:
        trio.run(_main, config, ready_file, files)
    except* ConfigError as errors:
        code = _complain(errors, WRONG_CONFIG)
    except* (CannotStart, StoreBusy, StoreUnavailable) as errors:
        code = _complain(errors, FAILED)
    return code


async def _main(config: Config, ready_file: Path | None, files: int) -> None:
    name = config.node.name or socket.gethostname()
    hub, metrics = Hub(), Metrics()
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    for number in SIGNALS:  # what Trio restores at the end: a signal that comes too late must not spoil a clean exit
        signal.signal(number, signal.SIG_IGN)
    with trio.open_signal_receiver(*(SIGNALS[:-1] if under_nohup else SIGNALS)) as signals:
        async with (
            _listening(config) as listeners,
            _open_store(config, name, hub) as store,
            open_authenticator(config, store) as authenticator,
        ):
            goodbyes, confirmations = Goodbyes(store, metrics), Confirmations(store, metrics)
            node = Node(name, store, hub, metrics, goodbyes, confirmations, config.delivery)
            gateway = Gateway(config, node, authenticator)
            async with trio.open_nursery() as nursery:
                devices, admin = await _start(nursery, gateway, listeners, config)
                _announce(config, name, devices, admin)
                if files < config.limits.connections:
                    log.info(
                        "limits.connections is %d; this process may open %d files", config.limits.connections, files
                    )
                if ready_file is not None:
                    _write_ready(ready_file, devices, admin)
                await _until_told(signals)
                nursery.start_soon(_hurry, signals, nursery.cancel_scope)
                await gateway.drain(config.node.drain)
                nursery.cancel_scope.cancel()
    log.info("stopped")


def _open_store(config: Config, name: str, hub: Hub) -> contextlib.AbstractAsyncContextManager[Store]:
    limits, deployment = config.store_limits(), config.deployment()
    return open_store(config.store.url, node=name, control=hub, limits=limits, deployment=deployment)


async def _start(
    nursery: trio.Nursery, gateway: Gateway, listeners: Sequence[trio.abc.Listener[Any]], config: Config
) -> tuple[Address, Address]:
    try:
        addresses: tuple[Address, Address] = await nursery.start(gateway.run, listeners)
    except* OSError as errors:  # the device listeners are open already, so it is the other one
        raise _cannot_listen("admin", config.admin.listen, _leaf(errors)) from None
    return addresses


@contextlib.asynccontextmanager
async def _listening(config: Config) -> AsyncIterator[Sequence[trio.abc.Listener[Any]]]:
    """The open device listeners. Raises CannotStart, before anything else has been touched."""
    await _try_admin(config.admin)
    host, port = config.devices.address
    context = config.devices.tls.context()
    try:
        listeners: Sequence[trio.abc.Listener[Any]] = (
            await trio.open_tcp_listeners(port, host=host)
            if context is None
            else await trio.open_ssl_over_tcp_listeners(port, context, host=host)
        )
    except OSError as error:
        raise _cannot_listen("devices", config.devices.listen, error) from None
    try:
        yield listeners
    finally:
        for listener in listeners:
            await listener.aclose()


async def _try_admin(admin: Admin) -> None:
    """Raises CannotStart if the admin listener, which comes last, could not be opened now."""
    host, port = admin.address
    try:
        for listener in await trio.open_tcp_listeners(port, host=host):
            await listener.aclose()
    except OSError as error:
        raise _cannot_listen("admin", admin.listen, error) from None


def _leaf(errors: BaseExceptionGroup[OSError]) -> OSError:
    first = errors.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first


def _cannot_listen(section: str, address: str, error: OSError) -> CannotStart:
    reason = error.strerror
    if error.errno == errno.EADDRINUSE:
        reason = "the address is in use; stop the other program, or choose another port (0 picks a free one)"
    return CannotStart(f"{section}.listen: cannot listen on {address}: {reason or error}")


async def _until_told(signals: AsyncIterator[int]) -> None:
    number = await anext(signals)
    log.info("%s: shutting down", signal.Signals(number).name)


async def _hurry(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """A second signal: now."""
    number = await anext(signals)
    log.warning("%s again: stopping at once", signal.Signals(number).name)
    scope.cancel()


def _announce(config: Config, name: str, devices: Address, admin: Address) -> None:
    scheme = "https" if config.devices.tls.certificate else "http"
    log.info("devices on %s://%s%s  admin on http://%s/", scheme, _shown(devices), config.devices.path, _shown(admin))
    log.info("node %s  store %s  auth %s", name, without_password(config.store.url), config.auth.kind)
    if config.auth.kind == "open":
        log.warning("auth open: any device is believed; set auth.kind before others can reach %s", _shown(devices))


def _write_ready(path: Path, devices: Address, admin: Address) -> None:
    """Write the file whole or not at all: who waits for it may read it as soon as it is there."""
    content = {"devices": _shown(devices), "admin": _shown(admin), "pid": os.getpid()}
    draft = path.parent / f"{path.name}.{os.getpid()}"
    try:
        draft.write_text(json.dumps(content) + "\n")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CannotStart(f"--ready-file: {path} cannot be written: {error.strerror}") from None


def _shown(address: Address) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _start_logging() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs
    say_seldom("trio.serve_listeners", 10.0)  # without files for more connections it would say so ten times a second


def _raise_file_limit() -> int:
    """Allow ourselves as many open files as we may have, one for each connection; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems show a hard limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _complain(errors: BaseExceptionGroup[PushdError], code: int) -> int:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _complain(error, code)
        else:
            print(f"pushdctl: {error}", file=sys.stderr)  # noqa: T201 - what ends the process is said plainly
    return code
