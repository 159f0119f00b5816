"""What changed from A to B. A side is one run, or several of the same thing."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vexrun.compare import samples
from vexrun.errors import ConfigError
from vexrun.report.summary import counted, kernel_events
from vexrun.results.model import (
    BAD,
    EXECUTED,
    KernelEvent,
    Measurement,
    Outcome,
    RunResults,
    Verdict,
)
from vexrun.rundir import find_run, load_run

#: A significant change below this is told, and is no regression: ratios are not that exact.
LEAST_CHANGE = 0.05
_VERDICT_RANK = {Verdict.PASS: 0, Verdict.INTERRUPTED: 1, Verdict.ERROR: 2, Verdict.FAIL: 3}
#: The worse of two outcomes of one test in a series.
_OUTCOME_RANK = (
    Outcome.CRASHED,
    Outcome.HUNG,
    Outcome.FAILED,
    Outcome.ERROR,
    Outcome.XFAILED,
    Outcome.PASSED,
    Outcome.SKIPPED,
)


@dataclass(frozen=True)
class Side:
    """`directories` belong to `runs`, one each."""

    name: str
    runs: list[RunResults]
    directories: list[Path]

    @property
    def verdict(self) -> Verdict:
        """The worst."""
        return max((run.verdict for run in self.runs), key=lambda each: _VERDICT_RANK[each])

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """The worst outcome of each test."""
        found: dict[str, Outcome] = {}
        for run in self.runs:
            for test in run.tests:
                now = found.get(test.id, test.outcome)
                found[test.id] = min(now, test.outcome, key=_OUTCOME_RANK.index)
        return found

    @property
    def events(self) -> dict[str, KernelEvent]:
        return {
            event.key or f"{event.event_class}: {event.title}": event
            for run in self.runs
            for event in kernel_events(run)
        }


def load_side(name: str) -> Side:
    """A run, or several with commas between. Raises ConfigError for what is none."""
    names = [part.strip() for part in name.split(",") if part.strip()]
    if not names:
        raise ConfigError("A run to compare is missing.", hint="Example: vexrun compare A B,C")
    directories = [find_run(each) for each in names]
    if len(set(directories)) < len(directories):
        raise ConfigError(f"'{name}' names a run twice: its samples would count twice.")
    return Side(name, [load_run(each) for each in directories], directories)


class Finding(StrEnum):
    SLOWER = "worse"
    FASTER = "better"
    SAME = "no difference shown"
    TOO_FEW = "too few samples"


@dataclass
class MeasurementChange:
    """One measurement, a value a run; with `ratio` these are ratios to ext4's, in turn."""

    name: str
    unit: str
    better: str
    ratio: bool
    a: list[float]
    b: list[float]
    finding: Finding = Finding.SAME
    p: float | None = None
    delta: float | None = None
    needed: int = samples.LEAST_SAMPLES

    @property
    def change(self) -> float | None:
        return samples.change(self.a, self.b)


@dataclass(frozen=True)
class Difference:
    """A fact with two values."""

    what: str
    a: str
    b: str


@dataclass(frozen=True)
class TestChange:
    __test__ = False
    id: str
    a: Outcome | None
    b: Outcome | None


@dataclass
class Comparison:
    a: Side
    b: Side
    evidence: list[Difference] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    newly_failing: list[TestChange] = field(default_factory=list)
    newly_passing: list[TestChange] = field(default_factory=list)
    otherwise: list[TestChange] = field(default_factory=list)
    only_a: list[TestChange] = field(default_factory=list)
    only_b: list[TestChange] = field(default_factory=list)
    common_tests: int = 0
    new_events: list[KernelEvent] = field(default_factory=list)
    gone_events: list[KernelEvent] = field(default_factory=list)
    new_warnings: list[str] = field(default_factory=list)
    gone_warnings: list[str] = field(default_factory=list)
    sizes: list[Difference] = field(default_factory=list)
    durations: list[tuple[str, float, float]] = field(default_factory=list)
    measurements: list[MeasurementChange] = field(default_factory=list)
    only_measured: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    regressions: list[str] = field(default_factory=list)

    @property
    def same_module(self) -> bool:
        hashes = [{run.module.sha256 for run in side.runs} for side in (self.a, self.b)]
        return hashes[0] == hashes[1] and None not in hashes[0]


def compare(a: Side, b: Side) -> Comparison:
    """Raises ConfigError when no conclusion is possible at all."""
    found = Comparison(a, b)
    _evidence(found)
    _tests(found)
    _events(found)
    _warnings(found)
    _sizes(found)
    _durations(found)
    _measurements(found)
    if not found.common_tests and not found.measurements and b.verdict is Verdict.PASS:
        raise ConfigError(
            f"'{a.name}' and '{b.name}' have neither an executed test nor a measurement in common.",
            hint="Compare runs of the same subject and categories.",
        )
    _regressions(found)
    return found


# -- the parts -----------------------------------------------------------------------------------

_FACTS: dict[str, Callable[[RunResults], str | None]] = {
    "subject": lambda run: run.subject.name,
    "source tree": lambda run: run.subject.tree_sha256[:12],
    "commit": lambda run: (run.subject.commit or "")[:12] + (" dirty" if run.subject.dirty else ""),
    "kernel": lambda run: run.target.kernel,
    "image": lambda run: (run.target.image_sha256 or "")[:12],
    "module": lambda run: (run.module.sha256 or "")[:12],
    "target": lambda run: run.target.kind,
    "accelerator": lambda run: run.target.accel,
    "vexrun": lambda run: run.vexrun_version,
    "categories": lambda run: ",".join(run.selected_categories),
}


def _evidence(found: Comparison) -> None:
    for what, value in _FACTS.items():
        sides = [
            ", ".join(sorted({value(run) or "-" for run in side.runs}))
            for side in (found.a, found.b)
        ]
        if sides[0] != sides[1]:
            found.evidence.append(Difference(what, sides[0], sides[1]))
        elif sides[0] != "-":
            found.same.append(f"{what} {sides[0]}")
        for side, text in zip((found.a, found.b), sides, strict=True):
            if ", " in text:
                found.notes.append(f"The runs of '{side.name}' differ in: {what} ({text}).")


def _tests(found: Comparison) -> None:
    a, b = found.a.outcomes, found.b.outcomes
    for identifier in sorted(a.keys() | b.keys()):
        each = TestChange(identifier, a.get(identifier), b.get(identifier))
        if each.a is None:
            found.only_b.append(each)
        elif each.b is None:
            found.only_a.append(each)
        else:
            found.common_tests += each.a in EXECUTED and each.b in EXECUTED
            if each.b in BAD and each.a not in BAD:
                found.newly_failing.append(each)
            elif each.a in BAD and each.b is Outcome.PASSED:
                found.newly_passing.append(each)
            elif each.a is not each.b:
                found.otherwise.append(each)


def _events(found: Comparison) -> None:
    a, b = found.a.events, found.b.events
    found.new_events = [event for key, event in b.items() if key not in a]
    found.gone_events = [event for key, event in a.items() if key not in b]


def _warnings(found: Comparison) -> None:
    """Compiler warnings of all builds and remarks of the checks, wherever they moved to."""

    def collected(side: Side) -> Counter[str]:
        lines: Counter[str] = Counter()
        for run in side.runs:
            own = {
                f"{build.name}: {_without_place(text)}"
                for build in run.builds
                for text in build.warnings
            } | {
                f"{check.name}: {_without_place(text)}"
                for check in run.checks
                for text in check.findings
            }
            lines.update(own)
        return lines

    a, b = collected(found.a), collected(found.b)
    found.new_warnings = sorted(b.keys() - a.keys())
    found.gone_warnings = sorted(a.keys() - b.keys())


def _without_place(text: str) -> str:
    return re.sub(r":\d+(:\d+)?(?=:|\s|$)", "", text).strip()


def _sizes(found: Comparison) -> None:
    """Of the .ko files that the runs have kept."""

    def sizes(side: Side) -> list[int]:
        files = [
            directory / run.module.file
            for run, directory in zip(side.runs, side.directories, strict=True)
            if run.module.file
        ]
        return sorted({file.stat().st_size for file in files if file.is_file()})

    a, b = sizes(found.a), sizes(found.b)
    if a and b and a != b:
        shown = [", ".join(f"{size:,} bytes" for size in side) for side in (a, b)]
        found.sizes.append(Difference("module file", *shown))


def _durations(found: Comparison) -> None:
    """Medians in seconds of the stages both have. They tell of vexrun and the machine as well."""

    def medians(side: Side) -> dict[str, float]:
        names = dict.fromkeys(name for run in side.runs for name in run.durations)
        return {
            name: statistics.median(
                [run.durations[name] for run in side.runs if name in run.durations]
            )
            for name in names
        }

    a, b = medians(found.a), medians(found.b)
    found.durations = [(name, a[name], b[name]) for name in a if name in b]


# -- measurements --------------------------------------------------------------------------------


def _pooled(side: Side) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for run in side.runs:
        for each in run.measurements:
            if each.samples:
                found.setdefault(each.name, []).append(each)
    return found


def _measurements(found: Comparison) -> None:
    a, b = _pooled(found.a), _pooled(found.b)
    found.only_measured = sorted(a.keys() ^ b.keys())
    for name in [name for name in a if name in b]:
        both = [*a[name], *b[name]]
        if len({(each.unit, each.better) for each in both}) > 1:
            found.notes.append(f"'{name}' has another unit or direction in B: not compared.")
            continue
        ratio = all(_has_reference(each) for each in both)
        found.measurements.append(
            MeasurementChange(
                name,
                both[0].unit,
                both[0].better,
                ratio,
                _values(a[name], ratio=ratio),
                _values(b[name], ratio=ratio),
            )
        )
    judge_measurements(found.measurements)
    if any(not each.ratio for each in found.measurements):
        found.notes.append(
            "Measurements without a reference are compared as they are: what else the machine "
            "did then is in them."
        )


def _has_reference(each: Measurement) -> bool:
    return len(each.reference) == len(each.samples) and all(value > 0 for value in each.reference)


def _values(measured: Iterable[Measurement], *, ratio: bool) -> list[float]:
    """One value a run, its median. What else the machine does changes from run to run.

    Samples of one run share that: two runs of one minix.ko were seen to differ by 240 % in unlink
    rates, with no overlap of their five samples each.
    """
    return [
        statistics.median(
            [value / other for value, other in zip(each.samples, each.reference, strict=True)]
            if ratio
            else each.samples
        )
        for each in measured
    ]


def judge_measurements(measured: list[MeasurementChange]) -> None:
    """Fill in what the samples allow to say, with one level of error for all together."""
    needed = samples.samples_needed(len(measured))
    enough = [each for each in measured if min(len(each.a), len(each.b)) >= needed]
    p_values = [samples.mann_whitney(each.a, each.b) for each in enough]
    for each in measured:
        each.needed = needed
        each.finding = Finding.TOO_FEW
    # What has too few samples takes part in Holm's count: it could have been tested.
    padded = [*p_values, *([1.0] * (len(measured) - len(enough)))]
    for each, p, sure in zip(enough, p_values, samples.significant(padded), strict=False):
        each.p, each.delta = p, samples.cliffs_delta(each.a, each.b)
        each.finding = Finding.SAME
        if sure:
            grew = each.delta > 0
            each.finding = Finding.SLOWER if grew == (each.better == "lower") else Finding.FASTER


# -- the conclusion ------------------------------------------------------------------------------


def _regressions(found: Comparison) -> None:
    a, b = found.a.verdict, found.b.verdict
    if _VERDICT_RANK[b] > _VERDICT_RANK[a]:
        found.regressions.append(f"The verdict was '{a.value}' and is '{b.value}'.")
    broken = next((run.build_failure for run in found.b.runs if run.build_failure), None)
    if broken and not any(run.build_failure for run in found.a.runs):
        found.regressions.append(broken)
    lost = [
        each for each in found.otherwise if each.a is Outcome.PASSED and each.b is Outcome.ERROR
    ]
    if lost:
        found.regressions.append(
            f"{counted(len(lost), 'test')} that passed could not be run to an end: '{lost[0].id}'"
            f"{' and others' if len(lost) > 1 else ''}."
        )
    skipped = [each for each in found.otherwise if each.b is Outcome.SKIPPED]
    if skipped:
        found.notes.append(f"Skipped in B, but not in A: {counted(len(skipped), 'test')}.")
    for test in found.newly_failing:
        before = test.a.value if test.a else "-"
        found.regressions.append(f"'{test.id}' {_outcome(test.b)} (before: {before}).")
    for test in found.only_b:
        if test.b in BAD:
            found.regressions.append(f"'{test.id}' {_outcome(test.b)} (not run before).")
    for event in found.new_events:
        found.regressions.append(f"The kernel reported something new: {event.title}.")
    for each in found.measurements:
        if each.finding is Finding.SLOWER and abs(each.change or 1.0) >= LEAST_CHANGE:
            by = "" if each.change is None else f" by {abs(each.change):.0%}"
            found.regressions.append(f"'{each.name}' is worse{by} (p = {each.p:.2g}).")
    if found.b.verdict in (Verdict.ERROR, Verdict.INTERRUPTED):
        found.notes.append("B is void or incomplete: what it did not run is unknown, not good.")
    if found.same_module and found.regressions:
        found.notes.append(
            "Both sides tested the same module file: what is worse is not a change of the module."
        )


def _outcome(outcome: Outcome | None) -> str:
    return outcome.value if outcome else "-"
