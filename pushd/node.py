"""What all devices and services of one process share."""

import dataclasses

from pushd.config.sections import Delivery
from pushd.confirmations import Confirmations
from pushd.goodbye import Goodbyes
from pushd.hub import Hub
from pushd.metrics import Metrics
from pushd.store.base import Store


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One process: its name, its store, who is connected to it, what it counts, and what it has
    yet to tell the store."""

    name: str
    store: Store
    hub: Hub
    metrics: Metrics
    goodbyes: Goodbyes
    confirmations: Confirmations
    delivery: Delivery
