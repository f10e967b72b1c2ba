"""The table of faults in this folder's README names tests that exist, and has every row."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
README = (HERE / "README.md").read_text()
NAMED = re.compile(r"`(\w+/test_\w+\.py)::(test_\w+)`")
PROMISED = [*range(1, 19), *range(24, 29)]


def names_of(file: str) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse((HERE.parent / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_row_names_tests_that_exist() -> None:
    rows = {row[1]: row[0] for row in re.finditer(r"^\| (F\d+) \|.*$", README, re.MULTILINE)}
    assert set(rows) >= {f"F{number}" for number in PROMISED}
    for name, row in rows.items():
        named = NAMED.findall(row)
        assert named, f"{name} has no test"
        missing = [f"{file}::{test}" for file, test in named if test not in names_of(file)]
        assert not missing, f"{name} names what is not there: {missing}"


def test_every_test_named_after_a_row_is_in_it() -> None:
    rows = {int(row[1]): row[0] for row in re.finditer(r"^\| F(\d+) \|.*$", README, re.MULTILINE)}
    for file in sorted(path.name for path in HERE.glob("test_*.py")):
        for test in names_of(f"faults/{file}"):
            for number in re.findall(r"(?<=_)f(\d\d)(?=_)", test):
                assert f"faults/{file}::{test}" in rows[int(number)], f"{test} belongs into row F{int(number)}"
