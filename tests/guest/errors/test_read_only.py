"""A read-only mount, or filesystem: every change is EROFS."""

from __future__ import annotations

import pytest
import refusals_in_guest as guest_code
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest
from vexrun.guest.payload import GuestPython

from census_in_guest import assert_unchanged, census, first_directory, first_file
from scenario import Scenario


@pytest.mark.needs_operations("write", "create", "unlink", "readonly", "remount")
def test_every_change_is_refused_after_a_remount(survives: Scenario, guest: Guest) -> None:
    """mount -o remount,ro, everything that changes something, and back."""
    note = survives.run(guest_code.read_only_tree, survives.lacks)
    path, directory = survives.workdir, ""
    if "mkdir" not in survives.lacks:
        directory = f"{path}/dir"
    guest.check(f"mount -i -o remount,ro {survives.mounted.path}")
    survives.in_guest(guest_code.all_changes_refused, path, f"{path}/file", directory)
    guest.check(f"mount -i -o remount,rw {survives.mounted.path}")
    survives.cool(fsck=True)
    survives.verify(note, cleanup=True)


def test_every_change_of_a_read_only_filesystem_is_refused(
    mounted: Filesystem, in_guest: GuestPython
) -> None:
    """For a filesystem that lacks 'write': on what its mkfs put there."""
    if "write" not in mounted.declared.lacked_operations:
        pytest.skip("the filesystem can be written (filesystem.lacks does not have 'write')")
    before = in_guest(census, mounted.path)
    file, directory = in_guest(first_file, mounted.path), in_guest(first_directory, mounted.path)
    in_guest(guest_code.all_changes_refused, mounted.path, file, directory)
    in_guest(assert_unchanged, mounted.path, before, "after every change was refused")
    mounted.remount_cold(fsck=True)
    in_guest(assert_unchanged, mounted.path, before, "after every change was refused, remounted")
