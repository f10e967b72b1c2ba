"""How the admin interface answers: JSON, and one shape for every error.

`{"error": {"code": "bad_request", "message": "..."}}`: the code is for programs and stays, the message is for people.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pushd.errors import BadRequest, StoreUnavailable

RETRY_AFTER: Final = 2  # seconds; a store that comes back is back within a few
_NO_STORE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Problem(Exception):
    """An answer other than success. Raise it anywhere in a request, before the answer has begun."""

    def __init__(self, status: HTTPStatus, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def not_found(message: str) -> Problem:
    """The problem of asking for what does not exist."""
    return Problem(HTTPStatus.NOT_FOUND, "not_found", message)


def answer(value: Any, status: int = HTTPStatus.OK) -> Response:
    """A value (dicts, lists, frozen values of the model) as a JSON response."""
    return Response(msgspec.json.encode(value), status, _NO_STORE, media_type="application/json")


def error(problem: Problem) -> Response:
    """A problem as a response in the one shape of errors."""
    response = answer({"error": {"code": problem.code, "message": problem.message}}, problem.status)
    response.headers.update(problem.headers)
    return response


def problem_of(error: Exception) -> Problem:
    """What an exception means to the one who asked. Anything not foreseen is a 500 that gives nothing away."""
    match error:
        case Problem():
            return error
        case BadRequest():
            return Problem(HTTPStatus.BAD_REQUEST, "bad_request", str(error))
        case StoreUnavailable():
            text = f"the store cannot answer now ({error}); it is safe to send the same request with the same id again"
            headers = {"Retry-After": str(RETRY_AFTER)}
            return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable", text, headers)
        case HTTPException():
            status = HTTPStatus(error.status_code)
            return Problem(status, status.name.lower(), status.description or status.phrase, error.headers)
        case _:
            text = "a mistake in pushd; its log says more"
            return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", text)


async def explain(request: Request, error_: Exception) -> Response:
    """Starlette's exception handler for everything: the exception as a response."""
    return error(problem_of(error_))


EXPLAINED: Final = (HTTPException, Problem, BadRequest, StoreUnavailable, Exception)
"""What `explain` is registered for: by name what is expected; the rest (the last one) is logged as well."""
