"""The streams: one table each, ids that only rise, the oldest entries trimmed now and then."""

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pushd.errors import BadRequest
from pushd.model import Binding, Entry, Receipt, StatusEvent, Stream
from pushd.store.sqlite.transaction import Transaction

TAKEN = (Stream.PUSH, Stream.RECONCILE)  # read by pushd itself: an entry goes when it is done, never by trimming

_ID = re.compile(r"[0-9]{1,18}")
_INSERT = {stream: f"INSERT INTO stream_{stream.value} (fields, key) VALUES (?, ?)" for stream in Stream}
_fields = msgspec.json.Decoder(dict[str, str])
_encode = msgspec.json.Encoder().encode


def append(tx: Transaction, stream: Stream, fields: Mapping[str, str], key: str | None = None) -> int:
    """Add an entry and answer its number. A `key` can be there once (uplink only; IntegrityError)."""
    number = tx.db.execute(_INSERT[stream], (_encode(fields).decode(), key)).lastrowid
    assert number is not None  # an INSERT always has one
    tx.touched.add(stream)
    if stream not in TAKEN:
        _trim(tx, stream, number)
    return number


def _trim(tx: Transaction, stream: Stream, newest: int) -> None:
    """Drop the oldest, many at once: once in a while instead of one with every entry."""
    keep = tx.context.limits.stream_max
    if newest % max(1, min(1_000, keep // 10)) == 0:
        tx.db.execute(f"DELETE FROM stream_{stream.value} WHERE n <= ?", (newest - keep,))


def status(tx: Transaction, event: StatusEvent, binding: Binding, reason: str) -> None:
    """Write how a device's binding changed."""
    fields = {
        "device": binding.device,
        "event": event.value,
        "reason": reason,
        "conn": binding.conn,
        "epoch": str(binding.epoch),
        "node": binding.node,
        "ts": f"{tx.now:.6f}",
    }
    append(tx, Stream.STATUS, fields)


def receipts(tx: Transaction, written: Iterable[Receipt]) -> None:
    """Write what has become of pushes."""
    for receipt in written:
        fields = {
            "id": receipt.id,
            "device": receipt.device,
            "state": receipt.state.value,
            "seq": str(receipt.seq),
            "ts": f"{receipt.ts:.6f}",
            "reason": receipt.reason,
        }
        append(tx, Stream.RECEIPT, fields)


def number_of(entry: str) -> int:
    """The number behind an entry's id. Raises BadRequest for what never was one."""
    if not _ID.fullmatch(entry):
        raise BadRequest(f"after: {entry[:40]!r} is not an id of a stream's entry")
    return int(entry)


def read(tx: Transaction, stream: Stream, after: int, limit: int) -> list[Entry]:
    """The entries after a number, oldest first."""
    rows = tx.db.execute(f"SELECT n, fields FROM stream_{stream.value} WHERE n > ? ORDER BY n LIMIT ?", (after, limit))
    return [Entry(str(number), _fields.decode(fields)) for number, fields in rows]


def newest(tx: Transaction, stream: Stream) -> int:
    """The number of the newest entry there ever was, 0 if none."""
    row = tx.db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (f"stream_{stream.value}",)).fetchone()
    return row[0] if row else 0


def done(tx: Transaction, stream: Stream, numbers: Sequence[int]) -> None:
    """Remove entries."""
    tx.db.executemany(f"DELETE FROM stream_{stream.value} WHERE n = ?", [(number,) for number in numbers])


def length(tx: Transaction, stream: Stream) -> int:
    """How many entries there are; by the ends for those that only lose their oldest: no walk over a million rows."""
    if stream in TAKEN:
        count: int = tx.db.execute(f"SELECT count(*) FROM stream_{stream.value}").fetchone()[0]
        return count
    oldest = tx.db.execute(f"SELECT min(n) FROM stream_{stream.value}").fetchone()[0]
    return newest(tx, stream) - oldest + 1 if oldest is not None else 0
