"""The measuring tools measure: each load runs, small and against real servers, and tables say what the runs gave."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.bench import chart, compare, daemon, generator, page, provision, scale, servers
from tests.bench.daemon import Pushes
from tests.bench.figures import LATENCY, THROUGHPUT, Better, Figure, Load
from tests.bench.results import Results, Run
from tests.bench.servers import PEERS, Processors

ENOUGH = {"count": 20, "seconds": 30, "warmup": 0, "settle": 0}  # until twenty messages, however long it takes


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """The generator must compile here."""
    try:
        provision.generator()
    except provision.NotHere as missing:
        pytest.skip(f"cannot run here: {missing}")


def run(mode: str, connections: int, **keys: Any) -> dict[str, Any]:
    """What the generator measures of our server."""
    processors = Processors.choose()
    with servers.serving(PEERS[0], processors.server) as running:
        assert running.versions["engineio-trio"]
        return generator.finish(generator.start(mode, running.port, connections, keys, running.pids(), processors.load))


@pytest.mark.parametrize(
    ("mode", "keys", "kinds"),
    [
        ("echo", {"window": 4}, {"echo"}),
        ("echo", {"processes": 3, "size": 70_000}, {"echo"}),
        ("polling", {}, {"poll"}),
        ("fan", {"window": 2, "size": 300}, {"fan"}),
        ("fan", {"processes": 2, "nap": 0.001}, {"fan"}),
        ("mixed", {"rate": 100, "fanrate": 10, "count": 80}, {"echo", "fan", "probe"}),
    ],
)
def test_a_load_is_counted_and_timed(mode: str, keys: dict[str, Any], kinds: set[str]) -> None:
    measured = run(mode, 5, **{**ENOUGH, **keys})
    assert measured["messages"] >= 20
    assert measured["skipped"] == 0
    assert measured["latency_us"].keys() == kinds
    assert sum(latency["count"] for latency in measured["latency_us"].values()) >= measured["messages"]
    for latency in measured["latency_us"].values():
        assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
        assert 0 < latency["mean"] <= latency["max"]


def test_connects_are_counted_twice_and_memory_is_seen() -> None:
    measured = run("idle", 100, waves=2)
    assert measured["ready"] == 100
    assert measured["memory_kb"] > 1
    assert measured["connects_per_s"] > 0
    assert measured["connects_per_s_again"] > 0


def test_what_cannot_be_loaded_is_an_error() -> None:
    with servers.serving(PEERS[0], 0) as running:
        port = running.port
    with pytest.raises(generator.LoadFailed, match=r"5 connections were lost.*refused"):
        generator.finish(generator.start("idle", port, 5, {}, (), 0))
    with pytest.raises(generator.LoadFailed, match=r"(?s)windo.*usage"):
        generator.finish(generator.start("echo", port, 5, {"windo": 4}, (), 0))


@pytest.mark.parametrize("store", daemon.STORES)
def test_pushes_reach_devices_and_their_acknowledgements_the_store(store: str) -> None:
    for pushes in (Pushes("one each", devices=3, count=9), Pushes("all", devices=3, count=4, to_all=True)):
        with daemon.open_store(store) as opened:
            measured = daemon.run_pushes(opened, pushes, Processors.choose())
        assert measured["messages"] == pushes.deliveries
        assert measured["latency_us"]["push"]["max"] > 0
        assert measured["acked_per_s"] > 0


def test_two_workers_are_loaded_by_two_generators() -> None:
    measured = scale.measure(scale.Size(connections=50, seconds=0.5), Processors.choose())
    assert measured["ready"] == 50
    assert 0 < measured["files"] < 50 + 100, "of the fuller of two processes"
    assert all(figure.read(measured) for figure in scale.FIGURES)


def test_uplink_is_counted_by_acknowledgements() -> None:
    load = Load("uplink", "uplink", 3, {**ENOUGH, "window": 2})
    measured = daemon.run_load(daemon.SQLITE, load, Processors.choose())
    assert measured["messages"] >= 20
    assert measured["latency_us"].keys() == {"uplink"}


RATE = Figure("echo-100-4", "messages_per_s", "echo", "messages/s", Better.MORE)
COST = Figure("connect", "connect_cpu_us", "connect", "us", Better.LESS)
OURS, NODE, PYTHON = (peer.name for peer in PEERS)


def some_results() -> Results:
    """Three rounds of two loads; one run failed, one generator was too slow."""
    results = Results.begin()
    for number, (ours, theirs) in enumerate([(300, 100), (200, 110), (10_000, 90)], 1):
        results.runs.append(Run(number, RATE.load, OURS, {"messages_per_s": ours, "load_cpu": 0.99, "server_cpu": 0.5}))
        results.runs.append(Run(number, RATE.load, NODE, {"messages_per_s": theirs}))
        results.runs.append(Run(number, COST.load, OURS, {"connect_cpu_us": 10}))
        results.runs.append(Run(number, COST.load, NODE, {"connect_cpu_us": 40}))
        results.runs.append(Run(number, "echo-100-1", OURS, {"messages_per_s": 50}))
        results.runs.append(Run(number, "echo-1000-1", OURS, {"messages_per_s": 70}))
    results.runs.append(Run(3, RATE.load, PYTHON, {}, "it fell over"))
    return results


def test_medians_and_ratios() -> None:
    results = some_results()
    assert results.median(RATE, OURS) == 300
    assert results.median(RATE, PYTHON) is None
    assert results.advantage(RATE, OURS, NODE) == 3
    assert results.advantage(COST, OURS, NODE) == 4
    assert results.advantage(RATE, OURS, PYTHON) is None


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = some_results()
    results.save(tmp_path / "r.json")
    assert Results.load(tmp_path / "r.json") == results


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    results = some_results()
    written = page.write(results, tmp_path).read_text()
    row = next(line for line in written.splitlines() if "echo, 100 connections, window 4" in line)
    assert row.split("|")[2:-1] == [f" 300{page.LIMITED} ", " 100 ", " **3.00x** ", " failed ", "  "]
    assert "- echo-100-4, python-socketio, round 3: it fell over" in written
    assert "## pushd" not in written, "nothing of it was measured"
    assert "(performance-connections.svg)" in written
    assert "payload.svg" not in written
    drawing = ElementTree.parse(tmp_path / "performance-connections.svg")
    lines = drawing.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 1, "the others have one point or none"


def test_a_chart_keeps_inside_its_frame() -> None:
    series = [chart.Series("<a>", [(10, 5), (10_000, 123_456)]), chart.Series("b", [(10, 99)])]
    drawing = ElementTree.fromstring(chart.chart("t & t", "x", "y", series))
    for circle in drawing.findall(".//{http://www.w3.org/2000/svg}circle"):
        assert chart.LEFT <= float(circle.attrib["cx"]) <= chart.WIDTH - chart.RIGHT
        assert chart.TOP <= float(circle.attrib["cy"]) <= chart.HEIGHT - chart.BOTTOM


def test_every_figure_has_its_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["--list"]) == 0
    loads = set(capsys.readouterr().out.split())
    assert {figure.load for figure in [*THROUGHPUT, *LATENCY, *daemon.FIGURES, *scale.FIGURES]} <= loads
    assert compare.main(["--only", "nonsense"]) == 2
