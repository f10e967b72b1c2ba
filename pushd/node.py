"""What all devices and services of one process share."""

import dataclasses

from pushd.config.sections import Delivery
from pushd.confirmations import Confirmations
from pushd.goodbye import Goodbyes
from pushd.hub import Hub
from pushd.metrics import Metrics
from pushd.store.base import Store
from pushd.uplinks import Uplinks


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
    uplinks: Uplinks
    delivery: Delivery

    @classmethod
    def over(
        cls, store: Store, name: str, hub: Hub, metrics: Metrics, delivery: Delivery, uplink_rate: float
    ) -> "Node":
        """A node whose devices are all still to come. `uplink_rate`: events a second of one device."""
        owed = Goodbyes(store, metrics), Confirmations(store, metrics), Uplinks(store, metrics, hub, uplink_rate)
        return cls(name, store, hub, metrics, *owed, delivery)
