"""Ends what is dead: bindings of dead nodes, stale devices, expired messages."""

import logging
from typing import Final

import trio

from pushd.errors import StoreUnavailable
from pushd.heartbeat import Heartbeat
from pushd.node import Node

log = logging.getLogger(__name__)

INTERVAL: Final = 5.0  # seconds between sweeps, at most
OFTEN: Final = 8  # sweeps within the time after which a device is stale: a store that misses turns calls nobody so


async def sweep(node: Node) -> int:
    """Sweep until nothing is left to end; the number of bindings that ended. Raises StoreUnavailable."""
    ended = 0
    while True:
        with node.metrics.store_call("sweep"):
            step = await node.store.sweep()
        node.metrics.swept.inc(step)
        ended += step
        if not step:
            return ended


async def run(node: Node, heartbeat: Heartbeat, stale_after: float) -> None:
    """Sweep every few seconds, for ever, often enough for devices to be stale after `stale_after` seconds.

    Never on old heartbeats: after an outage or a suspended process, first the living say that they live.
    """
    interval = min(INTERVAL, stale_after / OFTEN)
    while True:
        await trio.sleep(interval)
        if heartbeat.stale:
            continue
        try:
            ended = await sweep(node)
        except StoreUnavailable as error:
            log.info("the sweep waits for the store: %s", error)
            continue
        if ended:
            log.info("swept %d bindings of dead nodes and stale devices", ended)
