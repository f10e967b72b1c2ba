"""The process: what it starts in which order, the signals that end it, what it says, and its exit code."""

import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from engineio_trio.workers import Order, Signals, Worker, WorkersFailed, run_workers
from pushd.auth import open_authenticator
from pushd.config import Config
from pushd.errors import ConfigError, PushdError, StoreBusy, StoreUnavailable
from pushd.gateway import Address, Gateway
from pushd.hub import Hub
from pushd.limits import say_seldom
from pushd.listening import CannotStart, Certificates, doors, listen, reserve
from pushd.metrics import Metrics
from pushd.node import Node
from pushd.store import open_store
from pushd.store.base import Store
from pushd.store.redis.address import without_password

log = logging.getLogger("pushd")

DONE: Final = 0
FAILED: Final = 1
WRONG_CONFIG: Final = 2
MARGIN: Final = 5.0  # seconds beyond the drain, for workers to close the store and exit

# How many new objects, and then how many younger collections, make the garbage collector look again. A batch of pushes
# makes thousands of objects that go by themselves at once; the usual (700, 10, 10) looks through all connections for
# them every few batches. Measured with 1,000 devices, in turns: 343 and 328 us a push with those, 205 and 268 so.
COLLECTION: Final = (20_000, 20, 50)

Ready = Callable[[Address, Address], None]  # what is done when devices and admin interface are served


def run(config: Config, ready_file: Path | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT, or until its terminal closes; SIGHUP reads the certificate again.

    The exit code: 0 after a clean end, 1 if it cannot start, 2 for a wrong configuration that only the start could
    find. `ready_file` gets `{"devices", "admin", "pid"}` as JSON when both listeners are open. A second signal ends it
    at once.
    """
    _start_logging()
    _raise_file_limit()
    gc.set_threshold(*COLLECTION)  # workers have it from here
    if config.node.workers > 1:
        return _run_workers(config, ready_file)
    return trio.run(_run_alone, config, ready_file)


async def _run_alone(config: Config, ready_file: Path | None) -> int:
    name = _name(config)

    def ready(devices: Address, admin: Address) -> None:
        _announce(config, name, devices, admin)
        if ready_file is not None:
            _write_ready(ready_file, devices, admin)

    with _orders() as orders:
        return await _judge(_serve_alone(config, name, orders, ready))


async def _serve_alone(config: Config, name: str, orders: AsyncIterator[Order], ready: Ready) -> None:
    await _serve(config, name, await listen(config), orders, ready)


def _run_workers(config: Config, ready_file: Path | None) -> int:
    """The parent of the workers: it holds the addresses, and has no part in what is served there."""
    name, begun = _name(config), False

    async def main(worker: Worker) -> int:
        _start_logging(worker.number)

        def ready(devices: Address, admin: Address) -> None:
            if worker.number == 1 and not begun:
                _announce(config, name, devices, admin)
            worker.ready()

        listeners = ports[0].listen(), ports[1].listen()
        return await _judge(_serve(config, f"{name}-{worker.number}", listeners, worker.orders, ready, worker))

    def all_ready() -> None:
        nonlocal begun
        begun = True
        log.info("%d workers serve, the nodes %s-1 to %s-%d", config.node.workers, name, name, config.node.workers)
        if ready_file is not None:
            _write_ready(ready_file, ports[0].address, ports[1].address)

    try:
        ports = reserve(config)
        run_workers(main, config.node.workers, patience=config.node.drain + MARGIN, begun=all_ready)
    except CannotStart as error:
        return _complain(ExceptionGroup("", [error]), FAILED)
    except WorkersFailed as failure:
        if not failure.told:
            return _complain(ExceptionGroup("", [CannotStart(str(failure))]), FAILED)
        return failure.code
    return DONE


async def _serve(
    config: Config,
    name: str,
    listeners: tuple[Sequence[trio.SocketListener], Sequence[trio.SocketListener]],
    orders: AsyncIterator[Order],
    ready: Ready,
    worker: Worker | None = None,
) -> None:
    """One node, from its start to its end."""
    hub, metrics = Hub(), Metrics()
    async with (
        doors(config, *listeners) as open_doors,
        _open_store(config, name, hub) as store,
        open_authenticator(config, store) as authenticator,
    ):
        node = Node.over(store, name, hub, metrics, config.delivery, config.limits.uplink_rate)
        gateway = Gateway(config, node, authenticator, worker)
        async with trio.open_nursery() as nursery:
            ready(*await nursery.start(gateway.run, open_doors.devices, open_doors.admin))
            await _until_told(orders, open_doors.certificates)
            nursery.start_soon(_hurry, orders, nursery.cancel_scope)
            await gateway.drain(config.node.drain)
            nursery.cancel_scope.cancel()
    log.info("stopped")


def _open_store(config: Config, name: str, hub: Hub) -> contextlib.AbstractAsyncContextManager[Store]:
    limits, deployment = config.store_limits(), config.deployment()
    return open_store(config.store.url, node=name, control=hub, limits=limits, deployment=deployment)


def _name(config: Config) -> str:
    return config.node.name or socket.gethostname()


async def _judge(serving: Awaitable[None]) -> int:
    """The exit code for the way that it ends; what must be said is said."""
    code = DONE
    try:
        await serving
    except* ConfigError as errors:
        code = _complain(errors, WRONG_CONFIG)
    except* (CannotStart, StoreBusy, StoreUnavailable) as errors:
        code = _complain(errors, FAILED)
    return code


@contextlib.contextmanager
def _orders() -> Iterator[AsyncIterator[Order]]:
    """What signals say, to a process that is alone."""
    meaning = Signals()
    for number in Signals.NUMBERS:  # what Trio restores at the end: one that comes too late must not spoil a clean exit
        signal.signal(number, signal.SIG_IGN)

    async def understood(signals: AsyncIterator[int]) -> AsyncIterator[Order]:
        async for number in signals:
            order = meaning.order(number)
            if order is Order.STOP:
                log.info("%s: shutting down", signal.Signals(number).name)
            elif order is Order.NOW:
                log.warning("%s again: stopping at once", signal.Signals(number).name)
            yield order

    with trio.open_signal_receiver(*Signals.NUMBERS) as signals:
        yield understood(signals)


async def _until_told(orders: AsyncIterator[Order], certificates: Certificates) -> None:
    async for order in orders:
        if order is not Order.RELOAD:
            return
        certificates.reload()


async def _hurry(orders: AsyncIterator[Order], scope: trio.CancelScope) -> None:
    async for order in orders:
        if order is Order.NOW:
            scope.cancel()


def _announce(config: Config, name: str, devices: Address, admin: Address) -> None:
    scheme = "https" if config.devices.tls.certificate else "http"
    log.info("devices on %s://%s%s  admin on http://%s/", scheme, _shown(devices), config.devices.path, _shown(admin))
    log.info("node %s  store %s  auth %s", name, without_password(config.store.url), config.auth.kind)
    if config.auth.kind == "open":
        log.warning("auth open: any device is believed; set auth.kind before others can reach %s", _shown(devices))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < config.limits.connections:
        log.info("limits.connections is %d; one process may open %d files", config.limits.connections, files)


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


def _start_logging(worker: int | None = None) -> None:
    who = "" if worker is None else f"[{worker}]"
    text = f"%(asctime)s %(levelname)s %(name)s{who}: %(message)s"
    # What no line shows need not be found out for each: 17 us a line in place of 37, and a device's life has two.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=text, force=worker is not None)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs
    say_seldom("trio.serve_listeners", 10.0)  # without files for more connections it would say so ten times a second


def _raise_file_limit() -> None:
    """Allow ourselves as many open files as we may have: one for each connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems show a hard limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _complain(errors: BaseExceptionGroup[PushdError], code: int) -> int:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _complain(error, code)
        else:
            print(f"pushdctl: {error}", file=sys.stderr)  # noqa: T201 - what ends the process is said plainly
    return code
