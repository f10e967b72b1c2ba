"""Who may ask: the ASGI layer that every request passes before anything else looks at it.

With a token, the bearer token decides. Without one (loopback only, the configuration sees to that) every program on the
machine may ask, but no web page that a browser there has open: a foreign Host (DNS rebinding), a foreign Origin and a
form post are refused. It also takes the whole body in, bounded in size and time, so that no endpoint has to.
"""

import dataclasses
import hmac
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import trio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pushd.admin.answers import Problem, error

MAX_BODY: Final = 1_048_576  # bytes
RECONCILE: Final = "/v1/reconcile"
RECONCILE_BODY: Final = 16 * MAX_BODY  # as many of the longest device ids as one request may name
BODY_TIMEOUT: Final = 10.0  # seconds, for the whole body
DISCARD_LIMIT: Final = 16 * MAX_BODY  # of a body that is too big: read and thrown away, so that the client sees the 413
DISCARD_TIMEOUT: Final = 2.0
OPEN_PATHS: Final = frozenset({"/live", "/ready"})  # a supervisor has no token
PAGE: Final = "/"  # holds no data: it asks for the token itself
LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
METHODS_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


@dataclasses.dataclass(frozen=True, slots=True)
class Guard:
    """Passes to `app` what may pass. `token` is the bearer token, or `""` for none; `host` is the bound address."""

    app: ASGIApp
    token: str
    host: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection: an HTTP request, or the lifespan; there are no WebSockets here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._admit(scope["method"], scope["path"], Headers(scope=scope))
            body = await _read_body(receive, RECONCILE_BODY if scope["path"] == RECONCILE else MAX_BODY)
        except Problem as problem:
            await _refuse(problem, scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _Replay(body, receive), send)

    def _admit(self, method: str, path: str, headers: Headers) -> None:
        if self.token:
            if path not in OPEN_PATHS and path != PAGE:
                _check_token(self.token, headers)
        else:
            self._check_browser(path, headers)
        if method in METHODS_WITH_BODY:
            _check_type(headers)

    def _check_browser(self, path: str, headers: Headers) -> None:
        """Refuse what only a browser would send for a foreign page. Raises Problem."""
        host = headers.get("host", "").lower()
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if name not in LOOPBACK_HOSTS and name != self.host:
            text = f"the Host header must name this machine (localhost, or the bound address), not {name[:100]!r}"
            raise Problem(HTTPStatus.MISDIRECTED_REQUEST, "wrong_host", text)
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host:
            text = f"requests of pages of another origin ({origin[:100]!r}) are refused"
            raise Problem(HTTPStatus.FORBIDDEN, "foreign_origin", text)
        if path != PAGE and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Problem(HTTPStatus.FORBIDDEN, "foreign_origin", "requests of pages of another site are refused")


def _check_token(token: str, headers: Headers) -> None:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
        return
    text = "send the admin token as `Authorization: Bearer ...`" if not given else "this is not the admin token"
    raise Problem(HTTPStatus.UNAUTHORIZED, "unauthorized", text, {"WWW-Authenticate": 'Bearer realm="pushd"'})


def _check_type(headers: Mapping[str, str]) -> None:
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        text = f"the body must be JSON: send `Content-Type: application/json`, not {given[:100]!r}"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", text)


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None if the client has gone. Raises Problem if it is too big or takes too long."""
    body = bytearray()
    with trio.move_on_after(BODY_TIMEOUT):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                await _discard(receive, DISCARD_LIMIT, DISCARD_TIMEOUT)
                text = f"the body is too big: it may have {limit} bytes"
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", text)
            if not message.get("more_body", False):
                return bytes(body)
    text = f"the body did not arrive within {BODY_TIMEOUT:g} s"
    raise Problem(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", text)


async def _discard(receive: Receive, limit: float, timeout: float) -> None:
    """Throw away what is left of a body: at most `limit` bytes, for at most `timeout` seconds."""
    with trio.move_on_after(timeout):
        while limit > 0:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
            limit -= len(message["body"])


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer before the body has been read.

    Somebody must go on reading meanwhile: Hypercorn's queue towards us is bounded, and when it is full of a body that
    nobody wants, the answer itself would wait behind it for ever.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_discard, receive, math.inf, math.inf)
        await error(problem)(scope, receive, send)
        nursery.cancel_scope.cancel()


class _Replay:
    """An ASGI `receive` that gives a body once more, then what comes after it (the disconnect)."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._first: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive

    async def __call__(self) -> Message:
        """The body first, then whatever the connection says."""
        if self._first is None:
            return await self._receive()
        message, self._first = self._first, None
        return message
