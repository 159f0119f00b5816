"""The subject's own unit tests: `cargo test` in each crate, and every `[[unit]]` suite.

A suite has passed when it ended with 0, said nothing of a failure, and ran at least one test.
"""

from __future__ import annotations

import re

from vexrun.image.namespace import Bind
from vexrun.kbuild import BuildOutcome, BuildSpec
from vexrun.results.model import Check
from vexrun.sandbox import Ended, Job, Workplace
from vexrun.static.source_checks import record
from vexrun.subject import Subject, UnitSuite
from vexrun.suite_output import (
    cargo_counts,
    cargo_failed_tests,
    executed_by,
    failure_lines,
)

#: Compiling the tests of a crate and its dependencies is part of it.
TIMEOUT_S = 900.0
_COULD_NOT_COMPILE = re.compile(r"^error: could not compile .*$", re.MULTILINE)


def crate_suite(crate: str) -> str:
    return f"cargo test {crate}"


def unit_suite(suite: UnitSuite) -> str:
    return f"suite {suite.name}"


def crate_job(crate: str, place: Workplace) -> Job:
    command = "cargo test --offline --no-fail-fast"
    return Job(crate_suite(crate), command, place, place.tree / crate, TIMEOUT_S)


def suite_job(suite: UnitSuite, subject: Subject, place: Workplace, built: BuildOutcome) -> Job:
    """At the top of a copy of the tree; {tools} are the programs of the main build."""
    tools = BuildSpec.main(subject).tools_dir
    script = suite.run.replace("{tools}", str(tools))
    binds = (Bind(built.tools_dir, str(tools)),) if built.tools_dir.is_dir() else ()
    return Job(unit_suite(suite), script, place, place.tree, TIMEOUT_S, binds)


def judge_crate(ended: Ended) -> Check:
    counts = cargo_counts(ended.output)
    failed = [f"{name} failed" for name in cargo_failed_tests(ended.output)]
    reason = ""
    if ended.stopped:
        reason = ended.stopped
    elif broken := _COULD_NOT_COMPILE.search(ended.output):
        reason = broken[0].removeprefix("error: ")
    elif counts.failed:
        reason = f"{counts.failed} of {counts.executed} tests failed"
    elif not ended.ended_well:
        reason = f"{ended.failure()}: {_last_error(ended.output)}"
    elif lines := failure_lines(ended.output):
        reason = f"it ended with 0, and printed '{lines[0]}'"
        failed = lines
    elif not counts.executed:
        ignored = f" ({counts.ignored} are ignored)" if counts.ignored else ""
        reason = f"no test ran{ignored}"
    return record(ended, "unit", reason, failed, counts.executed)


def judge_suite(ended: Ended, suite: UnitSuite) -> Check:
    executed = executed_by(ended.output, suite.executed)
    lines = failure_lines(ended.output)
    reason = ""
    if ended.stopped:
        reason = ended.stopped
    elif not ended.ended_well:
        reason = ended.failure()
        if not lines:
            reason += f": {_last_error(ended.output)}"
    elif lines:
        reason = f"it ended with 0, and printed '{lines[0]}'"
    elif not executed:
        reason = f"no test ran: '{suite.executed}' counts 0 in what it printed"
    return record(ended, "unit", reason, lines, executed)


def _last_error(output: str) -> str:
    """The line that most likely says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error", "Error"))]
    return (errors or lines or ["nothing was printed"])[-1]
