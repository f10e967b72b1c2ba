"""The admin interface put together and served: the application, its listener, and an end that comes in bounded time."""

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.types import ASGIApp

from pushd.admin import page
from pushd.admin.answers import EXPLAINED, explain
from pushd.admin.api import Api
from pushd.admin.guard import Guard
from pushd.admin.health import Health
from pushd.admin.metrics import MetricsPage, watch_loop
from pushd.admin.streams import Streams
from pushd.admin.waiting import Waiting
from pushd.service import Service

GRACE: Final = 2.0  # seconds for requests under way when the interface is told to stop
WRITE_TIMEOUT: Final = 5.0  # seconds without progress after which a reader that does not read is dropped
KEEP_ALIVE: Final = 15.0  # seconds an idle connection is kept, and a request head may take
RESTART_PAUSE: Final = 1.0  # seconds
log = logging.getLogger("pushd.admin")


async def serve(
    service: Service,
    listeners: Sequence[trio.SocketListener],
    *,
    token: str,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the admin interface until cancelled; `started` gives the (host, port) of the first of its listeners.

    `token` is the bearer token or `""` for none. When cancelled it closes the listeners, ends the live readers, and
    gives requests under way 2 s.
    """
    for listener in listeners:
        _prepare(listener.socket)
    host, port = listeners[0].socket.getsockname()[:2]
    waiting = Waiting()
    guard = Guard(application(service, waiting), token, f"[{host}]" if ":" in host else host)
    if service.worker is not None:
        service.worker.on_question(MetricsPage(service).answer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, service.metrics)
        stop = await nursery.start(_serve_until_stopped, guard, listeners)
        task_status.started((host, port))
        try:
            await trio.sleep_forever()
        finally:
            waiting.stop()
            stop()
            for listener in listeners:
                listener.socket.close()


def application(service: Service, waiting: Waiting) -> Starlette:
    """The ASGI application, without the guard in front of it."""
    api, streams = Api(service, waiting), Streams(service.store, waiting)
    routes = [
        *api.routes(),
        *streams.routes(),
        *MetricsPage(service).routes(),
        *Health(service).routes(),
        *page.routes(),
    ]
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(EXPLAINED, explain))
    app.router.redirect_slashes = False
    return app


def _prepare(listener: trio.socket.SocketType) -> None:
    """Have its connections (which inherit this) broken by the kernel when a peer does not read for `WRITE_TIMEOUT`.

    Hypercorn shields its writes from cancellation, so a reader that stopped reading would hold a shutdown for ever.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(WRITE_TIMEOUT * 1000))


async def _serve_until_stopped(
    app: ASGIApp,
    listeners: Sequence[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[Callable[[], None]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until the function given to `started` is called, then end within `GRACE` (shielded until then).

    This is the boundary around the HTTP server: whatever a request made it raise, the daemon's main job goes on, and so
    does the interface, on the same listeners.
    """
    stopping = trio.Event()
    with trio.CancelScope(shield=True) as scope:

        def stop() -> None:
            stopping.set()
            scope.deadline = trio.current_time() + GRACE

        task_status.started(stop)
        while not stopping.is_set():
            try:
                await _hypercorn(app, listeners, stopping.wait)
            except Exception:
                log.exception("the admin interface's HTTP server failed; it starts again in %g s", RESTART_PAUSE)
                with trio.move_on_after(RESTART_PAUSE):
                    await stopping.wait()


async def _hypercorn(
    app: ASGIApp, listeners: Sequence[trio.SocketListener], stopped: Callable[[], Awaitable[None]]
) -> None:
    config = Config()
    config.bind = [f"fd://{os.dup(each.socket.fileno())}" for each in listeners]  # Hypercorn closes what it is given
    config.graceful_timeout = GRACE
    config.keep_alive_timeout = KEEP_ALIVE
    config.include_server_header = False
    config.errorlog = log.getChild("http")
    config.errorlog.setLevel(logging.WARNING)  # below that it only says where it listens, which the daemon does better
    await hypercorn.trio.serve(cast(Any, app), config, shutdown_trigger=stopped, mode="asgi")
