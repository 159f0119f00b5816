"""Plots as inline SVG: drawn here, styled by the page, alive without a script."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup, escape

from vexrun.history.index import RunRecord
from vexrun.report.summary import duration
from vexrun.results.model import Verdict

WIDTH, HEIGHT = 640.0, 150.0
_LEFT, _TOP, _BOTTOM = 62.0, 8.0, 20.0
#: Runs in one plot; a page with thousands helps nobody.
SHOWN_RUNS = 80
#: Stages with a colour of their own; the rest is one.
SHOWN_STAGES = 7
REST = "everything else"


@dataclass(frozen=True)
class Frame:
    """A plot's area: values from 0 to `top`, one column a run."""

    columns: int
    top: float

    def x(self, column: int) -> float:
        return _LEFT + (column + 0.5) * (WIDTH - _LEFT) / max(self.columns, 1)

    @property
    def column_width(self) -> float:
        return (WIDTH - _LEFT) / max(self.columns, 1)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - value / self.top * (HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> str:
        lines = []
        for share in (0.0, 0.5, 1.0):
            y = self.y(self.top * share)
            lines.append(
                f'<line class="grid" x1="{_LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="axis" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                f"{escape(duration(self.top * share))}</text>"
            )
        return "".join(lines)


def _svg(title: str, body: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def _mark(run: RunRecord) -> str:
    return run.verdict.value if run.finished else Verdict.INTERRUPTED.value


def times(runs: list[RunRecord], limit_s: float | None) -> Markup:
    """How long each run took, a dot a run in the colour of its verdict, oldest to the left."""
    shown = [run for run in runs if run.elapsed_s is not None][-SHOWN_RUNS:]
    longest = max((run.elapsed_s or 0.0 for run in shown), default=0.0)
    frame = Frame(len(shown), max(longest, limit_s or 0.0, 1.0) * 1.05)
    body = [frame.grid()]
    if limit_s is not None:
        y = frame.y(limit_s)
        body.append(
            f'<line class="limit" x1="{_LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}">'
            f"<title>target: {escape(duration(limit_s))}</title></line>"
        )
    points = [(frame.x(n), frame.y(run.elapsed_s or 0.0), run) for n, run in enumerate(shown)]
    whole = " ".join(f"{x:.1f},{y:.1f}" for x, y, run in points if run.finished)
    body.append(f'<polyline class="line" points="{whole}"/>')
    for x, y, run in points:
        text = f"{run.run_id}: {_mark(run)}, {duration(run.elapsed_s or 0.0)}"
        body.append(
            f'<circle class="{_mark(run)}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
            f"<title>{escape(text)}</title></circle>"
        )
    return _svg("time of each run, oldest to the left", "".join(body))


def stage_names(runs: list[RunRecord]) -> list[str]:
    """The stages with a colour, the longest in sum first."""
    total: dict[str, float] = {}
    for run in runs[-SHOWN_RUNS:]:
        for name, seconds in run.durations.items():
            total[name] = total.get(name, 0.0) + seconds
    return sorted(total, key=lambda name: -total[name])[:SHOWN_STAGES]


def stages(runs: list[RunRecord]) -> Markup:
    """Where the time of each finished run went, as columns."""
    shown = [run for run in runs if run.finished and run.durations][-SHOWN_RUNS:]
    names = stage_names(runs)
    tallest = max((sum(run.durations.values()) for run in shown), default=1.0)
    frame = Frame(len(shown), max(tallest, 1.0) * 1.05)
    body = [frame.grid()]
    width = max(frame.column_width * 0.8, 1.0)
    for column, run in enumerate(shown):
        parts = {name: run.durations[name] for name in names if name in run.durations}
        rest = sum(run.durations.values()) - sum(parts.values())
        below = 0.0
        for name, seconds in [*parts.items(), (REST, rest)]:
            if seconds <= 0:
                continue
            top, bottom = frame.y(below + seconds), frame.y(below)
            colour = names.index(name) if name in names else SHOWN_STAGES
            text = f"{run.run_id}: {name} {duration(seconds)}"
            body.append(
                f'<rect class="s{colour}" x="{frame.x(column) - width / 2:.1f}" y="{top:.1f}" '
                f'width="{width:.1f}" height="{max(bottom - top, 0.2):.1f}">'
                f"<title>{escape(text)}</title></rect>"
            )
            below += seconds
    return _svg("stages of each finished run, oldest to the left", "".join(body))
