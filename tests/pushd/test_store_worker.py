"""The thread that commits for all: who shares a transaction shares its flush, and nothing else."""

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from pushd.errors import StoreUnavailable
from pushd.store.base import Limits
from pushd.store.sqlite import schema
from pushd.store.sqlite.transaction import Context, Transaction
from pushd.store.sqlite.worker import CAPACITY, Worker
from tests.pushd.stores import Clock, Node


@asynccontextmanager
async def working(path: Path, committed: list[Transaction] | None = None) -> AsyncIterator[Worker]:
    """A worker on a file with a table `t` of unique numbers, and `child`, whose parents are checked at the commit."""

    def connect() -> sqlite3.Connection:
        db = schema.connect(path)
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, data TEXT)")
        db.execute("CREATE TABLE child (n REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
        return db

    note = (committed if committed is not None else []).append
    worker = Worker(connect, "BEGIN IMMEDIATE", Context("n1", Node(), Limits()), Clock(), note)
    await worker.open()
    try:
        yield worker
    finally:
        await worker.aclose()


def add(tx: Transaction, n: int, data: str = "") -> int:
    tx.db.execute("INSERT INTO t VALUES (?, ?)", (n, data))
    return n


def all_of(tx: Transaction) -> list[int]:
    return [row[0] for row in tx.db.execute("SELECT n FROM t ORDER BY n")]


class Gate:
    """An operation that keeps the worker's thread busy until it is opened, so that others gather behind it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._begun = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, tx: Transaction) -> None:
        self._token.run_sync_soon(self._begun.set)
        assert self._open.wait(10)

    @asynccontextmanager
    async def closed(self, worker: Worker) -> AsyncIterator[trio.Nursery]:
        """What is started in this nursery is one batch: it gathers while the gate is closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run, self)
            await self._begun.wait()
            try:
                yield nursery
                await trio.testing.wait_all_tasks_blocked()
            finally:
                self._open.set()


async def outcome(worker: Worker, operation: object, into: dict[object, object], name: object) -> None:
    try:
        into[name] = await worker.run(operation)  # type: ignore[arg-type]
    except (StoreUnavailable, sqlite3.Error, ZeroDivisionError) as error:
        into[name] = error


async def test_what_gathers_is_one_transaction(tmp_path: Path) -> None:
    async with working(tmp_path / "w.db") as worker:
        statements: list[str] = []
        await worker.run(lambda tx: tx.db.set_trace_callback(statements.append))
        async with Gate().closed(worker) as nursery:
            for n in range(100):
                nursery.start_soon(worker.run, partial(add, n=n))
        assert statements.count("COMMIT") == 3, "the one that traces, the gate, all others"
        assert await worker.run(all_of) == list(range(100))


async def test_a_bad_operation_fails_alone(tmp_path: Path) -> None:
    """I6."""
    found: dict[object, object] = {}

    def bad(tx: Transaction) -> None:
        add(tx, 1_000)
        raise ZeroDivisionError("mine")

    async with working(tmp_path / "w.db") as worker:
        await worker.run(partial(add, n=5))
        async with Gate().closed(worker) as nursery:
            for n in range(10):  # 5 is there already
                nursery.start_soon(outcome, worker, partial(add, n=n), found, n)
            nursery.start_soon(outcome, worker, bad, found, "bad")
        assert await worker.run(all_of) == list(range(10))
    assert isinstance(found.pop("bad"), ZeroDivisionError)
    assert isinstance(found.pop(5), sqlite3.IntegrityError)
    assert found == {n: n for n in range(10) if n != 5}


async def test_a_full_file_fails_what_needs_room_and_nothing_else(tmp_path: Path) -> None:
    """F7: SQLite rolls the whole transaction back for one that needs a page; the others of the batch are done again."""
    found: dict[object, object] = {}
    committed: list[Transaction] = []
    async with working(tmp_path / "w.db", committed) as worker:
        await worker.run(lambda tx: tx.db.execute("PRAGMA max_page_count = 60").fetchone())
        committed.clear()
        async with Gate().closed(worker) as nursery:
            for n in range(10):
                data = "x" * 1_000_000 if n % 2 else "x"
                nursery.start_soon(outcome, worker, partial(add, n=n, data=data), found, n)
        assert await worker.run(all_of) == [0, 2, 4, 6, 8]
        for n in range(10):
            if n % 2:
                assert isinstance(found[n], StoreUnavailable)
                assert "full" in str(found[n])
            else:
                assert found[n] == n
        assert len(committed) == 1 + 5 + 1, "the gate, those that are on disk, the look"
        await worker.run(lambda tx: tx.db.execute("PRAGMA max_page_count = 100000").fetchone())
        assert await worker.run(partial(add, n=1, data="x" * 1_000_000)) == 1


async def test_a_failed_commit_is_everybodys_and_leaves_nothing(tmp_path: Path) -> None:
    """Those with an answer of their own too: it may rest on what is now undone."""
    found: dict[object, object] = {}
    committed: list[Transaction] = []

    def orphan(tx: Transaction) -> None:
        tx.db.execute("INSERT INTO child VALUES (12345)")

    async with working(tmp_path / "w.db", committed) as worker:
        async with Gate().closed(worker) as nursery:
            nursery.start_soon(outcome, worker, partial(add, n=1), found, 1)
            nursery.start_soon(outcome, worker, orphan, found, "orphan")
            nursery.start_soon(outcome, worker, partial(add, n=1), found, "the second of its number")
        assert len(found) == 3
        assert {type(error) for error in found.values()} == {StoreUnavailable}
        assert all("FOREIGN KEY" in str(error) for error in found.values())
        assert len(committed) == 1, "the gate"
        assert await worker.run(all_of) == []
        assert await worker.run(partial(add, n=1)) == 1


async def test_the_queue_is_bounded_and_loses_nobody(tmp_path: Path) -> None:
    """I5: whoever comes when it is full waits, and gets a turn."""
    async with working(tmp_path / "w.db") as worker:
        async with Gate().closed(worker) as nursery:
            for n in range(CAPACITY + 100):
                nursery.start_soon(worker.run, partial(add, n=n))
            await trio.testing.wait_all_tasks_blocked()
            assert worker._queue.qsize() == CAPACITY - 1, "the gate is under way"
        assert await worker.run(all_of) == list(range(CAPACITY + 100))


async def test_a_cancelled_caller_leaves_at_once_and_the_others_go_on(tmp_path: Path) -> None:
    async with working(tmp_path / "w.db") as worker:
        left = []

        async def impatient(n: int) -> None:
            with trio.move_on_after(0) as scope:
                await worker.run(partial(add, n=n))
            left.append(scope.cancelled_caught)

        async with Gate().closed(worker) as nursery:
            for n in range(0, 2 * CAPACITY, 2):  # more than there is room for
                nursery.start_soon(impatient, n)
                nursery.start_soon(worker.run, partial(add, n=n + 1))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert left == [True] * CAPACITY
        there = await worker.run(all_of)
        assert [n for n in there if n % 2] == list(range(1, 2 * CAPACITY, 2))


async def test_what_is_queued_at_closing_is_still_done(tmp_path: Path) -> None:
    async with working(tmp_path / "w.db") as worker:
        gate = Gate()
        async with gate.closed(worker) as nursery:
            for n in range(10):
                nursery.start_soon(worker.run, partial(add, n=n))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(worker.aclose)
        with pytest.raises(StoreUnavailable, match="closed"):
            await worker.run(all_of)
    db = sqlite3.connect(tmp_path / "w.db")
    assert db.execute("SELECT count(*) FROM t").fetchone() == (10,)
    db.close()


async def test_writes_are_flushed_before_they_are_answered(tmp_path: Path) -> None:
    async with working(tmp_path / "w.db") as worker:
        assert await worker.run(lambda tx: tx.db.execute("PRAGMA synchronous").fetchone()) == (2,)
        assert await worker.run(lambda tx: tx.db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
