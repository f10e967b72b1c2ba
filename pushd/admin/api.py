"""The HTTP API under `/v1`, but for the streams: pushing, looking at devices, kicking, statistics, reconciling."""

import collections
import dataclasses
import time
import uuid

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pushd.admin.answers import answer, not_found
from pushd.admin.query import body_of, device_of, flag_of, limit_of, query_of, wait_of
from pushd.admin.waiting import MAX_WAIT, Waiting
from pushd.auth.authenticators import hash_token
from pushd.config.keys import TOKEN_BYTES
from pushd.errors import BadRequest
from pushd.model import Push, Receipt
from pushd.requests import parse_push, parse_reconcile
from pushd.service import Service

MAX_RECEIPTS = 100  # shown in one answer; the counts are of all, and the receipt stream has each
PAGE_SIZE = 100
MAX_PAGE = 1_000
MAX_REASON = 200  # characters


@dataclasses.dataclass(frozen=True, slots=True)
class Api:
    """The endpoints. What they raise becomes an answer in the one shape of errors."""

    service: Service
    waiting: Waiting

    def routes(self) -> list[Route]:
        """The routes, for the application."""
        return [
            Route("/v1/push", self.push, methods=["POST"]),
            Route("/v1/devices", self.devices, methods=["GET"]),
            Route("/v1/devices/{device}", self.device, methods=["GET"]),
            Route("/v1/devices/{device}", self.kick, methods=["DELETE"]),
            Route("/v1/devices/{device}/token", self.permit, methods=["PUT"]),
            Route("/v1/devices/{device}/token", self.forbid, methods=["DELETE"]),
            Route("/v1/stats", self.stats, methods=["GET"]),
            Route("/v1/reconcile", self.reconcile, methods=["POST"]),
        ]

    async def push(self, request: Request) -> Response:
        """Push to devices. The answer is 200 even if every receipt says `refused`: the states are the result."""
        query_of(request)
        fields = await body_of(request)
        wait = wait_of(fields.pop("wait", 0), MAX_WAIT)
        push = parse_push(fields, self.service.defaults, str(uuid.uuid4()))
        receipts = await self._pushed(push, wait)
        counts = collections.Counter(receipt.state for receipt in receipts)
        return answer({"id": push.id, "counts": counts, "receipts": receipts[:MAX_RECEIPTS]})

    async def _pushed(self, push: Push, wait: float) -> list[Receipt]:
        if not wait or push.qos == 0:  # nothing confirms those
            return await self.service.push(push)
        with self.waiting.place():
            return await self.service.push(push, wait)
        return await self.service.push(push)  # the interface is stopping: the same id again gives the states now

    async def devices(self, request: Request) -> Response:
        """A page of the known devices, in the order of their ids, with the totals."""
        query = query_of(request, "online", "after", "limit")
        limit = limit_of(query, PAGE_SIZE, MAX_PAGE)
        records = await self.service.store.devices(query.get("after", ""), limit, flag_of(query, "online"))
        stats = await self.service.stats()
        totals = {"connections": stats["connections"], "online": stats["store"]["online"]}
        more = records[-1].device if len(records) == limit else None
        return answer({"devices": records, "next": more, **totals, "known": stats["store"]["devices"]})

    async def device(self, request: Request) -> Response:
        """What is known of one device."""
        query_of(request)
        device = device_of(request)
        record = await self.service.store.device(device)
        if record is None:
            raise not_found(f"no device {device!r} was ever seen")
        return answer(record)

    async def kick(self, request: Request) -> Response:
        """Disconnect a device; `kicked` is false if it was not connected."""
        reason = query_of(request, "reason").get("reason", "kicked by an operator")
        if not 1 <= len(reason) <= MAX_REASON or not reason.isprintable():
            raise BadRequest(f"reason: must be 1 to {MAX_REASON} printable characters")
        device = device_of(request)
        return answer({"device": device, "kicked": await self.service.kick(device, reason)})

    async def permit(self, request: Request) -> Response:
        """Make a device a legal one (`auth.kind` "store"), with a token or with none; the store has but its hash."""
        query_of(request)
        fields = await body_of(request)
        token = fields.pop("token", "")
        if fields or not isinstance(token, str) or len(token) > TOKEN_BYTES or not token.isprintable():
            raise BadRequest(f"token: must be a text of at most {TOKEN_BYTES} characters, and all that there is")
        device = device_of(request)
        await self.service.store.permit(device, hash_token(token.encode()) if token else "")
        return answer({"device": device, "legal": True})

    async def forbid(self, request: Request) -> Response:
        """Make a device one that may not come in; if it is connected, it stays until it is kicked."""
        query_of(request)
        device = device_of(request)
        await self.service.store.permit(device, None)
        return answer({"device": device, "legal": False})

    async def stats(self, request: Request) -> Response:
        """What the node says of itself and its store."""
        query_of(request)
        return answer(await self.service.stats())

    async def reconcile(self, request: Request) -> Response:
        """Which of the given devices are not alive; their stale bindings are ended on the way."""
        query_of(request)
        wanted = parse_reconcile(await body_of(request), str(uuid.uuid4()))
        offline = await self.service.reconcile(wanted.id, wanted.devices)
        return answer({"id": wanted.id, "offline": offline, "ts": time.time()})
