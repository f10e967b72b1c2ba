"""Health, metrics and the page."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from pushd.admin import health, metrics
from pushd.errors import StoreUnavailable
from pushd.metrics import Metrics, Refusal
from pushd.model import ReceiptState, Stream
from tests.pushd.admin_support import Admin, metric, running


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    async with running(tmp_path) as admin:
        yield admin


# ---- health ----


async def test_ready_when_it_is(admin: Admin) -> None:
    for path in ("/live", "/ready"):
        assert (await admin.http.get(path)).status_code == 200


async def test_not_ready_while_starting_or_draining_but_alive(tmp_path: Path) -> None:
    async with running(tmp_path, ready=False) as admin:
        answer = await admin.http.get("/ready")
        assert (answer.status_code, answer.json()["error"]) == (503, {"code": "not_ready", "message": "starting"})
        assert (await admin.http.get("/live")).status_code == 200
        admin.service.set_ready(None)
        assert (await admin.http.get("/ready")).status_code == 200
        admin.service.set_ready("shutting down")
        assert (await admin.http.get("/ready")).json()["error"]["message"] == "shutting down"


async def test_not_ready_without_the_store(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone() -> None:
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(admin.service.store, "ping", gone)
    answer = await admin.http.get("/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert "disk full" in answer.json()["error"]["message"]


async def test_not_ready_with_a_store_that_does_not_answer(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PING_TIMEOUT", 0.05)
    monkeypatch.setattr(admin.service.store, "ping", trio.sleep_forever)
    answer = await admin.http.get("/ready")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")


async def test_many_probes_ask_the_store_once(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask for /ready, so it must not be a way to keep the disk busy."""
    pings = []

    async def ping() -> None:
        pings.append(1)

    monkeypatch.setattr(admin.service.store, "ping", ping)
    monkeypatch.setattr(health, "PING_EVERY", 60.0)
    admin_health = health.Health(admin.service)
    for _ in range(5):
        await admin_health.ready(None)  # type: ignore[arg-type]
    assert len(pings) == 1


# ---- metrics ----


async def test_metrics_show_amounts_and_counts(admin: Admin) -> None:
    holder = await admin.online("d1")
    await admin.http.post("/v1/push", json={"to": "all", "data": 1})
    admin.service.metrics.refusals.labels(Refusal.THROTTLED).inc(3)
    text = (await admin.http.get("/metrics")).text
    assert metric(text, "pushd_connections") == 1
    assert metric(text, "pushd_devices_online") == 1
    assert metric(text, "pushd_devices_known") == 1
    assert metric(text, "pushd_inbox_messages") == 1
    assert metric(text, 'pushd_stream_entries{stream="status"}') == 1
    assert metric(text, 'pushd_pushes_total{state="stored"}') == 1
    assert metric(text, 'pushd_refusals_total{reason="throttled"}') == 3
    assert metric(text, 'pushd_refusals_total{reason="limit"}') == 0
    assert metric(text, 'pushd_store_seconds_count{operation="enqueue"}') == 1
    assert metric(text, "pushd_store_up") == 1
    assert metric(text, "process_resident_memory_bytes") > 1e6
    await admin.service.store.logout("d1", holder.epoch, "gone")
    assert metric((await admin.http.get("/metrics")).text, "pushd_devices_online") == 0


async def test_metrics_are_what_prometheus_reads(admin: Admin) -> None:
    answer = await admin.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert len(families["pushd_stream_entries"].samples) == len(Stream)
    assert len(families["pushd_pushes"].samples) == len(ReceiptState)
    assert all(family.documentation for family in families.values())
    assert "_created" not in answer.text


async def test_metrics_without_the_store_say_so_and_keep_the_counts(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone() -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(admin.service.store, "counts", gone)
    text = (await admin.http.get("/metrics")).text
    assert metric(text, "pushd_store_up") == 0
    assert metric(text, "pushd_uplinks_total") == 0
    assert "pushd_devices_online" not in text


async def test_metrics_show_what_the_store_came_across_with_or_without_it(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = admin.service.store.tally
    tally.lost_by_trim, tally.poison, tally.held_back = 2, 3, 4
    names = ("pushd_lost_entries_total", "pushd_poison_entries_total", "pushd_streams_held_back_total")
    text = (await admin.http.get("/metrics")).text
    assert [metric(text, name) for name in names] == [2, 3, 4]

    async def gone() -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(admin.service.store, "counts", gone)
    tally.poison += 1
    text = (await admin.http.get("/metrics")).text
    assert [metric(text, name) for name in names] == [2, 4, 4]


async def test_each_node_counts_for_itself() -> None:
    first, second = Metrics(), Metrics()
    first.uplinks.inc()
    assert second.registry.get_sample_value("pushd_uplinks_total") == 0


async def test_a_failed_store_call_is_counted_and_goes_on() -> None:
    counts = Metrics()
    with pytest.raises(StoreUnavailable), counts.store_call("ping"):
        raise StoreUnavailable("gone")
    assert counts.registry.get_sample_value("pushd_store_errors_total", {"operation": "ping"}) == 1
    assert counts.registry.get_sample_value("pushd_store_seconds_count", {"operation": "ping"}) == 1


async def test_a_blocked_loop_shows_as_lag_and_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    counts = Metrics()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(metrics.watch_loop, counts)
        await trio.sleep(1.1)
        assert counts.registry.get_sample_value("pushd_loop_lag_seconds") == pytest.approx(0, abs=1e-6)
        autojump_clock.jump(3)  # as if something had held the loop for 3 s
        await trio.sleep(0.1)
        assert counts.registry.get_sample_value("pushd_loop_lag_seconds") == pytest.approx(2.6, abs=0.1)
        await trio.sleep(metrics.LAG_INTERVAL * (metrics.LAG_WINDOW + 2))
        assert counts.registry.get_sample_value("pushd_loop_lag_seconds") == pytest.approx(0, abs=1e-6)
        nursery.cancel_scope.cancel()


# ---- the page ----


async def test_the_page_runs_its_own_script_and_nothing_else(admin: Admin) -> None:
    answer = await admin.http.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy


async def test_the_page_loads_nothing_from_elsewhere_and_shows_only_text(admin: Admin) -> None:
    """What devices send is shown on it: it must never become HTML."""
    html = (await admin.http.get("/")).text
    assert not re.search(r"(?:src|href|action)\s*=\s*[\"'](?!data:,)", html)
    assert not re.search(r"https?://|@import|url\(", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son\w+=", html)
    assert "style=" not in html


async def test_every_field_of_the_page_has_a_label(admin: Admin) -> None:
    html = (await admin.http.get("/")).text
    for field in re.findall(r"<(?:input|select|textarea)[^>]*>", html):
        id = re.search(r'id="([^"]+)"', field)
        assert id, field
        assert f'for="{id[1]}"' in html or re.search(rf"<label[^>]*><input[^>]*id=\"{id[1]}\"", html), field
