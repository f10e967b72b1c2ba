"""Takes what services write to the `push` and `reconcile` streams, and does it; a bad entry never stops the others."""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from pushd.backoff import persist
from pushd.errors import BadRequest
from pushd.failpoint import failpoint
from pushd.model import DEVICE_ID, Entry, Receipt, ReceiptState, Stream
from pushd.requests import ID_MAX, Form, parse_push, parse_reconcile
from pushd.service import Service, fields_of

log = logging.getLogger(__name__)

BATCH: Final = 64  # entries taken at once

Deal = Callable[[Service, Entry], Awaitable[None]]


async def run(service: Service) -> None:
    """Consume both streams, for ever. An entry is done only after its effect is stored: a crash repeats it.

    Repeating is harmless: a push is known again by its id (its own, or that of its entry).
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume, service, Stream.PUSH, push, name="ingest push")
        nursery.start_soon(consume, service, Stream.RECONCILE, reconcile, name="ingest reconcile")


async def consume(service: Service, stream: Stream, deal: Deal) -> None:
    """Deal with the entries of one stream, one after the other, for ever."""
    while True:
        entries = await persist(partial(service.store.take, stream, BATCH))
        for entry in entries:
            reason = await _deal_with(service, stream, entry, deal)
            if reason:
                await persist(partial(_bury, service, stream, entry, reason))
        failpoint(f"ingest.{stream}.dealt")
        await persist(partial(service.store.done, stream, [entry.id for entry in entries]))


async def _deal_with(service: Service, stream: Stream, entry: Entry, deal: Deal) -> str:
    """Deal with one entry; why it cannot be, or nothing."""
    try:
        await persist(partial(deal, service, entry))
    except BadRequest as error:
        return str(error)
    except Exception as error:  # the boundary of an entry: whatever it triggers, the next one proceeds
        log.exception("entry %s of the %s stream failed", entry.id, stream)
        return f"internal error: {type(error).__name__}"
    return ""


async def push(service: Service, entry: Entry) -> None:
    """An entry of the push stream: a push, to be carried. Raises BadRequest."""
    await service.carry(parse_push(entry.fields, service.defaults, f"push-{entry.id}", Form.TEXT))


async def reconcile(service: Service, entry: Entry) -> None:
    """An entry of the reconcile stream: the answer goes to `reconciled`. Raises BadRequest."""
    request = parse_reconcile(entry.fields, f"reconcile-{entry.id}", Form.TEXT)
    await service.reconcile(request.id, request.devices)


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
        service.metrics.pushes.labels(ReceiptState.REFUSED).inc()
