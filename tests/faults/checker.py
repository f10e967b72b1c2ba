"""The promises I1, I2, I3, I4, I7 and I8, checked after the fact: by what the streams say, and what was seen outside.

It knows no store and no daemon: `Evidence` is the entries of the streams, the devices' records, and the history. So it
serves one process on a file as well as a cluster, as long as one clock made all the times.
"""

import bisect
import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from tests.faults.history import Record
from tests.faults.processes import Burden

Entry = dict[str, str]
Violations = Iterator[str]
Periods = defaultdict[str, list[tuple[float, float]]]

START = ("online", "takeover")
FINAL = ("acked", "delivered", "expired", "refused")
NOTICE = 2.0  # seconds after which a device that is not late has noted that its connection is gone
STANDING = 75  # tasks, and files, of a node without connections: it was 48 and 18
EACH = 10  # tasks of a connection: it was 6
MEMORY = 150_000_000  # bytes of a node with a few devices: it was 73 million
CLOCK = 0.002  # seconds by which two readings of one clock may seem to disagree: times are written rounded


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """All that a run has left. `streams` has all entries of status, receipt, uplink, push and dead by name.

    `late`: seconds by which those who noted the history may have been late. `burdens`: what each node holds that runs.
    """

    history: list[Record]
    streams: dict[str, list[Entry]]
    devices: list[dict[str, Any]]
    late: float
    burdens: list[Burden]


@dataclasses.dataclass(slots=True)
class Epoch:
    """One login, by the status stream. `end` is infinite and `reason` empty while it lasts."""

    device: str
    node: str
    conn: str
    epoch: int
    start: float
    end: float = math.inf
    reason: str = ""

    def covers(self, moment: float) -> bool:
        """Whether it held the device then."""
        return self.start - CLOCK <= moment <= self.end + CLOCK


def check(evidence: Evidence) -> list[str]:
    """Every violation found, each as a sentence that begins with its promise; none if all promises were kept."""
    epochs = list(_epochs(evidence))
    by_conn = {epoch.conn: epoch for epoch in epochs}
    deliveries = Deliveries(evidence)
    return [
        *status_is_exact(evidence, epochs),
        *nothing_is_left_by_a_clean_end(evidence, epochs),
        *no_offline_is_false(evidence, epochs),
        *old_ones_change_nothing(evidence, by_conn, deliveries),
        *no_push_is_lost(evidence, deliveries),
        *delivery_is_in_order(evidence, deliveries),
        *no_uplink_is_lost(evidence),
        *nodes_are_bounded(evidence.burdens),
        *(f"I6: an entry of a service is dead: {entry}" for entry in evidence.streams["dead"]),
    ]


# ---- status ----


def _epochs(evidence: Evidence) -> Iterator[Epoch]:
    """The logins, with their ends. Whether the entries make sense is not judged here."""
    held: dict[tuple[str, str], Epoch] = {}
    last: dict[str, Epoch] = {}
    for entry in evidence.streams["status"]:
        device, moment = entry["device"], float(entry["ts"])
        if entry["event"] == "offline":
            epoch = held.get((device, entry["epoch"]))
            if epoch is not None:
                epoch.end, epoch.reason = min(epoch.end, moment), entry["reason"]
            continue
        if entry["event"] == "takeover" and device in last:
            last[device].end, last[device].reason = min(last[device].end, moment), "takeover"
        epoch = Epoch(device, entry["node"], entry["conn"], int(entry["epoch"]), moment)
        last[device] = held[device, entry["epoch"]] = epoch
        yield epoch


def status_is_exact(evidence: Evidence, epochs: list[Epoch]) -> Violations:
    """I3, I4: starts and ends alternate, epochs rise, nobody is left, and who was connected has a start."""
    held: dict[str, Entry] = {}
    highest: dict[str, int] = defaultdict(int)
    for entry in evidence.streams["status"]:
        device, event, epoch = entry["device"], entry["event"], int(entry["epoch"])
        holder = held.get(device)
        if event == "offline":
            if holder is None or (holder["epoch"], holder["conn"]) != (entry["epoch"], entry["conn"]):
                yield f"I4: an offline that ends nothing: {entry}, held is {holder}"
            held.pop(device, None)
            continue
        if (event == "takeover") != (holder is not None):
            yield f"I4: {entry} while the holder is {holder}"
        if epoch <= highest[device]:
            yield f"I3: an epoch that does not rise: {entry}, there was {highest[device]}"
        held[device], highest[device] = entry, epoch
    online = {record["device"]: record["epoch"] for record in evidence.devices if record["online"]}
    if online != {device: int(entry["epoch"]) for device, entry in held.items()}:
        yield f"I4: the records say that {online} are online, the status stream {held}"
    starts = Counter(epoch.conn for epoch in epochs)
    for record in evidence.history:
        if record["what"] == "connected" and starts[record["conn"]] != 1:
            yield f"I4: {starts[record['conn']]} starts for the connection of {record}"


def nothing_is_left_by_a_clean_end(evidence: Evidence, epochs: list[Epoch]) -> Violations:
    """I8: when a node had ended by SIGTERM, so had every binding of it."""
    for record in evidence.history:
        if record["what"] == "ended" and record["how"] == "SIGTERM":
            for epoch in epochs:
                if epoch.node == record["who"] and epoch.start < record["t"] < epoch.end:
                    yield f"I8: still bound after a clean end at {record['t']}: {epoch}"


class Nodes:
    """When which node was told to stop, and from when to when one could be taken for dead."""

    def __init__(self, history: list[Record]) -> None:
        self._stopping: Periods = defaultdict(list)
        self._away: Periods = defaultdict(list)
        told: dict[str, float] = {}
        since: dict[str, float] = {}
        for record in history:
            node, moment = record["who"], record["t"]
            match record["what"], record.get("how"):
                case "ending", "SIGTERM":
                    told[node] = moment
                case "ended", "SIGTERM":
                    self._stopping[node].append((told.pop(node), moment))
                case ("cutting", _) | ("ending", _):
                    since.setdefault(node, moment)
                case ("mended", _) | ("started", _) if node in since:
                    self._away[node].append((since.pop(node), moment))
        for node, moment in since.items():
            self._away[node].append((moment, math.inf))

    def could_die(self, epoch: Epoch) -> bool:
        """Whether its node was away in this epoch."""
        return _meets(epoch, self._away[epoch.node])

    def stopped(self, epoch: Epoch) -> bool:
        """Whether its node was told to stop in this epoch, or had been, and let the device in before it ended."""
        return _meets(epoch, self._stopping[epoch.node])


def _meets(epoch: Epoch, periods: list[tuple[float, float]]) -> bool:
    return any(start <= epoch.end + CLOCK and epoch.start <= end for start, end in periods)


def no_offline_is_false(evidence: Evidence, epochs: list[Epoch]) -> Violations:
    """I4: who is said to have left has left; who is said to be lost was lost with its node."""
    leaving: dict[str, float] = {}
    notice = NOTICE + 2 * evidence.late  # to read of it, and to tell
    nodes = Nodes(evidence.history)
    for record in evidence.history:
        if record["what"] in ("leaving", "closed"):
            leaving.setdefault(record["conn"], record["t"])
    known = {record["conn"] for record in evidence.history if record["what"] == "connected"}
    for epoch in epochs:
        match epoch.reason:
            case "node lost":
                true = nodes.could_die(epoch)
            case "server shutting down":
                true = nodes.stopped(epoch)
            case "" | "takeover":
                true = True
            case _:  # what the device has done, or what became of its connection, if it ever heard of that
                true = epoch.conn not in known or leaving.get(epoch.conn, math.inf) <= epoch.end + notice
        if not true:
            yield f"I4: a false offline: {epoch}, left at {leaving.get(epoch.conn)}"
    for entry in evidence.streams["status"]:
        if entry["event"] == "offline" and entry["reason"] in ("takeover", "stale"):
            yield f"I3: the end of an old connection has ended the new one: {entry}"


# ---- pushes ----


class Deliveries:
    """The history and the receipts, by device and seq."""

    def __init__(self, evidence: Evidence) -> None:
        self.stored: dict[tuple[str, int], Entry] = {}
        self.final: dict[tuple[str, int], list[Entry]] = defaultdict(list)
        self.seqs: dict[str, list[int]] = defaultdict(list)
        self.received: dict[tuple[str, int], list[Record]] = defaultdict(list)
        self.acking: dict[tuple[str, int], list[tuple[int, Record]]] = defaultdict(list)
        for entry in evidence.streams["receipt"]:
            key = entry["device"], int(entry["seq"])
            if entry["state"] == "stored":
                self.stored[key] = entry
                self.seqs[entry["device"]].append(key[1])
            elif entry["state"] in FINAL and key[1]:
                self.final[key].append(entry)
        for place, record in enumerate(evidence.history):
            if record["what"] == "received":
                self.received[record["device"], record["seq"]].append(record)
            elif record["what"] == "acking":
                self.acking[record["device"], record["seq"]].append((place, record))

    def done_before(self, key: tuple[str, int], place: int) -> bool:
        """Whether a message need not be delivered after this place of the history: acknowledged, or not valid."""
        if any(entry["state"] in ("expired", "refused") for entry in self.final[key]):
            return True
        return any(acked < place for acked, _ in self.acking[key])


def no_push_is_lost(evidence: Evidence, deliveries: Deliveries) -> Violations:
    """I1: accepted is stored once, and then acknowledged by the device, or expired in its time, or still there."""
    yield from _accepted_is_stored(evidence, deliveries)
    ttl = {record["id"]: record["ttl"] for record in evidence.history if record["what"] == "pushing"}
    waiting: Counter[str] = Counter()
    for key, stored in deliveries.stored.items():
        final = deliveries.final[key]
        if not final:
            waiting[key[0]] += 1
            continue
        if len(final) > 1:
            yield f"I1: more than one end: {final}"
        state, id = final[0]["state"], stored["id"]
        if state == "expired":
            limit = ttl.get(id)
            if limit is None or float(final[0]["ts"]) + CLOCK < float(stored["ts"]) + limit:
                yield f"I1: expired before its time ({limit}): {stored}, {final[0]}"
        elif state == "acked" and not any(
            record["t"] <= float(final[0]["ts"]) + CLOCK for _, record in deliveries.acking[key]
        ):
            yield f"I1: nobody had acknowledged {final[0]}"
        elif state not in ("acked", "expired"):
            yield f"I1: why is this {final[0]}?"
    for key, ends in deliveries.final.items():
        if key not in deliveries.stored:
            yield f"I1: an end of what was not stored: {ends}"
    inboxes = Counter({record["device"]: record["inbox"] for record in evidence.devices if record["inbox"]})
    if inboxes != waiting:
        yield f"I1: without an end are {dict(waiting)}, in the inboxes are {dict(inboxes)}"


def _accepted_is_stored(evidence: Evidence, deliveries: Deliveries) -> Violations:
    seqs: dict[tuple[str, str], list[int]] = defaultdict(list)
    for (device, seq), entry in deliveries.stored.items():
        seqs[device, entry["id"]].append(seq)
    for (device, id), found in seqs.items():
        if len(found) > 1:
            yield f"I1: push {id} is stored more than once for {device}: {found}"
    for device, found in deliveries.seqs.items():
        if found != sorted(set(found)):
            yield f"I2: the seqs of {device} do not rise: {found}"
    pending = {entry.get("id") for entry in evidence.streams["push"]}
    for record in evidence.history:
        if record["what"] == "accepted":
            for receipt in record["receipts"]:
                if seqs.get((receipt["device"], record["id"])) != [receipt["seq"]]:
                    yield f"I1: accepted and not stored: {receipt}"
        elif record["what"] == "appended" and record["id"] not in pending:
            kind, _, device = record["to"].partition(":")
            if kind == "device" and (device, record["id"]) not in seqs:
                yield f"I1: taken from the push stream and not stored: {record}"


def delivery_is_in_order(evidence: Evidence, deliveries: Deliveries) -> Violations:
    """I2: within a connection rising seq without a gap, from the first that is not done; `redelivered` is true."""
    seen: dict[str, dict[int, int]] = defaultdict(dict)  # by connection: seq -> place in the history
    owner: dict[str, str] = {}
    for place, record in enumerate(evidence.history):
        if record["what"] != "received":
            continue
        conn, seq, key = record["conn"], record["seq"], (record["device"], record["seq"])
        owner[conn] = record["device"]
        stored = deliveries.stored.get(key)
        if stored is None or stored["id"] != record["id"] or record["data"] != record["id"]:
            yield f"I2: received {record}, stored is {stored}"
        if seq in seen[conn]:
            if not record["redelivered"]:
                yield f"I2: sent twice on one connection, and not marked: {record}"
            continue
        if seen[conn] and seq < max(seen[conn]):
            yield f"I2: {record} after {max(seen[conn])}"
        seen[conn][seq] = place
    for conn, places in seen.items():
        yield from _gaps(owner[conn], conn, places, deliveries)
    for key, records in deliveries.received.items():
        if sum(not record["redelivered"] for record in records) > 1:
            yield f"I2: delivered more than once without a mark: {key}: {records}"


def _gaps(device: str, conn: str, places: dict[int, int], deliveries: Deliveries) -> Violations:
    order = sorted(places)
    for seq in deliveries.seqs[device]:
        following = bisect.bisect_right(order, seq)
        if seq in places or following == len(order):
            continue
        after = order[following]
        if not deliveries.done_before((device, seq), places[after]):
            yield f"I2: {device} was given {after} on {conn}, and not {seq} before"


# ---- fencing ----


def old_ones_change_nothing(evidence: Evidence, by_conn: dict[str, Epoch], deliveries: Deliveries) -> Violations:
    """I3: what a connection has brought about happened while it held the device."""
    for entry in evidence.streams["uplink"]:
        epoch = by_conn.get(entry["conn"])
        if epoch is None or (epoch.device, epoch.epoch) != (entry["device"], int(entry["epoch"])):
            yield f"I3: an uplink of nobody: {entry}, the epoch is {epoch}"
        elif not epoch.covers(float(entry["ts"])):
            yield f"I3: an uplink outside of its epoch: {entry}, {epoch}"
    for key, ends in deliveries.final.items():
        for entry in ends:
            if entry["state"] != "acked":
                continue
            holders = [by_conn.get(record["conn"]) for _, record in deliveries.acking[key]]
            if not any(epoch is not None and epoch.covers(float(entry["ts"])) for epoch in holders):
                yield f"I3: acknowledged by one that did not hold the device: {entry}, {holders}"


# ---- bounds ----


def nodes_are_bounded(burdens: list[Burden]) -> Violations:
    """I5: at rest a node has a few tasks and files, and some for each connection; those that have left cost nothing."""
    for burden in burdens:
        if (
            burden.tasks > STANDING + EACH * burden.connections
            or burden.files > STANDING + burden.connections
            or burden.memory > MEMORY
        ):
            yield f"I5: more than it should have: {burden}"


# ---- uplink ----


def no_uplink_is_lost(evidence: Evidence) -> Violations:
    """I7: what was acknowledged to a device is in the stream; what is there is in the order of saying, and once."""
    said: dict[tuple[str, str], list[str]] = defaultdict(list)  # by device and connection, in order
    for record in evidence.history:
        if record["what"] == "said":
            said[record["device"], record["conn"]].append(record["id"])
    written: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in evidence.streams["uplink"]:
        written[entry["device"], entry["conn"]].append(entry["data"].strip('"'))
    for record in evidence.history:
        if record["what"] == "heard" and record["id"] not in written[record["device"], record["conn"]]:
            yield f"I7: acknowledged and not in the stream: {record}"
    for key, ids in written.items():
        rest = iter(said[key])
        if not all(id in rest for id in ids):
            yield f"I7: {key} said {said[key]}, the stream has {ids}"
    for id, times in Counter(entry["id"] for entry in evidence.streams["uplink"]).items():
        if times > 1:
            yield f"I7: the entry {id} is there {times} times"
