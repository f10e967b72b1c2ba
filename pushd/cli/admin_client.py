"""A running daemon as the commands see it: requests to its admin interface, and a stream followed without end."""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from pushd.errors import BadRequest

DEFAULT_URL = "http://127.0.0.1:8781"
ANSWER_SECONDS = 10.0
SILENCE_SECONDS = 45.0  # a live stream says something every 15 s; three times that is a dead connection
PAGE = 1_000
RETRIES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between attempts to follow a stream again; the last one repeats


class CommandFailed(Exception):
    """The command could not do what it was asked for. The text is for the person who typed it."""


class ConnectionLost(CommandFailed):
    """The daemon cannot be reached, or has gone in the middle of an answer."""


class AdminClient:
    """Requests to one daemon's admin interface, as a context manager.

    Every method raises CommandFailed, or BadRequest for what the daemon finds wrong with a request itself.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            # A transport of our own, so that no proxy from the environment stands before a daemon on this machine.
            self._client = httpx.Client(
                base_url=self.url, headers=headers, timeout=ANSWER_SECONDS, transport=httpx.HTTPTransport()
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise CommandFailed(f"{url} with this token cannot be asked: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._client.close()

    def ask(
        self,
        method: str,
        path: str,
        fields: Sequence[str],
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        wait: float = 0.0,
    ) -> dict[str, Any]:
        """The JSON object that a request is answered with, which has these fields.

        `wait`: seconds that the daemon may take beside the usual ones.
        """
        try:
            response = self._client.request(method, path, params=query, json=body, timeout=ANSWER_SECONDS + wait)
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise self._unreachable(error) from error
        except UnicodeEncodeError as error:
            raise BadRequest(f"{error.object[error.start : error.end]!r} is not Unicode text") from error
        answer = self._object(response)
        if missing := [name for name in fields if name not in answer]:
            raise CommandFailed(
                f"{self.url} gave an answer without {', '.join(missing)}: is it a pushd admin listener?"
            )
        return answer

    def pages(self, path: str, name: str, query: Mapping[str, str | int]) -> Iterator[dict[str, Any]]:
        """The answers of a listing, page by page, until one is empty (of `name`) or says that there is no next."""
        after = str(query.get("after", ""))
        while True:
            page = self.ask("GET", path, (name, "next"), {**query, "after": after, "limit": PAGE})
            yield page
            if not page[name] or not page["next"]:
                return
            after = page["next"]

    def follow(self, stream: str, after: str, lost: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """The entries of a stream after an id (`$`: from now on), without end.

        A lost connection is told to `lost` and taken up again after the last entry; one that could not be made in the
        first place raises.
        """
        if after == "$":
            after = self.ask("GET", f"/v1/streams/{stream}", ("next",), {"after": "$", "limit": 1})["next"]
        attempt = -1  # of taking it up again; -1: it has never worked yet
        while True:
            try:
                for entry in self._live(stream, after):
                    attempt = 0
                    if entry is not None:
                        after = entry["id"]
                        yield entry
                reason = "the daemon ended it"
            except ConnectionLost as error:
                if attempt < 0:
                    raise
                reason = str(error)
            delay = RETRIES[min(max(attempt, 0), len(RETRIES) - 1)] * random.uniform(0.8, 1.2)
            lost(f"connection lost ({reason}); trying again in {delay:.1f} s")
            time.sleep(delay)
            attempt = max(attempt, 0) + 1

    def _live(self, stream: str, after: str) -> Iterator[dict[str, Any] | None]:
        """One connection's entries; None first, as soon as the daemon has accepted the request."""
        headers = {"Accept": "text/event-stream"}
        timeout = httpx.Timeout(ANSWER_SECONDS, read=SILENCE_SECONDS)
        try:
            with self._client.stream(
                "GET", f"/v1/streams/{stream}", params={"after": after}, headers=headers, timeout=timeout
            ) as response:
                if response.status_code != 200:
                    response.read()
                    self._object(response)
                yield None
                yield from _events(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        """A response's JSON object. An error in it is raised; 502 to 504 count as not reached."""
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.is_success and isinstance(answer, dict):
            return answer
        message = f"{self.url} answered with status {response.status_code}: is it a pushd admin listener?"
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            message = str(answer["error"].get("message", message))
        elif response.is_success:
            raise CommandFailed(f"{self.url} answered something else than JSON: is it a pushd admin listener?")
        if response.status_code == 401:
            message += " (set --admin-token or PUSHD_ADMIN_TOKEN)"
        if response.status_code == 400:
            raise BadRequest(message)
        raise (ConnectionLost if response.status_code in (502, 503, 504) else CommandFailed)(message)

    def _unreachable(self, error: Exception) -> ConnectionLost:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            text = f"no daemon answers at {self.url}: {error}. Is `pushdctl serve` running? --admin says where"
        elif isinstance(error, httpx.TimeoutException):
            text = f"{self.url} did not answer in time"
        else:
            text = f"{self.url}: {error or type(error).__name__}"
        return ConnectionLost(text)


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events as entries `{"id", "fields"}`; comments and other fields are passed over."""
    identity, data = "", ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id" and line:
            identity = value
        elif name == "data":
            data += value
        elif not line and data:
            yield {"id": identity, "fields": json.loads(data)}
            data = ""
