"""The order of tests on a device: what can do least harm first, and nothing after a failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vexrun.categories import Category
from vexrun.guest.context import Selection


@dataclass(frozen=True)
class Stage:
    """`tests` are patterns of test ids, in the order of running; none of them stands for the rest
    of `categories`."""

    name: str
    title: str
    categories: tuple[str, ...]
    tests: tuple[str, ...] = ()


_LOADING = (
    "module/test_lifecycle.py::test_load_and_identity*",
    "module/test_lifecycle.py::test_filesystem_type_comes_and_goes*",
    "module/test_lifecycle.py::test_parameters*",
    "module/test_lifecycle.py::test_second_load_is_refused*",
    "module/test_lifecycle.py::test_load_and_unload_ten_times*",
)
_READ_ONLY = ("mount/test_mount.py::test_read_only_mount_changes_nothing*",)

STAGES = (
    Stage("source", "what needs no kernel", ("structure", "build", "static", "unit")),
    Stage("load", "the module is loaded and unloaded, no disk is used", ("module",), _LOADING),
    Stage("read-only", "a fresh filesystem is mounted read-only", ("mount",), _READ_ONLY),
    Stage("read-write", "it is mounted, formatted and written", ("module", "mkfs", "mount")),
    Stage("files", "files and directories", ("fsops",)),
    Stage(
        "more",
        "what its owner allowed beyond that",
        ("ioctl", "own", "errors", "stress", "perf"),
    ),
)


@dataclass(frozen=True)
class Step:
    """One test process: a stage, its selected categories, and which of their tests."""

    stage: Stage
    categories: list[Category]
    selection: Selection


def steps(categories: Sequence[Category]) -> list[Step]:
    """The stages that these categories have a part in, in order."""
    found = []
    earlier: list[str] = []
    for stage in STAGES:
        chosen = [row for row in categories if row.name in stage.categories]
        for together in _processes(chosen):
            selection = Selection(tests=list(stage.tests), without=list(earlier))
            found.append(Step(stage, together, selection))
        earlier += stage.tests
    return found


def _processes(chosen: list[Category]) -> list[list[Category]]:
    """Categories with test code of the subject's own keep a process of their own."""
    shared = [row for row in chosen if not row.own_process]
    alone = [[row] for row in chosen if row.own_process]
    return [each for each in ([shared] if shared else []) + alone if each]
