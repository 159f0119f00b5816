"""report.md: for a pull-request comment or a job summary (GitHub-flavoured).

Everything a guest printed stands in code, so it can neither mention people nor draw tables.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from vexrun.report import summary
from vexrun.report.printable import one_line, paragraph, shortened
from vexrun.results.model import KernelEvent, Outcome, RunResults, TestResult

#: GitHub refuses comments of more than 65,536 characters.
SIZE_LIMIT = 60_000
DETAILED_PROBLEMS = 15
LINE_LIMIT = 400
#: Of source, on each side of the line.
CODE_LINES = 3

_MARK = {
    summary.Tone.GOOD: "✅",
    summary.Tone.WARN: "⚠️",
    summary.Tone.BAD: "❌",
    summary.Tone.PLAIN: "",
}


def to_markdown(results: RunResults) -> str:
    text = ""
    for block in _blocks(results):
        if len(text) + len(block) > SIZE_LIMIT:
            return text + "_Cut here: the rest is in `report.html`._\n"
        text += block + "\n"
    return text


def _blocks(results: RunResults) -> Iterator[str]:
    """The report in pieces that are each complete, so that a cut never leaves an open tag."""
    yield _verdict(results)
    yield _category_table(results)
    yield from _problems(results)
    yield from _events_outside_tests(results)
    yield from _builds(results)
    yield from _memory_images(results)
    yield from _measurements(results)
    yield from _not_run(results)
    yield from _remarks(results)
    yield _evidence(results)
    yield from _next(results)


def _verdict(results: RunResults) -> str:
    mark = _MARK[summary.verdict_tone(results)]
    title = f"### {mark} {summary.headline(results)}: {_prose(results.subject.name)}"
    facts = [summary.counts_phrase(results)]
    if results.target.kernel:
        facts.append(f"kernel {_code(results.target.kernel)}")
    if results.module.sha256:
        facts.append(f"module {_code(results.module.sha256[:12])}")
    elapsed = summary.elapsed_s(results)
    if elapsed is not None:
        facts.append(summary.duration(elapsed))
    reasons = [f"- {_prose(sentence)}" for sentence in summary.why(results)]
    return "\n".join([title, "", " · ".join(facts), "", *reasons, ""])


def _category_table(results: RunResults) -> str:
    rows = summary.category_rows(results)
    if not rows:
        return "No category was selected.\n"
    total = summary.total_row(results)
    shown = [o for o in Outcome if o is Outcome.PASSED or total.counts[o]]
    lines = [
        "| category | | " + " | ".join(o.value for o in shown) + " | time |",
        "|---|---|" + "---:|" * (len(shown) + 1),
    ]
    for row in [*rows, total]:
        state = "" if row is total or row.state == "passed" else f"{_MARK[row.tone]} {row.state}"
        counts = " | ".join(str(row.counts[o] or "") for o in shown)
        name = f"**{row.name}**" if row is total else _cell(row.name)
        lines.append(f"| {name} | {state} | {counts} | {summary.duration(row.duration_s)} |")
    return "\n".join([*lines, ""])


def _problems(results: RunResults) -> Iterator[str]:
    groups = summary.problem_groups(results)
    if groups:
        yield f"#### Problems ({len(summary.problems(results))})\n"
    for index, (first, *others) in enumerate(groups[:DETAILED_PROBLEMS]):
        yield _problem(first, others, results, is_open=index == 0)
    rest = [test for group in groups[DETAILED_PROBLEMS:] for test in group]
    for test in rest:
        yield f"- {test.outcome.value}: {_code(test.id)}"
    if rest:
        yield ""


def _problem(test: TestResult, others: list[TestResult], results: RunResults, is_open: bool) -> str:
    title = f"{test.outcome.value}: <code>{html.escape(one_line(test.id, LINE_LIMIT))}</code>"
    if others:
        title += f" and {len(others)} more"
    lines = [f"<details{' open' if is_open else ''}><summary>{title}</summary>", ""]
    lines.append(_fence(test.message or "no message was recorded"))
    for event in summary.events_of(test, results):
        place = _code(summary.where(event))
        lines.append(f"Kernel {_prose(event.event_class)}: {_code(event.title)}, {place}\n")
        lines += _source(event)
        lines.append(_fence("\n".join(event.excerpt)))
    if test.details:
        lines.append(_fence(test.details))
    lines += [f"- {_code(other.id)}" for other in others[:50]]
    if len(others) > 50:
        lines.append(f"- and {len(others) - 50} more")
    if others:
        lines.append("")
    return "\n".join([*lines, "</details>", ""])


def _events_outside_tests(results: RunResults) -> Iterator[str]:
    ids = {test.id for test in results.tests}
    events = [event for event in summary.kernel_events(results) if event.test not in ids]
    if events:
        yield f"#### Kernel events outside any test ({len(events)})\n"
    for event in events[:DETAILED_PROBLEMS]:
        title = f"{_prose(event.event_class)}: <code>{html.escape(one_line(event.title))}</code>"
        place = f"{_code(summary.where(event))}, {_code(summary.seen_at(event))}"
        yield "\n".join(
            [
                f"<details open><summary>{title}</summary>",
                "",
                f"{place}\n",
                *_source(event),
                _fence("\n".join(event.excerpt)),
                "</details>",
                "",
            ]
        )


def _source(event: KernelEvent) -> list[str]:
    """The decoded frames and the source of the first."""
    lines = [*summary.trace(event), *summary.code(event, CODE_LINES)]
    return [_fence("\n".join(lines))] if lines else []


def _builds(results: RunResults) -> Iterator[str]:
    for build in results.builds:
        if not build.ok:
            title = f"build failed: <code>{html.escape(one_line(build.name))}</code>"
            text = f"{build.command}\n{build.log}"
            yield "\n".join(
                [f"<details open><summary>{title}</summary>", "", _fence(text), "</details>", ""]
            )


def _memory_images(results: RunResults) -> Iterator[str]:
    for image in results.memory_images:
        title = f"memory image {html.escape(summary.memory_image(image))}"
        text = "\n".join(shortened(image.report, head=60, tail=4)[0])
        yield "\n".join(
            [f"<details><summary>{title}</summary>", "", _fence(text), "</details>", ""]
        )


def _measurements(results: RunResults) -> Iterator[str]:
    rows = summary.measurements(results)
    if rows:
        table = ["| measured | median | ratio, 95 % interval | |", "|---|--:|---|---|"]
        table += [
            f"| {_cell(row.name)} | {_cell(row.value)} | {row.ratio} | {row.judgement} |"
            for row in rows
        ]
        yield "\n".join([*table, ""])


def _not_run(results: RunResults) -> Iterator[str]:
    for title, outcome in (("skipped", Outcome.SKIPPED), ("expected to fail", Outcome.XFAILED)):
        tests = summary.with_outcome(results, outcome)
        if not tests:
            continue
        lines = [f"<details><summary>{len(tests)} {title}</summary>", ""]
        for reason, group in summary.by_reason(tests).items():
            names = ", ".join(_code(test.id) for test in group[:20])
            more = f" and {len(group) - 20} more" if len(group) > 20 else ""
            lines.append(f"- {_prose(reason)}: {names}{more}")
        yield "\n".join([*lines, "", "</details>", ""])


def _remarks(results: RunResults) -> Iterator[str]:
    for stale in results.stale_expectations:
        yield f"- Expected to fail, but passes now: {_code(stale)}"
    for note in results.notes:
        yield f"- {_prose(note)}"
    if results.stale_expectations or results.notes:
        yield ""


def _evidence(results: RunResults) -> str:
    lines = ["<details><summary>Evidence</summary>", "", "| | | |", "|---|---|---|"]
    for group in summary.evidence(results):
        for index, fact in enumerate(group.facts):
            title = group.title if index == 0 else ""
            mark = f"{_MARK[fact.tone]} " if fact.tone is summary.Tone.BAD else ""
            lines.append(f"| {title} | {fact.label} | {mark}{_cell(fact.value)} |")
    return "\n".join([*lines, "", "</details>", ""])


def _next(results: RunResults) -> Iterator[str]:
    for step in summary.next_steps(results):
        yield f"{_prose(step.why)}:\n{_fence(step.command)}"


def _fence(text: str) -> str:
    """A code block that its content cannot close, with its middle left out when long."""
    lines = [one if len(one) <= LINE_LIMIT else one[:LINE_LIMIT] + "…" for one in _lines(text)]
    longest = max((len(run) for run in re.findall("`{3,}", "\n".join(lines))), default=2)
    fence = "`" * (longest + 1)
    return "\n".join([f"{fence}text", *lines, fence, ""])


def _lines(text: str) -> list[str]:
    return shortened(text, head=10, tail=30)[0]


def _code(text: str) -> str:
    """Inline code; backticks inside are fenced off by longer ones."""
    line = one_line(text, LINE_LIMIT) or " "
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    if longest:
        return f"{'`' * (longest + 1)} {line} {'`' * (longest + 1)}"
    return f"`{line}`"


def _cell(text: str) -> str:
    """Inline code in a table, where even a quoted `|` would end the cell."""
    return _code(text).replace("|", "\\|")


def _prose(text: str) -> str:
    """A sentence of ours that may quote foreign words."""
    text = html.escape(paragraph(text), quote=False)
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)
    return re.sub(r"(?<!\w)@(?=\w)", "@\u2060", text)  # a word joiner: mentions nobody
