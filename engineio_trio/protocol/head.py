"""A request's head as a value, and the express lane for heads: what ordinary clients send, known at a glance.

Nearly all requests look alike: a GET or a POST by HTTP/1.1, plain headers that a connection repeats word for word, a
body with a Content-Length. The lane recognises those, and gives what a parser and all checks of a head would have
given. What it does not recognise (a head in pieces, a bad one, or merely a rare one) it leaves to them, byte for byte.
"""

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping

MAX_TARGET = 2_048
MAX_HEADERS = 64
MAX_QUERY_FIELDS = 64

_LINE = re.compile(rb"(GET|POST) (/[!-~]*) HTTP/1\.1\r\n")
_BLOCK = re.compile(rb"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t -~]*\r\n)+\r\n")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,14}")  # what every parser takes for the same number
_LENGTH_LINE = re.compile(rb"\r\n(?i:content-length):[ \t]*(0|[1-9][0-9]{0,14})[ \t]*\r\n")
_BLOCK_END = b"\r\n\r\n"
_DOUBTFUL = frozenset(("transfer-encoding", "expect"))
_KEPT_ALIVE = frozenset(("", "keep-alive", "upgrade", "keep-alive, upgrade"))  # values of Connection


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request's head. Header names are lower case, values ASCII text; `query` is decoded, in order of appearance."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    version: str

    def first(self, name: str) -> str | None:
        """The first value of a query field, or None."""
        values = self.query.get(name)
        return values[0] if values else None

    @property
    def wants_websocket(self) -> bool:
        """It asks for the upgrade to a WebSocket (whether it does so correctly is another question)."""
        upgrade = self.headers.get("upgrade")
        return upgrade is not None and "websocket" in upgrade.lower()


def parse_query(text: str) -> dict[str, list[str]]:
    """The fields of a query. Raises ValueError when there are more than `MAX_QUERY_FIELDS`."""
    if "%" in text or "+" in text:
        return urllib.parse.parse_qs(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    fields = text.split("&")
    if len(fields) > MAX_QUERY_FIELDS:
        raise ValueError(f"more than {MAX_QUERY_FIELDS} query fields")
    query: dict[str, list[str]] = {}
    for field in fields:  # nothing to decode: a quarter of what parse_qs takes for the same
        if field:
            name, _, value = field.partition("=")
            query.setdefault(name, []).append(value)
    return query


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """The headers of the last request of a method; a Content-Length stands between `before` and `after`."""

    before: bytes
    after: bytes | None  # None: there is no Content-Length
    headers: dict[str, str]


class HeadLane:
    """The lane of one connection; heads of at most `max_header` bytes. It remembers one block of headers a method."""

    __slots__ = ("_known", "_max_header")

    def __init__(self, max_header: int) -> None:
        self._max_header = max_header
        self._known: dict[bytes, _Known] = {}

    def take(self, data: bytes) -> tuple[Request, int, int] | None:
        """The request whose head is the start of `data`, the head's size, and its body's; None if it is not for us."""
        line = _LINE.match(data)
        if line is None:
            return None
        method, target = line.groups()
        start = line.end()
        if len(target) > MAX_TARGET:
            return None
        known = self._known.get(method)
        sizes = None if known is None else self._repeated(known, data, start)
        if known is None or sizes is None:
            learned = self._learn(method, data, start)
            if learned is None:
                return None
            known, sizes = learned
            self._known[method] = known
        size, length = sizes
        headers = known.headers.copy()
        if known.after is not None:
            headers["content-length"] = str(length)
        path, _, query_text = target.decode("ascii").partition("?")
        try:
            query = parse_query(query_text)
        except ValueError:
            return None
        return Request(method.decode("ascii"), path, query, headers, "1.1"), size, length

    def _repeated(self, known: _Known, data: bytes, start: int) -> tuple[int, int] | None:
        """Sizes of head and body if the headers at `start` are the known ones again."""
        if not data.startswith(known.before, start):
            return None
        end, length = start + len(known.before), 0
        if known.after is not None:
            digits = _LENGTH.match(data, end)
            if digits is None or not data.startswith(known.after, digits.end()):
                return None
            end, length = digits.end() + len(known.after), int(digits[0])
        return (end, length) if end <= self._max_header else None

    def _learn(self, method: bytes, data: bytes, start: int) -> tuple[_Known, tuple[int, int]] | None:
        """The headers at `start`, and the sizes of head and body, if all is there and nothing about it is doubtful."""
        block = _BLOCK.match(data, start, self._max_header)
        if block is None:
            return None
        headers: dict[str, str] = {}
        lines = block[0][: -len(_BLOCK_END)].decode("ascii").split("\r\n")
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip(" \t")
        if len(headers) < len(lines) or len(headers) > MAX_HEADERS or not _DOUBTFUL.isdisjoint(headers):
            return None  # one that comes twice is for the parser to judge, too
        if "host" not in headers or headers.get("connection", "").lower() not in _KEPT_ALIVE:
            return None
        if ("content-length" in headers) is not (method == b"POST"):
            return None
        if method == b"GET":
            return _Known(block[0], None, headers), (block.end(), 0)
        length = _LENGTH_LINE.search(data, start - 2, block.end())
        if length is None:
            return None
        known = _Known(data[start : length.start(1)], data[length.end(1) : block.end()], headers)
        return known, (block.end(), int(length[1]))
