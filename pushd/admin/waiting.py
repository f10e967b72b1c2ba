"""Requests that wait on purpose: readers of live streams, long polls, pushes that wait for their acknowledgement.

They are bounded in number, and they are what a shutdown has to end.
"""

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import trio

from pushd.admin.answers import RETRY_AFTER, Problem

MAX_WAITING: Final = 128  # each holds a socket and a task; people and a few services look, not fleets
MAX_WAIT: Final = 300.0  # seconds that one request may ask for; a stream's reader may stay for ever


class Waiting:
    """The places for requests that wait. `stop()` ends the waits of all that are in one, now and later."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        self._most = most
        self._scopes: set[trio.CancelScope] = set()
        self._stopping = False

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while inside. On `stop()` the inside is cancelled, and what comes after the block goes on.

        Raises Problem (503, `busy`) at once if all places are taken.
        """
        if len(self._scopes) >= self._most:
            text = f"{self._most} requests are waiting already; close some, or try again later"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "busy", text, {"Retry-After": str(RETRY_AFTER)})
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self._stopping:
                    scope.cancel()
                yield
            finally:
                self._scopes.discard(scope)

    def stop(self) -> None:
        """End every wait."""
        self._stopping = True
        for scope in self._scopes:
            scope.cancel()
