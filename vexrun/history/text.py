"""The history on a terminal and as JSON."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vexrun.history.index import Index, RunRecord
from vexrun.history.statistics import LEAST_FOR_TREND, Flaky, Group, State, Summary, trend
from vexrun.output import say
from vexrun.report.summary import duration
from vexrun.results.model import Verdict

#: Version of the JSON document.
SCHEMA_VERSION = 1
_SHOWN_STAGES = 6
_SHOWN_RUNS = 10
_STATE_STYLE = {State.MET: "green", State.MISSED: "red", State.UNKNOWN: "dim"}
VERDICT_STYLE = {
    Verdict.PASS: "green",
    Verdict.FAIL: "red",
    Verdict.ERROR: "yellow",
    Verdict.INTERRUPTED: "dim",
}


def percent(share: float | None) -> str:
    """`+12 %`; a dash where there is none."""
    return "-" if share is None else f"{share:+.0%}".replace("%", " %")


def trend_of(group: Group) -> float | None:
    return trend(group.cycle_seconds)


def success(group: Group) -> str:
    finished = len(group.finished)
    return f"{group.verdicts[Verdict.PASS] / finished:.0%}".replace("%", " %") if finished else "-"


def outcomes_of(flaky: Flaky) -> str:
    return ", ".join(
        f"{count} {outcome.value} ({flaky.runs[outcome]})"
        for outcome, count in flaky.outcomes.items()
    )


def render_history(summary: Summary, runs: list[RunRecord], console: Console) -> None:
    console.print(_targets(summary))
    console.print()
    console.print(_groups(summary))
    for group in summary.groups:
        if len(group.finished) >= LEAST_FOR_TREND:
            console.print()
            console.print(_stages(group))
    console.print()
    if summary.flaky:
        console.print(_flaky(summary.flaky))
    else:
        say("No test had different outcomes on the same tree and image.", console)
    console.print()
    console.print(_newest(runs))


def _table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0)
    )
    table.header_style = "dim"
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column in (*right, "subject", "kernel", "on", "verdict"),
        )
    return table


def _targets(summary: Summary) -> Table:
    table = _table("Targets", "", "target", "found")
    for each in summary.targets:
        style = _STATE_STYLE[each.state]
        table.add_row(f"[{style}]{each.state.value}[/]", escape(each.name), escape(each.found))
    return table


def _groups(summary: Summary) -> Table:
    numbers = ("pass/fail/error", "cut", "rate", "cycle", "trend")
    table = _table("Subjects and kernels", "subject", "kernel", "on", *numbers, right=numbers)
    for group in summary.groups:
        verdicts, cycles = group.verdicts, group.cycle_seconds
        table.add_row(
            escape(group.subject),
            escape(group.kernel or "?"),
            group.target,
            "/".join(str(verdicts[each]) for each in (Verdict.PASS, Verdict.FAIL, Verdict.ERROR)),
            str(group.incomplete),
            success(group),
            duration(statistics.median(cycles)) if cycles else "-",
            percent(trend_of(group)),
        )
    return table


def _stages(group: Group) -> Table:
    title = f"Stages of {group.subject} on {group.kernel or '?'} ({group.target})"
    numbers = ("runs", "median", "last", "trend")
    table = _table(escape(title), "stage", *numbers, right=numbers)
    for stage in group.stages[:_SHOWN_STAGES]:
        table.add_row(
            escape(stage.name),
            str(len(stage.seconds)),
            duration(stage.median),
            duration(stage.seconds[-1]),
            percent(stage.trend),
        )
    return table


def _flaky(found: list[Flaky]) -> Table:
    table = _table("Flaky: same tree and image, different outcomes", "test", "subject", "outcomes")
    for each in found:
        table.add_row(escape(each.test), escape(each.subject), escape(outcomes_of(each)))
    return table


def _newest(runs: list[RunRecord]) -> Table:
    table = _table("Newest runs", "run", "verdict", "time", "tests", right=("time", "tests"))
    for run in reversed(runs[-_SHOWN_RUNS:]):
        word = run.verdict.value if run.finished else ("killed" if run.killed else "incomplete")
        style = VERDICT_STYLE[run.verdict] if run.finished else "dim"
        table.add_row(
            escape(run.run_id),
            f"[{style}]{word}[/]",
            "-" if run.elapsed_s is None else duration(run.elapsed_s),
            str(len(run.outcomes)),
        )
    return table


def to_document(summary: Summary, runs: list[RunRecord], index: Index) -> dict[str, Any]:
    """The history as one JSON-ready object (docs/history.md)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "targets": [vars(each) for each in summary.targets],
        "groups": [_group_document(group) for group in summary.groups],
        "flaky": [
            {
                "test": each.test,
                "subject": each.subject,
                "tree_sha256": each.tree,
                "kernel": each.kernel,
                "outcomes": {outcome.value: count for outcome, count in each.outcomes.items()},
                "newest_runs": {outcome.value: run for outcome, run in each.runs.items()},
            }
            for each in summary.flaky
        ],
        "runs": [_run_document(run) for run in runs],
        "going_on": index.going_on,
        "skipped": [{"run": name, "why": why} for name, why in index.skipped.items()],
    }


def _group_document(group: Group) -> dict[str, Any]:
    cycles = group.cycle_seconds
    return {
        "subject": group.subject,
        "kernel": group.kernel,
        "target": group.target,
        "runs": len(group.runs),
        "incomplete": group.incomplete,
        "verdicts": {verdict.value: count for verdict, count in group.verdicts.items()},
        "cycle_median_s": statistics.median(cycles) if cycles else None,
        "cycle_trend": trend_of(group),
        "stages": [
            {
                "name": stage.name,
                "runs": len(stage.seconds),
                "median_s": stage.median,
                "last_s": stage.seconds[-1],
                "trend": stage.trend,
            }
            for stage in group.stages
        ],
    }


def _run_document(run: RunRecord) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "subject": run.subject,
        "tree_sha256": run.tree,
        "kernel": run.kernel,
        "image_sha256": run.image,
        "target": run.target,
        "accel": run.accel,
        "categories": list(run.categories),
        "verdict": run.verdict.value,
        "finished": run.finished,
        "killed": run.killed,
        "started_at": run.started_at,
        "elapsed_s": run.elapsed_s,
        "module_sha256": run.module_sha256,
        "durations": run.durations,
        "kernel_events": run.kernel_events,
    }
