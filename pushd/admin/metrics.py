"""The metrics page: the node's counters, what can be asked for only now, and the process itself, as Prometheus text."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import trio
from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pushd.errors import StoreUnavailable
from pushd.metrics import Metrics
from pushd.service import Service
from pushd.store.base import Tally

LAG_INTERVAL: Final = 0.5  # seconds between two measurements of the event loop
LAG_WINDOW: Final = 60  # measurements; the largest is shown, so a scrape every 30 s misses none


@dataclasses.dataclass(frozen=True, slots=True)
class MetricsPage:
    """The endpoint `/metrics`. It answers without the store too: `pushd_store_up` is 0 then."""

    service: Service

    def routes(self) -> list[Route]:
        """The route, for the application."""
        return [Route("/metrics", self.show, methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Everything there is to know, as text."""
        stats: Mapping[str, Any] | None
        try:
            stats = await self.service.stats()
        except StoreUnavailable:
            stats = None
        text = generate_latest(_Exposition(self.service.metrics, self.service.store.tally, stats))
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


class _Exposition(Collector):
    """One look at everything. The `_created` times that the client library adds are left out: nobody reads them."""

    def __init__(self, metrics: Metrics, tally: Tally, stats: Mapping[str, Any] | None) -> None:
        self._metrics = metrics
        self._tally = tally
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Every family, once."""
        for family in self._metrics.registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
        yield from _incidents(self._tally)
        yield from _amounts(self._stats)
        yield from ProcessCollector(registry=None).collect()


def _incidents(tally: Tally) -> Iterable[Metric]:
    """What the store has come across, and an operator should look into."""
    lost = "Entries of services that were trimmed away by somebody before they were done."
    yield CounterMetricFamily("pushd_lost_entries", lost, tally.lost_by_trim)
    poison = "Entries of services that were taken again and again and never done: they are in `dead`."
    yield CounterMetricFamily("pushd_poison_entries", poison, tally.poison)
    held = "Times that a stream could not be trimmed because a consumer group has not read it."
    yield CounterMetricFamily("pushd_streams_held_back", held, tally.held_back)


def _amounts(stats: Mapping[str, Any] | None) -> Iterable[Metric]:
    """What is not counted but asked for: the node's and the store's amounts as they are now."""
    yield GaugeMetricFamily(
        "pushd_store_up", "Whether the store answered when it was asked just now.", stats is not None
    )
    tasks = trio.lowlevel.current_statistics().tasks_living
    yield GaugeMetricFamily("pushd_tasks", "Tasks of this process: a few, and some for each connection.", tasks)
    if stats is None:
        return
    store = stats["store"]
    node = InfoMetricFamily("pushd_node", "This node.")
    node.add_metric([], {"node": str(stats["node"]), "version": str(stats["version"])})
    yield node
    yield GaugeMetricFamily("pushd_uptime_seconds", "How long this node has been running.", stats["uptime"])
    yield GaugeMetricFamily("pushd_connections", "Device connections of this node.", stats["connections"])
    yield GaugeMetricFamily("pushd_devices_online", "Devices that are bound, on all nodes.", store["online"])
    yield GaugeMetricFamily("pushd_devices_known", "Devices that were ever seen.", store["devices"])
    yield GaugeMetricFamily("pushd_inbox_messages", "Stored pushes that wait for their devices.", store["inbox"])
    streams = GaugeMetricFamily("pushd_stream_entries", "Entries in each stream.", labels=["stream"])
    for name, length in store["streams"].items():
        streams.add_metric([name], length)
    yield streams


async def watch_loop(metrics: Metrics) -> None:
    """Measure how late the event loop is, for ever. What blocks it (or a machine without CPU to spare) shows here."""
    recent: collections.deque[float] = collections.deque(maxlen=LAG_WINDOW)
    while True:
        due = trio.current_time() + LAG_INTERVAL
        await trio.sleep_until(due)
        recent.append(max(0.0, trio.current_time() - due))
        metrics.loop_lag.set(max(recent))
