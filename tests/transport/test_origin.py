"""Which pages may talk to the server, and what CORS tells them (rows H16, H17)."""

import pytest

from engineio_trio import Settings, SocketServer
from tests.raw import (
    HOST,
    UPGRADE,
    Poller,
    Wire,
    polling,
    serving,
    websocket_target,
)

ORIGINS = {
    "none": (None, True),
    "listed": ("https://app.example", True),
    "the server's own": (f"http://{HOST}", True),
    "null": ("null", False),
    "suffix": ("https://app.example.evil.com", False),
    "prefix": ("https://evil-app.example", False),
    "user": ("https://app.example@evil.com", False),
    "port": ("https://app.example:8443", False),
    "scheme": ("http://app.example", False),
    "path": ("https://app.example/", False),
    "another case": ("https://APP.example", False),
    "bracket": ("http://[", False),
    "bracket and host": (f"http://[{HOST}", False),
    "nothing": ("", False),
    "two": (f"https://app.example http://{HOST}", False),
    "only the host": (HOST, False),
}


@pytest.mark.parametrize("case", ORIGINS)
@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_h16_origins(case: str, transport: str) -> None:
    """A page of a foreign origin is refused on both transports, before the 101."""
    origin, allowed = ORIGINS[case]
    async with serving(SocketServer(Settings(cors_origins=["https://app.example"]))) as listener:
        headers = {} if origin is None else {"Origin": origin}
        if transport == "websocket":
            if allowed:
                await Wire.open(listener.connect(), headers=headers)
                return
            headers |= UPGRADE
        answer = await listener.connect().request("GET", f"/socket.io/?EIO=4&transport={transport}", headers)
        if allowed:
            assert answer.status == 200
        else:
            assert answer.refusal == (403, 4)


async def test_h16_a_session_is_no_way_around_the_origin() -> None:
    async with serving(SocketServer()) as listener:
        poller = await Poller.session(listener)
        evil = {"Origin": "https://evil.example"}
        assert (await listener.connect().request("POST", polling(poller.sid), evil, b"40")).refusal == (403, 4)
        answer = await listener.connect().request("GET", websocket_target(poller.sid), {**evil, **UPGRADE})
        assert answer.refusal == (403, 4)


async def test_h17_no_cors_headers_by_default() -> None:
    async with serving(SocketServer()) as listener:
        answer = await listener.connect().request("GET", polling(), {"Origin": f"http://{HOST}"})
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_h17_every_origin_with_credentials_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="cors_credentials"):
        Settings(cors_origins="*", cors_credentials=True)


async def test_h17_cors_for_every_origin() -> None:
    async with serving(SocketServer(Settings(cors_origins="*"))) as listener:
        answer = await listener.connect().request("GET", polling(), {"Origin": "https://any.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


async def test_h17_cors_for_a_listed_origin_on_answers_and_errors_alike() -> None:
    listed = Settings(cors_origins=["https://app.example"], cors_credentials=True)
    async with serving(SocketServer(listed)) as listener:
        for target in (
            polling(),
            polling("unknown"),
            "/socket.io/?EIO=4&transport=x",
            "/socket.io/?EIO=5&transport=polling",
        ):
            answer = await listener.connect().request("GET", target, {"Origin": "https://app.example"})
            assert answer.headers["access-control-allow-origin"] == "https://app.example", target
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert answer.headers["vary"] == "Origin"
        stranger = await listener.connect().request("GET", polling(), {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


async def test_h12_preflight_is_answered_before_the_session_is_looked_at() -> None:
    async with serving(SocketServer(Settings(cors_origins=["https://app.example"]))) as listener:
        headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        answer = await listener.connect().request("OPTIONS", polling("unknown"), headers)
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        assert "content-length" not in answer.headers  # RFC 9110 section 8.6: never with a 204
        assert answer.body == b""
