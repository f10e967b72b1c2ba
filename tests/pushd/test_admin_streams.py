"""The streams over HTTP: pages, long polls, live tails, and writing."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from pushd.admin import streams, waiting
from pushd.errors import StoreUnavailable
from pushd.model import Stream
from tests.patience import PATIENCE
from tests.pushd.admin_support import Admin, running

SSE = {"Accept": "text/event-stream"}


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    async with running(tmp_path) as admin:
        yield admin


async def add(admin: Admin, *texts: str) -> list[str]:
    return [await admin.service.store.append(Stream.DEAD, {"text": text}) for text in texts]


async def read(admin: Admin, **params: str) -> tuple[list[str], str]:
    answer = (await admin.http.get("/v1/streams/dead", params=params)).json()
    return [entry["fields"]["text"] for entry in answer["entries"]], answer["next"]


async def test_pages(admin: Admin) -> None:
    ids = await add(admin, "a", "b", "c")
    assert await read(admin, limit="2") == (["a", "b"], ids[1])
    assert await read(admin, limit="2", after=ids[1]) == (["c"], ids[2])
    assert await read(admin, after=ids[2]) == ([], ids[2])


async def test_now_is_a_place_to_go_on_from(admin: Admin) -> None:
    """An empty answer to `$` names an id, so that nothing falls between two polls."""
    [old] = await add(admin, "old")
    assert await read(admin, after="$") == ([], old)
    await add(admin, "between")
    assert (await read(admin, after=old))[0] == ["between"]


async def test_a_long_poll_ends_with_the_first_entry(admin: Admin) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_add_later, admin)
        with trio.fail_after(PATIENCE):
            assert (await read(admin, after="$", wait="60"))[0] == ["new"]


async def _add_later(admin: Admin) -> None:
    await trio.testing.wait_all_tasks_blocked(0.05)
    await add(admin, "new")


async def test_a_long_poll_without_news_is_empty(admin: Admin) -> None:
    assert await read(admin, after="$", wait="0.05") == ([], "")


async def test_a_tail_gives_what_is_there_and_what_comes(admin: Admin) -> None:
    [first] = await add(admin, "line one\nline two")
    tail = await admin.tail("/v1/streams/dead")
    assert "content-type: text/event-stream" in tail.head.lower()
    assert await tail.block() == {"retry": "2000"}
    assert await tail.block() == {
        "id": first,
        "data": json.dumps({"text": "line one\nline two"}, separators=(",", ":")),
    }
    ids = await add(admin, "x", "y")
    assert [(await tail.block())["id"] for _ in range(2)] == ids
    await tail.stream.aclose()


async def test_a_tail_goes_on_after_the_last_event_id(admin: Admin) -> None:
    ids = await add(admin, "a", "b", "c")
    tail = await admin.tail("/v1/streams/dead?after=0", f"Last-Event-ID: {ids[1]}")
    await tail.block()
    assert (await tail.block())["id"] == ids[2]
    await tail.stream.aclose()


async def test_a_tail_from_now_on_skips_the_past(admin: Admin) -> None:
    await add(admin, "old")
    tail = await admin.tail("/v1/streams/dead?after=$")
    await tail.block()
    [new] = await add(admin, "new")
    assert (await tail.block())["id"] == new
    await tail.stream.aclose()


async def test_a_quiet_tail_has_a_heartbeat(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT", 0.05)
    tail = await admin.tail("/v1/streams/dead?after=$")
    assert await tail.block() == {"retry": "2000"}
    assert await tail.block() == {"": "still here"}
    assert await tail.block() == {"": "still here"}
    await tail.stream.aclose()


async def test_a_tail_with_a_wrong_place_is_refused_before_it_begins(admin: Admin) -> None:
    answer = await admin.http.get("/v1/streams/dead", params={"after": "nonsense"}, headers=SSE)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


async def test_a_tail_ends_when_the_store_goes_so_that_its_reader_comes_back(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(streams, "HEARTBEAT", 0.05)
    tail = await admin.tail("/v1/streams/dead")
    monkeypatch.setattr(admin.service.store, "read_stream", gone)
    with trio.fail_after(PATIENCE):
        await tail.end()


async def test_places_are_bounded_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5: readers beyond the bound get 503, and the place of one that has gone is free again."""
    monkeypatch.setattr(waiting.Waiting.__init__, "__defaults__", (2,))
    async with running(tmp_path) as admin:
        tails = [await admin.tail("/v1/streams/dead") for _ in range(2)]
        for tail in tails:
            await tail.block()
        for headers in (SSE, {}):
            full = await admin.http.get("/v1/streams/dead", params={"wait": 1}, headers=headers)
            assert (full.status_code, full.json()["error"]["code"]) == (503, "busy")
            assert full.headers["retry-after"]
        assert (await admin.http.get("/v1/streams/dead")).status_code == 200  # does not wait, so needs no place
        await tails[0].stream.aclose()
        with trio.fail_after(PATIENCE):
            await _until_free(admin)
        await tails[1].stream.aclose()


async def _until_free(admin: Admin) -> None:
    while (await admin.http.get("/v1/streams/dead", params={"wait": 0.01})).status_code == 503:
        pass  # the server hears of the hang-up soon


async def test_writing_to_the_services_streams(admin: Admin) -> None:
    fields = {"to": "all", "data": "1"}
    answer = await admin.http.post("/v1/streams/push", json=fields)
    assert answer.status_code == 202
    [entry] = await admin.service.store.take(Stream.PUSH, 10)
    assert (entry.id, dict(entry.fields)) == (answer.json()["id"], fields)


@pytest.mark.parametrize("name", sorted(set(Stream) - {Stream.PUSH, Stream.RECONCILE}))
async def test_the_other_streams_are_pushds_own(admin: Admin, name: str) -> None:
    answer = await admin.http.post(f"/v1/streams/{name}", json={"device": "d1"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_fields_are_texts(admin: Admin) -> None:
    answer = await admin.http.post("/v1/streams/push", json={"to": "all", "data": {"n": 1}})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("data:")
