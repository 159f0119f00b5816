"""vexrun tested on modules whose bug is known: each canary must be called what it is.

The table is tests/canaries/canaries.toml, the sources lie beside it. A canary goes through the
whole command, as a user's CI would run it, and only `results.json` and the exit status are
looked at. `vexrun selftest` and tests/canaries/test_canaries.py both judge by `problems`.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from vexrun.errors import ConfigError, ExitCode
from vexrun.kernel_log import EventClass
from vexrun.layout import data_root
from vexrun.report import FORMATS
from vexrun.results.model import KernelEvent, Outcome, RunResults, TestResult, Verdict
from vexrun.subject import SUBJECT_FILE_NAME
from vexrun.subrun import run_test
from vexrun.validation import demand_known, demand_unique, read_toml, validate

_EXIT_CODES = {Verdict.PASS: ExitCode.PASS, Verdict.FAIL: ExitCode.FAILED}
_GOOD = frozenset({Outcome.PASSED, Outcome.SKIPPED})


class Canary(BaseModel):
    """One row: what is planted in which subject, and what must be said about it.

    `event`, `title` and `frame` are about the first kernel event; without `event` there must be
    none. `blamed` begins the id of the first bad test, `says` is a regular expression over
    reasons, messages, details and notes. `clean` is a category that must have passed as a whole
    afterwards, on a restored machine. `core` is a regular expression over what the memory image
    says; without it none is kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    what: str
    verdict: Verdict
    only: list[str]
    bug: str = ""
    carrier: str = "canaryfs"
    replace: dict[str, str] = Field(default_factory=dict)
    append: str = ""
    files: dict[str, str] = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)
    outcome: list[Outcome] = Field(default_factory=list)
    event: list[EventClass] = Field(default_factory=list)
    title: str = ""
    frame: str = ""
    line: bool = False
    blamed: str = ""
    says: str = ""
    clean: str = ""
    core: str = ""
    smoke: bool = False

    @property
    def expected(self) -> str:
        """In short, for the table."""
        parts = [self.verdict.value]
        parts += ["/".join(each.value for each in self.outcome)] if self.outcome else []
        parts += ["/".join(each.value for each in self.event)] if self.event else []
        return ", ".join([*parts, *([f"'{self.title}'"] if self.title else [])])


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")

    canary: list[Canary]


@dataclass(frozen=True)
class Judged:
    """One canary that was run. No problem: it was called what it is."""

    canary: Canary
    seconds: float
    run_dir: str
    got: str
    problems: list[str] = field(default_factory=list)
    void: bool = False  # the machine or vexrun broke: nothing was judged
    kernel: str = ""

    @property
    def right(self) -> bool:
        return not self.problems


def canaries_dir() -> Path:
    return data_root() / "tests" / "canaries"


def load_canaries(path: Path | None = None) -> list[Canary]:
    """The whole table, in its order. Raises ConfigError when it is not there or is wrong."""
    path = path or canaries_dir() / "canaries.toml"
    try:
        raw = read_toml(path, "table of canaries")
    except FileNotFoundError as error:
        raise ConfigError(
            f"There are no canaries in '{path}'.",
            hint="Run vexrun from a checkout, or install a wheel that carries them.",
        ) from error
    rows = validate(raw, _Table, f"The table of canaries '{path}' is").canary
    demand_unique([row.name for row in rows], f"The table of canaries '{path}'")
    return rows


def choose_canaries(rows: Sequence[Canary], only: Sequence[str], every: bool) -> list[Canary]:
    """The named ones, or all, or the smoke subset. Raises ConfigError on an unknown name."""
    names = [row.name for row in rows]
    demand_known(only, names, "canary", "Run: vexrun selftest --list")
    if only:
        return [row for row in rows if row.name in only]
    return [row for row in rows if every or row.smoke]


# -- planting -------------------------------------------------------------------------------


def plant(canary: Canary, directory: Path) -> list[str]:
    """Write the subject with its bug below `directory`; returns what `vexrun test` is to be given.

    A subject with its source here is copied whole; of one that comes from a Debian source
    package only the subject file is.
    """
    tree = canaries_dir() / canary.carrier
    if tree.is_dir():
        source = directory / canary.carrier
        shutil.copytree(tree, source)
        file = source / SUBJECT_FILE_NAME
        given = [str(source)]
        for name, text in canary.files.items():
            (source / name).write_text(text)
    else:
        file = directory / f"{canary.carrier}.toml"
        shutil.copyfile(data_root() / "examples" / "subjects" / file.name, file)
        given = ["--subject", str(file)]
    file.write_text(_subject_text(canary, file.read_text()))
    return given


def _subject_text(canary: Canary, text: str) -> str:
    changes = dict(canary.replace)
    if canary.bug:
        changes["[module]\n"] = f'[module]\nmake_vars = {{ CANARY = "{canary.bug}" }}\n'
    for old, new in changes.items():
        if old not in text:
            raise ConfigError(
                f"The canary '{canary.name}' replaces {old!r}, which its subject file has not."
            )
        text = text.replace(old, new)
    return "\n".join([text, canary.append, *(_tool(*each) for each in canary.tools.items()), ""])


def _tool(name: str, script: str) -> str:
    """A [[tools]] entry that makes a script, whatever characters are in it."""
    packed = base64.b64encode(script.encode()).decode()
    build = f"echo {packed} | base64 -d >{{out}} && chmod 755 {{out}}"
    return f'[[tools]]\nname = "{name}"\nbuild = "{build}"\n'


# -- running and judging --------------------------------------------------------------------


def run_canary(canary: Canary, suite: str, directory: Path, more: Sequence[str] = ()) -> Judged:
    """One `vexrun test` of the canary, planted below `directory`, and what is wrong with it.

    `more` are further options of that command.
    """
    given = plant(canary, directory)
    options = ["--only", ",".join(canary.only), "--suite", suite, *more]
    options += [] if canary.core else ["--no-core"]
    run = run_test([*given, *options])
    results = run.results
    if results is None:
        return Judged(canary, run.seconds, "", "no results", [run.said], void=True)
    found = problems(canary, results, run.status)
    if canary.line and not found:
        found = _wrong_line(canary, results, directory / canary.carrier)
    return Judged(
        canary,
        run.seconds,
        results.run_dir,
        got(results),
        found,
        void=results.verdict not in _EXIT_CODES and canary.verdict in _EXIT_CODES,
        kernel=results.target.kernel or "",
    )


def got(results: RunResults) -> str:
    """What came out, in the words of `Canary.expected`."""
    bad = _bad(results)
    parts = [results.verdict.value]
    parts += [bad[0].outcome.value] if bad else []
    if results.kernel_events:
        event = results.kernel_events[0]
        parts += [event.event_class, f"'{event.title}'"]
    return ", ".join(parts)


def problems(canary: Canary, results: RunResults, status: int) -> list[str]:
    """Everything in which the results are not what the canary's row says; [] is right."""
    bad = _bad(results)
    told = "\n".join([*results.reasons, *results.notes, *_texts(bad)])
    found: list[str] = []

    def expect(condition: bool, problem: str) -> None:
        if not condition:
            found.append(problem)

    expect(
        results.verdict is canary.verdict,
        f"the verdict is {results.verdict.value}, not {canary.verdict.value}: "
        f"{' '.join(results.reasons)}",
    )
    code = int(_EXIT_CODES.get(canary.verdict, ExitCode.INFRASTRUCTURE))
    expect(
        status == code == results.exit_code,
        f"the exit status is {status} (results: {results.exit_code}), not {code}",
    )
    expect(results.complete, "the results are marked incomplete")
    outcomes = sorted({test.outcome.value for test in bad})
    if canary.outcome:
        expect(
            any(test.outcome in canary.outcome for test in bad),
            f"no test is {_any(canary.outcome)}, they are {_any(outcomes)}",
        )
    else:
        expect(not bad or bool(canary.says), f"there are tests that {_any(outcomes)}")
    if canary.blamed:
        blamed = bad[0].id if bad else "nothing"
        expect(blamed.startswith(canary.blamed), f"blamed is '{blamed}', not '{canary.blamed}…'")
    expect(
        re.search(canary.says, told) is not None,
        f"nothing in messages, details, reasons and notes says '{canary.says}'",
    )
    found += _event_problems(canary, results.kernel_events)
    if canary.clean:
        after = [test.outcome for test in results.tests if test.category == canary.clean]
        expect(
            Outcome.PASSED in after and set(after) <= _GOOD,
            f"the category '{canary.clean}' did not run clean afterwards: "
            f"{_any(sorted({outcome.value for outcome in after}))}",
        )
    if canary.core:
        said = "\n".join(image.report for image in results.memory_images)
        expect(
            re.search(canary.core, said) is not None,
            f"no memory image says '{canary.core}' ({len(results.memory_images)} were kept)",
        )
    for form in FORMATS.values():
        expect((Path(results.run_dir) / form.filename).is_file(), f"there is no '{form.filename}'")
    return found


def _event_problems(canary: Canary, events: Sequence[KernelEvent]) -> list[str]:
    if not canary.event:
        return [f"the kernel is said to have reported '{event.title}'" for event in events[:3]]
    if not events:
        return [f"there is no kernel event of class {_any(canary.event)}"]
    first = events[0]
    found = []
    if first.event_class not in canary.event:
        found.append(
            f"the first kernel event is of class '{first.event_class}' ('{first.title}'), "
            f"not {_any(canary.event)}"
        )
    if canary.title not in first.title:
        found.append(f"the first kernel event is called '{first.title}', not '{canary.title}'")
    if canary.frame not in (first.module_frame or ""):
        found.append(f"the frame in the module is '{first.module_frame}', not '{canary.frame}'")
    return found


def _wrong_line(canary: Canary, results: RunResults, source: Path) -> list[str]:
    """The report must show the statement behind `#ifdef CANARY_…`, at its place."""
    event = results.kernel_events[0]
    planted = {
        f"{file.name}:{number + 2}": lines[number + 1].strip()
        for file in sorted(source.glob("*.[ch]"))
        for lines in [file.read_text().splitlines()]
        for number, line in enumerate(lines)
        if line == f"#ifdef CANARY_{canary.bug}"
    }
    place = event.source_line or ""
    if place not in planted:
        return [f"the bug is said to be at '{place}', not at {_any(list(planted))}"]
    shown = [
        line.strip()
        for frame in event.frames[:1]
        if frame.line is not None and frame.source_from is not None
        for line in frame.source[frame.line - frame.source_from :][:1]
    ]
    found = []
    if shown != [planted[place]]:
        found.append(f"the source shown for {place} is {_any(shown)}, not '{planted[place]}'")
    report = Path(results.run_dir) / FORMATS["html"].filename
    if place not in report.read_text():
        found.append(f"the report does not name '{place}'")
    return found


def _bad(results: RunResults) -> list[TestResult]:
    return [test for test in results.tests if test.outcome not in _GOOD]


def _texts(tests: Sequence[TestResult]) -> list[str]:
    return [text for test in tests for text in (test.message, test.details)]


def _any(values: Sequence[str]) -> str:
    return " or ".join(f"'{value}'" for value in values) or "nothing"


def exit_code(judged: Sequence[Judged]) -> ExitCode:
    """A wrong accusation, or none, weighs more than a machine that broke."""
    if any(each.problems and not each.void for each in judged):
        return ExitCode.FAILED
    if any(each.void for each in judged):
        return ExitCode.INFRASTRUCTURE
    return ExitCode.PASS


def split_names(values: Sequence[str] | None) -> list[str]:
    """--only A,B and --only A --only B alike; an option that was given must name something."""
    names = [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
    if values and not names:
        raise ConfigError("--only was given without a name.", hint="Run: vexrun selftest --list")
    return names
