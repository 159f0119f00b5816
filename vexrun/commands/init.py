"""`vexrun init`: look at a tree, write its subject file, say how everything is known."""

from __future__ import annotations

import os
import shlex
import tomllib
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vexrun import __version__
from vexrun.errors import ConfigError
from vexrun.output import say, stdout
from vexrun.scaffold.proposal import Proposal, propose
from vexrun.scaffold.survey import survey_tree
from vexrun.subject import SUBJECT_FILE_NAME, check_against_tree, load_subject
from vexrun.tree import what_cannot_be_read_is_named


def init(
    source: Annotated[
        Path | None, typer.Argument(help="The module's source tree; default: here.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a subject file that is there.")
    ] = False,
) -> None:
    """Look at a source tree and write the vexrun.toml that describes it."""
    root = source or Path()
    if not root.is_dir():
        raise ConfigError(f"The source tree '{root}' is not a directory.")
    path = root / SUBJECT_FILE_NAME
    if os.path.lexists(path) and not force:
        raise ConfigError(
            f"'{path}' exists and is left alone.",
            hint="Run `vexrun init --force` to replace it; what you wrote into it is lost then.",
        )
    with what_cannot_be_read_is_named():
        proposal = propose(survey_tree(root), __version__)
    write_subject(proposal, root, path, replace=force)
    _tell(proposal, root, path)


def write_subject(proposal: Proposal, root: Path, path: Path, *, replace: bool) -> None:
    """Put the file in place in one step, checked as `vexrun test` will check it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.toml")
    try:
        temporary.write_text(proposal.text, encoding="utf-8")
        tomllib.loads(proposal.text)
        if not proposal.missing:
            check_against_tree(load_subject(temporary), root, path)
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike a rename it replaces nothing
    except FileExistsError as error:
        raise ConfigError(f"'{path}' was written by somebody else meanwhile.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _tell(proposal: Proposal, root: Path, path: Path) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for each in proposal.found:
        table.add_row(escape(each.what), f"[dim]{escape(each.how)}[/]")
    stdout.print(table)
    for text in proposal.missing:
        say(f"missing: {text}")
    for text in proposal.doubts:
        say(f"to check: {text}")
    say(f"Wrote {path}")
    where = "" if root == Path() else f" {shlex.quote(str(root))}"
    if proposal.missing:
        say(f"Fill in what `{path.name}` marks with 'TODO vexrun:', then run:")
    say(f"  vexrun test{where} --target host --only structure,build")
