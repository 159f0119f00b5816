"""A tree made in the guest, a cold remount, and the proof that the tree is still there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.payload import GuestCodeError, GuestPython
from vexrun.subject import Subject

from tree_in_guest import remove, verify

#: Checked while mounted only, or once more after umount and a mount with cold caches.
LIVE, REMOUNTED = "live", "remounted"


def refusal(error: GuestCodeError) -> str:
    """What the filesystem cleanly refuses to offer (`optional`); any other error is raised."""
    if error.kind != "Refused":
        raise error
    return str(error).splitlines()[0].removeprefix("Refused: ")


class Scenario:
    """A tree made in the guest, and how it is proven to be there."""

    def __init__(
        self,
        in_guest: GuestPython,
        mounted: Filesystem,
        workdir: str,
        subject: Subject,
        phase: str,
    ) -> None:
        self.in_guest = in_guest
        self.mounted = mounted
        self.workdir = workdir
        self.lacks = sorted(subject.filesystem.lacked_operations)
        self.phase = phase

    def __call__(
        self,
        scenario: Callable[..., Any],
        *arguments: Any,
        also: Callable[..., Any] | None = None,
        fsck: bool = False,
    ) -> None:
        """Run `scenario(workdir, *arguments)`, remount cold, verify the note it returned.

        `fsck` has the medium checked in between, if the subject declares a checker. With `also`
        the scenario returns a pair: the note, and what `also(workdir, extra)` checks in addition.
        """
        made = self.run(scenario, *arguments)
        note, extra = made if also else (made, None)
        self.cool(fsck=fsck)
        if also:
            self.in_guest(also, self.workdir, extra)
        self.verify(note, cleanup=True)

    def in_two_steps(
        self, scenario: Callable[..., Any], *arguments: Any, then: Callable[..., Any]
    ) -> None:
        """As a call; before the end `then(workdir, note)` changes it all, from a cold cache."""
        note = self.run(scenario, *arguments)
        self.cool(fsck=True)
        self.verify(note)
        note = self.run(then, note)
        self.cool(fsck=True)
        self.verify(note, cleanup=True)

    def telling(self, scenario: Callable[..., Any], *arguments: Any) -> list[Any]:
        """As a call, for a scenario that returns more than its note: that is returned."""
        made, *told = self.run(scenario, *arguments)
        self.cool()
        self.verify(made, cleanup=True)
        return told

    def run(self, scenario: Callable[..., Any], *arguments: Any) -> Any:
        """Run it in the guest; what the filesystem cleanly refuses to offer is a skip."""
        try:
            return self.in_guest(scenario, self.workdir, *arguments)
        except GuestCodeError as error:
            reason = refusal(error)
            if self.workdir != self.mounted.path:
                self.in_guest(remove, self.workdir)
            pytest.skip(reason)

    def cool(self, *, fsck: bool = False) -> None:
        """Forget what is cached: remount, or at least drop caches where content cannot stay."""
        if self.phase == REMOUNTED:
            self.mounted.remount_cold(fsck=fsck)
        else:
            self.mounted.drop_caches()

    def verify(self, note: Any, *, cleanup: bool = False) -> None:
        inodes = "inodes" not in self.lacks
        clean = cleanup and self.can_clean
        self.in_guest(verify, self.workdir, note, inodes=inodes, cleanup=clean)
        if cleanup and not clean:
            self.mounted.spoiled = True

    @property
    def can_clean(self) -> bool:
        """Whether what a test made can be removed again; otherwise the next one gets a new mkfs."""
        return "unlink" not in self.lacks
