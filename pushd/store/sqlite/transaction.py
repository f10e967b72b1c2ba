"""What the functions of this package work in: one transaction, and what its store knows for all of them."""

import dataclasses
import sqlite3
from collections.abc import Callable

from pushd.model import Stream
from pushd.store.base import Control, Limits


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """What is the same for every transaction of a store."""

    node: str
    control: Control
    limits: Limits


@dataclasses.dataclass(slots=True)
class Transaction:
    """One operation's share of a database transaction. `now` is Unix seconds by the store's clock.

    `notices` are called in the Trio thread once the operation is on disk; `touched` are the streams that it added to.
    Both are forgotten if it is rolled back.
    """

    db: sqlite3.Connection
    context: Context
    now: float
    notices: list[Callable[[], None]] = dataclasses.field(default_factory=list)
    touched: set[Stream] = dataclasses.field(default_factory=set)
