"""`vexrun watch`: run again what a change affects, on this host first, in a VM when that is green.

The tree is polled (paths, sizes, times: a few milliseconds for a module), because that needs no
privilege, no dependency, and works on every filesystem an editor saves to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from vexrun.categories import CATEGORIES, OWN_TESTS_DIR, Category
from vexrun.config import TargetKind
from vexrun.errors import InterruptedRunError, VexrunError
from vexrun.expectations import FILE_NAME as EXPECTATIONS_FILE
from vexrun.results.model import Verdict
from vexrun.subject import Subject
from vexrun.tree import source_files

_POLL_S = 0.5
#: An editor writes, renames and sets times: a change counts when it is over.
_QUIET_POLLS = 1

Snapshot = dict[str, tuple[int, int, int]]
EVERYTHING = frozenset(CATEGORIES)
_DOCUMENTS = ("*.md", "*.rst", "*.txt", "LICENSE*", "COPYING*", "README*", "CHANGELOG*")
_RUST = ("*.rs", "Cargo.toml", "Cargo.lock", "clippy.toml", "rustfmt.toml", ".rustfmt.toml")
#: A tool of the subject's does not change what the module does.
_OF_TOOLS = frozenset(
    {"structure", "build", "static", "unit", "ioctl", "mkfs", "own", "errors", "perf"}
)


def snapshot(source: Path, more: Iterable[Path]) -> Snapshot | None:
    """Every source file, and `more`, by path; None while the tree is being rearranged."""
    found: Snapshot = {}
    try:
        paths = [(str(path), source / path) for path in source_files(source)]
        paths += [(str(path), path) for path in more if not path.is_relative_to(source)]
        for name, path in paths:
            status = path.lstat()
            found[name] = (status.st_mtime_ns, status.st_size, status.st_mode)
    except OSError:
        return None
    return found


def changed_paths(before: Snapshot, after: Snapshot) -> list[str]:
    """Paths that came, went, or are not what they were."""
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def affected(changed: Iterable[str], subject: Subject) -> set[str]:
    """Names of the categories that a change of these paths can change the outcome of.

    A path that nothing is known about affects everything.
    """
    names: set[str] = set()
    for path in changed:
        names |= _affected_by(PurePosixPath(path), subject)
    return names


def _affected_by(path: PurePosixPath, subject: Subject) -> frozenset[str]:
    if path.is_absolute() or path.name == EXPECTATIONS_FILE:
        return EVERYTHING  # the subject file, or what is beside it
    if path.parts[0] == OWN_TESTS_DIR:
        return frozenset({"structure", "own"})
    if any(fnmatchcase(path.name, pattern) for pattern in _DOCUMENTS):
        return frozenset({"structure"})
    crates = [crate.dir for crate in subject.crates]
    in_crate = any(directory == "." or path.is_relative_to(directory) for directory in crates)
    if in_crate and any(fnmatchcase(path.name, pattern) for pattern in _RUST):
        return _OF_TOOLS
    return EVERYTHING


@dataclass(frozen=True)
class Plan:
    """What a change asks for: categories on this host, and those in a VM when they are green."""

    host: list[str]
    vm: list[str]


def plan(names: set[str], chosen: list[Category], subject: Subject, source: Path) -> Plan:
    """The affected ones of the chosen categories, without those the subject has nothing for."""
    rows = [row for row in chosen if row.name in names and not row.missing(subject, source)]
    return Plan(
        host=[row.name for row in rows if not row.needs_guest],
        vm=[row.name for row in rows if row.needs_guest],
    )


Run = Callable[[TargetKind, list[str]], Verdict]


@dataclass
class Watch:
    """The loop. `run` makes one test run; `say` prints a line; `load` reads the subject file."""

    source: Path
    subject_file: Path
    chosen: list[Category]
    load: Callable[[], Subject]
    run: Run
    say: Callable[[str], None]
    complain: Callable[[VexrunError], None]
    sleep: Callable[[float], None] = time.sleep
    vm: bool = True
    _debt: set[str] = field(default_factory=set)  # affected, and not green since

    def forever(self) -> None:
        """Run everything, then what each change affects. Ends by InterruptedRunError only."""
        seen = self._settled()
        names = set(EVERYTHING)
        while True:
            self.react(names)
            # Compared with what was there before the run: a change during it is not lost.
            seen, changed = self._wait_for_change(seen)
            self.say(f"changed: {_some(changed)}")
            names = self._affected(changed)

    def react(self, names: set[str]) -> None:
        """Run what is affected, and what was not green the last time."""
        self._debt |= names
        try:
            todo = plan(self._debt, self.chosen, self.load(), self.source)
            if self._green(TargetKind.HOST, todo.host) and self.vm:
                self._green(TargetKind.VM, todo.vm)
        except InterruptedRunError:
            raise
        except VexrunError as error:
            self.complain(error)
        self.say("watching; Ctrl-C ends it")

    def _green(self, target: TargetKind, names: list[str]) -> bool:
        if not names:
            return True
        self.say(f"{target.value}: {', '.join(names)}")
        verdict = self.run(target, names)
        if verdict is Verdict.INTERRUPTED:
            raise InterruptedRunError("The run was interrupted, and with it the watch.")
        self.say(f"{target.value}: {verdict.value}")
        if verdict is Verdict.PASS:
            self._debt -= set(names)
        return verdict is Verdict.PASS

    def _affected(self, changed: list[str]) -> set[str]:
        try:
            return affected(changed, self.load())
        except VexrunError:
            return set(EVERYTHING)  # `react` says what is wrong with the subject file

    def _wait_for_change(self, seen: Snapshot) -> tuple[Snapshot, list[str]]:
        while True:
            now = self._settled()
            changed = changed_paths(seen, now)
            if self._subject_file_in(changed):
                changed = [str(self.subject_file), *changed]
            if changed:
                return now, changed
            self.sleep(_POLL_S)

    def _subject_file_in(self, changed: list[str]) -> bool:
        """Inside the tree the subject file is a path like others, and affects everything."""
        return any(self.source / path == self.subject_file for path in changed)

    def _settled(self) -> Snapshot:
        """The tree, once it has not changed between two looks."""
        before = self._look()
        quiet = 0
        while before is None or quiet < _QUIET_POLLS:
            self.sleep(_POLL_S)
            now = self._look()
            quiet = quiet + 1 if now is not None and now == before else 0
            before = now
        return before

    def _look(self) -> Snapshot | None:
        beside = [self.subject_file, self.subject_file.with_name(EXPECTATIONS_FILE)]
        return snapshot(self.source, [path for path in beside if path.exists()])


def _some(paths: list[str], limit: int = 4) -> str:
    shown = ", ".join(f"'{path}'" for path in paths[:limit])
    return shown if len(paths) <= limit else f"{shown} and {len(paths) - limit} more"
