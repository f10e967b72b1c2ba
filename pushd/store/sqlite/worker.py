"""A thread with a connection of its own: it takes all operations that wait and commits them together (group commit).

The cost of a durable write is the disk's flush, not the write. While one flush runs, the next operations gather; the
next transaction carries them all, each inside a savepoint, so that one that fails does so alone.
"""

import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from pushd.errors import StoreUnavailable
from pushd.store.sqlite.transaction import Context, Transaction

T = TypeVar("T")

CAPACITY = 1_024  # operations waiting or under way; whoever comes then waits for room
BATCH = 256  # operations in one transaction: bounds how long the first of them waits for the last


class Job:
    """One operation on its way. `task` waits for it; None when it no longer does."""

    __slots__ = ("error", "operation", "result", "task", "transaction")

    def __init__(self, operation: Callable[[Transaction], Any], task: trio.lowlevel.Task) -> None:
        self.operation = operation
        self.task: trio.lowlevel.Task | None = task
        self.transaction: Transaction | None = None
        self.result: Any = None
        self.error: Exception | None = None


class TransactionLost(Exception):
    """SQLite rolled the whole transaction back because of this one job (a full disk does that)."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.job = job


class Worker:
    """Carries out operations in the order of their arrival, in its own thread. Open it, run operations, close it.

    `connect` makes the connection, in the thread; `begin` is the statement that starts a transaction; `committed` is
    called in the Trio thread with each operation's transaction once it is on disk, before its caller goes on.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        begin: str,
        context: Context,
        clock: Callable[[], float],
        committed: Callable[[Transaction], None],
    ) -> None:
        self._connect = connect
        self._begin = begin
        self._context = context
        self._clock = clock
        self._committed = committed
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._room = trio.Semaphore(CAPACITY)
        self._opened = trio.Event()
        self._closed = trio.Event()
        self._usable = False
        self._last = False
        self.failing = False  # the database refused something of the last transaction
        self._failure: Exception | None = None
        # A daemon thread: it is joined by aclose(), but if Trio itself falls the process must be able to end.
        self._thread = threading.Thread(target=self._main, name=f"pushd store ({begin})", daemon=True)

    async def open(self) -> None:
        """Start the thread and connect. Raises what `connect` raised, or StoreUnavailable. Shielded: it is bounded."""
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()
        with trio.CancelScope(shield=True):
            await self._opened.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        self._usable = True

    async def aclose(self) -> None:
        """Finish what is queued, close the connection, join the thread. Shielded: the disk bounds it."""
        if not self._usable:
            return
        self._usable = False
        self._queue.put(None)
        with trio.CancelScope(shield=True):
            await self._closed.wait()
        self._thread.join()

    async def run(self, operation: Callable[[Transaction], T]) -> T:
        """Carry out one operation and answer with its result once it is on disk, or raise what it raised.

        Raises StoreUnavailable if the database cannot be used now. A cancelled caller leaves at once; its operation is
        carried out wholly or not at all.
        """
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()
        if not self._usable:
            self._room.release()
            raise StoreUnavailable("the store is closed")
        job = Job(operation, trio.lowlevel.current_task())

        def abandon(_: Callable[[], None]) -> trio.lowlevel.Abort:
            job.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._queue.put(job)
        await trio.lowlevel.wait_task_rescheduled(abandon)
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def _deliver(self, batch: list[Job]) -> None:
        """In the Trio thread: tell the world, then let the callers go on."""
        for job in batch:
            self._room.release()
            if job.transaction is not None and job.error is None:
                self._committed(job.transaction)
            if job.task is not None:
                trio.lowlevel.reschedule(job.task)

    # ---- from here on: in the thread ----

    def _main(self) -> None:
        try:
            self._db = self._connect()
        except Exception as error:  # noqa: BLE001 - the thread's edge: `open` raises it
            self._failure = _unavailable(error) if _is_outage(error) else error
            self._token.run_sync_soon(self._opened.set)
            return
        self._token.run_sync_soon(self._opened.set)
        while not self._last:
            batch = self._gather()
            self._carry_out(batch)
            self.failing = any(isinstance(job.error, StoreUnavailable) for job in batch)
            self._token.run_sync_soon(self._deliver, batch)
        self._db.close()
        self._token.run_sync_soon(self._closed.set)

    def _gather(self) -> list[Job]:
        """Wait for a job, then take all others that are there already."""
        batch: list[Job] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) == BATCH or self._queue.empty():  # the only consumer: not empty means that get() answers
                return batch
            item = self._queue.get()
        self._last = True
        return batch

    def _carry_out(self, batch: list[Job]) -> None:
        """Bring a batch to disk in one transaction; every job has its result or its error afterwards."""
        todo = [job for job in batch if job.task is not None]
        while todo:
            try:
                self._attempt(todo)
            except TransactionLost as lost:
                todo.remove(lost.job)  # it has its error; nothing is left of the others, so they are done again
            except sqlite3.Error as error:  # beginning or committing failed: nothing of the batch is there
                self._abort(todo, error)
                return
            else:
                return

    def _attempt(self, todo: list[Job]) -> None:
        self._db.execute(self._begin)
        for job in todo:
            self._one(job)
            if not self._db.in_transaction:
                raise TransactionLost(job)
        self._db.execute("COMMIT")

    def _one(self, job: Job) -> None:
        job.error = None
        job.transaction = Transaction(self._db, self._context, self._clock())
        self._db.execute("SAVEPOINT job")
        try:
            job.result = job.operation(job.transaction)
        except Exception as error:  # noqa: BLE001 - the thread's edge: `run` raises it in the caller's task
            job.error = _unavailable(error) if _is_outage(error) else error
            if self._db.in_transaction:
                self._db.execute("ROLLBACK TO job")
        if self._db.in_transaction:
            self._db.execute("RELEASE job")

    def _abort(self, todo: list[Job], error: sqlite3.Error) -> None:
        for job in todo:  # those with an error of their own too: it may rest on what is now undone
            job.error = _unavailable(error)
        if self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error as second:
                error.add_note(f"and it could not be rolled back: {second}")


def _is_outage(error: Exception) -> bool:
    """Is it the database's state (locked, full, unreadable) rather than a mistake of the operation?"""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _unavailable(error: Exception) -> StoreUnavailable:
    unavailable = StoreUnavailable(_explain(error))
    unavailable.__cause__ = error
    return unavailable


def _explain(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return (
            "the store's file is locked by another program (a backup or an sqlite3 shell?): nothing can be written now"
        )
    if name == "SQLITE_FULL":
        return "the disk that holds the store's file is full: free some space"
    if name.startswith("SQLITE_CORRUPT"):
        return f"the store's file is damaged ({error}): stop pushd, and put back a backup"
    return f"the store's file cannot be used now: {error} ({name or type(error).__name__})"
