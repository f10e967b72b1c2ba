"""Who may come in: the checks of a request before any session is touched. Pure functions; the order is engine.io's."""

import ipaddress
import urllib.parse

from engineio_trio.protocol.head import Request
from engineio_trio.settings import Settings
from engineio_trio.transport.answer import Headers, HttpError, Response

TRANSPORTS = ("polling", "websocket")


def transport_unknown() -> HttpError:
    return HttpError(400, "Transport unknown", 0, closing=False)


def session_unknown() -> HttpError:
    return HttpError(400, "Session ID unknown", 1, closing=False)


def bad_request(detail: str = "Bad request") -> HttpError:
    return HttpError(400, detail, 3, closing=False)


def check_transport(request: Request) -> str:
    """The transport that a request names; HttpError code 0 if there is none of that name, code 3 if it does not fit."""
    transports = request.query.get("transport", [])
    if len(transports) != 1 or transports[0] not in TRANSPORTS:
        raise transport_unknown()
    if (transports[0] == "websocket") != request.wants_websocket:
        raise bad_request()
    return transports[0]


def check_revision(request: Request, settings: Settings) -> int:
    """The protocol revision that a handshake asks for: 4, or 3 where that is allowed; HttpError code 5 otherwise."""
    match request.query.get("EIO", ["3"]):
        case ["4"]:
            return 4
        case ["3"] if settings.allow_eio3:
            return 3
    raise HttpError(400, "Unsupported protocol version", 5, closing=False)


def check_origin(request: Request, settings: Settings) -> None:
    """HttpError 403 for a page of a foreign origin: the same rule for polling and WebSocket, so no page sneaks in.

    Programs that send no Origin pass; what they are worth is for `authorize` to say.
    """
    origin = request.headers.get("origin")
    if origin is None or settings.cors_origins == "*" or origin in settings.cors_origins:
        return
    if _is_same_host(origin, request.headers.get("host")):
        return
    raise HttpError(403, "Forbidden", 4)


def _is_same_host(origin: str, host: str | None) -> bool:
    try:
        netloc = urllib.parse.urlsplit(origin).netloc
    except ValueError:  # such as http://[
        return False
    return bool(netloc) and netloc == host


def cors_headers(request: Request, settings: Settings) -> Headers:
    """The CORS headers of an answer: none unless the origin is one of `cors_origins`."""
    origin = request.headers.get("origin")
    if origin is None:
        return ()
    if settings.cors_origins == "*":
        return (("Access-Control-Allow-Origin", "*"),)
    if origin not in settings.cors_origins:
        return (("Vary", "Origin"),)
    headers = (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))
    return (*headers, ("Access-Control-Allow-Credentials", "true")) if settings.cors_credentials else headers


def preflight() -> Response:
    """The answer to OPTIONS: what a page of an allowed origin may send."""
    return Response(
        204,
        headers=(
            ("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
            ("Access-Control-Allow-Headers", "Authorization, Content-Type"),
            ("Access-Control-Max-Age", "600"),
        ),
    )


def remote_address(peer: str, request: Request, settings: Settings) -> str:
    """The peer's address: the last hop that is no trusted proxy, by X-Forwarded-For if `peer` itself is trusted."""
    if not settings.trusted_proxies:
        return peer
    networks = [ipaddress.ip_network(proxy, strict=False) for proxy in settings.trusted_proxies]
    hops = [hop.strip() for hop in request.headers.get("x-forwarded-for", "").split(",") if hop.strip()]
    address = peer
    while _is_within(address, networks) and hops:
        address = hops.pop()
    return address


def _is_within(address: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:  # IPv4 on a listener for both
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
