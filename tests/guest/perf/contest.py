"""The subject and ext4, side by side in one machine on two disks of the same size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import perf_in_guest as guest_code
from vexrun.guest.context import MOUNT_POINT, SECOND_MOUNT_POINT
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest
from vexrun.guest.scratch import Scratch

KIB, MIB = 1024, 1024 * 1024


class Contest:
    """Both are formatted and mounted anew, and measured in turn: what slows the machine for a
    moment meets both. A bare figure under emulation says nothing; a ratio does."""

    def __init__(self, guest: Guest, filesystem: Filesystem, scratch: Scratch) -> None:
        self.guest = guest
        self.roots = {"subject": MOUNT_POINT, "ext4": SECOND_MOUNT_POINT}
        filesystem.mkfs(scratch.main)
        filesystem.mount(scratch.main)
        second = scratch.for_writing(scratch.second)
        guest.check(
            f"mkfs.ext4 -q -F {second} && mkdir -p {SECOND_MOUNT_POINT} && "
            f"mount -t ext4 {second} {SECOND_MOUNT_POINT}"
        )

    def in_turn(self, repeat: int, measure: Callable[[str], Any]) -> dict[str, list[Any]]:
        """`measure(root)` for each, `repeat` times; the one that begins alternates."""
        found: dict[str, list[Any]] = {name: [] for name in self.roots}
        for number in range(repeat):
            order = list(self.roots) if number % 2 == 0 else list(reversed(self.roots))
            for name in order:
                found[name].append(measure(self.roots[name]))
        return found

    def room(self) -> tuple[int, int]:
        """Bytes and inodes free on both."""
        size, inodes = self.guest.call(guest_code.room, list(self.roots.values()))
        return size, inodes


def keep(name: str, document: Any) -> None:
    """Leave a document in the run directory, below perf/: text as it is, all else as JSON."""
    directory = Path("perf")
    directory.mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document, indent=1) + "\n"
    (directory / name).write_text(text)
