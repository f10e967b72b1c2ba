"""Who may ask: the token, web pages of other origins, and the size and pace of bodies."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pushd.admin import guard
from tests.patience import PATIENCE
from tests.pushd.admin_support import Admin, running

TOKEN = "a-token-for-tests"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    async with running(tmp_path) as admin:
        yield admin


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[Admin]:
    async with running(tmp_path, token=TOKEN) as admin:
        yield admin


@pytest.mark.parametrize("path", ["/v1/stats", "/v1/devices", "/v1/streams/status", "/metrics", "/nothing", "/Live"])
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"])
async def test_without_the_token_nothing_is_told(locked: Admin, path: str, header: str | None) -> None:
    answer = await locked.http.get(path, headers={"Authorization": header} if header else {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert TOKEN not in answer.text


async def test_with_the_token(locked: Admin) -> None:
    for scheme in ("Bearer", "bearer"):
        answer = await locked.http.get("/v1/stats", headers={"Authorization": f"{scheme} {TOKEN}"})
        assert answer.status_code == 200


async def test_health_and_the_empty_page_need_no_token(locked: Admin) -> None:
    for path in ("/live", "/ready", "/"):
        assert (await locked.http.get(path)).status_code == 200


async def test_with_a_token_any_host_name_will_do(locked: Admin) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "pushd.example"}
    assert (await locked.http.get("/v1/stats", headers=headers)).status_code == 200


async def test_the_token_is_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "pushd")
    async with running(tmp_path, token=TOKEN) as admin:
        await admin.http.get("/v1/stats", headers={"Authorization": f"Bearer {TOKEN}"})
        await admin.http.get("/v1/stats", headers={"Authorization": f"Bearer {TOKEN}x"})
    assert TOKEN not in caplog.text
    assert "CTRL" not in caplog.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8781", "127.0.0.1:1", "[::1]", "[::1]:8781"])
async def test_without_a_token_the_host_must_be_this_machine(admin: Admin, host: str) -> None:
    assert (await admin.http.get("/v1/stats", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:8781", "[::2]", "", "127.0.0.2"]
)
@pytest.mark.parametrize("path", ["/v1/stats", "/", "/metrics"])
async def test_dns_rebinding_is_refused(admin: Admin, host: str, path: str) -> None:
    answer = await admin.http.get(path, headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "wrong_host")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://evil.example:8781"])
async def test_pages_of_other_origins_are_refused(admin: Admin, origin: str) -> None:
    answer = await admin.http.post("/v1/push", json={"to": "all", "data": 1}, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    assert "access-control-allow-origin" not in answer.headers


async def test_our_own_page_is_not(admin: Admin) -> None:
    headers = {"Origin": f"http://{admin.host}:{admin.port}", "Sec-Fetch-Site": "same-origin"}
    answer = await admin.http.post("/v1/push", json={"to": "all", "data": 1}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/v1/streams/status", 403), ("/v1/devices", 403), ("/", 200)])
async def test_other_sites_may_link_to_the_page_and_load_nothing(admin: Admin, path: str, status: int) -> None:
    answer = await admin.http.get(path, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == status


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_what_a_form_could_send_is_refused(admin: Admin, kind: str) -> None:
    answer = await admin.http.post("/v1/push", content=b'{"to": "all", "data": 1}', headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


async def test_a_content_type_may_have_parameters(admin: Admin) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = await admin.http.post("/v1/push", content=b'{"to": "all", "data": 1}', headers=headers)
    assert answer.status_code == 200


async def test_a_body_of_the_limit_is_taken_and_one_more_byte_is_not(admin: Admin) -> None:
    for extra, status in ((0, 400), (1, 413)):
        answer = await admin.http.post("/v1/push", content=b" " * (guard.MAX_BODY + extra), headers=JSON)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] in ("bad_request", "too_large")


async def test_a_client_that_sends_too_much_sees_why(admin: Admin) -> None:
    """The rest is read and thrown away for a while: a connection reset would swallow the answer."""
    stream = await admin.connect()
    size = 4 * guard.MAX_BODY
    head = "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with stream:
        with trio.fail_after(PATIENCE):
            await stream.send_all(f"{head}Content-Length: {size}\r\n\r\n".encode() + b" " * size)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 413 ")


async def test_a_refusal_does_not_wait_behind_a_body_that_nobody_wants(autojump_clock: trio.testing.MockClock) -> None:
    """Hypercorn ends an answer by a message into the same bounded queue that the body comes through."""
    put, get = trio.open_memory_channel[dict[str, Any]](2)
    answers: list[Any] = []

    async def send(message: Any) -> None:
        answers.append(message)
        if message["type"] == "http.response.body":
            await put.send({"type": "http.disconnect"})

    for _ in range(2):
        put.send_nowait({"type": "http.request", "body": b"x", "more_body": True})
    scope = {"type": "http", "method": "POST", "path": "/v1/push", "headers": []}
    with trio.fail_after(60):
        await guard.Guard(_unreached, TOKEN, "127.0.0.1")(scope, get.receive, send)
    assert answers[0]["status"] == 401


async def _unreached(*_: object) -> None:
    raise AssertionError("the guard let it pass")


async def test_unauthorized_bodies_are_not_awaited(locked: Admin) -> None:
    """The 401 comes at once: nobody without the token makes the server hold a body."""
    stream = await locked.connect()
    head = "POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with stream:
        await stream.send_all(head.encode() + b"1\r\nx\r\n" * 40)  # and no end
        with trio.fail_after(PATIENCE):
            answer = b""
            while data := await stream.receive_some():
                answer += data
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_body_that_does_not_arrive_is_408(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_TIMEOUT", 0.05)
    stream = await admin.connect()
    head = "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    async with stream:
        await stream.send_all(head.encode() + b"{")
        with trio.fail_after(PATIENCE):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
