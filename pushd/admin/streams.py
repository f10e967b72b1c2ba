"""The streams over HTTP: a page of entries, a live tail as server-sent events, and writing to the services' streams."""

import dataclasses
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pushd.admin.answers import Problem, answer, not_found
from pushd.admin.query import body_of, limit_of, query_of, query_wait_of
from pushd.admin.waiting import MAX_WAIT, Waiting
from pushd.errors import BadRequest, StoreUnavailable
from pushd.model import Entry, Stream
from pushd.store.base import Store

PAGE_SIZE: Final = 100
MAX_PAGE: Final = 1_000
BATCH: Final = 100  # entries of one write to a live reader
HEARTBEAT: Final = 15.0  # seconds; proxies drop a connection that says nothing for 30 or 60
RETRY: Final = 2_000  # milliseconds after which an EventSource comes back
NOW: Final = "$"
WRITABLE: Final = frozenset({Stream.PUSH, Stream.RECONCILE})


@dataclasses.dataclass(frozen=True, slots=True)
class Streams:
    """The endpoints under `/v1/streams`."""

    store: Store
    waiting: Waiting

    def routes(self) -> list[Route]:
        """The routes, for the application."""
        return [
            Route("/v1/streams/{name}", self.read, methods=["GET"]),
            Route("/v1/streams/{name}", self.write, methods=["POST"]),
        ]

    async def read(self, request: Request) -> Response:
        """`GET`: entries after `after` as JSON; with `Accept: text/event-stream` a live tail without end."""
        stream = _stream_of(request)
        query = query_of(request, "after", "limit", "wait")
        after = query.get("after", "")
        if "text/event-stream" in request.headers.get("accept", ""):
            after = await self._position(stream, request.headers.get("last-event-id", after))
            return _Tail(self, stream, after, await self.store.read_stream(stream, after, BATCH))
        limit, wait = limit_of(query, PAGE_SIZE, MAX_PAGE), query_wait_of(query, MAX_WAIT)
        after = await self._position(stream, after)
        entries = await self._entries(stream, after, limit, wait)
        shown = [{"id": entry.id, "fields": entry.fields} for entry in entries]
        return answer({"entries": shown, "next": entries[-1].id if entries else after})

    async def write(self, request: Request) -> Response:
        """`POST`: append the JSON object's fields as one entry, as a service would; the answer comes on the streams."""
        stream = _stream_of(request)
        if stream not in WRITABLE:
            text = f"the stream {stream} is written by pushd alone"
            raise Problem(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", text, {"Allow": "GET"})
        query_of(request)
        fields = await body_of(request)
        for name, value in fields.items():
            if not isinstance(value, str):
                raise BadRequest(f"{name[:80]}: a stream's fields are texts (JSON as text), not {type(value).__name__}")
        return answer({"id": await self.store.append(stream, fields)}, HTTPStatus.ACCEPTED)

    async def _entries(self, stream: Stream, after: str, limit: int, wait: float) -> Sequence[Entry]:
        if not wait:
            return await self.store.read_stream(stream, after, limit)
        with self.waiting.place():
            return await self.store.read_stream(stream, after, limit, wait)
        return []  # the interface is stopping

    async def _position(self, stream: Stream, after: str) -> str:
        """`after` as an id: `$` becomes the newest entry's, so that nothing falls between two reads."""
        return await self.store.newest(stream) if after == NOW else after


class _Tail(Response):
    """A stream's entries from a position on, as server-sent events, until the reader or the interface goes."""

    def __init__(self, streams: Streams, stream: Stream, after: str, first: Sequence[Entry]) -> None:
        """`first` are the entries after `after` that are there already: what is wrong showed when they were read."""
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._streams = streams
        self._stream = stream
        self._after = after
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send for as long as anybody is there. Raises Problem before it began if there is no place."""
        with self._streams.waiting.place():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                await self._follow(send)
                nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _follow(self, send: Send) -> None:
        entries, text = self._first, f"retry: {RETRY}\n\n"
        while True:
            text += "".join(map(_event, entries))
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            if entries:
                self._after = entries[-1].id
            try:
                entries = await self._streams.store.read_stream(self._stream, self._after, BATCH, HEARTBEAT)
            except StoreUnavailable:
                return  # the reader comes back with the last id that it has seen
            text = "" if entries else ": still here\n\n"


def _event(entry: Entry) -> str:
    return f"id: {entry.id}\ndata: {msgspec.json.encode(entry.fields).decode()}\n\n"


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _stream_of(request: Request) -> Stream:
    name: str = request.path_params["name"]
    try:
        return Stream(name)
    except ValueError:
        raise not_found(f"no stream {name[:80]!r}; there are {', '.join(Stream)}") from None
