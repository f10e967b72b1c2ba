"""The state machines as Markdown: the tables of docs/protocol.md, made from those that the code runs on.

`python -m tests.protocol_tables` writes them anew, each between its pair of remarks.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from engineio_trio.protocol import engine_session, socket_session

PAGE = Path(__file__).parents[1] / "docs" / "protocol.md"
MARK = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Every table by its name."""
    engine = engine_session
    return {
        "engine server": _engine(engine.TRANSITIONS[4]),
        "engine server revision 3": _engine(engine.TRANSITIONS[3]),
        "engine client": _engine(engine.CLIENT_TRANSITIONS),
        "socket server": _socket(socket_session.TRANSITIONS),
        "socket client": _socket(socket_session.CLIENT_TRANSITIONS),
    }


def render(text: str) -> str:
    """The page with its tables as the code has them now."""
    made = tables()
    return MARK.sub(lambda match: f"{match[1]}\n{made[match[2]]}\n{match[3]}", text)


def names(text: str) -> list[str]:
    """The tables that the page has."""
    return [match[2] for match in MARK.finditer(text)]


def _engine(table: engine_session.Table) -> str:
    rows = [
        (state.value, door.value, packet.name, action.value, after.value)
        for (state, door), row in table.items()
        for packet, (action, after) in sorted(row.items(), key=lambda cell: cell[0].value)
    ]
    return _markdown(("in state", "on the transport", "packet", "to do", "then"), rows)


def _socket(table: socket_session.Table) -> str:
    rows = [
        (state.value, packet.__name__, step.value, after.value)
        for state, row in table.items()
        for packet, (step, after) in row.items()
    ]
    return _markdown(("the namespace is", "packet", "to do", "then it is"), rows)


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
