"""The metrics page: the node's counters, what can be asked for only now, and the process itself, as Prometheus text."""

import collections
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import trio
from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pushd.errors import StoreUnavailable
from pushd.metrics import Metrics
from pushd.service import STATS, Service
from pushd.store.base import Tally

METRICS: Final = b"metrics"  # the question of one worker to another
LAG_INTERVAL: Final = 0.5  # seconds between two measurements of the event loop
LAG_WINDOW: Final = 60  # measurements; the largest is shown, so a scrape every 30 s misses none


@dataclasses.dataclass(frozen=True, slots=True)
class MetricsPage:
    """The endpoint `/metrics`. It answers without the store too: `pushd_store_up` is 0 then.

    One of several workers shows all of them, each sample with the label `worker`: a scrape must not depend on which
    process it meets.
    """

    service: Service

    def routes(self) -> list[Route]:
        """The route, for the application."""
        return [Route("/metrics", self.show, methods=["GET"])]

    async def show(self, request: Request) -> Response:
        """Everything there is to know, as text."""
        text = generate_latest(_Families([*await self._nodes(), *await self._store()]))
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})

    async def answer(self, question: bytes) -> bytes:
        """What another worker wants to know of this one."""
        if question == STATS:
            return json.dumps(self.service.own_stats()).encode()
        return generate_latest(_Families(self._node()))

    async def _nodes(self) -> Iterable[Metric]:
        worker = self.service.worker
        if worker is None:
            return self._node()
        pages = {worker.number: generate_latest(_Families(self._node())), **await worker.ask(METRICS)}
        return _merged({number: pages[number].decode() for number in sorted(pages)})

    def _node(self) -> Iterator[Metric]:
        """The node's own. The `_created` times that the client library adds are left out: nobody reads them."""
        for family in self.service.metrics.registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
        yield from _incidents(self.service.store.tally)
        stats = self.service.own_stats()
        node = InfoMetricFamily("pushd_node", "This node.")
        node.add_metric([], {"node": str(stats["node"]), "version": str(stats["version"])})
        yield node
        yield GaugeMetricFamily("pushd_uptime_seconds", "How long this node has been running.", stats["uptime"])
        yield GaugeMetricFamily("pushd_connections", "Device connections of this node.", stats["connections"])
        tasks = trio.lowlevel.current_statistics().tasks_living
        yield GaugeMetricFamily("pushd_tasks", "Tasks of this process: a few, and some for each connection.", tasks)
        yield from ProcessCollector(registry=None).collect()

    async def _store(self) -> list[Metric]:
        """What all nodes share, as it is now."""
        text = "Whether the store answered when it was asked just now."
        try:
            counts = await self.service.store.counts()
        except StoreUnavailable:
            return [GaugeMetricFamily("pushd_store_up", text, False)]
        streams = GaugeMetricFamily("pushd_stream_entries", "Entries in each stream.", labels=["stream"])
        for name, length in counts.streams.items():
            streams.add_metric([name], length)
        return [
            GaugeMetricFamily("pushd_store_up", text, True),
            GaugeMetricFamily("pushd_devices_online", "Devices that are bound, on all nodes.", counts.online),
            GaugeMetricFamily("pushd_devices_known", "Devices that were ever seen.", counts.devices),
            GaugeMetricFamily("pushd_inbox_messages", "Stored pushes that wait for their devices.", counts.inbox),
            streams,
        ]


def _incidents(tally: Tally) -> Iterable[Metric]:
    """What the store has come across, and an operator should look into."""
    lost = "Entries of services that were trimmed away by somebody before they were done."
    yield CounterMetricFamily("pushd_lost_entries", lost, tally.lost_by_trim)
    poison = "Entries of services that were taken again and again and never done: they are in `dead`."
    yield CounterMetricFamily("pushd_poison_entries", poison, tally.poison)
    held = "Times that a stream could not be trimmed because a consumer group has not read it."
    yield CounterMetricFamily("pushd_streams_held_back", held, tally.held_back)


class _Families(Collector):
    """One look at everything, as the client library wants to have it."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Every family, once."""
        return self._families


def _merged(pages: Mapping[int, str]) -> Iterable[Metric]:
    """The families of several workers' pages, each once, with the samples of all."""
    families: dict[str, Metric] = {}
    for number, page in pages.items():
        for family in text_string_to_metric_families(page):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [
                sample._replace(labels={**sample.labels, "worker": str(number)}) for sample in family.samples
            ]
    return families.values()


async def watch_loop(metrics: Metrics) -> None:
    """Measure how late the event loop is, for ever. What blocks it (or a machine without CPU to spare) shows here."""
    recent: collections.deque[float] = collections.deque(maxlen=LAG_WINDOW)
    while True:
        due = trio.current_time() + LAG_INTERVAL
        await trio.sleep_until(due)
        recent.append(max(0.0, trio.current_time() - due))
        metrics.loop_lag.set(max(recent))
