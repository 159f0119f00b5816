"""A comparison on a terminal, and as JSON."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vexrun.compare.comparison import (
    Comparison,
    Difference,
    Finding,
    MeasurementChange,
    Side,
    TestChange,
)
from vexrun.compare.samples import ALPHA, magnitude
from vexrun.output import say
from vexrun.report.printable import one_line
from vexrun.report.summary import counted, duration
from vexrun.results.model import KernelEvent

#: Version of the JSON document.
SCHEMA_VERSION = 1
#: So many of one kind are listed; the document has all.
_LISTED = 20
#: Stages that take less than this on both sides are not listed, in seconds.
_LEAST_STAGE_S = 1.0
_FINDING_STYLE = {
    Finding.SLOWER: "red",
    Finding.FASTER: "green",
    Finding.SAME: "",
    Finding.TOO_FEW: "yellow",
}


def render_comparison(found: Comparison, console: Console) -> None:
    for letter, side in (("A", found.a), ("B", found.b)):
        runs = ", ".join(run.run_id for run in side.runs)
        say(f"{letter}: {runs} ({side.verdict.value})", console)
    _differences(console, "Evidence that differs", found.evidence)
    say(f"The same: {', '.join(found.same) or 'nothing'}", console)
    _tests(console, "newly failing", found.newly_failing, "red")
    _tests(console, "newly passing", found.newly_passing, "green")
    _tests(console, "otherwise different", found.otherwise, "")
    _tests(console, "only in A", found.only_a, "")
    _tests(console, "only in B", found.only_b, "")
    say(f"{counted(found.common_tests, 'test')} ran on both sides.", console)
    _events(console, "new in B", found.new_events, "red")
    _events(console, "gone in B", found.gone_events, "green")
    _lines(console, "Warnings new in B", found.new_warnings)
    _lines(console, "Warnings gone in B", found.gone_warnings)
    _differences(console, "Size", found.sizes)
    _durations(console, found)
    if found.measurements:
        console.print(_measurements(found.measurements))
    if found.only_measured:
        say(f"Measured on one side only: {', '.join(found.only_measured)}", console)
    for note in found.notes:
        say(f"note: {note}", console)
    if found.regressions:
        console.print(f"[bold red]B is worse:[/] {counted(len(found.regressions), 'reason')}")
        for sentence in found.regressions:
            say(f"  {sentence}", console)
    else:
        console.print("[bold]No regression was found.[/]")


def _table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    table.header_style = "dim"
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _differences(console: Console, title: str, rows: list[Difference]) -> None:
    if rows:
        table = _table(title, "", "A", "B")
        for row in rows:
            table.add_row(escape(row.what), escape(row.a), escape(row.b))
        console.print(table)


def _tests(console: Console, title: str, rows: list[TestChange], style: str) -> None:
    if not rows:
        return
    table = _table(f"Tests {title}: {len(rows)}", "test", "A", "B")
    for row in rows[:_LISTED]:
        cells = [row.a.value if row.a else "-", row.b.value if row.b else "-"]
        table.add_row(escape(row.id), *cells, style=style)
    console.print(table)
    if len(rows) > _LISTED:
        say(f"and {len(rows) - _LISTED} more (--json has all)", console)


def _events(console: Console, title: str, events: list[KernelEvent], style: str) -> None:
    for event in events:
        text = escape(f"{event.event_class}: {one_line(event.title)} (during {event.test or '-'})")
        console.print(f"[{style}]Kernel event {title}:[/] {text}", soft_wrap=True)


def _lines(console: Console, title: str, lines: list[str]) -> None:
    if lines:
        say(f"{title}: {len(lines)}", console)
        for line in lines[:_LISTED]:
            say(f"  {one_line(line)}", console)


def _durations(console: Console, found: Comparison) -> None:
    rows = [row for row in found.durations if max(row[1:]) >= _LEAST_STAGE_S]
    if not rows:
        return
    table = _table("Stages (medians)", "stage", "A", "B", "", right=("A", "B", ""))
    for name, a, b in rows:
        ratio = f"x {b / a:.2f}" if a > 0 else ""
        table.add_row(escape(name), duration(a), duration(b), ratio)
    console.print(table)


def _measurements(rows: list[MeasurementChange]) -> Table:
    numbers = ("A", "B", "change", "p", "effect", "runs")
    table = _table(
        f"Measurements (Mann-Whitney U, {ALPHA:.0%} for all together)",
        "",
        *numbers,
        "finding",
        right=numbers,
    )
    for row in rows:
        unit = "x ext4" if row.ratio else row.unit
        table.add_row(
            escape(row.name),
            *(f"{statistics.median(side):.4g} {escape(unit)}" for side in (row.a, row.b)),
            "-" if row.change is None else f"{row.change:+.1%}",
            "-" if row.p is None else f"{row.p:.2g}",
            "-" if row.delta is None else f"{row.delta:+.2f} {magnitude(row.delta)}",
            f"{len(row.a)}, {len(row.b)}",
            f"[{_FINDING_STYLE[row.finding]}]{finding(row)}[/]"
            if _FINDING_STYLE[row.finding]
            else finding(row),
        )
    return table


def finding(row: MeasurementChange) -> str:
    if row.finding is Finding.TOO_FEW:
        return f"no conclusion: {row.needed} runs on each side are needed"
    return row.finding.value


def to_document(found: Comparison) -> dict[str, Any]:
    """The comparison as one JSON-ready object (docs/history.md)."""
    return {
        "schema_version": SCHEMA_VERSION,
        "worse": bool(found.regressions),
        "regressions": found.regressions,
        "notes": found.notes,
        "a": _side(found.a),
        "b": _side(found.b),
        "evidence": [vars(each) for each in found.evidence],
        "tests": {
            "common": found.common_tests,
            "newly_failing": _changes(found.newly_failing),
            "newly_passing": _changes(found.newly_passing),
            "otherwise": _changes(found.otherwise),
            "only_a": _changes(found.only_a),
            "only_b": _changes(found.only_b),
        },
        "kernel_events": {
            "new": [event.model_dump(mode="json") for event in found.new_events],
            "gone": [event.model_dump(mode="json") for event in found.gone_events],
        },
        "warnings": {"new": found.new_warnings, "gone": found.gone_warnings},
        "sizes": [vars(each) for each in found.sizes],
        "durations": [{"stage": name, "a_s": a, "b_s": b} for name, a, b in found.durations],
        "measurements": [_measurement(each) for each in found.measurements],
        "only_measured": found.only_measured,
    }


def _side(side: Side) -> dict[str, Any]:
    return {"runs": [run.run_id for run in side.runs], "verdict": side.verdict.value}


def _changes(rows: list[TestChange]) -> list[dict[str, str | None]]:
    return [{"id": row.id, "a": row.a and row.a.value, "b": row.b and row.b.value} for row in rows]


def _measurement(row: MeasurementChange) -> dict[str, Any]:
    return {
        "name": row.name,
        "unit": row.unit,
        "better": row.better,
        "ratio_to_reference": row.ratio,
        "a": row.a,
        "b": row.b,
        "change": row.change,
        "p": row.p,
        "cliffs_delta": row.delta,
        "finding": row.finding.value,
        "samples_needed": row.needed,
    }
