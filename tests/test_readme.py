"""Everything that the documents show is run: README.md and docs/, section by section (see `tests.documents`)."""

from pathlib import Path

import pytest

from tests.documents import NOT_RUN, ROOT, RUN, Section, perform, sections

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SECTIONS = [section for document in DOCUMENTS for section in sections(document)]


def _parameters() -> list[object]:
    found = []
    for section in SECTIONS:
        marks = [pytest.mark.javascript] if "js" in section.languages() else []
        found.append(pytest.param(section, id=f"{section.document}: {section.title}", marks=marks))
    return found


@pytest.mark.parametrize("section", _parameters())
async def test_what_is_shown_works(section: Section, tmp_path: Path) -> None:
    await perform(section, tmp_path)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: f"{section.document}: {section.title}")
def test_every_block_is_of_a_kind_that_is_run(section: Section) -> None:
    assert section.languages() <= {*RUN, *NOT_RUN}
