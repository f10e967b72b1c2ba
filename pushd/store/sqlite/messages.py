"""What goes to devices (enqueue, fetch, ack, expiry, the marks that dedupe) and what comes from them (uplink).

All in terms of one transaction.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from pushd.errors import BadRequest, StaleEpoch
from pushd.model import Ack, Message, Outcome, Parcel, Push, Receipt, ReceiptState, Stream, Uplink
from pushd.store.sqlite import bindings, streams
from pushd.store.sqlite.transaction import Transaction

_FIND = """SELECT device.no, device.seq, device.inbox, device.sent, device.conn, mark.seq, mark.until
           FROM device LEFT JOIN mark ON mark.device = device.no AND mark.id = ? WHERE device.id = ?"""
_STORE = "INSERT INTO inbox (device, seq, id, event, data, expires) VALUES (?, ?, ?, ?, ?, ?)"
_TAIL = "SELECT max(seq) FROM inbox WHERE device = ?"
_COUNT = "UPDATE device SET seq = ?, sent = ?, inbox = inbox + 1, changed = ? WHERE no = ?"
_NEXT = "SELECT n, seq, id, event, data, expires FROM inbox WHERE device = ? AND seq > ? ORDER BY seq LIMIT ?"


def enqueue(tx: Transaction, parcels: Sequence[Parcel]) -> list[Receipt]:
    """Put pushes into inboxes; see `Store.enqueue_each`."""
    if not all(push.id for push, _ in parcels):
        raise BadRequest("id: must not be empty, every push without one would be taken for the same")
    receipts = [_enqueue_one(tx, push, device) for push, device in parcels]
    streams.receipts(tx, receipts)
    return receipts


def _enqueue_one(tx: Transaction, push: Push, device: str) -> Receipt:
    limits = tx.context.limits
    row = tx.db.execute(_FIND, (push.id, device)).fetchone()
    if row is None:
        row = (bindings.create(tx, device), 0, 0, 0, "", None, None)
    number, last, waiting, sent, conn, marked, until = row
    control = tx.context.control
    if marked is not None and until > tx.now:
        return Receipt(push.id, device, ReceiptState.DUPLICATE, marked, tx.now)
    if waiting >= limits.inbox_max and not _expire_of(tx, number):
        reason = f"inbox full ({limits.inbox_max} messages wait)"
        return Receipt(push.id, device, ReceiptState.REFUSED, 0, tx.now, reason)
    seq = last + 1
    tail = tx.db.execute(_TAIL, (number,)).fetchone()[0] or 0 if waiting else 0
    if conn and waiting < limits.window and sent >= tail:
        message = Message(seq, push.id, push.event, push.data, redelivered=False)
        tx.notices.append(partial(control.deliver, device, message, tail))
        sent = seq
    elif conn:
        tx.notices.append(partial(control.wake, device))
    tx.db.execute(_COUNT, (seq, sent, tx.now, number))
    tx.db.execute(_STORE, (number, seq, push.id, push.event, push.data, tx.now + push.ttl))
    tx.db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", (number, push.id, seq, tx.now + limits.dedupe))
    return Receipt(push.id, device, ReceiptState.STORED, seq, tx.now)


def fetch(tx: Transaction, device: str, epoch: int, after: int, limit: int) -> list[Message]:
    """The next messages of an inbox, marked as sent; see `Store.fetch`."""
    number, sent = bindings.check(tx, device, epoch)
    messages: list[Message] = []
    while len(messages) < limit:
        rows = tx.db.execute(_NEXT, (number, after, limit - len(messages))).fetchall()
        if not rows:
            break
        after = rows[-1][1]
        _remove(
            tx, [(row[0], number, device, row[1], row[2]) for row in rows if row[5] <= tx.now], ReceiptState.EXPIRED
        )
        messages += [
            Message(seq, identity, event, data, redelivered=seq <= sent)
            for _, seq, identity, event, data, expires in rows
            if expires > tx.now
        ]
    if messages and messages[-1].seq > sent:
        tx.db.execute("UPDATE device SET sent = ? WHERE no = ?", (messages[-1].seq, number))
    return messages


def ack(tx: Transaction, device: str, epoch: int, seqs: Sequence[int], state: ReceiptState) -> None:
    """Remove messages that arrived; see `Store.ack`."""
    number, _ = bindings.check(tx, device, epoch)
    find = "SELECT n, device, ?, seq, id FROM inbox WHERE device = ? AND seq = ?"
    rows = [row for seq in seqs if (row := tx.db.execute(find, (device, number, seq)).fetchone())]
    _remove(tx, dict.fromkeys(rows), state)


def ack_each(tx: Transaction, acks: Sequence[Ack]) -> list[Outcome]:
    """As `ack`, of many devices."""
    return [_outcome(partial(ack, tx, *one)) for one in acks]


def _outcome(act: Callable[[], None]) -> Outcome:
    try:
        act()
    except StaleEpoch:  # which is found out before anything is changed
        return Outcome.STALE
    return Outcome.DONE


def _expire_of(tx: Transaction, number: int) -> bool:
    """Remove one device's expired messages; was there any?"""
    return bool(_expire(tx, "inbox.device = ?", (number,), -1))


def expire(tx: Transaction, limit: int) -> int:
    """Remove messages whose time is over; answers how many."""
    return _expire(tx, "TRUE", (), limit)


def _expire(tx: Transaction, condition: str, values: Sequence[object], limit: int) -> int:
    find = f"""SELECT inbox.n, inbox.device, device.id, inbox.seq, inbox.id
               FROM inbox JOIN device ON device.no = inbox.device
               WHERE inbox.expires <= ? AND {condition} LIMIT ?"""
    rows = tx.db.execute(find, (tx.now, *values, limit)).fetchall()
    _remove(tx, rows, ReceiptState.EXPIRED)
    return len(rows)


def _remove(tx: Transaction, rows: Iterable[tuple[int, int, str, int, str]], state: ReceiptState) -> None:
    """The one way a message leaves: row, place in the count, receipt. Rows: n, device's number and id, seq, push id."""
    for n, number, device, seq, identity in rows:
        tx.db.execute("DELETE FROM inbox WHERE n = ?", (n,))
        tx.db.execute("UPDATE device SET inbox = inbox - 1, changed = ? WHERE no = ?", (tx.now, number))
        streams.receipts(tx, [Receipt(identity, device, state, seq, tx.now)])


def drop_marks(tx: Transaction, limit: int) -> int:
    """Forget push ids that are older than the dedupe window; answers how many."""
    rows = tx.db.execute("SELECT device, id FROM mark WHERE until <= ? LIMIT ?", (tx.now, limit)).fetchall()
    tx.db.executemany(
        "DELETE FROM mark WHERE device = ? AND id = ?", rows
    )  # each by its key; IN would walk all of a device
    return len(rows)


def uplink_each(tx: Transaction, uplinks: Sequence[Uplink]) -> list[Outcome]:
    """As `uplink`, of many devices."""
    return [_outcome(partial(uplink, tx, one)) for one in uplinks]


def uplink(tx: Transaction, uplink: Uplink) -> None:
    """Write what a device says, once; see `Store.uplink`."""
    device, epoch, conn, entry, event, data = uplink
    bindings.check(tx, device, epoch)
    if tx.db.execute("SELECT 1 FROM stream_uplink WHERE key = ?", (entry,)).fetchone():
        return
    fields = {
        "device": device,
        "event": event,
        "data": data,
        "id": entry,
        "ts": f"{tx.now:.6f}",
        "conn": conn,
        "epoch": str(epoch),
        "node": tx.context.node,
    }
    streams.append(tx, Stream.UPLINK, fields, key=entry)
