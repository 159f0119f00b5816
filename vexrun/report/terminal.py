"""A finished run on a terminal. The live progress of a running one is not here."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vexrun.report import summary
from vexrun.report.printable import one_line, paragraph, printable, shortened
from vexrun.report.summary import Tone
from vexrun.results.model import KernelEvent, Outcome, RunResults, TestResult

DETAILED_PROBLEMS = 10
LISTED_PROBLEMS = 40
DETAIL_LINES = 16
EXCERPT_LINES = 12
TRACE_LINES = 8
CODE_LINES = 2

_STYLE = {Tone.GOOD: "green", Tone.WARN: "yellow", Tone.BAD: "red", Tone.PLAIN: ""}


def render_results(results: RunResults, console: Console) -> None:
    """Draw verdict, categories, problems and the next commands.

    Quiet on a clean pass, generous otherwise. Guest text is never read as rich markup.
    """
    parts: list[RenderableType] = [_verdict(results), _categories(results)]
    parts += _measurements(results)
    parts += _problems(results)
    parts += _events_outside_tests(results)
    parts += _failed_builds(results)
    parts += _remarks(results)
    for part in parts:
        console.print(part)
    for line in _closing(results):
        # Commands and paths are there to be copied: never wrapped.
        console.print(line, soft_wrap=True)


def _verdict(results: RunResults) -> Panel:
    style = _STYLE[summary.verdict_tone(results)]
    facts = [summary.counts_phrase(results)]
    elapsed = summary.elapsed_s(results)
    if elapsed is not None:
        facts.append(summary.duration(elapsed))
    if results.target.kernel:
        facts.append(f"kernel {results.target.kernel}")
    if results.module.sha256:
        facts.append(f"module {results.module.sha256[:12]}")
    lines = [Text(paragraph(" · ".join(facts)), style="dim")]
    lines += [Text(f"• {paragraph(sentence)}") for sentence in summary.why(results)]
    title = Text(f" {summary.headline(results)} ", style=f"bold {style}")
    title.append(paragraph(results.subject.name) + " ")
    return Panel(Group(*lines), title=title, title_align="left", border_style=style)


def _categories(results: RunResults) -> RenderableType:
    rows = summary.category_rows(results)
    if not rows:
        return Text("No category was selected.", style="yellow")
    total = summary.total_row(results)
    shown = [o for o in Outcome if o is Outcome.PASSED or total.counts[o]]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("category")
    for outcome in shown:
        table.add_column(outcome.value, justify="right")
    table.add_column("time", justify="right")
    table.add_column("")
    for row in [*rows, total]:
        cells = [
            Text(
                str(row.counts[o] or "·"),
                style=_STYLE[summary.OUTCOME_TONE[o]] if row.counts[o] else "dim",
            )
            for o in shown
        ]
        state = "" if row is total or row.state == "passed" else row.state
        table.add_row(
            Text(paragraph(row.name), style="bold" if row is total else ""),
            *cells,
            Text(summary.duration(row.duration_s)),
            Text(state, style=_STYLE[row.tone]),
        )
    return Padding(table, (0, 0, 1, 1))


def _problems(results: RunResults) -> list[RenderableType]:
    groups = summary.problem_groups(results)
    parts: list[RenderableType] = []
    for first, *others in groups[:DETAILED_PROBLEMS]:
        parts += _problem(first, others, results)
    rest = [test for group in groups[DETAILED_PROBLEMS:] for test in group]
    for test in rest[:LISTED_PROBLEMS]:
        parts.append(_problem_title(test))
    if len(rest) > LISTED_PROBLEMS:
        parts.append(Text(f"and {len(rest) - LISTED_PROBLEMS} more, in report.html", "bold"))
    if rest:
        parts.append(Text())
    return parts


def _problem_title(test: TestResult, others: int = 0) -> Text:
    title = Text()
    style = _STYLE[summary.OUTCOME_TONE[test.outcome]]
    title.append(f"{test.outcome.value} ", style=f"bold {style}")
    title.append(paragraph(test.id), style="bold")
    if others:
        title.append(f" and {others} more", style="bold")
    if test.duration_s:
        title.append(f"  {summary.duration(test.duration_s)}", style="dim")
    return title


def _problem(
    test: TestResult, others: list[TestResult], results: RunResults
) -> list[RenderableType]:
    body: list[RenderableType] = []
    message, _ = shortened(test.message or "no message was recorded", head=6, tail=6)
    body.append(Text("\n".join(one_line(line, 500) for line in message)))
    for event in summary.events_of(test, results):
        body.append(_event(f"kernel {event.event_class}: {event.title}", event))
    if test.details:
        lines, _ = shortened(test.details, head=2, tail=DETAIL_LINES)
        body.append(Text("\n".join(line[:500] for line in lines), style="dim"))
    return [_problem_title(test, len(others)), Padding(Group(*body), (0, 0, 1, 2))]


def _events_outside_tests(results: RunResults) -> list[RenderableType]:
    ids = {test.id for test in results.tests}
    parts: list[RenderableType] = []
    for event in summary.kernel_events(results):
        if event.test not in ids:
            head = f"kernel {event.event_class}, outside any test: {event.title}"
            parts.append(Padding(_event(head, event), (0, 0, 1, 0)))
    return parts


def _event(head: str, event: KernelEvent) -> Text:
    """What it was, where, the source there, and how the kernel put it."""
    text = Text.assemble((paragraph(head), "red"))
    place = paragraph(f"{summary.where(event)}; {summary.seen_at(event)}")
    text.append(f"\n{place}", style="dim")
    for frame in summary.trace(event)[:TRACE_LINES]:
        text.append(f"\n  {one_line(frame, 500)}")
    for line in summary.code(event, CODE_LINES):
        line = printable(line)[:500]
        text.append(f"\n  {line}", style="bold" if line.startswith(">") else "dim")
    lines, _ = shortened("\n".join(event.excerpt), head=EXCERPT_LINES, tail=2)
    for line in lines:
        if line:
            text.append(f"\n  {line[:500]}", style="dim")
    return text


def _measurements(results: RunResults) -> list[RenderableType]:
    rows = [row for row in summary.measurements(results) if row.ratio]
    if not rows:
        return []
    table = Table(box=None, padding=(0, 1), pad_edge=True)
    table.add_column("measured")
    table.add_column("ratio to ext4, 95 % interval", justify="right")
    for row in rows:
        table.add_row(Text(row.name), Text(row.ratio.removesuffix(" of ext4")))
    return [table, Text()]


def _failed_builds(results: RunResults) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for build in results.builds:
        if not build.ok:
            lines, _ = shortened(build.log, head=2, tail=DETAIL_LINES)
            parts.append(Text(paragraph(f"build failed: {build.name}"), style="bold red"))
            parts.append(Padding(Text("\n".join(line[:500] for line in lines)), (0, 0, 1, 2)))
    return parts


def _remarks(results: RunResults) -> list[RenderableType]:
    lines: list[RenderableType] = [
        Text(paragraph(f"expected to fail, but passes now: {stale}"), style="yellow")
        for stale in results.stale_expectations
    ]
    lines += [Text(paragraph(f"note: {note}"), style="dim") for note in results.notes]
    return lines


def _closing(results: RunResults) -> list[Text]:
    lines = []
    for step in summary.next_steps(results):
        lines.append(Text(printable(f"{step.why}:")))
        lines.append(Text(printable(f"  {step.command}"), style="bold"))
    if results.run_dir:
        lines.append(Text(printable(f"Report: {results.run_dir}/report.html"), style="dim"))
    return lines
