"""What a supervisor asks: is the process alive, and may it be sent work. It has no token, so it is cheap and terse."""

from http import HTTPStatus
from typing import Final

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pushd.admin.answers import Problem, answer
from pushd.errors import StoreUnavailable
from pushd.service import Service

PING_TIMEOUT: Final = 2.0  # seconds; probes give up after few seconds themselves
PING_EVERY: Final = 1.0  # seconds; the store is asked no more often, whoever asks us


class Health:
    """The endpoints `/live` and `/ready`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._asking = trio.Lock()
        self._asked = -PING_EVERY
        self._store_problem: str | None = None

    def routes(self) -> list[Route]:
        """The routes, for the application."""
        return [Route("/live", self.live, methods=["GET"]), Route("/ready", self.ready, methods=["GET"])]

    async def live(self, request: Request) -> Response:
        """200, for as long as the event loop turns."""
        return answer({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 if devices and services are served; 503 with the reason if not (draining, or no store)."""
        why = self._service.ready() or await self._ask_store()
        if why is not None:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", why)
        return answer({"ready": True})

    async def _ask_store(self) -> str | None:
        """Why the store does not answer, or None. An answer is kept for a moment: a ping may be a write to disk."""
        async with self._asking:
            if trio.current_time() - self._asked >= PING_EVERY:
                self._store_problem = await self._ping()
                self._asked = trio.current_time()
            return self._store_problem

    async def _ping(self) -> str | None:
        try:
            with trio.fail_after(PING_TIMEOUT):
                await self._service.store.ping()
        except StoreUnavailable as error:
            return f"the store cannot answer: {error}"
        except trio.TooSlowError:
            return f"the store did not answer within {PING_TIMEOUT:g} s"
        return None
