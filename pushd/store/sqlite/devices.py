"""What is known of devices: records, members of topics, totals, and forgetting. All in terms of one transaction."""

import msgspec

from pushd.model import Counts, DeviceRecord, Stream
from pushd.store.sqlite import streams
from pushd.store.sqlite.transaction import Transaction

_RECORD = "SELECT id, conn <> '', node, conn, epoch, since, seen, inbox, topics FROM device"


def _record(row: tuple[str, int, str, str, int, float, float, int, str]) -> DeviceRecord:
    device, online, node, conn, epoch, since, seen, inbox, topics = row
    names = msgspec.json.decode(topics, type=tuple[str, ...])
    return DeviceRecord(device, bool(online), node, conn, epoch, since, seen, inbox, names)


def device(tx: Transaction, identity: str) -> DeviceRecord | None:
    """What is known of one device."""
    row = tx.db.execute(f"{_RECORD} WHERE id = ?", (identity,)).fetchone()
    return _record(row) if row else None


def devices(tx: Transaction, after: str, limit: int, online: bool) -> list[DeviceRecord]:
    """Known devices with ids greater than `after`, in order."""
    condition = "conn <> '' AND id > ?" if online else "id > ?"
    rows = tx.db.execute(f"{_RECORD} WHERE {condition} ORDER BY id LIMIT ?", (after, limit))
    return [_record(row) for row in rows]


def members(tx: Transaction, topic: str | None, after: str, limit: int) -> list[str]:
    """Ids of a topic's devices, or of all, greater than `after`, in order."""
    if topic is None:
        rows = tx.db.execute("SELECT id FROM device WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    else:
        find = "SELECT device FROM topic WHERE name = ? AND device > ? ORDER BY device LIMIT ?"
        rows = tx.db.execute(find, (topic, after, limit))
    return [row[0] for row in rows]


def permit(tx: Transaction, identity: str, token: str | None) -> None:
    """Make a device legal, with its token, or no longer so."""
    tx.db.execute("DELETE FROM legal WHERE id = ?", (identity,))
    if token is not None:
        tx.db.execute("INSERT INTO legal VALUES (?, ?)", (identity, token))


def token_of(tx: Transaction, identity: str) -> str | None:
    """The token of a legal device."""
    row = tx.db.execute("SELECT token FROM legal WHERE id = ?", (identity,)).fetchone()
    return row[0] if row else None


def counts(tx: Transaction) -> Counts:
    """Totals."""
    known, waiting = tx.db.execute("SELECT count(*), coalesce(sum(inbox), 0) FROM device").fetchone()
    online = tx.db.execute("SELECT count(*) FROM device WHERE conn <> ''").fetchone()[0]
    return Counts(known, online, waiting, {stream.value: streams.length(tx, stream) for stream in Stream})


def forget(tx: Transaction, after: int, limit: int) -> int:
    """Look at the next devices by number and forget those long idle; answers the number to go on from, 0 at the end."""
    limits = tx.context.limits
    before = tx.now - max(limits.forget_after, limits.dedupe)
    idle = "conn = '' AND inbox = 0 AND changed < ?"
    find = f"SELECT no, id, epoch, topics, {idle} FROM device WHERE no > ? ORDER BY no LIMIT ?"
    rows = tx.db.execute(find, (before, after, limit)).fetchall()
    for number, identity, epoch, topics, is_idle in rows:
        if is_idle:
            _forget_one(tx, number, identity, epoch, msgspec.json.decode(topics, type=list[str]))
    return rows[-1][0] if len(rows) == limit else 0


def _forget_one(tx: Transaction, number: int, identity: str, epoch: int, topics: list[str]) -> None:
    tx.db.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'epoch'", (epoch,))
    tx.db.executemany("DELETE FROM topic WHERE name = ? AND device = ?", [(name, identity) for name in topics])
    tx.db.execute("DELETE FROM mark WHERE device = ?", (number,))
    tx.db.execute("DELETE FROM device WHERE no = ?", (number,))
