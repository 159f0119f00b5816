"""The verdict of a run: computed once, from the results, with its reasons."""

from __future__ import annotations

from vexrun.categories import CATEGORIES
from vexrun.errors import ExitCode
from vexrun.results.model import EXECUTED, KernelEvent, Outcome, RunResults, Verdict

_EXIT_CODES = {
    Verdict.PASS: ExitCode.PASS,
    Verdict.FAIL: ExitCode.FAILED,
    Verdict.ERROR: ExitCode.INFRASTRUCTURE,
    Verdict.INTERRUPTED: ExitCode.INTERRUPTED,
}


def judge(results: RunResults, *, interrupted: bool = False) -> None:
    """Set verdict, exit code, reasons and counts of `results`.

    `pass` needs positive evidence in every selected category. Findings about the subject come
    before trouble of ours: a run that found a bug and then broke has still found the bug.
    """
    findings = _findings(results)
    trouble = _trouble(results)
    if interrupted:
        verdict, reasons = Verdict.INTERRUPTED, ["The run was interrupted.", *findings, *trouble]
    elif findings:
        verdict, reasons = Verdict.FAIL, findings + trouble
    elif trouble:
        verdict, reasons = Verdict.ERROR, trouble
    else:
        missing = _missing_evidence(results)
        verdict = Verdict.FAIL if missing else Verdict.PASS
        reasons = missing or [_pass_sentence(results)]
    if results.device is not None and results.device.override:
        reasons.append(f"The gate to the device was gone round: '{results.device.override}'.")
    results.verdict = verdict
    results.reasons = reasons
    results.exit_code = int(_EXIT_CODES[verdict])
    results.counts = results.count_outcomes()


def _findings(results: RunResults) -> list[str]:
    """What is wrong with the subject."""
    reasons = [results.build_failure] if results.build_failure else []
    bad = [test for test in results.tests if test.is_bad]
    for outcome in (Outcome.CRASHED, Outcome.HUNG, Outcome.FAILED):
        matching = [test.id for test in bad if test.outcome is outcome]
        if matching:
            reasons.append(f"{_tests(len(matching))} {outcome.value}: {_some(matching)}.")
    if results.kernel_events:
        titles = list(dict.fromkeys(map(_with_line, results.kernel_events)))
        reasons.append(f"The kernel reported {_some(titles)}.")
    return reasons


def _trouble(results: RunResults) -> list[str]:
    """What kept us from a trustworthy answer."""
    reasons = [results.error] if results.error else []
    lost = [test.id for test in results.tests if test.outcome is Outcome.ERROR]
    if lost:
        reasons.append(f"{_tests(len(lost))} could not be run to an end: {_some(lost)}.")
    before, after = results.subject.tree_sha256, results.subject.tree_sha256_after
    if after is not None and before != after:
        reasons.append(
            "The source tree changed while the run was going on, so the results belong to no "
            "one tree."
        )
    return reasons


def _missing_evidence(results: RunResults) -> list[str]:
    """What a pass would have to prove and did not."""
    reasons = []
    for name in results.selected_categories:
        tests = [test for test in results.tests if test.category == name]
        # A recorded failure proves nothing: something must have passed.
        if not any(test.outcome is Outcome.PASSED for test in tests):
            skipped = next((test.message for test in tests if test.message), "no test exists")
            reasons.append(f"No test ran in the category '{name}': {skipped}.")
    needs_kernel = [name for name in results.selected_categories if CATEGORIES[name].needs_guest]
    if needs_kernel and not results.module.identity_proven:
        reasons.append("The loaded module was not proven to be the file that was built.")
    if not results.selected_categories:
        reasons.append("No category was selected.")
    return reasons


def _pass_sentence(results: RunResults) -> str:
    ran = sum(1 for test in results.tests if test.outcome in EXECUTED)
    known = sum(1 for test in results.tests if test.outcome is Outcome.XFAILED)
    debt = f", {known} of them failing as recorded" if known else ""
    return (
        f"{ran} tests ran in {len(results.selected_categories)} categories{debt}; "
        "no kernel event happened."
    )


def _with_line(event: KernelEvent) -> str:
    """The event's title, and the subject's source line if the title does not have it."""
    line = event.source_line
    # The title of a WARN or BUG has the name of the file without its directory.
    if line is None or line.rpartition("/")[2] in event.title:
        return event.title
    return f"{event.title} at {line}"


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
