"""`vexrun compare A B`: what changed, and whether it got worse."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vexrun.compare.comparison import compare as compare_sides
from vexrun.compare.comparison import load_side
from vexrun.compare.text import render_comparison, to_document
from vexrun.errors import ExitCode
from vexrun.output import stdout


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, or several: RUN,RUN.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Say what changed from run A to run B; exit code 1 when B is worse."""
    found = compare_sides(load_side(a), load_side(b))
    if as_json:
        print(json.dumps(to_document(found), indent=2))
    else:
        render_comparison(found, stdout)
    if found.regressions:
        raise typer.Exit(ExitCode.FAILED)
