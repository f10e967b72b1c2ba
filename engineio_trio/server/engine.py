"""Engine.IO at one path: the table of sessions, and what each request means for one of them."""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from engineio_trio.errors import CloseReason, HandshakeRefused, RemoteProtocolError
from engineio_trio.handshake import Handshake
from engineio_trio.protocol import payload
from engineio_trio.protocol.encoded import Encoded
from engineio_trio.protocol.engine import Open, Packet, PacketType
from engineio_trio.protocol.engine_session import Action, Door, EngineSession
from engineio_trio.protocol.head import Request
from engineio_trio.server import admission
from engineio_trio.server.base import Application
from engineio_trio.server.connection import Connection
from engineio_trio.server.neighbours import Neighbours, random_sid
from engineio_trio.server.round import Round
from engineio_trio.settings import Settings
from engineio_trio.transport import websocket
from engineio_trio.transport.answer import HttpError, Response
from engineio_trio.transport.base import Transport, TransportEnded
from engineio_trio.transport.http import HttpConnection, PeerGone
from engineio_trio.transport.poller import Poller
from engineio_trio.transport.polling import Overlap, PollingTransport, SessionOver
from engineio_trio.transport.websocket import WebSocketTransport

logger = logging.getLogger("engineio_trio")

Authorize = Callable[[Handshake], Awaitable[None] | None]
OK = Response(200, b"ok", "text/html")
PROBE_ANSWER = Encoded.engine(Packet(PacketType.PONG, "probe"))


@contextmanager
def boundary(what: str) -> Iterator[None]:
    """The one place per session, and per stream, that catches what is left: the log is told, and only that one ends."""
    try:
        yield
    except* Exception as errors:
        logger.error("%s ended by an error", what, exc_info=errors)


class HandedOver(Exception):
    """Another process serves this connection from now on."""


class Engine:
    """All sessions of a server, and the way from an HTTP request to them.

    `make_application` is called for each new session; `authorize`, when set, is asked before there is one. Sessions
    that outlive their requests (long-polling) run in `nursery`.
    """

    def __init__(self, path: str, settings: Settings, make_application: Callable[[Connection], Application]) -> None:
        if not path.startswith("/"):
            raise ValueError(f"a path must begin with '/', not {path!r}")
        self.path = path if path.endswith("/") else path + "/"
        self.settings = settings
        self.sessions: dict[str, Connection] = {}
        self.authorize: Authorize | None = None
        self.nursery: trio.Nursery | None = None
        self.stopping = False  # no new session is let in
        self.neighbours: Neighbours | None = None  # processes that serve on the same port, if there are any
        self._upgrading: set[str] = set()  # sessions that a WebSocket wants to take over, or has
        self._make_application = make_application
        self.round = Round()
        self.poller = Poller(self.round)

    async def serve_stream(self, stream: trio.abc.Stream, peer: str, early: bytes = b"") -> None:
        """Serve one accepted stream to its end. `early` is what another process has read of it."""
        connection = await self._serve_requests(stream, peer, early)
        if connection is not None:  # and of the request nothing is left that the session does not need
            await self._run(connection)
            assert isinstance(connection.transport, WebSocketTransport)
            await connection.transport.linger()

    async def _serve_requests(self, stream: trio.abc.Stream, peer: str, early: bytes) -> Connection | None:
        """Answer requests, to the last one; what is left to run if that one opened a WebSocket."""
        http = HttpConnection(stream, self.settings, peer, early)
        try:
            while True:
                try:
                    request = await http.next_request()
                except HttpError as error:
                    await http.respond(error.response())
                    return None
                if request is None:
                    return None
                http.headers = admission.cors_headers(request, self.settings)
                connection = await self._serve(http, request)
                if connection is not None:
                    return connection
        except (PeerGone, HandedOver):
            return None

    async def _serve(self, http: HttpConnection, request: Request) -> Connection | None:
        try:
            return await self._route(http, request)
        except HttpError as error:
            await http.respond(error.response())
        except HandshakeRefused as refusal:
            await http.respond(HttpError(refusal.status, refusal.message, 4, refusal.headers).response())
        return None

    async def _route(self, http: HttpConnection, request: Request) -> Connection | None:
        if request.path not in (self.path, self.path[:-1]):
            raise HttpError(404, f"nothing here; Engine.IO is at {self.path}")
        if request.method == "OPTIONS":
            await http.respond(admission.preflight())
            return None
        transport = admission.check_transport(request)
        admission.check_origin(request, self.settings)
        if "sid" not in request.query:
            return await self._open(http, request, transport)
        if self.neighbours is not None:
            await self._hand_over(http, request, self.neighbours)
        connection = self._session(request)
        polling = connection.transport
        if transport == "websocket":
            await self._upgrade(http, request, connection)
        elif not isinstance(polling, PollingTransport):
            raise admission.bad_request("the session is not on polling any more")
        elif request.method == "GET":
            await self._poll(http, connection, polling)
        elif request.method == "POST":
            await self._post(http, request, connection, polling)
        else:
            raise HttpError(405, f"{request.method} has no meaning here", headers={"Allow": "GET, POST, OPTIONS"})
        return None

    async def _hand_over(self, http: HttpConnection, request: Request, neighbours: Neighbours) -> None:
        """Raises HandedOver if the session is another process's; HttpError if that one cannot take the connection."""
        holder = neighbours.holder(request.query["sid"][0])
        if holder is not None:
            await neighbours.hand_over(holder, http.stream, http.peer, http.unserved(), self.settings.write_timeout)
            raise HandedOver

    def _session(self, request: Request) -> Connection:
        sids = request.query["sid"]
        connection = self.sessions.get(sids[0])
        if connection is None or len(sids) > 1:
            raise admission.session_unknown()
        if request.query.get("EIO") != [str(connection.revision)]:
            raise admission.bad_request("EIO differs from the session's")
        return connection

    # A new session.

    async def _open(self, http: HttpConnection, request: Request, transport: str) -> Connection | None:
        if request.method != "GET":
            raise HttpError(400, "Bad handshake method", 2)
        revision = admission.check_revision(request, self.settings)
        key = websocket.check_upgrade(request) if transport == "websocket" else None
        self._check_room()
        remote = admission.remote_address(http.peer, request, self.settings)
        handshake = Handshake(request.path, request.query, request.headers, remote)
        await self._ask(handshake)
        self._check_room()  # again, for asking may have taken its time
        if key is not None:
            return self._begin(handshake, websocket.accept(http, key, self.settings, revision), revision)
        assert self.nursery is not None
        polling = PollingTransport(revision=revision, base64=bool(request.first("b64")))
        connection = self._begin(handshake, polling, revision)
        self.nursery.start_soon(self._run, connection)
        await self._poll(http, connection, polling)
        return None

    def _check_room(self) -> None:
        if self.stopping or len(self.sessions) >= self.settings.max_connections:
            why = "shutting down" if self.stopping else "full"
            raise HttpError(503, f"this server is {why}", headers={"Retry-After": "5"})

    async def _ask(self, handshake: Handshake) -> None:
        """Raises HandshakeRefused if `authorize` does; one that fails lets nobody in."""
        if self.authorize is None:
            return
        try:
            verdict = self.authorize(handshake)
            if verdict is not None:
                await verdict
        except HandshakeRefused:
            raise
        except Exception:
            logger.exception("the authorize handler failed, so the handshake is refused")
            raise HttpError(500, "the handshake could not be authorized", 4) from None

    def _begin(self, handshake: Handshake, transport: Transport, revision: int) -> Connection:
        settings = self.settings
        connection = Connection(
            sid=random_sid() if self.neighbours is None else self.neighbours.new_sid(),
            engine=EngineSession(
                ping_interval=settings.ping_interval,
                ping_timeout=settings.ping_timeout,
                now=trio.current_time(),
                revision=revision,
                upgradable=isinstance(transport, PollingTransport),
            ),
            handshake=handshake,
            settings=settings,
            transport=transport,
            revision=revision,
            round=self.round,
        )
        self.sessions[connection.sid] = connection
        connection.application = self._make_application(connection)
        connection.send(Encoded.engine(self._opening(connection).packet()))
        return connection

    def _opening(self, connection: Connection) -> Open:
        upgrades = ("websocket",) if isinstance(connection.transport, PollingTransport) else ()
        settings = self.settings
        return Open(connection.sid, upgrades, settings.ping_interval, settings.ping_timeout, settings.max_payload)

    async def _run(self, connection: Connection) -> None:
        try:
            with boundary("a session"):
                await connection.run()
        finally:
            del self.sessions[connection.sid]

    # A session on polling.

    async def _poll(self, http: HttpConnection, connection: Connection, transport: PollingTransport) -> None:
        """Serve a GET: held until there is something to say, or until the peer leaves, which ends the session."""
        try:
            await transport.poll(http)
        except PeerGone:
            if transport.vital:
                connection.close(CloseReason.TRANSPORT_CLOSE)
            raise
        except Overlap:
            connection.close(CloseReason.TRANSPORT_ERROR)
            raise admission.bad_request("two GETs at once") from None
        except SessionOver:
            raise admission.session_unknown() from None

    async def _post(
        self, http: HttpConnection, request: Request, connection: Connection, transport: PollingTransport
    ) -> None:
        """Serve a POST: answered when the session has dealt with all its packets."""
        try:
            body = await http.body(request, self.settings.max_payload)
            await transport.post(self._decode(body, request, connection.revision))
        except PeerGone:
            connection.close(CloseReason.TRANSPORT_ERROR)
            raise
        except RemoteProtocolError as error:
            connection.close(error.reason)
            raise admission.bad_request(str(error)) from None
        except Overlap:
            connection.close(CloseReason.TRANSPORT_ERROR)
            raise admission.bad_request("two POSTs at once") from None
        except SessionOver:
            raise admission.bad_request("the session has ended") from None
        await http.respond(OK)

    def _decode(self, body: bytes, request: Request, revision: int) -> list[Packet]:
        binary = request.headers.get("content-type", "").startswith("application/octet-stream")
        if revision == 3:
            return payload.decode_v3(body, binary=binary, max_packets=self.settings.max_packets)
        if binary:
            raise RemoteProtocolError("a body of application/octet-stream is not Engine.IO 4")
        return payload.decode(body, max_packets=self.settings.max_packets)

    # From polling to a WebSocket.

    async def _upgrade(self, http: HttpConnection, request: Request, connection: Connection) -> None:
        key = websocket.check_upgrade(request)
        polling = connection.transport
        if not isinstance(polling, PollingTransport) or connection.sid in self._upgrading:
            raise admission.bad_request("the session cannot be upgraded")
        self._upgrading.add(connection.sid)
        transport = websocket.accept(http, key, self.settings, connection.revision)
        try:
            async with trio.open_nursery() as nursery:
                await self._carry_over(connection, polling, transport, nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._upgrading.discard(connection.sid)
            await transport.linger()

    async def _carry_over(
        self, connection: Connection, polling: PollingTransport, transport: WebSocketTransport, nursery: trio.Nursery
    ) -> None:
        if await self._probe(connection, polling, transport, nursery):
            await connection.wait_closed()
        else:
            self._upgrading.discard(connection.sid)
            with trio.move_on_after(self.settings.close_timeout):
                await transport.goodbye(CloseReason.POLICY, nursery)

    async def _probe(
        self, connection: Connection, polling: PollingTransport, transport: WebSocketTransport, nursery: trio.Nursery
    ) -> bool:
        """True when the session has moved over. A probe that fails costs its WebSocket, never the session."""
        probed = False
        with trio.move_on_after(self.settings.upgrade_timeout):
            try:
                await transport.answer()
                while True:
                    for packet in await transport.receive(nursery):
                        action = connection.engine.receive(packet, Door.PROBE, trio.current_time())
                        if action is Action.UPGRADE:
                            connection.replace_transport(transport)
                            return True
                        probed = True
                        polling.probing(True)
                        await transport.send((PROBE_ANSWER,))
            except (TransportEnded, RemoteProtocolError) as error:
                logger.debug("a probe failed: %s", error)
        if probed:
            connection.engine.probe_failed()
            polling.probing(False)
        return False
