"""report.html: one self-contained page. No script, no fetches; the template is beside this file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from vexrun.profiling import SAMPLES, unfold
from vexrun.report import plots, summary
from vexrun.report.flame import flame_graph
from vexrun.report.printable import one_line, printable, shortened
from vexrun.results.model import KernelEvent, Outcome, RunResults, TestResult, Verdict

#: So many problems are unfolded; a run that breaks everything stays readable.
UNFOLDED_PROBLEMS = 12
#: Characters of one text in the page; results.json has all of it.
TEXT_LIMIT = 60_000


@dataclass(frozen=True)
class TestEntry:
    """A test with the anchor it is linked by."""

    __test__ = False

    test: TestResult
    anchor: str
    tone: summary.Tone
    events: list[KernelEvent]

    @property
    def path(self) -> str:
        return self.test.id.rpartition("::")[0]

    @property
    def name(self) -> str:
        return self.test.id.rpartition("::")[2]

    @property
    def remark(self) -> str:
        """What the table of all tests says about it."""
        if self.test.outcome in (Outcome.SKIPPED, Outcome.XFAILED):
            return one_line(summary.skip_reason(self.test), 200)
        return one_line(self.test.message, 200)


def to_html(results: RunResults, console_tail: str = "") -> str:
    """The page; `console_tail` is the end of console.log as text, or nothing to show none."""
    entries = _entries(results)
    by_id = {entry.test.id: entry for entry in entries}
    of_test = {id(entry.test): entry for entry in entries}
    groups = summary.problem_groups(results)
    shown_above = {test.id for group in groups[:UNFOLDED_PROBLEMS] for test in group}
    return _template().render(
        results=results,
        summary=summary,
        plots=plots,
        flame=_flame(results),
        Outcome=Outcome,
        clean=summary.is_clean_pass(results),
        void=results.verdict is Verdict.ERROR,
        tone=summary.verdict_tone(results),
        entries=entries,
        by_id=by_id,
        problems=[[of_test[id(test)] for test in group] for group in groups],
        problem_count=len(summary.problems(results)),
        unfolded=UNFOLDED_PROBLEMS,
        events=summary.kernel_events(results),
        shown_above=shown_above,
        rows=summary.category_rows(results),
        total=summary.total_row(results),
        shown_outcomes=_shown_outcomes(results),
        not_run=[
            (title, summary.by_reason(tests))
            for title, outcome in (
                ("Skipped", Outcome.SKIPPED),
                ("Expected to fail", Outcome.XFAILED),
            )
            if (tests := summary.with_outcome(results, outcome))
        ],
        console_tail=printable(console_tail)[-TEXT_LIMIT:],
    )


def _flame(results: RunResults) -> Markup:
    """The flame graph of a run with --profile, whose samples lie in the run directory."""
    samples = os.path.join(results.run_dir, SAMPLES)  # noqa: PTH118
    # Unlike Path.is_file, this is False for what cannot be a path at all.
    if not results.run_dir or not os.path.isfile(samples):  # noqa: PTH113
        return Markup("")
    with open(samples, errors="replace") as lines:  # noqa: PTH123
        stacks = unfold(printable(line) for line in lines)
    return flame_graph(stacks, Path(results.module.file or "").stem)


def _entries(results: RunResults) -> list[TestEntry]:
    events: dict[str | None, list[KernelEvent]] = {}
    for event in summary.kernel_events(results):
        events.setdefault(event.test, []).append(event)
    return [
        TestEntry(test, f"test-{n}", summary.OUTCOME_TONE[test.outcome], events.get(test.id, []))
        for n, test in enumerate(results.tests, start=1)
    ]


def _shown_outcomes(results: RunResults) -> list[Outcome]:
    counts = results.count_outcomes()
    return [o for o in Outcome if o is Outcome.PASSED or counts[o.value]]


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("vexrun", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["block"] = _block
    environment.filters["one_line"] = one_line
    environment.filters["duration"] = summary.duration
    return environment.get_template("report.html.j2")


def _finalize(value: Any) -> Any:
    """Every expression of the template passes here before it is escaped."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def _block(text: str | list[str]) -> str:
    """Text for a `pre`: long ones lose their middle, counted in the gap."""
    if not isinstance(text, str):
        text = "\n".join(text)
    text = "\n".join(shortened(text, head=150, tail=450)[0])
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return (
        f"{text[:half]}\n[… {len(text) - TEXT_LIMIT} characters left out, "
        f"all of them in results.json]\n{text[-half:]}"
    )
