"""Connecting: the session, its upgrade, the namespace; and the goodbye."""

import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio

from engineio_trio.client.application import ClientApplication
from engineio_trio.client.endpoint import Endpoint, Query, to_url
from engineio_trio.client.polling import ClientPolling
from engineio_trio.client.socket import ClientSocket
from engineio_trio.client.websocket import ClientWebSocket, carry
from engineio_trio.errors import CloseReason, Disconnected, HandshakeRefused, RemoteProtocolError
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Open, Packet, PacketType
from engineio_trio.protocol.engine_session import ClientEngineSession, Door
from engineio_trio.server.connection import Connection
from engineio_trio.settings import Settings
from engineio_trio.transport.base import TransportEnded

logger = logging.getLogger("engineio_trio")

TRANSPORTS = ("polling", "websocket")
PROBE = Encoded.engine(Packet(PacketType.PING, "probe"))
UPGRADE = Encoded.engine(Packet(PacketType.UPGRADE))

# A client has one peer, and asked for what it says: room enough for a server's largest batch.
CLIENT_SETTINGS = Settings(max_payload=16_000_000, max_packets=1_000_000, outbox_bytes=16_000_000, handler_queue=1_024)


@asynccontextmanager
async def connect(
    url: str,
    *,
    path: str = "/socket.io/",
    namespace: str = "/",
    auth: dict[str, Any] | None = None,
    query: Query | None = None,
    headers: Mapping[str, str] | None = None,
    transports: Sequence[str] = TRANSPORTS,
    timeout: float = 20.0,
    ssl_context: ssl.SSLContext | None = None,
    settings: Settings = CLIENT_SETTINGS,
) -> AsyncIterator[ClientSocket]:
    """A joined namespace of the server at `url` (`http://host:port`, or https, ws, wss), for the length of the block.

    `auth` goes with CONNECT; `query` and `headers` with every request. The first of `transports` opens the session; a
    session on polling moves to a WebSocket when both sides have it. All must be there within `timeout` seconds.
    `settings` are this side's limits. Leaving the block says goodbye, also when it is cancelled (then for at most
    `close_timeout`).

    Raises HandshakeRefused (an HTTP error), ConnectRefused (the namespace's refusal), Disconnected (with
    CONNECT_TIMEOUT when time is up), RemoteProtocolError (no Engine.IO server), OSError (no way there), ValueError
    (the arguments). A connection that is lost inside the block raises nothing by itself: iteration ends, `call` raises
    Disconnected, `closed` says why. It does not come back by itself either; that is a loop of yours:

        while True:
            try:
                async with connect(url) as socket:
                    async for event in socket:
                        ...
                    if socket.closed is CloseReason.SERVER_DISCONNECT:
                        break  # the server does not want us back
            except (OSError, Disconnected):
                pass
            await trio.sleep(random.uniform(1, 5))
    """
    endpoint = to_url(url, path=path, query=query or {}, headers=headers or {}, settings=settings, tls=ssl_context)
    async with join(endpoint, namespace, auth, transports, timeout) as socket:
        yield socket


@asynccontextmanager
async def join(
    endpoint: Endpoint, namespace: str, auth: dict[str, Any] | None, transports: Sequence[str], timeout: float
) -> AsyncIterator[ClientSocket]:
    """`connect` to an endpoint of any kind."""
    unknown = [name for name in transports if name not in TRANSPORTS]
    if unknown or not transports:
        raise ValueError(f"transports are some of {list(TRANSPORTS)}, not {list(transports)}")
    with bare_errors():
        async with trio.open_nursery() as nursery:
            hearth = await nursery.start(_keep_hearth)
            visit = _Visit(endpoint, hearth)
            try:
                yield await visit.begin(namespace, auth, transports, timeout)
            finally:
                await visit.end()
                hearth.cancel_scope.cancel()


async def _keep_hearth(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """A nursery that outlives the cancellation of its owner, so that there is a time for the goodbye."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as hearth:
            task_status.started(hearth)
            await trio.sleep_forever()


@contextmanager
def bare_errors() -> Iterator[None]:
    """A single error comes out as itself, not in the groups of the nurseries that it passed."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, BaseExceptionGroup):
            raise
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context
            del error, group


class _Visit:
    """One connection to a server, from the first request to the last. Its tasks run in `hearth`."""

    def __init__(self, endpoint: Endpoint, hearth: trio.Nursery) -> None:
        self._endpoint = endpoint
        self._settings = endpoint.settings
        self._hearth = hearth
        self._polling: ClientPolling | None = None
        self._application: ClientApplication | None = None

    async def begin(
        self, namespace: str, auth: dict[str, Any] | None, transports: Sequence[str], timeout: float
    ) -> ClientSocket:
        """Open the session and join the namespace; raises as `connect` does."""
        try:
            with trio.fail_after(timeout):
                application = self._application = await self._open(namespace, transports)
                await application.join(auth)
        except trio.TooSlowError:
            raise Disconnected(CloseReason.CONNECT_TIMEOUT) from None
        except TransportEnded as end:
            raise ConnectionError(str(end)) from end
        if application.refusal is not None:
            raise application.refusal
        if application.peer.closed is not None and not application.sid:
            raise Disconnected(application.peer.closed)
        return ClientSocket(application)

    async def _open(self, namespace: str, transports: Sequence[str]) -> ClientApplication:
        if transports[0] == "polling":
            polling = self._polling = ClientPolling(self._endpoint)
            opening = await polling.open()
            application = self._run(opening, polling, namespace)
            if "websocket" in transports and "websocket" in opening.upgrades:
                self._hearth.start_soon(self._upgrade, application.connection, polling)
            return application
        websocket = await self._hearth.start(carry, self._endpoint, None)
        (first,) = await websocket.receive()
        if first.type is not PacketType.OPEN or isinstance(first.data, bytes):
            raise RemoteProtocolError(f"a session begins with OPEN, not with {first.type.name}")
        return self._run(Open.parse(first.data), websocket, namespace)

    def _run(self, opening: Open, transport: ClientPolling | ClientWebSocket, namespace: str) -> ClientApplication:
        connection = Connection(
            sid=opening.sid,
            engine=ClientEngineSession(opening, trio.current_time()),
            handshake=self._endpoint.handshake(),
            settings=self._settings,
            transport=transport,
            revision=4,
        )
        application = connection.application = ClientApplication(connection, namespace)
        self._hearth.start_soon(connection.run)
        return application

    async def end(self) -> None:
        """Say goodbye, for at most `close_timeout`, whatever happens around."""
        with trio.CancelScope(shield=True):
            if self._application is not None:
                self._application.leave()
                with trio.move_on_after(self._settings.close_timeout):
                    await self._application.connection.wait_closed()
            if self._polling is not None:
                await self._polling.aclose()

    # From polling to a WebSocket.

    async def _upgrade(self, connection: Connection, polling: ClientPolling) -> None:
        """Move the session over; whatever goes wrong before UPGRADE is said costs the WebSocket only."""
        engine = connection.engine
        assert isinstance(engine, ClientEngineSession)
        websocket: ClientWebSocket | None = None
        ready = False
        try:
            with trio.move_on_after(self._settings.upgrade_timeout):
                websocket = await self._hearth.start(carry, self._endpoint, connection.sid)
                await websocket.send((PROBE,))
                for packet in await websocket.receive():
                    engine.receive(packet, Door.PROBE, trio.current_time())
                await polling.rest()
                ready = connection.reason is None
        except (OSError, HandshakeRefused, TransportEnded, RemoteProtocolError) as error:
            logger.debug("no upgrade, polling goes on: %s", error)
        if websocket is not None and ready:
            await self._move(connection, engine, polling, websocket)
        else:
            engine.probe_failed()
            polling.resume()
            if websocket is not None:
                await websocket.abort()

    async def _move(
        self, connection: Connection, engine: ClientEngineSession, polling: ClientPolling, websocket: ClientWebSocket
    ) -> None:
        try:
            await websocket.send((UPGRADE,))
        except TransportEnded as end:  # nobody knows whether the server has moved
            connection.close(end.reason)
        engine.upgraded()
        connection.replace_transport(websocket)
        polling.replace()
        await polling.aclose()
