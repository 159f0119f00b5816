"""report.txt: for a terminal or a CI log. No colour; prose fits 100 columns, logs 120."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from vexrun.report import summary
from vexrun.report.printable import one_line, paragraph, printable, shortened
from vexrun.results.model import KernelEvent, Outcome, RunResults, TestResult

WIDTH = 100
#: Kernel lines with their register dumps are wider than prose.
LOG_WIDTH = 120
#: Beyond so many problems, a test gets one line each: the first ones explain the rest.
DETAILED_PROBLEMS = 20
MESSAGE_LIMIT = 2000
#: Of source, on each side of the line.
CODE_LINES = 3


def to_text(results: RunResults) -> str:
    sections = [
        _verdict(results),
        _evidence(results),
        _categories(results),
        _builds(results),
        _problems(results),
        _events(results),
        _memory_images(results),
        _not_run(results),
        _measurements(results),
        _stages(results),
        _remarks(results),
        _files(results),
        _next(results),
    ]
    lines = [line for section in sections if section for line in [*section, ""]]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _verdict(results: RunResults) -> list[str]:
    head = f"{summary.headline(results)}: {results.subject.name}, {summary.counts_phrase(results)}"
    elapsed = summary.elapsed_s(results)
    if elapsed is not None:
        head += f", in {summary.duration(elapsed)}"
    lines = [*_wrap(head), "=" * min(WIDTH, len(head))]
    for sentence in summary.why(results):
        lines += _wrap(sentence, first="- ", rest="  ")
    return lines


def _evidence(results: RunResults) -> list[str]:
    lines = ["EVIDENCE"]
    for group in summary.evidence(results):
        for index, fact in enumerate(group.facts):
            title = group.title if index == 0 else ""
            mark = "!" if fact.tone is summary.Tone.BAD else " "
            lines += _wrap(
                fact.value,
                first=f"  {title:<8}{mark} {fact.label:<18} ",
                rest=" " * 31,
            )
    return lines


def _categories(results: RunResults) -> list[str]:
    rows = summary.category_rows(results)
    if not rows:
        return ["CATEGORIES", "  none was selected"]
    rows.append(summary.total_row(results))
    name_width = min(30, max(len("category"), *(len(row.name) for row in rows)))
    shown = [o for o in Outcome if o is Outcome.PASSED or rows[-1].counts[o]]
    head = f"  {'category':<{name_width}}" + "".join(f"{o.value:>9}" for o in shown)
    lines = ["CATEGORIES", f"{head}{'time':>13}"]
    for row in rows:
        cells = "".join(f"{row.counts[outcome] or '-':>9}" for outcome in shown)
        line = f"  {one_line(row.name, name_width):<{name_width}}{cells}"
        line += f"{summary.duration(row.duration_s):>13}"
        if row.name != "total" and row.state != "passed":
            line += f"  <- {row.state}"
        lines.append(line)
    return lines


def _builds(results: RunResults) -> list[str]:
    if not results.builds:
        return []
    lines = ["BUILDS"]
    for build in results.builds:
        state = "ok" if build.ok else "FAILED"
        line = f"{build.name}: {state}, {build.where}, {summary.duration(build.duration_s)}, "
        line += summary.counted(len(build.warnings), "warning")
        if build.sha256:
            line += f", sha256 {build.sha256}"
        lines += _wrap(line, first="  ", rest="    ")
        if not build.ok:
            if build.command:
                lines.append(f"    $ {one_line(build.command, 4000)}")
            lines += _verbatim(shortened(build.log, head=4, tail=30)[0])
    return lines


def _problems(results: RunResults) -> list[str]:
    groups = summary.problem_groups(results)
    if not groups:
        return []
    lines = [f"PROBLEMS ({len(summary.problems(results))})"]
    for first, *others in groups[:DETAILED_PROBLEMS]:
        lines += _problem(first, others, results)
    rest = [test for group in groups[DETAILED_PROBLEMS:] for test in group]
    if rest:
        lines += ["", f"  and {len(rest)} more, in full in report.html:"]
    for test in rest:
        lines += _wrap(
            f"{test.id}  {one_line(test.message, 160)}", f"  {test.outcome:<8} ", " " * 11
        )
    return lines


def _problem(test: TestResult, others: list[TestResult], results: RunResults) -> list[str]:
    lines = ["", *_wrap(test.id, first=f"  {test.outcome.value.upper():<8} ", rest=" " * 11)]
    for other in others:
        lines += _wrap(other.id, first=" " * 11, rest=" " * 11)
    message = printable(test.message or "no message was recorded")
    if len(message) > MESSAGE_LIMIT:
        message = message[:MESSAGE_LIMIT] + " [… cut, all of it in results.json]"
    first, *more = shortened(message)[0]
    lines += _wrap(first, first="    ", rest="    ")
    lines += _verbatim(more)
    for event in summary.events_of(test, results):
        text = f"{event.event_class}: {event.title} ({summary.where(event)})"
        lines += _wrap(text, first="    kernel  ", rest="            ")
    if test.details:
        lines += _verbatim(shortened(test.details)[0])
    if test.duration_s:
        lines.append(f"    after {summary.duration(test.duration_s)}")
    return lines


def _events(results: RunResults) -> list[str]:
    events = summary.kernel_events(results)
    if not events:
        return []
    lines = [f"KERNEL EVENTS ({len(events)})"]
    for event in events[:DETAILED_PROBLEMS]:
        lines += ["", *_event(event)]
    if len(events) > DETAILED_PROBLEMS:
        lines += ["", f"  and {len(events) - DETAILED_PROBLEMS} more, in report.html"]
    return lines


def _event(event: KernelEvent) -> list[str]:
    kind = one_line(event.event_class, 24).upper()
    lines = _wrap(event.title, first=f"  {kind:<8} ", rest=" " * 11)
    lines += _wrap(summary.where(event), first="    at      ", rest=" " * 12)
    for number, frame in enumerate(summary.trace(event)):
        lines += _wrap(frame, first=f"    {'' if number else 'trace':<8}", rest=" " * 14)
    lines += _wrap(event.test or "outside any test", first="    during  ", rest=" " * 12)
    lines += _wrap(summary.seen_at(event), first="    see     ", rest=" " * 12)
    lines += _verbatim(summary.code(event, CODE_LINES))
    if event.excerpt and lines[-1].startswith("    | "):
        lines.append("")
    return lines + _verbatim(shortened("\n".join(event.excerpt), head=30, tail=10)[0])


def _memory_images(results: RunResults) -> list[str]:
    lines = []
    for image in results.memory_images:
        lines += _wrap(summary.memory_image(image), first="  ", rest="    ")
        lines += _verbatim(shortened(image.report, head=40, tail=4)[0])
    return ["MEMORY IMAGES", *lines] if lines else []


def _not_run(results: RunResults) -> list[str]:
    lines = []
    for title, outcome in (("SKIPPED", Outcome.SKIPPED), ("EXPECTED TO FAIL", Outcome.XFAILED)):
        tests = summary.with_outcome(results, outcome)
        if tests:
            lines.append(f"{title} ({len(tests)})")
        for reason, group in summary.by_reason(tests).items():
            lines += _wrap(f"{reason}:", first="  ", rest="    ")
            for test in group:
                lines += _wrap(test.id, first="      ", rest="        ")
    return lines


def _measurements(results: RunResults) -> list[str]:
    rows = summary.measurements(results)
    if not rows:
        return []
    lines = ["MEASURED"]
    for row in rows:
        lines.append(f"  {row.name:<28} {row.value:>18}   {row.ratio:<32} {row.judgement}")
    return lines


def _stages(results: RunResults) -> list[str]:
    lines = []
    for stage in summary.stages(results):
        bar = "#" * round(stage.share * 40)
        name = one_line(stage.name, 24)
        lines.append(f"  {name:<24} {summary.duration(stage.seconds):>12}  {bar}")
    return ["TIME", *lines] if lines else []


def _remarks(results: RunResults) -> list[str]:
    lines = []
    for stale in results.stale_expectations:
        lines += _wrap(f"expected to fail, but passes now: {stale}", first="- ", rest="  ")
    for note in results.notes:
        lines += _wrap(note, first="- ", rest="  ")
    return ["NOTES", *lines] if lines else []


def _files(results: RunResults) -> list[str]:
    if not results.run_dir:
        return []
    return ["FILES", f"  {printable(results.run_dir)}", "  report.html, console.log, dmesg.log, …"]


def _next(results: RunResults) -> list[str]:
    lines = []
    for step in summary.next_steps(results):
        lines += [*_wrap(f"{step.why}:", first="  ", rest="  "), f"    {printable(step.command)}"]
    return ["NEXT", *lines] if lines else []


def _wrap(text: str, first: str = "", rest: str = "") -> list[str]:
    """A sentence on as few lines as fit; paths and hashes stay in one piece while they can."""
    return textwrap.wrap(
        paragraph(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
    ) or [first]


def _verbatim(lines: Iterable[str]) -> list[str]:
    """Log lines as they are, indented; one that is too long goes on in the next line."""
    shown = []
    for line in lines:
        line = printable(line).expandtabs(8).rstrip()
        width = LOG_WIDTH - len("    | ")
        shown.append(f"    | {line[:width]}")
        for start in range(width, min(len(line), 20 * width), width - 2):
            shown.append(f"    |   {line[start : start + width - 2]}")
        if len(line) > 20 * width:
            shown.append("    |   [… cut, all of it in results.json]")
    return shown
