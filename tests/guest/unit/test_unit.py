"""Unit suites: run natively after the build (vexrun/checks.py), asserted here one by one."""

from __future__ import annotations

import pytest
from vexrun.checks import unit_suite_names
from vexrun.guest.context import RunContext
from vexrun.guest.fixtures import run_context


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "suite" in metafunc.fixturenames:
        subject = run_context(metafunc.config).subject
        metafunc.parametrize("suite", unit_suite_names(subject) or ["none"])


def test_suite(context: RunContext, suite: str) -> None:
    assert unit_suite_names(context.subject), (
        "the category 'unit' was asked for, and the subject file declares neither [[crates]] nor "
        "[[unit]]: there is nothing to run"
    )
    made = [check for check in context.checks if (check.category, check.name) == ("unit", suite)]
    assert made, f"the suite '{suite}' was never run"
    check = made[0]
    end = "\n".join(check.log.strip().splitlines()[-12:])
    findings = "\n".join(each for each in check.findings[:20] if each not in check.reason)
    assert check.ok, f"{suite}: {check.reason}\n{findings}\n$ {check.command}\n{end}"
    # The record's own claim, once more: no suite passes without a test that ran.
    assert check.executed, f"{suite}: it is said to be in order, but no test ran"
    assert check.exit_status == 0, f"{suite}: it ended with {check.exit_status}"
