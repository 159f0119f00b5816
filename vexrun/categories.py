"""The test categories: one row each. A new one is a row here and a directory in tests/guest/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import ConfigError
from vexrun.subject import Backing, Subject
from vexrun.validation import demand_known


@dataclass(frozen=True)
class Category:
    """`timeout_s` is for one test at KVM speed; it is multiplied by the guest's slowdown.

    `missing` says what a subject lacks for the category to have a test, '' when it has some; the
    directory is the source tree, where it is known. `own_process` keeps the category's test code
    apart from ours. `measures`: nothing else of the run may go on beside it.
    """

    name: str
    proves: str
    needs_guest: bool = True
    timeout_s: float = 20.0
    ready: bool = True
    own_process: bool = False
    measures: bool = False
    missing: Callable[[Subject, Path | None], str] = lambda _subject, _source: ""


#: pytest files of the subject's own, below the top of its tree.
OWN_TESTS_DIR = "vexrun-tests"


def _no_unit_suites(subject: Subject, _source: Path | None) -> str:
    if subject.crates or subject.unit:
        return ""
    return "the subject file declares neither [[crates]] nor [[unit]]"


def _no_own_tests(subject: Subject, source: Path | None) -> str:
    if subject.scripts or (source is not None and (source / OWN_TESTS_DIR).is_dir()):
        return ""
    return f"there are neither [[scripts]] in the subject file nor a directory '{OWN_TESTS_DIR}'"


def _nothing_to_format(subject: Subject, _source: Path | None) -> str:
    if subject.filesystem.backing is Backing.BLOCK:
        return ""
    return "the subject file declares a nodev filesystem, which has no mkfs"


def _nothing_to_go_wrong(subject: Subject, _source: Path | None) -> str:
    lacked = subject.filesystem.lacked_operations
    if subject.filesystem.backing is Backing.BLOCK or "write" in lacked:
        return ""
    if not {"create", "unlink"} & lacked:
        return ""
    return "there is no disk to fail, and no file can be created and removed"


def _nothing_to_measure(subject: Subject, _source: Path | None) -> str:
    if {"write", "create", "unlink"} & subject.filesystem.lacked_operations:
        return "the subject file declares that files cannot be created, written and removed"
    return ""


#: In the order they run: a later one makes no sense when an earlier one cannot work.
CATEGORIES: dict[str, Category] = {
    row.name: row
    for row in (
        Category(
            "structure",
            "the tree has what the subject file promises, and no stray build products",
            needs_guest=False,
        ),
        Category(
            "build",
            "every variant and tool builds from a clean copy, twice with the same result",
            needs_guest=False,
        ),
        Category(
            "static",
            "the kernel will take the module; sparse, W=1, clippy and rustfmt find nothing",
            needs_guest=False,
        ),
        Category(
            "unit",
            "cargo test and the declared unit suites pass, and each ran a test",
            needs_guest=False,
            missing=_no_unit_suites,
        ),
        Category("module", "load, identity, reload, unload, nothing left behind"),
        Category("ioctl", "the command line answers; requests with garbage do no harm"),
        Category(
            "mkfs",
            "formats zeroed and random disks, refuses what it must",
            missing=_nothing_to_format,
        ),
        Category("mount", "read-only, read-write, remount, and unfit media refused"),
        Category("fsops", "what is written is read back, also after a cold remount"),
        Category(
            "own",
            "the subject's own scripts and pytest files",
            timeout_s=120.0,
            own_process=True,
            missing=_no_own_tests,
        ),
        Category(
            "errors",
            "full disks, bad arguments, missing rights, failing media",
            timeout_s=30.0,
            missing=_nothing_to_go_wrong,
        ),
        Category(
            "stress",
            "cycles leave no memory behind; processes at once keep their data",
            timeout_s=60.0,
        ),
        Category(
            "perf",
            "ratios against ext4 in the same machine, memory, the subject's own benchmark",
            timeout_s=60.0,
            measures=True,
            missing=_nothing_to_measure,
        ),
    )
}


def select_categories(only: Sequence[str], skip: Sequence[str]) -> list[Category]:
    """The categories to run, in table order. Raises ConfigError on unknown or empty choices."""
    names = list(CATEGORIES)
    demand_known([*only, *skip], names, "category", f"Choose from: {', '.join(names)}.")
    unready = [name for name in only if not CATEGORIES[name].ready]
    if unready:
        raise ConfigError(
            f"The category '{unready[0]}' is not part of this version of vexrun.",
            evidence=f"categories that run: {', '.join(_ready_names())}",
        )
    chosen = [
        row
        for row in CATEGORIES.values()
        if row.ready and (not only or row.name in only) and row.name not in skip
    ]
    if not chosen:
        raise ConfigError(
            "The selection of categories is empty: everything asked for is also skipped.",
            evidence=f"--only {','.join(only) or '(all)'} --skip {','.join(skip)}",
            hint=f"Choose from: {', '.join(_ready_names())}.",
        )
    return chosen


def without_missing(
    categories: Sequence[Category], only: Sequence[str], subject: Subject, source: Path | None
) -> tuple[list[Category], list[str]]:
    """Leave out what the subject has no test for, unless it was asked for; and say so.

    A category that was asked for by name stays: it will fail, because nothing ran in it.
    """
    kept, notes = [], []
    for row in categories:
        missing = row.missing(subject, source)
        if missing and row.name not in only:
            notes.append(f"The category '{row.name}' was not run: {missing}.")
        else:
            kept.append(row)
    if not kept:
        raise ConfigError(
            "This subject has no test in any of the selected categories.", evidence="\n".join(notes)
        )
    return kept, notes


def _ready_names() -> list[str]:
    return [row.name for row in CATEGORIES.values() if row.ready]
