"""Takes what services write to the `push` and `reconcile` streams, and does it; a bad entry never stops the others."""

import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from pushd.backoff import persist
from pushd.errors import BadRequest, StoreUnavailable
from pushd.failpoint import failpoint
from pushd.model import DEVICE_ID, Entry, Parcel, Receipt, ReceiptState, Stream
from pushd.requests import ID_MAX, Form, parse_push, parse_reconcile
from pushd.service import Service, fields_of

log = logging.getLogger(__name__)

BATCH: Final = 200  # entries taken at once: what one call of a store's script takes
DEVICE: Final = "device:"

Reasons = dict[str, str]  # of entries that make no sense, by their ids
Deal = Callable[[Service, Sequence[Entry]], Awaitable[Reasons]]


@dataclasses.dataclass(slots=True)
class Together:
    """Pushes to one device each, those for one device with one `qos`: it takes two calls to carry both kinds.

    `parcels` are by their `qos` and their entry's id, `qos` is by target.
    """

    parcels: dict[int, dict[str, Parcel]] = dataclasses.field(default_factory=lambda: {1: {}, 0: {}})
    qos: dict[str, int] = dataclasses.field(default_factory=dict)


async def run(service: Service) -> None:
    """Consume both streams, for ever. An entry is done only after its effect is stored: a crash repeats it.

    Repeating is harmless: a push is known again by its id (its own, or that of its entry).
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume, service, Stream.PUSH, push, name="ingest push")
        nursery.start_soon(consume, service, Stream.RECONCILE, reconcile, name="ingest reconcile")


async def consume(service: Service, stream: Stream, deal: Deal) -> None:
    """Deal with the entries of one stream, in their order, for ever."""
    while True:
        entries = await persist(partial(service.store.take, stream, BATCH))
        reasons = await deal(service, entries)
        for entry in entries:
            if entry.id in reasons:
                await persist(partial(_bury, service, stream, entry, reasons[entry.id]))
        failpoint(f"ingest.{stream}.dealt")
        await persist(partial(service.store.done, stream, [entry.id for entry in entries]))


async def push(service: Service, entries: Sequence[Entry]) -> Reasons:
    """Entries of the push stream: pushes, to be carried, those of each device in their order.

    What is for one device each goes together, as far as it stands together; a topic or `all` has a way of its own.
    """
    reasons: Reasons = {}
    together = Together()
    for entry in entries:
        try:
            asked = parse_push(entry.fields, service.defaults, f"push-{entry.id}", Form.TEXT)
        except BadRequest as error:
            reasons[entry.id] = str(error)
            continue
        alone = not asked.target.startswith(DEVICE)
        if alone or together.qos.setdefault(asked.target, asked.qos) != asked.qos:
            reasons |= await _carry_together(service, together)
            together = Together()
        if alone:
            reasons |= await _guarded(Stream.PUSH, entry.id, partial(service.carry, asked))
        else:
            together.qos[asked.target] = asked.qos
            together.parcels[asked.qos][entry.id] = asked, asked.target[len(DEVICE) :]
    return reasons | await _carry_together(service, together)


async def _carry_together(service: Service, together: Together) -> Reasons:
    reasons: Reasons = {}
    for parcels in together.parcels.values():
        if parcels and not await _carried(service, list(parcels.values())):
            for id, parcel in parcels.items():
                reasons |= await _guarded(Stream.PUSH, id, partial(service.carry_each, [parcel]))
    return reasons


async def _carried(service: Service, parcels: Sequence[Parcel]) -> bool:
    """Try to carry them all at once; if that goes wrong for one of them, or the store is away, each must go alone."""
    try:
        await service.carry_each(parcels)
    except StoreUnavailable as error:
        log.info("%d pushes wait for the store: %s", len(parcels), error)
        return False
    except Exception:  # the boundary of an entry is there where each goes by itself
        log.exception("one of %d pushes cannot be carried; each is tried by itself", len(parcels))
        return False
    return True


async def reconcile(service: Service, entries: Sequence[Entry]) -> Reasons:
    """Entries of the reconcile stream: the answers go to `reconciled`."""
    reasons: Reasons = {}
    for entry in entries:
        try:
            request = parse_reconcile(entry.fields, f"reconcile-{entry.id}", Form.TEXT)
        except BadRequest as error:
            reasons[entry.id] = str(error)
        else:
            call = partial(service.reconcile, request.id, request.devices)
            reasons |= await _guarded(Stream.RECONCILE, entry.id, call)
    return reasons


async def _guarded(stream: Stream, id: str, call: Callable[[], Awaitable[object]]) -> Reasons:
    """Do what an entry wants, however long the store is away; why that cannot be, or nothing."""
    try:
        await persist(call)
    except BadRequest as error:
        return {id: str(error)}
    except Exception as error:  # the boundary of an entry: whatever it triggers, the next one proceeds
        log.exception("entry %s of the %s stream failed", id, stream)
        return {id: f"internal error: {type(error).__name__}"}
    return {}


async def _bury(service: Service, stream: Stream, entry: Entry, reason: str) -> None:
    """Put an entry that makes no sense where people can look at it, and refuse it where it can be told whose it was."""
    log.warning("entry %s of the %s stream is dead: %s", entry.id, stream, reason)
    service.metrics.dead_entries.inc()
    about = {"stream": stream.value, "entry": entry.id, "reason": reason}
    # Its fields last, but never over ours: an entry may have any.
    await service.store.append(Stream.DEAD, about | {k: v for k, v in entry.fields.items() if k not in about})
    device = entry.fields.get("to", "").removeprefix("device:")
    if stream is Stream.PUSH and entry.fields.get("to", "").startswith("device:") and DEVICE_ID.fullmatch(device):
        id = entry.fields.get("id") or f"push-{entry.id}"
        receipt = Receipt(id[:ID_MAX], device, ReceiptState.REFUSED, 0, time.time(), reason)
        await service.store.append(Stream.RECEIPT, fields_of(receipt))
        service.metrics.receipts(ReceiptState.REFUSED)
