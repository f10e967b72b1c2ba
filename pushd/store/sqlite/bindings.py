"""Who holds a device: login, takeover, alive times and every way to end. All in terms of one transaction."""

from collections.abc import Sequence
from functools import partial

import msgspec

from pushd.errors import StaleEpoch
from pushd.model import Binding, Bound, StatusEvent, Throttled
from pushd.store.sqlite import streams
from pushd.store.sqlite.transaction import Transaction

_HOLDER = "SELECT no, epoch, conn, node, previous, takeovers, topics, inbox FROM device WHERE id = ?"
_BIND = """UPDATE device SET epoch = ?, conn = ?, node = ?, previous = ?, takeovers = ?, topics = ?,
           since = ?, seen = ?, changed = ? WHERE no = ?"""
_UNBIND = "UPDATE device SET conn = '', node = '', previous = '', since = ?, changed = ? WHERE id = ? AND epoch = ?"
_BOUND = "SELECT id, node, conn, epoch FROM device WHERE conn <> ''"


def create(tx: Transaction, device: str) -> int:
    """Make an unknown device known and answer its number.

    Its epochs start above those of every device that was forgotten: it may be one of them, and the clock may have been
    set back since.
    """
    insert = "INSERT INTO device (id, epoch, changed) SELECT ?, value, ? FROM meta WHERE key = 'epoch'"
    number = tx.db.execute(insert, (device, tx.now)).lastrowid
    assert number is not None  # an INSERT always has one
    return number


def check(tx: Transaction, device: str, epoch: int) -> tuple[int, int]:
    """The number of the device and the highest seq it was sent. Raises StaleEpoch if `epoch` is not its holder's."""
    find = "SELECT no, sent FROM device WHERE id = ? AND epoch = ? AND conn <> ''"
    row: tuple[int, int] | None = tx.db.execute(find, (device, epoch)).fetchone()
    if row is None:
        raise StaleEpoch(f"device {device} is not held with epoch {epoch} (any more)")
    return row


def admits(tx: Transaction, device: str) -> Throttled | None:
    """Would a login be refused now?"""
    row = tx.db.execute("SELECT takeovers FROM device WHERE id = ? AND conn <> ''", (device,)).fetchone()
    return _throttled(tx, msgspec.json.decode(row[0], type=list[float])) if row else None


def _throttled(tx: Transaction, takeovers: Sequence[float]) -> Throttled | None:
    """`takeovers` are the times of the last ones. Times in the future do not count: the clock was set back."""
    limits = tx.context.limits
    recent = sorted(then for then in takeovers if 0 <= tx.now - then < limits.takeover_window)
    if len(recent) < limits.takeovers:
        return None
    return Throttled(recent[-limits.takeovers] + limits.takeover_window - tx.now)


def login(tx: Transaction, device: str, conn: str, topics: Sequence[str]) -> Bound | Throttled:
    """Bind the device to `conn`; see `Store.login`."""
    row = tx.db.execute(_HOLDER, (device,)).fetchone()
    if row is None:
        create(tx, device)
        row = tx.db.execute(_HOLDER, (device,)).fetchone()
    number, last_epoch, holder, holder_node, previous_json, takeovers_json, old_topics, inbox = row
    if holder == conn:
        before = msgspec.json.decode(previous_json, type=Binding) if previous_json else None
        return Bound(last_epoch, before, inbox > 0)
    previous = Binding(device, holder_node, holder, last_epoch) if holder else None
    if previous is not None:
        takeovers = msgspec.json.decode(takeovers_json, type=list[float])
        if throttled := _throttled(tx, takeovers):
            return throttled
        takeovers_json = _json([*takeovers, tx.now][-tx.context.limits.takeovers :])
    binding = Binding(device, tx.context.node, conn, max(last_epoch + 1, int(tx.now * 1_000)))
    new_topics = _json(sorted(set(topics)))
    remembered = _json(previous) if previous else ""
    facts = (binding.epoch, conn, binding.node, remembered, takeovers_json, new_topics, tx.now, tx.now, tx.now, number)
    tx.db.execute(_BIND, facts)
    if new_topics != old_topics:
        _set_topics(tx, device, msgspec.json.decode(old_topics, type=list[str]), topics)
    streams.status(tx, StatusEvent.TAKEOVER if previous else StatusEvent.ONLINE, binding, "login")
    if previous is not None:
        tx.notices.append(partial(tx.context.control.kick, device, previous.epoch, "takeover", conn))
    return Bound(binding.epoch, previous, inbox > 0)


def _set_topics(tx: Transaction, device: str, old: Sequence[str], new: Sequence[str]) -> None:
    gone, come = set(old) - set(new), set(new) - set(old)
    tx.db.executemany("DELETE FROM topic WHERE name = ? AND device = ?", [(name, device) for name in gone])
    tx.db.executemany("INSERT INTO topic (name, device) VALUES (?, ?)", [(name, device) for name in come])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _end(tx: Transaction, binding: Binding, reason: str) -> None:
    """The one way a binding ends without a successor: it goes and its `offline` comes, together."""
    tx.db.execute(_UNBIND, (tx.now, tx.now, binding.device, binding.epoch))
    streams.status(tx, StatusEvent.OFFLINE, binding, reason)


def _find(tx: Transaction, condition: str, values: Sequence[object], limit: int) -> list[Binding]:
    rows = tx.db.execute(f"{_BOUND} AND {condition} LIMIT ?", (*values, limit))
    return [Binding(*row) for row in rows]


def logout(tx: Transaction, device: str, epoch: int, reason: str) -> bool:
    """End a binding if `epoch` still holds it."""
    found = _find(tx, "id = ? AND epoch = ?", (device, epoch), 1)
    for binding in found:
        _end(tx, binding, reason)
    return bool(found)


def kick(tx: Transaction, device: str, reason: str, by: str) -> bool:
    """End a device's binding, whoever holds it, and have its connection closed."""
    found = _find(tx, "id = ?", (device,), 1)
    for binding in found:
        _end(tx, binding, reason)
        tx.notices.append(partial(tx.context.control.kick, device, binding.epoch, reason, by))
    return bool(found)


def end_lost(tx: Transaction, limit: int) -> int:
    """At opening: end bindings left by a process that is no more; answers how many. 0: none is left."""
    found = _find(tx, "TRUE", (), limit)
    for binding in found:
        _end(tx, binding, "node lost")
    return len(found)


def end_stale(tx: Transaction, before: float, limit: int) -> int:
    """End bindings not seen since `before`; answers how many. Times in the future (a clock set back) become now."""
    tx.db.execute("UPDATE device SET seen = ? WHERE conn <> '' AND seen > ?", (tx.now, tx.now))
    found = _find(tx, "seen < ? ORDER BY seen", (before,), limit)
    for binding in found:
        _end_stale(tx, binding)
    return len(found)


def _end_stale(tx: Transaction, binding: Binding) -> None:
    _end(tx, binding, "stale")
    tx.notices.append(partial(tx.context.control.kick, binding.device, binding.epoch, "stale", tx.context.node))


def beat(tx: Transaction, alive: Sequence[tuple[str, int]]) -> list[str]:
    """Note that these (device, epoch) are alive; answers those that are not held so."""
    update = "UPDATE device SET seen = ? WHERE id = ? AND epoch = ? AND conn <> ''"
    return [device for device, epoch in alive if tx.db.execute(update, (tx.now, device, epoch)).rowcount == 0]


def reconcile(tx: Transaction, devices: Sequence[str], before: float) -> list[str]:
    """Those that are not alive, in the given order; those not seen since `before` are ended."""
    gone = []
    for device in devices:
        row = tx.db.execute("SELECT seen FROM device WHERE id = ? AND conn <> ''", (device,)).fetchone()
        if row is not None and row[0] >= before:
            continue
        for binding in _find(tx, "id = ?", (device,), 1):
            _end_stale(tx, binding)
        gone.append(device)
    return gone


def bound(tx: Transaction, devices: Sequence[str]) -> list[bool]:
    """For each of the devices: does somebody hold it?"""
    return [bool(_find(tx, "id = ?", (device,), 1)) for device in devices]
