"""What many runs tell together: how often they pass, what is flaky, where time goes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from vexrun.history.index import RunRecord
from vexrun.report.summary import counted
from vexrun.results.model import EXECUTED, Outcome, Verdict

SUCCESS_TARGET = 0.95
#: Seconds of a whole cycle, by the kind of target.
CYCLE_TARGETS = {"host": 120.0, "vm": 600.0}
#: Stages that make what all later runs share.
_MADE_ONCE = ("image", "snapshot")
#: So many of the newest runs are compared with as many before them.
TREND_WINDOW = 5
LEAST_FOR_TREND = 4
#: Below this a change in seconds is noise.
_LEAST_SECONDS = 0.5


@dataclass(frozen=True)
class Stage:
    """Seconds of one stage over the runs that had it, oldest first."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def trend(self) -> float | None:
        return trend(self.seconds)


@dataclass(frozen=True)
class Group:
    """The runs of one subject on one kernel and kind of target, oldest first."""

    subject: str
    kernel: str
    target: str
    runs: list[RunRecord]

    @property
    def finished(self) -> list[RunRecord]:
        return [run for run in self.runs if run.finished]

    @property
    def incomplete(self) -> int:
        return len(self.runs) - len(self.finished)

    @property
    def verdicts(self) -> Counter[Verdict]:
        return Counter(run.verdict for run in self.finished)

    @property
    def cycles(self) -> list[RunRecord]:
        """Finished runs of the widest selection of categories: the others are parts of one."""
        widest = max((len(run.categories) for run in self.finished), default=0)
        return [
            run
            for run in self.finished
            if len(run.categories) == widest
            and run.elapsed_s is not None
            and run.verdict is not Verdict.ERROR
        ]

    @property
    def cycle_seconds(self) -> list[float]:
        """Without making the image and its snapshot, which happens once and not in each cycle."""
        return [
            run.elapsed_s - sum(run.durations.get(name, 0.0) for name in _MADE_ONCE)
            for run in self.cycles
            if run.elapsed_s is not None
        ]

    @property
    def stages(self) -> list[Stage]:
        """Of finished runs, the longest first."""
        seconds: dict[str, list[float]] = {}
        for run in self.finished:
            for name, spent in run.durations.items():
                seconds.setdefault(name, []).append(spent)
        found = [Stage(name, spent) for name, spent in seconds.items()]
        return sorted(found, key=lambda stage: -stage.median)


def trend(values: list[float]) -> float | None:
    """Newest against those before them, medians: 0.1 is 10 % more. None: too few, or too short."""
    window = min(TREND_WINDOW, len(values) // 2)
    if len(values) < LEAST_FOR_TREND:
        return None
    before = statistics.median(values[-2 * window : -window])
    return statistics.median(values[-window:]) / before - 1 if before >= _LEAST_SECONDS else None


@dataclass(frozen=True)
class Flaky:
    """A test with different outcomes on one tree and one image."""

    test: str
    subject: str
    tree: str
    kernel: str
    outcomes: dict[Outcome, int]
    runs: dict[Outcome, str]  # the newest run with each


class State(StrEnum):
    MET = "met"
    MISSED = "missed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Target:
    name: str
    state: State
    found: str


@dataclass
class Summary:
    groups: list[Group] = field(default_factory=list)
    flaky: list[Flaky] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    incomplete: list[RunRecord] = field(default_factory=list)


def summarise(runs: list[RunRecord]) -> Summary:
    groups = [
        Group(subject, kernel, target, members)
        for (subject, kernel, target), members in _grouped(
            runs, lambda run: (run.subject, run.kernel, run.target)
        ).items()
    ]
    groups.sort(key=lambda group: (group.subject, group.kernel, group.target))
    finished = [run for run in runs if run.finished]
    return Summary(
        groups=groups,
        flaky=_flaky(finished),
        targets=[
            _success(finished),
            _same("verdict", finished, _verdict_scope, lambda run: run.verdict.value),
            _same("module (.ko) hash", finished, _build_scope, lambda run: run.module_sha256),
            *(_cycle(kind, limit, groups) for kind, limit in CYCLE_TARGETS.items()),
        ],
        incomplete=[run for run in runs if not run.finished],
    )


Key = tuple[str, ...]


def _grouped(
    runs: Iterable[RunRecord], key: Callable[[RunRecord], Key]
) -> dict[Key, list[RunRecord]]:
    groups: dict[Key, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def _build_scope(run: RunRecord) -> Key:
    """What decides which module is built; without a module there is nothing to compare."""
    return (run.subject, run.tree, run.image) if run.tree and run.module_sha256 else ()


def _verdict_scope(run: RunRecord) -> Key:
    """What decides the verdict."""
    return (run.subject, run.tree, run.image, run.target, *run.categories) if run.tree else ()


def _repeated(
    runs: list[RunRecord], scope: Callable[[RunRecord], Key]
) -> dict[Key, list[RunRecord]]:
    """Groups of two runs and more of one thing."""
    return {key: each for key, each in _grouped(runs, scope).items() if key and len(each) > 1}


def _success(finished: list[RunRecord]) -> Target:
    """Of what was run several times and passed once: a tree that never passed is just broken."""
    name = f"success rate above {SUCCESS_TARGET:.0%} on an unchanged tree"
    groups = [
        each
        for each in _repeated(finished, _verdict_scope).values()
        if any(run.verdict is Verdict.PASS for run in each)
    ]
    runs = [run for each in groups for run in each]
    if not runs:
        return Target(name, State.UNKNOWN, "no tree that passed was run twice in the same way")
    passed = sum(run.verdict is Verdict.PASS for run in runs)
    rate = passed / len(runs)
    state = State.MET if rate > SUCCESS_TARGET else State.MISSED
    return Target(name, state, f"{passed} of {len(runs)} runs passed ({rate:.1%})")


def _same(
    what: str,
    finished: list[RunRecord],
    scope: Callable[[RunRecord], Key],
    value: Callable[[RunRecord], str],
) -> Target:
    name = f"same {what} each time for the same tree and image"
    groups = list(_repeated(finished, scope).values())
    if not groups:
        return Target(name, State.UNKNOWN, "nothing was run twice in the same way")
    differing = [each for each in groups if len({value(run) for run in each}) > 1]
    if not differing:
        runs = sum(map(len, groups))
        return Target(name, State.MET, f"{counted(runs, 'run')} in {counted(len(groups), 'group')}")
    first = differing[0]
    examples = {value(run)[:12]: run.run_id for run in first}
    shown = ", ".join(f"{each} in {run}" for each, run in examples.items())
    return Target(name, State.MISSED, f"{len(differing)} of {len(groups)} differ: {shown}")


def _cycle(kind: str, limit: float, groups: list[Group]) -> Target:
    """Each group has its own median; all of them must keep the limit."""
    name = f"{kind} cycle under {limit / 60:.0f} min"
    medians = {
        f"{group.subject} on {group.kernel}": statistics.median(group.cycle_seconds)
        for group in groups
        if group.target == kind and group.cycle_seconds
    }
    if not medians:
        return Target(name, State.UNKNOWN, f"no whole cycle on a {kind} was finished")
    slowest = max(medians, key=lambda each: medians[each])
    state = State.MET if medians[slowest] < limit else State.MISSED
    text = f"slowest median {medians[slowest]:.0f} s ({slowest}), of {len(medians)}"
    return Target(name, state, text)


def _flaky(finished: list[RunRecord]) -> list[Flaky]:
    """Only outcomes of tests that ran: an error of ours or a skip is not the test's doing."""
    found = []
    scope = _grouped(finished, lambda r: (r.subject, r.tree, r.kernel, r.image) if r.tree else ())
    for key, runs in scope.items():
        if not key:
            continue
        outcomes: dict[str, Counter[Outcome]] = {}
        newest: dict[str, dict[Outcome, str]] = {}
        for run in runs:
            for test, outcome in run.outcomes.items():
                if outcome in EXECUTED:
                    outcomes.setdefault(test, Counter())[outcome] += 1
                    newest.setdefault(test, {})[outcome] = run.run_id
        subject, tree, kernel, _ = key
        found += [
            Flaky(test, subject, tree, kernel, dict(counts), newest[test])
            for test, counts in outcomes.items()
            if len(counts) > 1
        ]
    return sorted(found, key=lambda each: (each.subject, each.test))
