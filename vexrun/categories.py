"""The test categories: one row each. A new one is a row here and a directory in tests/guest/."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from vexrun.errors import ConfigError


@dataclass(frozen=True)
class Category:
    """`timeout_s` is for one test at KVM speed; it is multiplied by the guest's slowdown."""

    name: str
    proves: str
    needs_guest: bool = True
    timeout_s: float = 20.0
    ready: bool = True


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
        Category("static", "clippy, fmt, sparse, modpost", needs_guest=False, ready=False),
        Category("unit", "cargo test and declared unit tests", needs_guest=False, ready=False),
        Category("module", "load, identity, reload, unload, nothing left behind"),
        Category("ioctl", "the ioctl interface answers, and rejects garbage", ready=False),
        Category("mkfs", "formats zeroed and random disks, refuses what it must"),
        Category("mount", "read-only, read-write, remount, and unfit media refused"),
        Category("fsops", "what is written is read back, also after a cold remount"),
        Category("errors", "ENOSPC, bad arguments, unplugged media", ready=False),
        Category("stress", "load, mount and stressor cycles", ready=False),
        Category("perf", "ratios against ext4 in the same VM", ready=False),
    )
}


def select_categories(only: Sequence[str], skip: Sequence[str]) -> list[Category]:
    """The categories to run, in table order. Raises ConfigError on unknown or empty choices."""
    for name in [*only, *skip]:
        if name not in CATEGORIES:
            raise _unknown(name)
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


def _ready_names() -> list[str]:
    return [row.name for row in CATEGORIES.values() if row.ready]


def _unknown(name: str) -> ConfigError:
    close = difflib.get_close_matches(name, CATEGORIES, n=1)
    meant = f" Did you mean '{close[0]}'?" if close else ""
    return ConfigError(
        f"There is no category '{name}'.{meant}",
        hint=f"Choose from: {', '.join(CATEGORIES)}.",
    )
