"""The admin API: every endpoint over real HTTP and a real store, and the one shape of its errors."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pushd.errors import StoreUnavailable
from pushd.model import ReceiptState, Stream
from tests.pushd.admin_support import Admin, running


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    async with running(tmp_path) as admin:
        yield admin


async def test_push_to_a_device_is_stored_and_answered_with_its_receipt(admin: Admin) -> None:
    holder = await admin.online("d1")
    answer = await admin.http.post("/v1/push", json={"to": "device:d1", "event": "hi", "data": {"n": [1]}, "id": "p1"})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["id"], body["counts"]) == ("p1", {"stored": 1})
    assert body["receipts"][0] | {"ts": 0} == {
        "id": "p1", "device": "d1", "state": "stored", "seq": 1, "ts": 0, "reason": "",
    }  # fmt: skip
    [message] = await admin.service.store.fetch("d1", holder.epoch, 0, 10)
    assert (message.id, message.event, json.loads(message.data)) == ("p1", "hi", {"n": [1]})


async def test_push_without_an_id_gets_one(admin: Admin) -> None:
    await admin.online("d1")
    ids = [(await admin.http.post("/v1/push", json={"to": "all", "data": 1})).json()["id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(len(id) >= 32 for id in ids)


async def test_push_again_with_the_same_id_is_a_duplicate(admin: Admin) -> None:
    await admin.online("d1")
    answers = [await admin.http.post("/v1/push", json={"to": "device:d1", "data": 1, "id": "p"}) for _ in range(2)]
    assert [answer.json()["counts"] for answer in answers] == [{"stored": 1}, {"duplicate": 1}]


async def test_push_to_many_counts_all_and_shows_the_first_hundred(admin: Admin) -> None:
    for number in range(105):
        await admin.service.store.login(f"d{number:03}", f"c{number}", ["t"])
    body = (await admin.http.post("/v1/push", json={"to": "topic:t", "data": 1})).json()
    assert body["counts"] == {"stored": 105}
    assert len(body["receipts"]) == 100


async def test_push_to_nobody_is_no_error(admin: Admin) -> None:
    body = (await admin.http.post("/v1/push", json={"to": "topic:nobody", "data": 1, "id": "p"})).json()
    assert body == {"id": "p", "counts": {}, "receipts": []}


async def test_push_refused_by_every_device_is_200_with_the_state(tmp_path: Path) -> None:
    async with running(tmp_path) as admin:
        await admin.service.store.login("d1", "c1", [])
        answer = await admin.http.post("/v1/push", json={"to": "device:nobody-here", "data": 1, "qos": 0})
        assert answer.status_code == 200
        assert answer.json()["counts"] == {"refused": 1}
        assert answer.json()["receipts"][0]["reason"]


async def test_push_waits_for_the_acknowledgement(admin: Admin) -> None:
    holder = await admin.online("d1")
    store = admin.service.store

    async def device() -> None:
        await store.read_stream(Stream.RECEIPT, "", 1, wait=10)
        [message] = await store.fetch("d1", holder.epoch, 0, 10)
        await store.ack("d1", holder.epoch, [message.seq], ReceiptState.ACKED)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(device)
        answer = await admin.http.post("/v1/push", json={"to": "device:d1", "data": 1, "wait": 15})
    assert answer.json()["counts"] == {"acked": 1}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"data": 1}, "to"),
        ({"to": "d1", "data": 1}, "to"),
        ({"to": "device:a b", "data": 1}, "to"),
        ({"to": "all"}, "data"),
        ({"to": "all", "data": 1, "color": "red"}, "color"),
        ({"to": "all", "data": 1, "ttl": "1"}, "ttl"),
        ({"to": "all", "data": 1, "qos": 2}, "qos"),
        ({"to": "all", "data": 1, "event": "disconnect"}, "event"),
        ({"to": "all", "data": 1, "id": 7}, "id"),
        ({"to": "all", "data": 1, "wait": "5"}, "wait"),
        ({"to": "all", "data": 1, "wait": -1}, "wait"),
        ({"to": "all", "data": 1, "wait": 1e9}, "wait"),
        ({"to": "all", "data": 1, "wait": True}, "wait"),
        ([1], "body"),
        ("text", "body"),
    ],
)
async def test_wrong_push_is_400_and_names_the_field(admin: Admin, body: Any, field: str) -> None:
    answer = await admin.http.post("/v1/push", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "bad_request"
    assert field in error["message"].partition(":")[0]


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'{"data": NaN}', b"[" * 100_000, b'{"to": "\\ud800"}'])
async def test_what_is_not_json_is_400(admin: Admin, text: bytes) -> None:
    answer = await admin.http.post("/v1/push", content=text, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert answer.json()["error"]["message"].startswith("body")


async def test_devices_in_pages_with_the_totals(admin: Admin) -> None:
    for name in ("a", "b", "c"):
        holder = await admin.online(name, "t")
    await admin.service.store.logout("c", holder.epoch, "gone")
    first = (await admin.http.get("/v1/devices", params={"limit": 2})).json()
    assert [record["device"] for record in first["devices"]] == ["a", "b"]
    assert (first["next"], first["online"], first["known"], first["connections"]) == ("b", 2, 3, 3)
    rest = (await admin.http.get("/v1/devices", params={"limit": 2, "after": "b"})).json()
    assert [(record["device"], record["online"]) for record in rest["devices"]] == [("c", False)]
    assert rest["next"] is None
    online = (await admin.http.get("/v1/devices", params={"online": "true"})).json()
    assert [record["device"] for record in online["devices"]] == ["a", "b"]


async def test_one_device(admin: Admin) -> None:
    holder = await admin.online("a@b~c", "t")
    record = (await admin.http.get("/v1/devices/a@b~c")).json()
    assert (record["device"], record["online"], record["epoch"]) == ("a@b~c", True, holder.epoch)
    assert record["topics"] == ["t"]
    assert (await admin.http.get("/v1/devices/nobody")).status_code == 404
    assert (await admin.http.get("/v1/devices/no%20id")).status_code == 400


async def test_kick(admin: Admin) -> None:
    holder = await admin.online("d1")
    answer = await admin.http.delete("/v1/devices/d1", params={"reason": "maintenance"})
    assert answer.json() == {"device": "d1", "kicked": True}
    assert holder.kicked == [("maintenance", "admin")]
    assert (await admin.http.delete("/v1/devices/other")).json() == {"device": "other", "kicked": False}
    assert (await admin.http.delete("/v1/devices/d1", params={"reason": "a\nb"})).status_code == 400


async def test_the_token_of_a_legal_device_is_set_and_taken_back(admin: Admin) -> None:
    path = "/v1/devices/d1/token"
    assert (await admin.http.put(path, json={"token": "apple"})).json() == {"device": "d1", "legal": True}
    stored = await admin.service.store.token_of("d1")
    assert stored is not None
    assert stored.startswith("sha256:")
    assert "apple" not in stored
    assert (await admin.http.put(path, json={})).json() == {"device": "d1", "legal": True}
    assert await admin.service.store.token_of("d1") == ""
    assert (await admin.http.delete(path)).json() == {"device": "d1", "legal": False}
    assert await admin.service.store.token_of("d1") is None
    for wrong in ({"token": 5}, {"token": "a", "topics": []}, {"token": "x" * 5_000}, {"token": "a\n"}):
        assert (await admin.http.put(path, json=wrong)).status_code == 400


async def test_stats(admin: Admin) -> None:
    await admin.online("d1")
    stats = (await admin.http.get("/v1/stats")).json()
    assert (stats["node"], stats["connections"], stats["devices"]) == ("n1", 1, 1)
    assert (stats["store"]["online"], stats["store"]["devices"]) == (1, 1)
    assert set(stats["store"]["streams"]) == set(Stream)


async def test_reconcile(admin: Admin) -> None:
    await admin.online("alive")
    answer = await admin.http.post("/v1/reconcile", json={"devices": ["x", "alive", "y"], "id": "r1"})
    body = answer.json()
    assert (body["id"], body["offline"]) == ("r1", ["x", "y"])
    assert body["ts"] > 1e9
    [entry] = await admin.service.store.read_stream(Stream.RECONCILED, "", 10)
    assert (entry.fields["id"], json.loads(entry.fields["offline"])) == ("r1", ["x", "y"])
    assert (await admin.http.post("/v1/reconcile", json={"devices": "x"})).status_code == 400


async def test_reconcile_takes_more_than_other_requests(admin: Admin) -> None:
    devices = [f"{number:064}" for number in range(20_000)]
    answer = await admin.http.post("/v1/reconcile", json={"devices": devices})
    assert answer.json()["offline"] == devices


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/streams/nothing", 404, "not_found"),
        ("GET", "/v1/devices/", 404, "not_found"),
        ("GET", "/v1/push", 405, "method_not_allowed"),
        ("DELETE", "/v1/stats", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/push", 405, "method_not_allowed"),
        ("GET", "/v1/devices?limit=0", 400, "bad_request"),
        ("GET", "/v1/devices?limit=1001", 400, "bad_request"),
        ("GET", "/v1/devices?limit=%C2%B2", 400, "bad_request"),
        ("GET", "/v1/devices?online=yes", 400, "bad_request"),
        ("GET", "/v1/devices?nline=true", 400, "bad_request"),
        ("GET", "/v1/stats?x=1", 400, "bad_request"),
        ("GET", "/v1/streams/status?wait=nan", 400, "bad_request"),
        ("GET", "/v1/streams/status?wait=301", 400, "bad_request"),
        ("GET", "/v1/streams/status?after=nonsense", 400, "bad_request"),
    ],
)
async def test_errors_have_one_shape(admin: Admin, method: str, path: str, status: int, code: str) -> None:
    answer = await admin.http.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]
    if status == 405:
        assert answer.headers["allow"]


async def test_store_unavailable_is_503_with_retry_after(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(admin.service.store, "counts", broken)
    answer = await admin.http.get("/v1/stats")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert "disk full" in answer.json()["error"]["message"]
    assert int(answer.headers["retry-after"]) > 0


async def test_a_mistake_of_ours_is_500_without_details_and_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret detail")

    async with running(tmp_path) as admin:
        monkeypatch.setattr(admin.service.store, "counts", broken)
        answer = await admin.http.get("/v1/stats")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert "secret" not in answer.text
        assert (await admin.http.get("/live")).status_code == 200
    assert "ZeroDivisionError" in caplog.text  # written after the answer


async def test_what_is_expected_is_not_logged(admin: Admin, caplog: pytest.LogCaptureFixture) -> None:
    await admin.http.get("/v1/devices/nobody")
    await admin.http.post("/v1/push", json={})
    assert [record for record in caplog.records if record.name.startswith("pushd.admin")] == []
