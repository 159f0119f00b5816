"""The subject's mkfs on zeroed, random, used, small and mounted disks."""

from __future__ import annotations

import mkfs_in_guest as guest_code
import pytest
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest
from vexrun.guest.payload import GuestPython
from vexrun.guest.scratch import Scratch
from vexrun.subject import Subject

from tree_in_guest import verify


@pytest.fixture(autouse=True)
def _formats_at_all(subject: Subject) -> None:
    if subject.filesystem.mkfs is None:
        pytest.skip("the subject file declares a nodev filesystem, which has no mkfs")
    if subject.filesystem.mkfs.strip() == "true":
        pytest.skip("the subject file says that the filesystem formats itself at mount")


@pytest.fixture
def prepared(request: pytest.FixtureRequest, scratch: Scratch, filesystem: Filesystem) -> str:
    """The disk under test, full of zeros or of random bytes; `filesystem` has unmounted it."""
    (scratch.fill_zero if request.param == "zeroed" else scratch.fill_random)(scratch.main)
    return scratch.main


@pytest.mark.parametrize("prepared", ["zeroed", "random"], indirect=True)
def test_fresh_filesystem_is_empty_and_works(
    prepared: str, filesystem: Filesystem, in_guest: GuestPython, subject: Subject
) -> None:
    """Nothing of what was on the medium shines through, and a tree survives on it."""
    lacks = sorted(subject.filesystem.lacked_operations)
    filesystem.mkfs(prepared)
    filesystem.fsck(prepared)
    filesystem.mount(prepared)
    # One that cannot be written is not empty: mkfs puts its content there.
    if not {"write", "create"} & set(lacks):
        in_guest(guest_code.assert_empty, filesystem.path, lacks)
        note = in_guest(guest_code.tree, filesystem.path, lacks)
        filesystem.remount_cold(fsck=True)
        in_guest(verify, filesystem.path, note)
    filesystem.umount()


@pytest.mark.needs_operations("write", "create", "persistence")
def test_old_files_are_gone(
    filesystem: Filesystem, scratch: Scratch, in_guest: GuestPython, subject: Subject
) -> None:
    lacks = sorted(subject.filesystem.lacked_operations)
    filesystem.mkfs(scratch.main)
    filesystem.mount(scratch.main)
    before = in_guest(guest_code.space, filesystem.path)
    in_guest(guest_code.tree, filesystem.path, lacks)
    filesystem.umount()
    filesystem.mkfs(scratch.main)
    filesystem.mount(scratch.main)
    in_guest(guest_code.assert_empty, filesystem.path, lacks)
    after = in_guest(guest_code.space, filesystem.path)
    assert after == before, f"a fresh filesystem has {before} free, formatted again {after}"
    filesystem.umount()


def test_other_disks_are_left_alone(filesystem: Filesystem, scratch: Scratch) -> None:
    # An earlier mkfs may have left there what this one would write again.
    scratch.fill_random(scratch.second)
    before = scratch.digest(scratch.second)
    filesystem.mkfs(scratch.main)
    assert scratch.digest(scratch.second) == before, (
        f"mkfs of {scratch.main} changed {scratch.second}"
    )


def test_too_small_disk(filesystem: Filesystem, scratch: Scratch) -> None:
    """Refused, or really usable: mkfs must not claim success on what cannot be mounted."""
    scratch.fill_zero(scratch.small)
    status, _ = filesystem.try_mkfs(scratch.small)
    mount_status, said = filesystem.try_mount(scratch.small)
    if mount_status == 0:
        filesystem.assert_mounted()
        filesystem.umount()
        return
    size = scratch.size(scratch.small)
    assert status != 0, (
        f"mkfs said it worked on a disk of {size} bytes, and the result cannot be mounted: {said}"
    )


@pytest.mark.needs_operations("write", "create")
def test_missing_device_is_an_error(filesystem: Filesystem) -> None:
    """Not of what makes images: mksquashfs and mkfs.erofs are to make the file they are given."""
    path = "/dev/vexrun-no-such-disk"
    status, said = filesystem.try_mkfs(path)
    left = filesystem.guest.exists(path)
    if left:
        filesystem.guest.check(f"rm -f {path}")
    assert status != 0, f"mkfs of a device that does not exist said it worked: {said}"
    assert not left, f"mkfs made an ordinary file '{path}' instead of complaining"


@pytest.mark.needs_operations("mountedcheck", "write", "create", "persistence")
def test_mounted_device_is_refused(
    filesystem: Filesystem,
    scratch: Scratch,
    in_guest: GuestPython,
    guest: Guest,
    subject: Subject,
) -> None:
    """The accident that cost 1.8 TB. The mounted filesystem must come out of it whole."""
    lacks = sorted(subject.filesystem.lacked_operations)
    filesystem.mkfs(scratch.main)
    filesystem.mount(scratch.main)
    note = in_guest(guest_code.tree, filesystem.path, lacks)
    guest.check("sync")
    status, _ = filesystem.try_mkfs(scratch.main)
    filesystem.assert_mounted()
    in_guest(verify, filesystem.path, note)
    filesystem.remount_cold(fsck=True)
    in_guest(verify, filesystem.path, note)
    filesystem.umount()
    assert status != 0, (
        "mkfs formatted a mounted disk and said it worked; open the device with O_EXCL, which "
        "fails with EBUSY while it is mounted"
    )
