"""What pushd counts while it works: one value per node, made of Prometheus counters in a registry of its own.

Counters live here because every floor counts; how they are shown is the admin interface's business. Amounts that can be
asked for (connections, devices, inbox, streams) are not counted here: they are read when somebody looks.
Label values come from closed lists, never from a client, so that the number of series is bounded.
"""

import enum
import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pushd.errors import StoreUnavailable
from pushd.model import ReceiptState, StatusEvent

STORE_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Refusal(enum.StrEnum):
    """Why a device was not let in: the label `reason` of `pushd_refusals_total`."""

    BAD_DEVICE = "bad_device"  # no device id, or one that is none
    BAD_TOKEN = "bad_token"  # the authenticator said no
    THROTTLED = "throttled"  # too many takeovers
    LIMIT = "limit"  # the node is full
    DRAINING = "draining"  # the node is shutting down
    AUTH_UNAVAILABLE = "auth_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"


class StoreCall:
    """One call to the store, from the beginning of a `with` block to its end; see `Metrics.store_call`."""

    __slots__ = ("_begin", "_errors", "_operation", "_seconds")

    def __init__(self, errors: Counter, operation: str, seconds: Histogram) -> None:
        self._errors = errors
        self._operation = operation
        self._seconds = seconds

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is not None and issubclass(kind, StoreUnavailable):
            self._errors.labels(self._operation).inc()
        self._seconds.observe(time.perf_counter() - self._begin)


class Metrics:
    """The counters of one node: `metrics.uplinks.inc()`, `metrics.refusals.labels(Refusal.THROTTLED).inc()`.

    Make one for each node; `registry` holds them all and nothing else. Synchronous, never waits, safe from any thread.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.logins = self._counter("logins", "Logins by how they began: online, takeover.", "event")
        self.refusals = self._counter("refusals", "Devices that were not let in, by reason.", "reason")
        self.disconnects = self._counter("disconnects", "Device connections that ended, by reason.", "reason")
        self.kicks = self._counter("kicks", "Device connections ended on purpose, by whom.", "by")
        self.uplinks = self._counter("uplinks", "Events of devices that are in the uplink stream.")
        self.pushes = self._counter("pushes", "Receipts of pushes, by state.", "state")
        self.redeliveries = self._counter("redeliveries", "Stored pushes sent to a device once more.")
        self.dead_entries = self._counter("dead_entries", "Entries of services that could not be understood.")
        self.swept = self._counter("swept", "Bindings ended because their device or its node was dead.")
        self.store_errors = self._counter("store_errors", "Calls that the store could not answer.", "operation")
        self.store_seconds = Histogram(
            "pushd_store_seconds",
            "How long calls to the store took.",
            ["operation"],
            buckets=STORE_BUCKETS,
            registry=self.registry,
        )
        self._seconds: dict[str, Histogram] = {}  # by operation
        self._pushes: dict[ReceiptState, Counter] = {}
        self._logins: dict[StatusEvent, Counter] = {}
        self.loop_lag = Gauge(
            "pushd_loop_lag_seconds",
            "How late the event loop woke a task that slept: the largest of the last few measurements.",
            registry=self.registry,
        )
        self._start_at_zero()

    def store_call(self, operation: str) -> "StoreCall":
        """Time one call to the store: `with metrics.store_call("enqueue"): await store.enqueue(...)`.

        `operation` is the name of the store's method. A StoreUnavailable is counted and goes on. Calls that wait on
        purpose (`take`, `read_stream` with a wait) do not belong in here.
        """
        seconds = self._seconds.get(operation)
        if seconds is None:  # one look-up by label costs as much as all the rest
            seconds = self._seconds[operation] = self.store_seconds.labels(operation)
        return StoreCall(self.store_errors, operation, seconds)

    def receipts(self, state: ReceiptState, count: int = 1) -> None:
        """So many more receipts of this state, in `pushes`, without the look-up by label."""
        self._pushes[state].inc(count)

    def login(self, event: StatusEvent) -> None:
        """One more in `logins`, without the look-up by label."""
        self._logins[event].inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"pushd_{name}", text, labels, registry=self.registry)

    def _start_at_zero(self) -> None:
        """Create the series whose labels are known, so that a rate over them has a first value to start from."""
        for event in (StatusEvent.ONLINE, StatusEvent.TAKEOVER):
            self._logins[event] = self.logins.labels(event)
        for reason in Refusal:
            self.refusals.labels(reason)
        for state in ReceiptState:
            self._pushes[state] = self.pushes.labels(state)
