"""`vexrun watch`: the fast loop of somebody who edits a module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from vexrun.categories import select_categories
from vexrun.config import Backend, TargetKind, make_config
from vexrun.errors import ConfigError, VexrunError
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.interrupt import interruptible
from vexrun.kbuild import BuildPlace
from vexrun.output import say, stdout
from vexrun.progress import display_for
from vexrun.report.terminal import render_results
from vexrun.results.model import Verdict
from vexrun.rundir import find_run
from vexrun.session import run_session
from vexrun.subject import SUBJECT_FILE_NAME, load_subject
from vexrun.vm.accel import AccelChoice
from vexrun.watch import Watch


def watch(
    source: Annotated[
        Path | None, typer.Argument(help="The module's source tree; default: where FILE is.")
    ] = None,
    subject: Annotated[
        Path | None, typer.Option(help="The subject file; default: SOURCE/vexrun.toml.")
    ] = None,
    suite: Annotated[str, typer.Option(help="Guest: trixie, bookworm or sid.")] = DEFAULT_SUITE,
    only: Annotated[str, typer.Option(help="Only these categories, A,B.")] = "",
    skip: Annotated[str, typer.Option(help="Not these categories, A,B.")] = "",
    vm: Annotated[bool, typer.Option("--vm/--no-vm", help="In a VM, when host is green.")] = True,
) -> None:
    """Run again what a change affects: on this host first, in a VM when that is green."""
    file = (subject or (source or Path()) / SUBJECT_FILE_NAME).absolute()
    if source is None and load_subject(file).subject.source is not None:
        raise ConfigError(
            f"The source of '{file}' is a Debian package, which nobody edits.",
            hint="Name a source tree: vexrun watch SOURCE --subject FILE",
        )
    tree = (source or file.parent).resolve()

    def run(target: TargetKind, names: list[str]) -> Verdict:
        config = make_config(
            source=tree,
            subject_file=file,
            suite=suite,
            only=names,
            skip=[],
            target=target,
            backend=Backend.QEMU,
            accel=AccelChoice.AUTO,
            build=BuildPlace.AUTO,
            keep=False,
            command=["vexrun", *sys.argv[1:]],
        )
        with display_for(stdout, console_log=lambda: find_run(None) / "console.log") as show:
            results = run_session(config, show)
        if results.verdict is not Verdict.PASS:
            render_results(results, stdout)
        return results.verdict

    # What is wrong with the request is said before there is anything to watch.
    chosen = select_categories(_split(only), _split(skip))
    load_subject(file)
    if not tree.is_dir():
        raise ConfigError(f"The source tree '{tree}' is not a directory.")
    with interruptible():
        Watch(
            source=tree,
            subject_file=file.resolve(),
            chosen=chosen,
            load=lambda: load_subject(file),
            run=run,
            say=say,
            complain=_complain,
            vm=vm,
        ).forever()


def _complain(error: VexrunError) -> None:
    stdout.print(f"[bold red]vexrun:[/] {escape(error.message)}", soft_wrap=True, highlight=False)
    for text in (error.evidence, error.hint):
        if text:
            say(f"  {text}")


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
