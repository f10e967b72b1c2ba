"""The rule of conftest.py about skips, tried on a pytest of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_avoidable():
    pytest.skip("run `make js`")

def test_excused():
    pytest.skip("cannot run here: no such kernel")

@pytest.mark.xfail(reason="known")
def test_expected():
    assert False
"""


@pytest.mark.parametrize(
    ("ci", "chosen", "code"),
    [("true", "avoidable", 1), ("true", "excused or expected", 0), ("", "avoidable", 0), ("true", "", 1)],
)
def test_in_ci_an_avoidable_skip_makes_the_run_red(tmp_path: Path, ci: str, chosen: str, code: int) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", chosen, str(tmp_path)]
    ran = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "CI": ci}, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == code, ran.stdout
    assert ("test_avoidable: run `make js`" in ran.stdout) == (code == 1)
    assert "test_excused:" not in ran.stdout
