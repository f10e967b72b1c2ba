"""The file: its tables, its version, its settings, and the lock that gives it to one process."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pushd.errors import ConfigError, StoreBusy
from pushd.model import Stream

APPLICATION = 0x70757368  # "push", in the file's header: nobody else's database is taken for ours
VERSION = 1
OLDEST_SQLITE = (3, 24, 0)  # upsert
BUSY_TIMEOUT = 1.0  # seconds to wait for another program's lock before callers are told

# device.conn is "" while nobody holds it. `previous` is the binding that the present one took over (JSON, "" if none),
# so that a repeated login gets the same answer. `sent` is the highest seq ever handed out.
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO meta VALUES ('epoch', 0), ('ping', 0);

CREATE TABLE device (
    no INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    inbox INTEGER NOT NULL DEFAULT 0,
    conn TEXT NOT NULL DEFAULT '',
    node TEXT NOT NULL DEFAULT '',
    previous TEXT NOT NULL DEFAULT '',
    takeovers TEXT NOT NULL DEFAULT '[]',
    topics TEXT NOT NULL DEFAULT '[]',
    since REAL NOT NULL DEFAULT 0,
    seen REAL NOT NULL DEFAULT 0,
    changed REAL NOT NULL
);
CREATE INDEX bound_id ON device (id) WHERE conn <> '';
CREATE INDEX bound_seen ON device (seen) WHERE conn <> '';

CREATE TABLE topic (name TEXT NOT NULL, device TEXT NOT NULL, PRIMARY KEY (name, device)) WITHOUT ROWID;

CREATE TABLE inbox (
    n INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    event TEXT NOT NULL,
    data TEXT NOT NULL,
    expires REAL NOT NULL,
    UNIQUE (device, seq)
);
CREATE INDEX inbox_expires ON inbox (expires);

CREATE TABLE mark (
    device INTEGER NOT NULL,
    id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (device, id)
) WITHOUT ROWID;
CREATE INDEX mark_until ON mark (until);
"""

LEGAL_TABLE = "CREATE TABLE IF NOT EXISTS legal (id TEXT PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID;"

# AUTOINCREMENT: an id never comes back, even when the stream has been emptied.
STREAM_TABLE = "CREATE TABLE stream_{name} (n INTEGER PRIMARY KEY AUTOINCREMENT, fields TEXT NOT NULL, key TEXT);"
UPLINK_KEY = "CREATE UNIQUE INDEX uplink_key ON stream_uplink (key);"


@contextlib.contextmanager
def own(path: Path) -> Iterator[None]:
    """Hold the file for this process. Raises StoreBusy if another one does, ConfigError if it cannot be made.

    The lock is on a side file, so that closing the database's own descriptors cannot lose SQLite's locks; the kernel
    drops it with the process, however that ends.
    """
    beside = path.with_name(path.name + ".lock")
    try:
        lock = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError([f"store.url: {beside} cannot be opened: {error.strerror}"]) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreBusy(
                f"{path} is in use by another pushd (process {holder}): a SQLite store serves one process; "
                "stop that one, or give this one a file of its own"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def connect(path: Path | None) -> sqlite3.Connection:
    """The connection that writes, with the tables made; None is a database in memory. Raises ConfigError."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise ConfigError([f"store.url: SQLite {sqlite3.sqlite_version} is too old, 3.24 or newer is needed"])
    if path is not None:
        _create(path)
    db = sqlite3.connect(path or ":memory:", timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        _set_up(db, path)
    except sqlite3.DatabaseError as error:
        db.close()
        if error.sqlite_errorname == "SQLITE_NOTADB":
            raise ConfigError([f"store.url: {path} is not a usable SQLite file: {error}"]) from error
        raise
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """A second connection to a file that `connect` has opened; it cannot write."""
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    db.execute("PRAGMA query_only = ON")
    return db


def _create(path: Path) -> None:
    """Make an empty file that only its owner reads, if there is none: messages are nobody else's business."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError([f"store.url: {path} cannot be opened for writing: {error.strerror}"]) from error


def _set_up(db: sqlite3.Connection, path: Path | None) -> None:
    _check_owner(db, path)
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if path is not None and mode != "wal":
        raise ConfigError([f"store.url: {path} lies on a file system without shared memory; use a local disk"])
    db.execute("PRAGMA synchronous = FULL")  # an acknowledged write survives loss of power
    db.execute("PRAGMA journal_size_limit = 67108864")
    if db.execute("PRAGMA user_version").fetchone()[0] == 0:
        streams = "".join(STREAM_TABLE.format(name=stream.value) for stream in Stream)
        header = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
        db.executescript(f"BEGIN IMMEDIATE; {TABLES} {streams} {UPLINK_KEY} {header} COMMIT;")
    db.execute(LEGAL_TABLE)


def _check_owner(db: sqlite3.Connection, path: Path | None) -> None:
    """Raise ConfigError unless the file is empty or one of ours, of a version that this program knows."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION and (tables or version or application):
        raise ConfigError([f"store.url: {path} is the database of another program; choose another file"])
    if version > VERSION:
        newer = f"was written by a newer pushd (format {version}, this one knows {VERSION})"
        raise ConfigError([f"store.url: {path} {newer}; upgrade pushd"])
