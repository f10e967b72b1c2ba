"""The mark of the tests that run under valgrind."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register it."""
    config.addinivalue_line("markers", "instructions: counts instructions under valgrind (some tens of seconds)")
