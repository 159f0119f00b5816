"""A tree that requests are called upon, and the proof that they changed nothing else of it."""

from __future__ import annotations

import ioctl_in_guest as guest_code
import pytest
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.payload import GuestPython
from vexrun.subject import Subject

from census_in_guest import assert_unchanged, census, first_file
from tree_in_guest import remove


class Scene:
    """One file of a mounted tree is called upon; `proven` compares all of it with before.

    On a filesystem that cannot be written it is the first file that is there.
    """

    def __init__(
        self, in_guest: GuestPython, mounted: Filesystem, workdir: str, subject: Subject
    ) -> None:
        self.in_guest = in_guest
        self.mounted = mounted
        self.workdir = workdir
        self.lacks = sorted(subject.filesystem.lacked_operations)
        self.writable = not {"write", "create", "unlink"} & set(self.lacks)
        if self.writable:
            self.file = in_guest(guest_code.victims, workdir, self.lacks)
        else:
            self.file = in_guest(first_file, mounted.path)
        self.before = in_guest(census, mounted.path)

    def path(self, what: str) -> str:
        """Of `root`, `file`, or a device node."""
        if what != "file":
            return self.mounted.path if what == "root" else what
        if self.file is None:
            pytest.skip("there is no file with content, and none can be made")
        path: str = self.file
        return path

    def proven(self, why: str, *, file_may_differ: bool = False) -> None:
        """Nothing else changed, live and after a cold remount; then remove the tree."""
        ignored = []
        if file_may_differ:
            ignored = [self.path("file").removeprefix(f"{self.mounted.path}/")]
        self.mounted.assert_mounted()
        root = self.mounted.path
        self.in_guest(assert_unchanged, root, self.before, why, ignored=ignored)
        if "persistence" not in self.lacks:
            self.mounted.remount_cold(fsck=True)
            why = f"{why} and a remount"
            self.in_guest(assert_unchanged, root, self.before, why, ignored=ignored)
        self.clean()

    def clean(self) -> None:
        """Remove what was made; also a proof that it still can be."""
        if not self.writable:
            return
        if self.workdir != self.mounted.path:
            self.in_guest(remove, self.workdir)
            return
        for name in guest_code.VICTIMS:
            self.in_guest(remove, f"{self.workdir}/{name}")
