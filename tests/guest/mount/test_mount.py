"""Mount: read-only first, then read-write, remount, two at once, and unfit media refused."""

from __future__ import annotations

import mount_in_guest as guest_code
import pytest
from vexrun.guest import mounting_in_guest
from vexrun.guest.context import SECOND_MOUNT_POINT
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest
from vexrun.guest.payload import GuestPython
from vexrun.guest.scratch import Scratch
from vexrun.subject import Subject

from tree_in_guest import verify

WRITES = pytest.mark.needs_operations("write", "create")
PERSISTS = pytest.mark.needs_operations("persistence")
KIB = 1024


@pytest.fixture
def lacks(subject: Subject) -> list[str]:
    return sorted(subject.filesystem.lacked_operations)


@pytest.fixture
def formatted(filesystem: Filesystem, scratch: Scratch) -> str:
    """The disk under test with a fresh filesystem, not mounted."""
    filesystem.mkfs(scratch.main)
    return scratch.main


@pytest.fixture
def self_formatting(subject: Subject) -> bool:
    return (subject.filesystem.mkfs or "").strip() == "true"


def _options(filesystem: Filesystem) -> list[str]:
    record = filesystem.mount_record()
    assert record is not None, "nothing is mounted"
    return record["options"].split(",")


@pytest.mark.needs_operations("readonly", "write", "create", "persistence")
def test_read_only_mount_changes_nothing(
    formatted: str,
    filesystem: Filesystem,
    scratch: Scratch,
    in_guest: GuestPython,
    lacks: list[str],
) -> None:
    """Content is there, every change says EROFS, and not one byte of the disk is different."""
    filesystem.mount(formatted)
    note = in_guest(guest_code.tree, filesystem.path, lacks)
    filesystem.umount()
    before = scratch.digest(formatted)
    filesystem.mount(formatted, "ro")
    assert "ro" in _options(filesystem), f"mounted with 'ro', it is {_options(filesystem)}"
    in_guest(verify, filesystem.path, note)
    in_guest(guest_code.assert_read_only, filesystem.path, lacks)
    filesystem.umount()
    assert scratch.digest(formatted) == before, "a read-only mount and umount changed the disk"


def test_mount_and_umount_programs_work(
    formatted: str, filesystem: Filesystem, guest: Guest, lacks: list[str]
) -> None:
    """As a person would: mount(8) with the declared options, umount(8)."""
    device = filesystem.mounted_from(formatted)
    options = ",".join(filesystem.declared.options)
    chosen = f"-o {options}" if options else ""
    guest.check(f"mkdir -p {filesystem.path}")
    guest.check(f"mount -i -t {filesystem.type} {chosen} {device} {filesystem.path}")
    filesystem.assert_mounted()
    # A filesystem that cannot be written makes every mount a read-only one.
    if "ro" not in filesystem.declared.options and "write" not in lacks:
        shown = _options(filesystem)
        assert "rw" in shown, f"a mount without 'ro' ended up as {shown}"
    guest.check(f"umount {filesystem.path}")
    assert filesystem.mount_record() is None, "umount said it worked, but it is mounted"


@pytest.mark.needs_operations("statfs")
def test_statfs_of_the_root(
    formatted: str, filesystem: Filesystem, scratch: Scratch, in_guest: GuestPython
) -> None:
    filesystem.mount(formatted)
    total = in_guest(guest_code.statfs, filesystem.path)
    if filesystem.is_block:
        size = scratch.size(formatted)
        assert total <= size, f"statfs reports {total} bytes on a disk of {size}"
    filesystem.umount()


@WRITES
@PERSISTS
def test_content_stays_over_three_mounts(
    formatted: str, filesystem: Filesystem, in_guest: GuestPython, lacks: list[str]
) -> None:
    filesystem.mount(formatted)
    note = in_guest(guest_code.tree, filesystem.path, lacks)
    for _ in range(3):
        filesystem.remount_cold()
        in_guest(verify, filesystem.path, note)
    filesystem.umount()


@WRITES
@pytest.mark.needs_operations("remount", "readonly", "unlink")
def test_remount_read_only_and_back(
    formatted: str,
    filesystem: Filesystem,
    guest: Guest,
    in_guest: GuestPython,
    lacks: list[str],
) -> None:
    filesystem.mount(formatted)
    note = in_guest(guest_code.tree, filesystem.path, lacks)
    guest.check(f"mount -i -o remount,ro {filesystem.path}")
    assert "ro" in _options(filesystem), "remounted read-only, /proc/mounts says otherwise"
    in_guest(guest_code.assert_read_only, filesystem.path, lacks)
    guest.check(f"mount -i -o remount,rw {filesystem.path}")
    assert "rw" in _options(filesystem), "remounted read-write, /proc/mounts says otherwise"
    in_guest(guest_code.more, filesystem.path, "later")
    in_guest(guest_code.gone, filesystem.path, "later")
    in_guest(verify, filesystem.path, note)
    if "persistence" not in lacks:
        filesystem.remount_cold(fsck=True)
        in_guest(verify, filesystem.path, note)
    filesystem.umount()


@WRITES
def test_two_mounts_are_independent(
    formatted: str,
    filesystem: Filesystem,
    scratch: Scratch,
    in_guest: GuestPython,
    lacks: list[str],
) -> None:
    filesystem.mkfs(scratch.second)
    filesystem.mount(formatted)
    filesystem.mount(scratch.second, path=SECOND_MOUNT_POINT)
    shared = in_guest(guest_code.is_one_filesystem, filesystem.path, SECOND_MOUNT_POINT)
    if not filesystem.is_block:
        shared |= filesystem.declared.source != "none"  # both stand on the same
    if shared:
        assert not filesystem.is_block, "two disks were mounted, and both mounts are one filesystem"
        filesystem.umount(SECOND_MOUNT_POINT)
        filesystem.umount()
        pytest.skip("every mount of the nodev filesystem shows the same (as with debugfs)")
    first = in_guest(guest_code.tree, filesystem.path, lacks, "x")
    second = in_guest(guest_code.tree, SECOND_MOUNT_POINT, lacks, "y")
    in_guest(verify, filesystem.path, first)
    filesystem.umount()
    in_guest(verify, SECOND_MOUNT_POINT, second)
    if "persistence" not in lacks:
        filesystem.mount(formatted)
        in_guest(verify, filesystem.path, first)
        filesystem.umount()
    filesystem.umount(SECOND_MOUNT_POINT)


@WRITES
def test_umount_of_a_busy_filesystem_is_refused(
    formatted: str, filesystem: Filesystem, in_guest: GuestPython, lacks: list[str]
) -> None:
    filesystem.mount(formatted)
    in_guest(guest_code.tree, filesystem.path, lacks)
    in_guest(guest_code.busy, filesystem.path, "umount")
    assert filesystem.mount_record() is None, "umount said it worked, but it is mounted"


def test_unknown_option_does_no_harm(formatted: str, filesystem: Filesystem) -> None:
    """Refused or ignored: both are seen in the kernel's own filesystems."""
    status, _ = filesystem.try_mount(formatted, "vexrun_no_such_option=1")
    assert (status == 0) == filesystem.is_mounted()
    filesystem.umount_all()
    filesystem.mount(formatted)
    filesystem.umount()


@pytest.mark.parametrize("content", ["zeroed", "random"])
def test_unformatted_disk_is_refused(
    filesystem: Filesystem, scratch: Scratch, self_formatting: bool, content: str
) -> None:
    if not filesystem.is_block:
        pytest.skip("the subject file declares a nodev filesystem, which has no disk")
    if self_formatting:
        pytest.skip("the subject file says that the filesystem formats itself at mount")
    (scratch.fill_zero if content == "zeroed" else scratch.fill_random)(scratch.main)
    status, _ = filesystem.try_mount(scratch.main)
    assert status != 0, f"a {content} disk that was never formatted was mounted"
    assert filesystem.mount_record() is None, "a refused mount left something mounted"
    assert filesystem.guest.read("/proc/self/mounts") is not None
    # And the refusal left the disk free: it can be formatted and mounted.
    filesystem.mkfs(scratch.main)
    filesystem.mount(scratch.main)
    filesystem.umount()


@pytest.mark.parametrize("wiped", ["zeros", "random"])
def test_wiped_superblock_is_handled(
    formatted: str, filesystem: Filesystem, scratch: Scratch, wiped: str
) -> None:
    """The first 64 KiB are gone: refused or mounted from a copy, never a crash or a hang."""
    if not filesystem.is_block:
        pytest.skip("the subject file declares a nodev filesystem, which has no superblock")
    scratch.overwrite(formatted, 0, 64 * KIB, random=wiped == "random")
    status, _ = filesystem.try_mount(formatted)
    assert (status == 0) == filesystem.is_mounted(), "mount(8) and /proc/mounts disagree"
    if status == 0:
        filesystem.umount()
    assert filesystem.mount_record() is None, "a refused mount left something mounted"


def test_busy_device_cannot_be_mounted_by_another_type(
    formatted: str, filesystem: Filesystem, in_guest: GuestPython
) -> None:
    """While it is mounted the disk belongs to the filesystem."""
    if not filesystem.is_block:
        pytest.skip("the subject file declares a nodev filesystem, which has no disk")
    filesystem.mount(formatted)
    said = in_guest(mounting_in_guest.try_mount, formatted, SECOND_MOUNT_POINT, "ext4", "")
    assert said, "the disk could be mounted as ext4 while it was mounted"
    filesystem.assert_mounted()
    filesystem.umount()


def test_missing_device_is_an_error(filesystem: Filesystem) -> None:
    if not filesystem.is_block:
        pytest.skip("the subject file declares a nodev filesystem, which has no disk")
    status, _ = filesystem.try_mount("/dev/vexrun-no-such-disk")
    assert status != 0, "a device that does not exist was mounted"
    assert filesystem.mount_record() is None, "a refused mount left something mounted"
