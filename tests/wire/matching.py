"""Whether a server says what a transcript says: placeholders are bound at first sight, JSON is compared as JSON."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

_PLACEHOLDER = re.compile(r"\$(?:SID|SOCKET)\d+")
_JSON = re.compile(r"[\[{]")


@dataclass(slots=True)
class Names:
    """What the placeholders of one conversation stand for."""

    values: dict[str, str] = field(default_factory=dict)

    def fill(self, text: str) -> str:
        """`text` with every placeholder replaced; a KeyError means that the server has not said it yet."""
        return _PLACEHOLDER.sub(lambda match: self.values[match[0]], text)

    def match(self, recorded: str, said: str) -> bool:
        """Whether a packet or a body equals the recorded one; binds the placeholders that it meets first."""
        recorded_head, recorded_value = _parsed(recorded)
        said_head, said_value = _parsed(said)
        return recorded_head == said_head and self._same(recorded_value, said_value)

    def _same(self, recorded: Any, said: Any) -> bool:
        if isinstance(recorded, str) and isinstance(said, str):
            if _PLACEHOLDER.fullmatch(recorded) and said not in self.values.values():
                return self.values.setdefault(recorded, said) == said
            return _PLACEHOLDER.sub(lambda match: self.values.get(match[0], match[0]), recorded) == said
        if isinstance(recorded, dict) and isinstance(said, dict):
            return recorded.keys() == said.keys() and all(self._same(recorded[key], said[key]) for key in recorded)
        if isinstance(recorded, list) and isinstance(said, list):
            return len(recorded) == len(said) and all(map(self._same, recorded, said))
        return type(recorded) is type(said) and bool(recorded == said)


def _parsed(text: str) -> tuple[str, Any]:
    """What stands before the JSON of a packet, and the JSON as a value; the whole text and None where there is none."""
    found = _JSON.search(text)
    if found is None:
        return text, None
    try:
        return text[: found.start()], json.loads(text[found.start() :])
    except json.JSONDecodeError:
        return text, None
