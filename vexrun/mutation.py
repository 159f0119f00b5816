"""Known bugs put into a subject one at a time: does a test notice each?

A mutant is a row of the subject's `mutants.toml`: a text of one file, and what stands there
instead. Each goes through the whole `vexrun test`, which stops at the first failure, in a copy of
the tree and with run directories of its own, so that no history of the subject knows of it. What
became of it is kept, and a mutant whose file and row are as they were is not tried again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from vexrun.categories import CATEGORIES
from vexrun.errors import ConfigError, ExitCode
from vexrun.image.locking import exclusive
from vexrun.results.model import RunResults, Verdict
from vexrun.subrun import SubRun, run_test
from vexrun.tree import copy_clean, measure
from vexrun.validation import demand_known, demand_unique, read_toml, validate

MUTANTS_FILE = "mutants.toml"
RESULTS_FILE = "mutations.json"
TABLE_FILE = "mutations.md"
SCHEMA_VERSION = 1
#: The trial of the source as it is. Where that fails, the mutants' failures prove nothing.
UNCHANGED = "unchanged"


class Mutant(BaseModel):
    """One bug. `category` is tried first; `survives` says why no test can be expected to see it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    what: str = Field(min_length=1)
    file: str
    old: str = Field(min_length=1)
    new: str
    category: str
    survives: str = ""

    @property
    def key(self) -> str:
        """Of the row, without the words that change nothing."""
        return _digest(self.file, self.old, self.new)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mutant: list[Mutant]


class Fate(StrEnum):
    """What became of a mutant."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    OPEN = "open"  # not caught by its first category; the others were not tried yet
    VOID = "void"  # it does not build, or the machine broke: nothing is known


class Trial(BaseModel):
    """One mutant that was tried: by which test it was caught, and what that said."""

    model_config = ConfigDict(extra="forbid")

    name: str
    key: str
    fate: Fate
    category: str = ""
    test: str = ""
    said: str = ""
    seconds: float = 0.0
    runs: list[str] = Field(default_factory=list)
    finished_at: float = 0.0


class Trials(BaseModel):
    """All that is known, as it is kept in RESULTS_FILE."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    subject: str
    suite: str
    trials: dict[str, Trial] = Field(default_factory=dict)


# -- the table of a subject ---------------------------------------------------------------------


def load_mutants(path: Path) -> list[Mutant]:
    """The rows, in their order. Raises ConfigError for what is no table of mutants."""
    try:
        raw = read_toml(path, "table of mutants")
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no table of mutants '{path}'.",
            hint="Name one: --mutants FILE. Its format is in docs/mutations.md.",
        ) from error
    rows = validate(raw, _Table, f"The table of mutants '{path}' is").mutant
    demand_unique([UNCHANGED, *(row.name for row in rows)], f"The table of mutants '{path}'")
    for row in rows:
        if row.category not in CATEGORIES:
            raise ConfigError(
                f"The mutant '{row.name}' names the category '{row.category}', which is none.",
                hint=f"Choose from: {', '.join(CATEGORIES)}.",
            )
    return rows


def choose_mutants(rows: Sequence[Mutant], only: Sequence[str]) -> list[Mutant]:
    """The named ones, or all. Raises ConfigError on an unknown name."""
    names = [row.name for row in rows]
    demand_known(only, names, "mutant", "Run: vexrun mutate --list")
    return [row for row in rows if row.name in only] if only else list(rows)


def mutated(mutant: Mutant, text: str) -> str:
    """The file with the bug in it. Raises ConfigError unless its place is found exactly once."""
    found = text.count(mutant.old)
    if found != 1:
        often = "is not in" if not found else f"is {found} times in"
        raise ConfigError(
            f"The mutant '{mutant.name}' does not fit: its 'old' text {often} '{mutant.file}'.",
            evidence=mutant.old,
        )
    if mutant.old == mutant.new:
        raise ConfigError(f"The mutant '{mutant.name}' changes nothing.")
    return text.replace(mutant.old, mutant.new)


def _text_of(mutant: Mutant, source: Path) -> str:
    try:
        return (source / mutant.file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The mutant '{mutant.name}' is about '{mutant.file}', which cannot be read in "
            f"'{source}': {error.strerror}."
        ) from error


def check_mutants(rows: Iterable[Mutant], source: Path) -> None:
    """Raise ConfigError for the first that does not fit the source as it is."""
    for row in rows:
        mutated(row, _text_of(row, source))


def key_of(mutant: Mutant, source: Path) -> str:
    """A trial counts as long as this is the same: the row, and the file that it is about."""
    return _digest(mutant.key, _text_of(mutant, source))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


# -- one trial ----------------------------------------------------------------------------------


class Laboratory:
    """Where one subject's mutants are tried, and what is known of them.

    `directory` keeps the trials and the runs they were. `skip` are categories never run.
    """

    def __init__(
        self,
        source: Path,
        subject_file: Path,
        subject: str,
        suite: str,
        skip: Sequence[str],
        directory: Path,
    ) -> None:
        self.source = source
        self.subject_file = subject_file
        self.suite = suite
        self.skip = list(skip)
        self.directory = directory
        self.known = self._load(subject)

    def _load(self, subject: str) -> Trials:
        file = self.directory / RESULTS_FILE
        try:
            found = Trials.model_validate_json(file.read_text())
        except FileNotFoundError:
            return Trials(subject=subject, suite=self.suite)
        except ValueError as error:
            raise ConfigError(
                f"'{file}' holds no trials of mutants.", hint="Remove it, or choose --output DIR."
            ) from error
        if (found.subject, found.suite) != (subject, self.suite):
            raise ConfigError(
                f"'{file}' is about '{found.subject}' on {found.suite}.",
                hint="Choose another directory: --output DIR",
            )
        return found

    def what_is_known(self, mutant: Mutant) -> Trial | None:
        """The trial of the mutant as it is now; None where nothing is known of it."""
        trial = self.known.trials.get(mutant.name)
        if trial is None or trial.fate is Fate.VOID or trial.key != key_of(mutant, self.source):
            return None
        return trial

    def source_is_known_good(self, work: Path) -> bool:
        """Whether the source came through in its present state; `work` is for a copy of it."""
        trial = self.known.trials.get(UNCHANGED)
        if trial is None or trial.fate is not Fate.SURVIVED:
            return False
        return trial.key == self._state_of(self._plant(None, work))

    @staticmethod
    def _state_of(tree: Path) -> str:
        return _digest(measure(tree).sha256)

    def trial_of_the_source(self, work: Path) -> Trial:
        """The source as it is, through the same categories: it should come through."""
        tree = self._plant(None, work)
        trial = Trial(name=UNCHANGED, key=self._state_of(tree), fate=Fate.VOID)
        return self._keep(self._judge(trial, self._run(tree, ["--skip", ",".join(self.skip)])))

    def first_trial(self, mutant: Mutant, work: Path) -> Trial:
        """The category where it is expected to show, which takes a minute."""
        trial = Trial(name=mutant.name, key=key_of(mutant, self.source), fate=Fate.VOID)
        tree = self._plant(mutant, work)
        self._judge(trial, self._run(tree, ["--only", mutant.category]))
        if trial.fate is Fate.SURVIVED:
            trial.fate = Fate.OPEN
        return self._keep(trial)

    def further_trial(self, mutant: Mutant, trial: Trial, work: Path) -> Trial:
        """All other categories, which takes several."""
        tree = self._plant(mutant, work)
        others = ",".join([*self.skip, mutant.category])
        return self._keep(self._judge(trial, self._run(tree, ["--skip", others])))

    def _plant(self, mutant: Mutant | None, work: Path) -> Path:
        tree = work / self.source.resolve().name
        copy_clean(self.source, tree)
        # A list of bugs is no part of what is tested: a new row leaves the source as it was.
        (tree / MUTANTS_FILE).unlink(missing_ok=True)
        if mutant is not None:
            text = mutated(mutant, _text_of(mutant, self.source))
            (tree / mutant.file).write_text(text, encoding="utf-8")
        return tree

    def _run(self, tree: Path, chosen: Sequence[str]) -> SubRun:
        given = [str(tree), "--suite", self.suite, "--fail-fast", "--no-core", *chosen]
        if self.subject_file.parent.resolve() != self.source.resolve():
            given += ["--subject", str(self.subject_file)]
        return run_test(given, {"VEXRUN_STATE_DIR": str(self.directory)})

    def _judge(self, trial: Trial, run: SubRun) -> Trial:
        trial.seconds = round(trial.seconds + run.seconds, 1)
        trial.fate, trial.category, trial.test, trial.said = judge(run)
        if run.results is not None:
            trial.runs.append(run.results.run_id)
        return trial

    def _keep(self, trial: Trial) -> Trial:
        trial.finished_at = round(time.time(), 1)
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / RESULTS_FILE
        with exclusive(file.with_suffix(".lock")):  # another one may try others meanwhile
            self.known = self._load(self.known.subject)
            self.known.trials[trial.name] = trial
            fresh = file.with_suffix(".new")
            fresh.write_text(json.dumps(self.known.model_dump(mode="json"), indent=2) + "\n")
            fresh.rename(file)
        return trial


def judge(run: SubRun) -> tuple[Fate, str, str, str]:
    """(fate, category, test, what was said) of one run of a mutant."""
    results = run.results
    if results is None or results.build_failure:
        return Fate.VOID, "", "", run.said
    if results.verdict is Verdict.PASS:
        return Fate.SURVIVED, "", "", ""
    bad = [test for test in results.tests if test.is_bad]
    if results.verdict is not Verdict.FAIL or not bad:
        return Fate.VOID, "", "", run.said
    first = bad[0]
    said = next((line for line in first.message.splitlines() if line.strip()), first.outcome.value)
    return Fate.CAUGHT, first.category, first.id, _with_place(results, said)


def _with_place(results: RunResults, said: str) -> str:
    places = [event.source_line for event in results.kernel_events if event.source_line]
    return f"{said} (at {places[0]})" if places and places[0] not in said else said


# -- what came of all ---------------------------------------------------------------------------


def exit_code(rows: Sequence[Mutant], trials: dict[str, Trial]) -> ExitCode:
    """0 when each was caught, or survived with a reason; unknown ones count as nothing known."""
    fates = {row.name: trials[row.name].fate if row.name in trials else None for row in rows}
    if any(fates[row.name] is Fate.SURVIVED and not row.survives for row in rows):
        return ExitCode.FAILED
    if any(fate in (Fate.VOID, Fate.OPEN, None) for fate in fates.values()):
        return ExitCode.INFRASTRUCTURE
    return ExitCode.PASS


def summary(rows: Sequence[Mutant], trials: dict[str, Trial]) -> list[str]:
    """The end of a mutation run, in sentences."""
    tried = [trials[row.name] for row in rows if row.name in trials]
    caught = [trial for trial in tried if trial.fate is Fate.CAUGHT]
    by_category = {
        name: sum(trial.category == name for trial in caught) for name in [*CATEGORIES, "teardown"]
    }
    shares = ", ".join(f"{name} {count}" for name, count in by_category.items() if count)
    lines = [f"{len(caught)} of {len(rows)} mutants were caught{f' ({shares})' if shares else ''}."]
    for fate, words in (
        (Fate.SURVIVED, "survived"),
        (Fate.OPEN, "are open"),
        (Fate.VOID, "tell nothing"),
    ):
        names = [trial.name for trial in tried if trial.fate is fate]
        lines += [f"{len(names)} {words}: {', '.join(names)}."] if names else []
    untried = [row.name for row in rows if row.name not in trials]
    lines += [f"{len(untried)} were not tried yet."] if untried else []
    for row in rows:
        if row.survives and trials.get(row.name) in caught:
            lines.append(f"'{row.name}' was caught, though its row says that it survives.")
    return lines


def table(rows: Sequence[Mutant], trials: dict[str, Trial]) -> str:
    """What became of every mutant, in Markdown."""
    lines = [
        "| mutant | in | the bug | caught by | test | s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        trial = trials.get(row.name)
        by, test, seconds = "not tried", "", ""
        if trial is not None:
            seconds = f"{trial.seconds:.0f}"
            test = f"`{trial.test.partition('/')[2]}`" if trial.test else row.survives
            by = trial.category if trial.fate is Fate.CAUGHT else f"**{trial.fate.value}**"
        cells = [f"`{row.name}`", f"`{row.file}`", row.what, by, test, seconds]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(["", *lines, "", *summary(rows, trials), ""]).lstrip()
