"""The authenticator that asks your service over HTTP."""

import json
import ssl
from types import TracebackType
from typing import Any, Self

import httpx
import trio

from pushd.auth.identity import parse_identity
from pushd.config.sections import HttpAuth
from pushd.errors import AuthRejected, AuthUnavailable
from pushd.model import Identity

ANSWER_BYTES = 65_536


class HttpAuthenticator:
    """POSTs `{"device", "token"}` (null for what was not given) as JSON to `url` and reads the answer.

    200 with `{"device"?, "topics"?, "expires"?, "confirm"?}` is yes, 401 and 403 are no; everything else, an answer
    that makes no sense included, is AuthUnavailable. Use it as an async context manager.
    """

    def __init__(self, settings: HttpAuth) -> None:
        self._settings = settings
        self._slots = trio.CapacityLimiter(settings.concurrency)
        # A transport of our own: the system's certificates, and no proxy from the environment, which would see tokens.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=settings.concurrency)
        transport = httpx.AsyncHTTPTransport(verify=ssl.create_default_context(), limits=limits)
        self._client = httpx.AsyncClient(transport=transport, timeout=None)  # the deadline below covers all of it

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, where)

    async def authenticate(self, device: str | None, token: str | None) -> Identity:
        """What the service says, within `timeout` seconds, waiting for a free slot included."""
        try:
            with trio.fail_after(self._settings.timeout):
                async with self._slots:
                    status, body = await self._ask({"device": device, "token": token})
        except trio.TooSlowError as error:
            raise AuthUnavailable(f"{self._where} did not answer within {self._settings.timeout:g} s") from error
        except httpx.HTTPError as error:
            raise AuthUnavailable(f"{self._where} cannot be asked: {error or type(error).__name__}") from error
        if status in (401, 403):
            raise AuthRejected("the authentication service says no")
        if status != 200:
            raise AuthUnavailable(f"{self._where} answered with status {status}")
        return self._identity(device, body)

    @property
    def _where(self) -> str:
        """The service's name for messages, which a password in the URL has no business in."""
        url = httpx.URL(self._settings.url)
        return f"the authentication service at {url.host}"

    async def _ask(self, question: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body. Of a longer one than ANSWER_BYTES the rest is read, within the deadline, and not kept."""
        async with self._client.stream("POST", self._settings.url, json=question) as response:
            body = b""
            async for chunk in response.aiter_bytes():
                if len(body) <= ANSWER_BYTES:  # no break: httpx's own generators would be left behind unfinished
                    body += chunk
            return response.status_code, body

    def _identity(self, device: str | None, body: bytes) -> Identity:
        try:
            if len(body) > ANSWER_BYTES:
                raise ValueError(f"it has more than {ANSWER_BYTES} bytes")
            answer = json.loads(body)
            if not isinstance(answer, dict):
                raise ValueError("it is not an object")
            name = answer.get("device", device)
            return parse_identity(name, answer.get("topics"), answer.get("expires"), answer.get("confirm"))
        except (ValueError, RecursionError) as error:
            raise AuthUnavailable(f"{self._where} gave an answer that makes no sense: {error}") from error
