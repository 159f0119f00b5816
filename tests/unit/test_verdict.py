"""The verdict: a pass needs proof; everything else says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vexrun.errors import ExitCode
from vexrun.results.model import (
    KernelEvent,
    ModuleInfo,
    Outcome,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
    Verdict,
)
from vexrun.verdict import judge

CATEGORIES = ["structure", "mount"]
EXIT = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.ERROR: 69, Verdict.INTERRUPTED: 130}


def a_test(category: str, outcome: Outcome = Outcome.PASSED, name: str = "a") -> TestResult:
    message = "" if outcome is Outcome.PASSED else f"it was {outcome.value}"
    identifier = f"{category}/test_x.py::test_{name}"
    return TestResult(id=identifier, category=category, outcome=outcome, message=message)


def good() -> RunResults:
    """Everything a pass needs, and nothing more."""
    return RunResults(
        run_id="r",
        selected_categories=list(CATEGORIES),
        subject=SubjectInfo(name="demo", source="/s", tree_sha256="aa", tree_sha256_after="aa"),
        module=ModuleInfo(identity_proven=True),
        target=TargetInfo(kind="vm"),
        tests=[a_test("structure"), a_test("mount")],
    )


EVENT = KernelEvent(event_class="oops", title="NULL pointer in demo_mount")

Change = Callable[[RunResults], object]


def add(*tests: TestResult) -> Change:
    return lambda results: results.tests.extend(tests)


def only(*tests: TestResult) -> Change:
    return set_(tests=list(tests))


def set_(**values: object) -> Change:
    def change(results: RunResults) -> None:
        for name, value in values.items():
            setattr(results, name, value)

    return change


def unproven(results: RunResults) -> None:
    results.module.identity_proven = False


def tree_changed(results: RunResults) -> None:
    results.subject.tree_sha256_after = "bb"


def both(*changes: Change) -> Change:
    return lambda results: [change(results) for change in changes]


FAILED = a_test("mount", Outcome.FAILED, "b")
ERROR = a_test("mount", Outcome.ERROR, "c")

TABLE: dict[str, tuple[Change, Verdict, str]] = {
    "pass": (add(), Verdict.PASS, "2 tests ran in 2 categories; no kernel event happened."),
    "skip beside a pass": (add(a_test("mount", Outcome.SKIPPED, "b")), Verdict.PASS, "2 tests ran"),
    "xfailed": (
        add(a_test("mount", Outcome.XFAILED, "b")),
        Verdict.PASS,
        "3 tests ran in 2 categories, 1 of them failing as recorded",
    ),
    # What is wrong with the subject.
    "failed": (add(FAILED), Verdict.FAIL, "1 test failed: 'mount/test_x.py::test_b'."),
    "crashed": (add(a_test("mount", Outcome.CRASHED)), Verdict.FAIL, "1 test crashed"),
    "hung": (add(a_test("mount", Outcome.HUNG)), Verdict.FAIL, "1 test hung"),
    "kernel event although all passed": (
        set_(kernel_events=[EVENT]),
        Verdict.FAIL,
        "The kernel reported 'NULL pointer in demo_mount'.",
    ),
    "build failed": (set_(build_failure="It did not build."), Verdict.FAIL, "It did not build."),
    # What a pass would have to prove.
    "no test at all": (only(), Verdict.FAIL, "No test ran in the category 'structure': no test"),
    "no test in a category": (
        only(a_test("structure")),
        Verdict.FAIL,
        "No test ran in the category 'mount': no test exists.",
    ),
    "all skipped": (
        only(a_test("structure"), a_test("mount", Outcome.SKIPPED)),
        Verdict.FAIL,
        "No test ran in the category 'mount': it was skipped.",
    ),
    "identity not proven": (unproven, Verdict.FAIL, "not proven to be the file that was built"),
    "nothing selected": (set_(selected_categories=[]), Verdict.FAIL, "No category was selected."),
    # What was wrong with us.
    "error of a test": (add(ERROR), Verdict.ERROR, "1 test could not be run to an end"),
    "error of the run": (set_(error="QEMU did not start."), Verdict.ERROR, "QEMU did not start."),
    "tree changed": (tree_changed, Verdict.ERROR, "The source tree changed"),
    "error before any test": (both(only(), set_(error="no disk")), Verdict.ERROR, "no disk"),
    # A finding is a finding whatever happened to us afterwards.
    "error and failed": (add(FAILED, ERROR), Verdict.FAIL, "1 test failed"),
    "error and kernel event": (
        both(set_(error="gone"), set_(kernel_events=[EVENT])),
        Verdict.FAIL,
        "The kernel reported",
    ),
    "tree changed and failed": (both(add(FAILED), tree_changed), Verdict.FAIL, "1 test failed"),
}


@pytest.mark.parametrize("case", TABLE)
def test_verdict(case: str) -> None:
    change, verdict, reason = TABLE[case]
    results = good()
    change(results)
    judge(results)
    assert results.verdict is verdict, results.reasons
    assert reason in results.reasons[0]
    assert results.exit_code == EXIT[verdict]


@pytest.mark.parametrize("case", TABLE)
def test_an_interrupted_run_is_nothing_else(case: str) -> None:
    change, verdict, reason = TABLE[case]
    results = good()
    change(results)
    judge(results, interrupted=True)
    assert results.verdict is Verdict.INTERRUPTED
    assert results.exit_code == 130
    assert results.reasons[0] == "The run was interrupted."
    if verdict is Verdict.FAIL and "No " not in reason and case != "identity not proven":
        assert any(reason in each for each in results.reasons[1:]), "what was found is told"


def test_trouble_is_told_after_findings() -> None:
    results = good()
    results.tests += [FAILED, ERROR]
    judge(results)
    assert ["failed" in results.reasons[0], "could not be run" in results.reasons[1]] == [True] * 2


@pytest.mark.parametrize("category", ["module", "mkfs", "mount", "fsops"])
def test_identity_must_be_proven_wherever_a_kernel_is_needed(category: str) -> None:
    results = good()
    results.selected_categories, results.tests = [category], [a_test(category)]
    unproven(results)
    judge(results)
    assert results.verdict is Verdict.FAIL


def test_a_run_without_a_kernel_needs_no_loaded_module() -> None:
    results = good()
    results.selected_categories, results.tests = ["structure"], [a_test("structure")]
    unproven(results)
    judge(results)
    assert results.verdict is Verdict.PASS


def test_counts_name_every_outcome() -> None:
    results = good()
    results.tests += [FAILED, a_test("mount", Outcome.XFAILED)]
    judge(results)
    assert results.counts == {
        **dict.fromkeys([outcome.value for outcome in Outcome], 0),
        "passed": 2,
        "failed": 1,
        "xfailed": 1,
    }


def test_many_failures_are_counted_and_three_are_named() -> None:
    results = good()
    results.tests += [a_test("mount", Outcome.FAILED, str(n)) for n in range(5)]
    judge(results)
    assert results.reasons[0].startswith("5 tests failed: 'mount/test_x.py::test_0', ")
    assert results.reasons[0].endswith(" and 2 more.")


def test_one_kernel_event_is_told_once() -> None:
    results = good()
    results.kernel_events = [EVENT, EVENT.model_copy()]
    judge(results)
    assert results.reasons == ["The kernel reported 'NULL pointer in demo_mount'."]


@pytest.mark.parametrize(
    ("title", "line", "told"),
    [
        ("NULL pointer in demo_mount", "super.c:12", "'NULL pointer in demo_mount at super.c:12'"),
        ("NULL pointer in demo_mount", None, "'NULL pointer in demo_mount'"),
        ("WARNING at super.c:12 demo_mount", "super.c:12", "'WARNING at super.c:12 demo_mount'"),
        ("WARNING at super.c:12 demo", "fs/super.c:12", "'WARNING at super.c:12 demo'"),
    ],
)
def test_a_kernel_event_is_told_with_its_source_line(
    title: str, line: str | None, told: str
) -> None:
    results = good()
    event = KernelEvent(event_class="oops", title=title, source_line=line)
    results.kernel_events = [event]
    judge(results)
    assert results.reasons == [f"The kernel reported {told}."]


def test_the_exit_codes_are_the_contract() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "PASS": 0,
        "FAILED": 1,
        "USAGE": 2,
        "INFRASTRUCTURE": 69,
        "INTERRUPTED": 130,
    }
