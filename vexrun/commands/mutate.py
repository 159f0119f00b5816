"""`vexrun mutate`: known bugs put into a subject one at a time, and whether a test noticed."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vexrun.categories import select_categories
from vexrun.errors import ConfigError
from vexrun.image.catalog import find_guest
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.interrupt import interruptible
from vexrun.layout import state_dir
from vexrun.mutation import (
    MUTANTS_FILE,
    RESULTS_FILE,
    TABLE_FILE,
    Fate,
    Laboratory,
    Mutant,
    Trial,
    check_mutants,
    choose_mutants,
    exit_code,
    load_mutants,
    summary,
    table,
)
from vexrun.output import say
from vexrun.subject import SUBJECT_FILE_NAME, load_subject


def mutate(
    source: Annotated[
        Path, typer.Argument(help="The module's source tree; default: here.")
    ] = Path(),
    subject: Annotated[
        Path | None, typer.Option(help="The subject file; default: SOURCE/vexrun.toml.")
    ] = None,
    mutants: Annotated[
        Path | None, typer.Option(help=f"The bugs; default: SOURCE/{MUTANTS_FILE}.")
    ] = None,
    suite: Annotated[str, typer.Option(help="Guest: trixie, bookworm or sid.")] = DEFAULT_SUITE,
    only: Annotated[
        list[str] | None, typer.Option(help="Only these mutants, tried already or not.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Categories left out; default: perf.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further one after so many minutes.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where results are kept; default: in the state directory.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Say what there is, and run nothing.")
    ] = False,
) -> None:
    """Put known bugs into a subject one at a time, and say which tests notice."""
    rows = load_mutants(mutants or source / MUTANTS_FILE)
    chosen = choose_mutants(rows, _split("--only", only))
    check_mutants(rows, source)
    laboratory = _laboratory(source, subject, suite, _split("--skip", skip), output)
    if show:
        for row in chosen:
            trial = laboratory.what_is_known(row)
            say(f"{row.name} ({row.file}, {trial.fate if trial else 'not tried'}): {row.what}")
        return
    until = time.monotonic() + 60 * minutes if minutes is not None else math.inf
    with interruptible():
        if not only and not _source_is_good(laboratory):
            raise typer.Exit(1)
        _try_all(laboratory, rows, chosen, again=bool(only), until=until)
    trials = laboratory.known.trials
    _write_table(laboratory, rows)
    for sentence in summary(chosen, trials):
        say(sentence)
    say(f"table: {laboratory.directory / TABLE_FILE}")
    raise typer.Exit(exit_code(chosen, trials))


def _try_all(
    laboratory: Laboratory, rows: list[Mutant], chosen: list[Mutant], *, again: bool, until: float
) -> None:
    """The quick trial of each first, then the long ones of those that it did not catch."""
    for row in chosen:
        if again or laboratory.what_is_known(row) is None:
            _one(laboratory, rows, until, partial(laboratory.first_trial, row))
    for row in chosen:
        trial = laboratory.what_is_known(row)
        if trial is not None and trial.fate is Fate.OPEN:
            _one(laboratory, rows, until, partial(laboratory.further_trial, row, trial))


def _one(
    laboratory: Laboratory, rows: list[Mutant], until: float, work_on: Callable[[Path], Trial]
) -> None:
    if time.monotonic() > until:
        return
    with tempfile.TemporaryDirectory(prefix="vexrun-mutate-") as work:
        trial = work_on(Path(work))
    say(_line(trial))
    _write_table(laboratory, rows)


def _laboratory(
    source: Path, subject: Path | None, suite: str, skip: list[str], output: Path | None
) -> Laboratory:
    find_guest(suite)
    skip = skip or ["perf"]
    select_categories([], skip)
    file = subject or source / SUBJECT_FILE_NAME
    loaded = load_subject(file)
    if loaded.subject.source is not None:
        raise ConfigError(
            f"The source of '{loaded.name}' is a Debian package; only a tree can be changed.",
            hint="Unpack it, and give the directory with a subject file that names no package.",
        )
    directory = output or state_dir() / "mutations" / f"{loaded.name}-{suite}"
    return Laboratory(
        source.resolve(), file.resolve(), loaded.name, suite, skip, directory.absolute()
    )


def _source_is_good(laboratory: Laboratory) -> bool:
    """Without its bugs the subject must pass; once is enough for one state of the tree."""
    with tempfile.TemporaryDirectory(prefix="vexrun-mutate-") as work:
        if laboratory.source_is_known_good(Path(work)):
            return True
    with tempfile.TemporaryDirectory(prefix="vexrun-mutate-") as work:
        trial = laboratory.trial_of_the_source(Path(work))
    say(_line(trial))
    if trial.fate is Fate.SURVIVED:
        return True
    say("The source fails without any bug of ours, so that no failure of a mutant proves a thing:")
    say(f"  {trial.test} {trial.said}")
    return False


def _line(trial: Trial) -> str:
    what = f"{trial.name}: {trial.fate.value}"
    if trial.fate is Fate.CAUGHT:
        what = f"{what} by {trial.test}"
    return f"{what} ({trial.seconds:.0f} s){f': {trial.said[:200]}' if trial.said else ''}"


def _write_table(laboratory: Laboratory, rows: list[Mutant]) -> None:
    if (laboratory.directory / RESULTS_FILE).exists():
        (laboratory.directory / TABLE_FILE).write_text(table(rows, laboratory.known.trials))


def _split(option: str, values: list[str] | None) -> list[str]:
    names = [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
    if values and not names:
        raise ConfigError(f"{option} was given without a name.", hint="Run: vexrun mutate --list")
    return names
