"""`vexrun selftest`: known bugs through the whole command, and whether each was recognised."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vexrun.canary_record import keep, load_record, table
from vexrun.image.catalog import find_guest
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.interrupt import interruptible
from vexrun.output import say, stdout
from vexrun.selftest import (
    Canary,
    Judged,
    choose_canaries,
    exit_code,
    load_canaries,
    run_canary,
    split_names,
)


def selftest(
    suite: Annotated[str, typer.Option(help="Guest: trixie, bookworm or sid.")] = DEFAULT_SUITE,
    only: Annotated[list[str] | None, typer.Option(help="Only these canaries.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All of them; default: a subset of some minutes.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Say what there is, and run nothing.")
    ] = False,
    markdown: Annotated[
        bool,
        typer.Option("--table", help="What each was last called on each suite, as Markdown."),
    ] = False,
) -> None:
    """Test vexrun itself: modules with known bugs, and harmless twins, must be told apart."""
    whole = (show or markdown) and not only
    rows = choose_canaries(load_canaries(), split_names(only), every or whole)
    if markdown:
        print(table(rows, load_record()), end="")
        return
    if show:
        stdout.print(_list(rows))
        return
    find_guest(suite)
    begun = time.monotonic()
    with interruptible():
        judged = [_run(row, suite) for row in rows]
    stdout.print(_table(judged))
    for each in judged:
        if not each.right:
            _explain(each)
    right = sum(each.right for each in judged)
    took = time.monotonic() - begun
    say(f"{right} of {len(judged)} canaries were called what they are ({suite}, {took:.0f} s).")
    raise typer.Exit(exit_code(judged))


def _run(canary: Canary, suite: str) -> Judged:
    with tempfile.TemporaryDirectory(prefix="vexrun-selftest-") as directory:
        judged = run_canary(canary, suite, Path(directory))
    keep(judged, suite)
    say(f"{_mark(judged):4} {canary.name} ({judged.seconds:.0f} s): {judged.got}")
    return judged


def _mark(judged: Judged) -> str:
    return "ok" if judged.right else "void" if judged.void else "NO"


def _table(judged: list[Judged]) -> Table:
    table = Table(box=None, padding=(0, 1))
    for heading in ("canary", "expected", "got", "s", ""):
        table.add_column(
            heading, justify="right" if heading == "s" else "left", no_wrap=heading == "canary"
        )
    for each in judged:
        table.add_row(
            each.canary.name,
            escape(each.canary.expected),
            escape(each.got),
            f"{each.seconds:.0f}",
            f"[{'green' if each.right else 'red'}]{_mark(each)}[/]",
        )
    return table


def _list(rows: list[Canary]) -> Table:
    table = Table(box=None, padding=(0, 1))
    for heading in ("canary", "expected", "what is planted"):
        table.add_column(heading, no_wrap=heading == "canary")
    for row in rows:
        table.add_row(row.name, escape(row.expected), escape(row.what))
    return table


def _explain(judged: Judged) -> None:
    say(f"{judged.canary.name}: {judged.canary.what}")
    for problem in judged.problems:
        say(f"  {problem}")
    if judged.run_dir:
        say(f"  results: {judged.run_dir}")
