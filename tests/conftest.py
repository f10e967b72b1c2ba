"""What holds for all tests: in CI, a test may be skipped only where it cannot run at all."""

import os
import signal

import pytest

EXCUSE = "cannot run here:"


def _unexcused(terminal: pytest.TerminalReporter) -> list[str]:
    """The skipped tests whose reason does not begin with EXCUSE, each with its reason."""
    found = []
    for report in terminal.stats.get("skipped", []):
        told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = told.removeprefix("Skipped: ")
        if not hasattr(report, "wasxfail") and not reason.startswith(EXCUSE):
            found.append(f"{report.nodeid}: {reason}")
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true, a skip that could have been avoided makes the run red."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and terminal is not None and _unexcused(terminal):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which skips made the run red, above pytest's own summary line."""
    if os.environ.get("CI") == "true" and (tests := _unexcused(terminalreporter)):
        terminalreporter.section("skipped, though they can run", red=True)
        for line in tests:
            terminalreporter.line(line)
        terminalreporter.line(f'A reason that begins with "{EXCUSE}" excuses a skip.')


def pytest_configure() -> None:
    """Ctrl-C and a terminal that closes are tested; a script's background, and nohup, have children ignore them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # Not SIG_DFL: it would end this run. What is handled here is at its default in the programs it starts.
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(params=["MemoryListener", "PlainListener"])
def each_kind_of_stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serving` with streams that have doors, and with streams that have none."""
    from tests import raw  # here: test_skips uses this file by itself

    monkeypatch.setattr(raw, "MemoryListener", getattr(raw, request.param))
