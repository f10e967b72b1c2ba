"""Budgets of addresses, and the failpoints."""

import logging
import os

import pytest

from pushd import failpoint
from pushd.limits import Budget, Seldom, say_seldom


def test_a_budget_is_spent_and_comes_back() -> None:
    """H20."""
    budget = Budget(3, 60.0)
    for _ in range(3):
        assert budget.wait("a", 100.0) == 0
        budget.spend("a", 100.0)
    assert budget.wait("a", 100.0) == pytest.approx(20.0)
    assert budget.wait("b", 100.0) == 0
    assert budget.wait("a", 119.0) == pytest.approx(1.0)
    assert budget.wait("a", 120.0) == pytest.approx(0.0)


def test_debts_do_not_grow() -> None:
    budget = Budget(3, 60.0)
    for _ in range(100):
        budget.spend("a", 0.0)
    assert budget.wait("a", 0.0) == pytest.approx(20.0)


def test_to_take_is_to_spend_if_there_is_one() -> None:
    budget = Budget(3, 60.0)
    assert [budget.take("a", 100.0) for _ in range(3)] == [0, 0, 0]
    for _ in range(2):  # what is not given is not counted
        assert budget.take("a", 100.0) == pytest.approx(20.0)
    assert budget.wait("a", 100.0) == pytest.approx(20.0)
    assert budget.take("b", 100.0) == 0
    assert budget.take("a", 119.0) == pytest.approx(1.0)
    assert budget.take("a", 121.0) == 0


def test_a_budget_remembers_a_bounded_number_of_keys() -> None:
    """I5: who was longest not heard of is forgotten."""
    budget = Budget(1, 60.0, max_keys=3)
    for key in "abc":
        budget.spend(key, 0.0)
    budget.spend("a", 1.0)
    budget.spend("d", 2.0)
    assert len(budget) == 3
    assert budget.wait("b", 2.0) == 0
    assert budget.wait("a", 2.0) > 0


def test_seldom_counts_what_it_holds_back() -> None:
    """S15."""
    seldom = Seldom(10.0)
    assert [seldom.count(now) for now in (0.0, 1.0, 9.0, 10.0, 11.0, 30.0)] == [1, 0, 0, 3, 0, 2]


def test_a_logger_that_would_fill_the_log_says_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    """S15, H22: Trio tells, ten times a second and with a traceback, that there are no files for more connections."""
    say_seldom("tests.chatty", 10.0)
    for _ in range(20):
        try:
            raise OSError("no files")
        except OSError:
            logging.getLogger("tests.chatty").exception("it failed")
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [("it failed", None)]


def test_a_failpoint_exits_at_its_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    point = failpoint.make("here:exit:2")
    point("there")
    point("here")
    assert exits == []
    point("here")
    assert exits == [137]


def test_without_a_setting_nothing_happens() -> None:
    failpoint.make("")("anywhere")


@pytest.mark.parametrize("setting", ["here", "here:", ":exit", "here:stop", "here:exit:0", "here:exit:x"])
def test_a_wrong_setting_is_told(setting: str) -> None:
    with pytest.raises(ValueError, match="PUSHD_FAILPOINT"):
        failpoint.make(setting)
