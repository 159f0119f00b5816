"""Static checks: made natively after the build (vexrun/checks.py), asserted here one by one."""

from __future__ import annotations

import pytest
from vexrun.checks import static_check_names
from vexrun.guest.context import RunContext
from vexrun.guest.fixtures import run_context
from vexrun.static.linkage import LINKAGE_CHECKS
from vexrun.static.source_checks import SOURCE_CHECKS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # From the subject file, not from the records: a check that was never made must not go missing.
    if "crate_check" in metafunc.fixturenames:
        known = {*LINKAGE_CHECKS, *SOURCE_CHECKS}
        names = static_check_names(run_context(metafunc.config).subject)
        metafunc.parametrize(
            "crate_check", [name for name in names if name not in known] or ["none"]
        )


def _assert_in_order(context: RunContext, name: str) -> None:
    made = [check for check in context.checks if (check.category, check.name) == ("static", name)]
    assert made, f"the check '{name}' was never made"
    check = made[0]
    if check.skipped:
        pytest.skip(check.reason)
    findings = [each for each in check.findings if each != check.reason]
    shown = "\n".join(findings[:20])
    more = f"\nand {len(findings) - 20} more" if len(findings) > 20 else ""
    command = f"\n$ {check.command}" if check.command else ""
    assert check.ok, f"{name}: {check.reason}\n{shown}{more}{command}".strip()


@pytest.mark.parametrize("linkage", LINKAGE_CHECKS)
def test_kernel_will_take_the_module(context: RunContext, linkage: str) -> None:
    _assert_in_order(context, linkage)


@pytest.mark.parametrize("checker", SOURCE_CHECKS)
def test_source(context: RunContext, checker: str) -> None:
    _assert_in_order(context, checker)


def test_crate(context: RunContext, crate_check: str) -> None:
    if not context.subject.crates:
        pytest.skip("the subject file declares no crates")
    _assert_in_order(context, crate_check)
