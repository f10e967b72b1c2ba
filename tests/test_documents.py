"""What the documents say about the code is so: links, tables, lists. (Their blocks are run by `tests.test_readme`.)"""

import re
from pathlib import Path

import httpx
import pytest

from engineio_trio import CloseReason
from pushd.model import ReceiptState, StatusEvent, Stream
from pushd.requests import PushDefaults, parse_push
from tests import protocol_tables
from tests.documents import ROOT, with_examples
from tests.pushd.node_support import running

DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")


def rows(document: str, heading: str) -> list[list[str]]:
    """The rows of the first table after a heading, each as its cells."""
    _, _, after = (ROOT / document).read_text().partition(f"\n{heading}\n")
    table = re.search(r"^\|.*?(?=^[^|]|\Z)", after, re.MULTILINE | re.DOTALL)
    assert table, f"{document} has no table after {heading}"
    lines = [line for line in table[0].splitlines() if line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def quoted(text: str) -> list[str]:
    """What stands in back quotes."""
    return re.findall(r"`([^`]+)`", text)


def anchors(document: Path) -> set[str]:
    """The headings of a document as the fragments of links."""
    heads = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target, fragment in LINK.findall(document.read_text()):
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{document.name} links to {target}"
        assert not fragment or fragment in anchors(path), f"{document.name} links to {target}#{fragment}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_examples_are_shown_as_they_are(document: Path) -> None:
    text = document.read_text()
    assert with_examples(text) == text, "copy them again: python -m tests.documents"


def test_the_protocol_page_has_every_table_as_it_is() -> None:
    page = protocol_tables.PAGE.read_text()
    assert sorted(protocol_tables.names(page)) == sorted(protocol_tables.tables())
    assert protocol_tables.render(page) == page, "make them again: python -m tests.protocol_tables"


def test_every_close_reason_is_explained() -> None:
    told = {quoted(reason)[0]: code for reason, _, code in rows("docs/guide.md", "## How connections end")}
    assert told.keys() == {reason.name for reason in CloseReason}
    assert {reason: int(code) for reason, code in told.items() if code} == {
        reason.name: reason.websocket_code for reason in CloseReason if told[reason.name]
    }


def test_every_stream_is_in_the_readme() -> None:
    told = {quoted(row[0])[0]: quoted(row[2]) for row in rows("README.md", "## The queues")}
    assert told.keys() == set(Stream)
    assert {state.value for state in ReceiptState} <= set(told["receipt"])


def test_every_field_of_a_push_is_explained() -> None:
    fields = {"to": "all", "data": 1, "event": "e", "id": "i", "ttl": 1, "qos": 0}
    parse_push(fields, PushDefaults(), "default")
    told = [quoted(row[0])[0] for row in rows("docs/pushd.md", "## Pushing")]
    assert sorted(told) == sorted([*fields, "wait"])


async def test_the_streams_have_the_fields_that_the_readme_says(tmp_path: Path) -> None:
    told = {quoted(row[0])[0]: set(quoted(row[2])) for row in rows("README.md", "## The queues")}
    told[Stream.STATUS] -= set(StatusEvent)
    told[Stream.RECEIPT] -= set(ReceiptState)
    told[Stream.DEAD] = {"stream", "entry", "reason", "to"}
    async with running(tmp_path) as node:
        await node.push(to="device:d1", id="p1")
        async with node.device("d1") as device:
            await device.ack((await device.push())[0])
            await device.emit("reading", 1)
            await node.tells(Stream.UPLINK, ("reading",), "event")
        await node.store.append(Stream.PUSH, {"to": "device:d1"})
        await node.store.append(Stream.RECONCILE, {"devices": '["d2"]'})
        await node.tells(Stream.DEAD, ("push",), "stream")
        await node.tells(Stream.RECONCILED, ('["d2"]',), "offline")
        for stream in (Stream.UPLINK, Stream.STATUS, Stream.RECEIPT, Stream.RECONCILED, Stream.DEAD):
            entries = await node.store.read_stream(stream, "", 10)
            assert entries, stream
            assert all(entry.fields.keys() == told[stream] for entry in entries), stream


async def test_every_metric_is_explained(tmp_path: Path) -> None:
    async with running(tmp_path) as node, httpx.AsyncClient(base_url=node.admin) as http:
        page = (await http.get("/metrics")).text
    families = re.findall(r"^# TYPE (pushd_\w+) (\w+)$", page, re.MULTILINE)
    told = [
        (re.sub(r"\{.*", "", name), row[1]) for row in rows("docs/pushd.md", "## Metrics") for name in quoted(row[0])
    ]
    assert sorted(told) == sorted(families)


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_is_short_and_listed(decision: Path) -> None:
    text = decision.read_text()
    assert text.count("\n") < 40
    title = text.splitlines()[0].removeprefix("# ")
    assert f"[{title}]({decision.name})" in (decision.parent / "README.md").read_text()
