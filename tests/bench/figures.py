"""What is measured: the loads, and the figures that are read from what a load gives."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any


class Better(enum.Enum):
    """Which way a figure should go."""

    MORE = "more"
    LESS = "less"


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """One run of the generator against a fresh server: its mode, its connections, its keys."""

    name: str
    mode: str
    connections: int
    keys: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One row of a table: `key` is the path of a number in what the load gives."""

    load: str
    key: str
    title: str
    unit: str
    better: Better

    def read(self, measured: Mapping[str, Any]) -> float | None:
        """The number, or None where the load gave none."""
        value: Any = measured
        for part in self.key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return float(value)


ECHO_SIZES = (10, 100, 300, 1_000, 3_000, 10_000)
PAYLOADS = (32, 256, 1_024, 4_096, 16_384)
MANY = 3_000
SWEPT = 500  # connections of the fan-out whose payload grows

MIXED = {
    "mixed": ("1,000 connections, 2,000 echoes/s, 5 broadcasts/s", {"rate": 2_000, "fanrate": 5}),
    "mixed-more": ("1,000 connections, 6,000 echoes/s, 20 broadcasts/s", {"rate": 6_000, "fanrate": 20}),
}


def _echo(connections: int, window: int) -> Load:
    # a server may answer thousands of connections in one burst after the other: several of them must fit in
    longer = {"warmup": 2, "seconds": 8} if connections >= MANY else {}
    return Load(f"echo-{connections}-{window}", "echo", connections, {"window": window, **longer})


def _fan(connections: int, size: int) -> Load:
    window = 4 if size <= 1_024 else 2
    return Load(f"fan-{connections}-{size}", "fan", connections, {"window": window, "size": size})


LOADS = {
    load.name: load
    for load in (
        Load("connect", "idle", 3_000, {"waves": 2, "settle": 0.5}),
        *(_echo(connections, 4) for connections in (100, 1_000, 10_000)),
        *(_echo(connections, 1) for connections in ECHO_SIZES),
        *(_fan(SWEPT, size) for size in PAYLOADS),
        *(_fan(5_000, size) for size in (32, 4_096)),
        Load("polling", "polling", 200, {}),
        *(Load(name, "mixed", 1_000, {**keys, "warmup": 2}) for name, (_, keys) in MIXED.items()),
    )
}


def _rate(load: str, title: str, unit: str) -> Figure:
    return Figure(load, "messages_per_s", title, unit, Better.MORE)


def _echo_figures() -> list[Figure]:
    return [
        _rate(f"echo-{connections}-{window}", f"echo, {connections:,} connections, window {window}", "messages/s")
        for connections in (100, 1_000, 10_000)
        for window in (4, 1)
    ]


def _fan_figures() -> list[Figure]:
    return [
        _rate(f"fan-{connections}-{size}", f"fan-out, {connections:,} x {text}", "deliveries/s")
        for connections in (SWEPT, 5_000)
        for size, text in ((32, "32 B"), (4_096, "4 KB"))
    ]


def _mixed_figures() -> list[Figure]:
    seen = {"echo": "echo", "fan": "broadcast", "probe": "event-loop lag"}
    latencies = [
        Figure(name, f"latency_us.{kind}.{quantile}", f"{title}: {text}, {quantile}", "us", Better.LESS)
        for name, (title, _) in MIXED.items()
        for kind, text in seen.items()
        for quantile in ("p50", "p99", "max")
    ]
    # a server that cannot deliver what is due shows here, and its latencies are those of a growing queue
    return [_rate(name, f"{title}: delivered", "messages/s") for name, (title, _) in MIXED.items()] + latencies


THROUGHPUT = [
    *_fan_figures(),
    *_echo_figures(),
    _rate("polling", "long-polling, 200 sessions", "round trips/s"),
    Figure("connect", "connect_cpu_us", "connects, the first 3,000 of a fresh process", "us of CPU each", Better.LESS),
    Figure("connect", "connect_cpu_us_again", "connects, the next 3,000", "us of CPU each", Better.LESS),
    Figure("connect", "memory_kb", "memory, 3,000 idle connections", "KB each", Better.LESS),
]
LATENCY = _mixed_figures()
