"""Answers as values, and the bytes of one."""

import dataclasses
import functools
import re
from collections.abc import Mapping

import msgspec

REMEMBERED = 64  # heads of answers: a server has about ten, and one more for each origin of its pages
_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t -~]*")
_FRAMING = frozenset(("content-length", "transfer-encoding"))

Headers = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """An answer, whole. `closing`: no further request is read from this connection."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=UTF-8"
    headers: Headers = ()
    closing: bool = False

    def render(self, more: Headers, *, closing: bool, bodiless: bool) -> bytes:
        """Its bytes, with `more` headers; `closing` says so to the peer, `bodiless` is for an answer to HEAD.

        Raises ValueError for a header that is none.
        """
        head = _head(self.status, self.content_type, self.headers + more, closing)
        if self.status == 204:  # RFC 9110 section 8.6: no length with a status that has no content
            return head + b"\r\n"
        return b"%sContent-Length: %d\r\n\r\n%s" % (head, len(self.body), b"" if bodiless else self.body)


class HttpError(Exception):
    """A request that is answered with an error: `{"code": code, "message": message}` as engine.io does."""

    def __init__(
        self, status: int, message: str, code: int = 3, headers: Mapping[str, str] | None = None, closing: bool = True
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.closing = closing

    def response(self) -> Response:
        body = msgspec.json.encode({"code": self.code, "message": self.message})
        headers = tuple(self.headers.items())
        return Response(self.status, body, "application/json", headers, closing=self.closing)


@functools.lru_cache(maxsize=REMEMBERED)
def _head(status: int, content_type: str, headers: Headers, closing: bool) -> bytes:
    """The head of an answer without its length, which is all that differs from one to the next."""
    fields = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), *headers]
    if status != 204:
        fields.append(("Content-Type", content_type))
    if closing:
        fields.append(("Connection", "close"))
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise ValueError(f"not a header for an answer: {name!r}: {value!r}")
    lines = [f"HTTP/1.1 {status} ", *(f"{name}: {value}" for name, value in fields), ""]
    return "\r\n".join(lines).encode("ascii")
