"""Transcripts: a recorded conversation as data, with what differs from run to run replaced by names.

The format is described for other readers in protocol-fixtures/transcripts/README.md. Here it is read, written and made
canonical, so that two recordings of the same conversation give the same file.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Step = dict[str, Any]

TRANSCRIPTS = Path(__file__).parents[2] / "protocol-fixtures" / "transcripts"
SEPARATOR = "\x1e"
CLOSE = "1"
NOOP = "6"

# Headers that say something about the protocol; the others differ by machine, day and version, and mean nothing here.
KEPT_HEADERS = frozenset(
    {
        "accept", "access-control-allow-credentials", "access-control-allow-origin", "authorization", "cache-control",
        "connection", "content-type", "cookie", "origin", "sec-websocket-accept", "sec-websocket-extensions",
        "sec-websocket-key", "sec-websocket-protocol", "sec-websocket-version", "set-cookie", "upgrade",
    }
)  # fmt: skip
_RANDOM_HEADERS = {"sec-websocket-key": "$KEY", "sec-websocket-accept": "$ACCEPT"}
_ENGINE_ID = re.compile(r'^0\{.*?"sid":"([^"]+)"')
_SOCKET_ID = re.compile(r'^40(?:/[^,]*,)?\{.*?"sid":"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Transcript:
    """One conversation. `steps` are grouped by TCP connection, and within one are in the order of the wire."""

    scenario: str
    server: str
    client: str
    steps: list[Step]

    def save(self, path: Path) -> None:
        """Write the JSON file: one step a line, so that a difference reads well."""
        head = {"scenario": self.scenario, "server": self.server, "client": self.client}
        steps = ",\n    ".join(json.dumps(step, ensure_ascii=False) for step in self.steps)
        text = json.dumps(head, indent=2)[:-2] + f',\n  "steps": [\n    {steps}\n  ]\n}}\n'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def load(path: Path) -> Transcript:
    """Read a transcript that `save` wrote."""
    return Transcript(**json.loads(path.read_text(encoding="utf-8")))


def packets_of(step: Step) -> list[str]:
    """The Engine.IO packets, as text, that a step carries: of a polling body several, of a frame one, else none."""
    if step["kind"] == "text":
        return [step["data"]]
    packets: list[str] = step.get("packets", [])
    return packets


def canonical(steps: list[Step]) -> list[Step]:
    """The steps ordered by connection, with ids and other chance values replaced by placeholders."""
    ordered = sorted(steps, key=lambda step: step["connection"])  # sorting is stable: the order within one is kept
    names = _names(ordered)
    return [_replaced(step, names) for step in ordered]


def _names(steps: list[Step]) -> dict[str, str]:
    names: dict[str, str] = {}
    for prefix, pattern in (("$SID", _ENGINE_ID), ("$SOCKET", _SOCKET_ID)):
        found = [
            match[1]
            for step in steps
            if step["from"] == "server"
            for packet in packets_of(step)
            if (match := pattern.match(packet))
        ]
        for number, value in enumerate(dict.fromkeys(found), start=1):
            names[value] = f"{prefix}{number}"
    return names


def _replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _RANDOM_HEADERS.get(key) or _replaced(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, names) for item in value]
    if isinstance(value, str):
        for chance, name in names.items():
            value = value.replace(chance, name)
        return re.sub(r"([?&]t=)[^&]+", r"\1$T", value)
    return value
