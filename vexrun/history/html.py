"""The history as one self-contained page; the template is beside this file."""

from __future__ import annotations

import statistics
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vexrun.history import plots, text
from vexrun.history.index import Index, RunRecord
from vexrun.history.statistics import CYCLE_TARGETS, Summary
from vexrun.report.printable import printable
from vexrun.report.summary import duration
from vexrun.results.model import Verdict

_SHOWN_RUNS = 200


def to_html(summary: Summary, runs: list[RunRecord], index: Index) -> str:
    environment = Environment(
        loader=PackageLoader("vexrun", "history"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["duration"] = duration
    return environment.get_template("history.html.j2").render(
        summary=summary,
        runs=list(reversed(runs[-_SHOWN_RUNS:])),
        run_count=len(runs),
        index=index,
        plots=plots,
        text=text,
        limits=CYCLE_TARGETS,
        median=statistics.median,
        Verdict=Verdict,
    )


def _finalize(value: Any) -> Any:
    """Names come from trees and kernels: nothing of a terminal's or XML's gets into the page."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value
