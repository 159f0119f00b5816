"""`vexrun history`: what all runs tell together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vexrun.errors import ConfigError
from vexrun.history.html import to_html
from vexrun.history.index import read_index
from vexrun.history.statistics import summarise
from vexrun.history.text import render_history, to_document
from vexrun.output import say, stderr, stdout
from vexrun.rundir import runs_dir


def history(
    subject: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this subject.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the newest N runs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with plots.")
    ] = None,
) -> None:
    """Verdicts, flaky tests, times and their trend, over all runs."""
    index = read_index(runs_dir())
    for name, why in index.skipped.items():
        say(f"warning: the run directory '{name}' was left out: {why}", stderr)
    runs = [run for run in index.runs if subject in (None, run.subject)]
    if not runs:
        known = ", ".join(sorted({run.subject for run in index.runs}))
        raise ConfigError(
            f"There is no run of the subject '{subject}'." if known else "There is no run yet.",
            evidence=f"subjects: {known}" if known else "",
            hint="Run: vexrun test SOURCE",
        )
    runs = runs[-limit:] if limit else runs
    summary = summarise(runs)
    if html is not None:
        html.write_text(to_html(summary, runs, index), encoding="utf-8")
    if as_json:
        print(json.dumps(to_document(summary, runs, index), indent=2))
        return
    render_history(summary, runs, stdout)
    if index.going_on:
        say(f"Still going on and not counted: {', '.join(index.going_on)}")
    if html is not None:
        say(f"Wrote {html}")
