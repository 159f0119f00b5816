"""Bad sectors, lost writes, dead and unplugged disks: errors, but never wrong data or a crash.

The faults are made by the kernel's own device mapper over the scratch disk, and an unplugged disk
is a removed PCI device: what a filesystem sees of either is what it sees of a real one. After
each test the disk is sound again, and the filesystem has to work on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import media_in_guest as guest_code
import pytest
from vexrun.guest import faults_in_guest
from vexrun.guest.context import MOUNT_POINT, RunContext
from vexrun.guest.faults import ALL_DEAD, FaultyDisk
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Guest
from vexrun.guest.kernel_module import KernelModule
from vexrun.guest.payload import GuestCodeError, GuestPython
from vexrun.guest.scratch import Scratch
from vexrun.subject import Subject

from tree_in_guest import verify

SECTORS_OF_4_KIB = 8


@pytest.fixture
def lacks(subject: Subject) -> list[str]:
    return sorted(subject.filesystem.lacked_operations)


@pytest.fixture
def formatted(filesystem: Filesystem, scratch: Scratch) -> str:
    if not filesystem.is_block:
        pytest.skip("the subject file declares a nodev filesystem, which has no disk to fail")
    filesystem.mkfs(scratch.main)
    return scratch.main


@pytest.fixture
def faulty(formatted: str, guest: Guest) -> Iterator[FaultyDisk]:
    """The formatted disk under a device that fails on demand; not mounted."""
    disk = FaultyDisk(guest, formatted)
    disk.open()
    yield disk
    disk.close()


@pytest.fixture
def made(filesystem: Filesystem, in_guest: GuestPython, lacks: list[str], formatted: str) -> Any:
    """The note of a tree that is on the medium; None where none can be made. Not mounted."""
    if {"write", "create"} & set(lacks):
        return None
    filesystem.mount(formatted)
    note = in_guest(guest_code.tree, filesystem.path, lacks)
    filesystem.umount()
    return note


def _sectors_of_victim(faulty: FaultyDisk) -> list[int]:
    """Where the content of the file that will suffer is on the medium."""
    sectors = faulty.sectors_with(guest_code.tag("victim"))
    if len(sectors) < 64:
        pytest.skip("the filesystem does not store content as it is written")
    return sectors


@pytest.mark.needs_operations("write", "create", "persistence")
def test_unreadable_content_is_an_error(
    made: Any,
    faulty: FaultyDisk,
    filesystem: Filesystem,
    in_guest: GuestPython,
    note: Callable[[str], None],
) -> None:
    """Sectors of one file cannot be read: EIO there, everything else right, and no zeros.

    A filesystem may read what was written last before it mounts, and refuse (nilfs2 does).
    """
    sectors = _sectors_of_victim(faulty)
    middle = len(sectors) // 2
    bad = sectors[middle : middle + SECTORS_OF_4_KIB]
    faulty.fail([(sector, 1, "dead") for sector in bad])
    status, said = filesystem.try_mount(faulty.path)
    if status == 0:
        in_guest(guest_code.read_around_errors, filesystem.path, made)
        faulty.fail([])
        filesystem.drop_caches()
    else:
        note(f"Where a file's content cannot be read, it does not mount: {said}.")
        faulty.fail([])
        filesystem.mount(faulty.path)
    in_guest(verify, filesystem.path, made)
    filesystem.umount()
    # Not the disk below, which the mapped device holds: fsck.f2fs opens it for itself alone.
    filesystem.fsck(faulty.path)


@pytest.mark.needs_operations("write", "create", "persistence", "fsync")
def test_failed_writes_are_reported(
    made: Any, faulty: FaultyDisk, filesystem: Filesystem, in_guest: GuestPython
) -> None:
    """No write reaches the disk: fsync says so, and what was synced before is still there."""
    filesystem.mount(faulty.path)
    in_guest(guest_code.overwritten_while_writes_fail, filesystem.path, faulty.disk)
    filesystem.umount()
    faulty.fail([])
    # Like after a power cut: a filesystem may ask for its fsck first, which is no failure.
    if filesystem.try_mount(faulty.path)[0] == 0:
        in_guest(guest_code.old_or_new, filesystem.path, made)
        filesystem.umount()


@pytest.mark.needs_operations("write", "create", "persistence", "fsync")
def test_failed_writes_of_content_are_reported(
    made: Any, faulty: FaultyDisk, filesystem: Filesystem, in_guest: GuestPython
) -> None:
    """Only the content of one file cannot be written: an fsync that succeeds is believed."""
    sectors = _sectors_of_victim(faulty)
    filesystem.mount(faulty.path)
    overwrite = guest_code.overwritten_while_its_sectors_fail
    believed = in_guest(overwrite, filesystem.path, faulty.disk, sectors)
    filesystem.umount()
    faulty.fail([])
    faulty.forget()
    if filesystem.try_mount(faulty.path)[0] == 0:
        if believed:
            in_guest(guest_code.is_overwritten, filesystem.path)
        in_guest(guest_code.old_or_new, filesystem.path, made)
        filesystem.umount()


@pytest.mark.needs_operations("write", "create", "unlink", "persistence")
def test_synced_content_outlives_a_power_cut(
    faulty: FaultyDisk,
    filesystem: Filesystem,
    in_guest: GuestPython,
    lacks: list[str],
    note: Callable[[str], None],
) -> None:
    """No write after sync(2) reaches the disk: what was there at the sync is there."""
    filesystem.mount(faulty.path)
    made = in_guest(guest_code.synced_then_cut, filesystem.path, faulty.disk, lacks)
    _outlives_the_cut("sync(2) had returned", made, faulty, filesystem, in_guest, note)


def _outlives_the_cut(
    promise: str,
    made: Any,
    faulty: FaultyDisk,
    filesystem: Filesystem,
    in_guest: GuestPython,
    note: Callable[[str], None],
) -> None:
    filesystem.umount()
    faulty.fail([])
    faulty.forget()
    status, said = filesystem.try_mount(faulty.path)
    if status != 0:
        note(f"After a power cut the filesystem asks for its fsck first: mount says {said}.")
        return
    try:
        in_guest(verify, filesystem.path, made)
    except GuestCodeError as error:
        raise AssertionError(f"{promise}, then the power was cut: {error}") from error
    filesystem.umount()


@pytest.mark.needs_operations("write", "create", "persistence", "fsync")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(guest_code.fsynced_then_cut, id="content"),
        pytest.param(guest_code.named_and_fsynced_then_cut, id="names"),
    ],
)
def test_fsynced_content_outlives_a_power_cut(
    faulty: FaultyDisk,
    filesystem: Filesystem,
    in_guest: GuestPython,
    lacks: list[str],
    note: Callable[[str], None],
    change: Callable[..., Any],
) -> None:
    """Nobody calls sync(2): what fsync returned for is there, at least where its name was."""
    filesystem.mount(faulty.path)
    try:
        made = in_guest(change, filesystem.path, faulty.disk, lacks)
    except GuestCodeError as error:
        if error.kind != "Refused":
            raise
        filesystem.umount()
        pytest.skip(str(error).splitlines()[0].removeprefix("Refused: "))
    promise = (
        'fsync(2) had returned 0 (if it promises nothing on purpose, add "fsync" to '
        "filesystem.lacks)"
    )
    _outlives_the_cut(promise, made, faulty, filesystem, in_guest, note)


@pytest.mark.parametrize("lose", ["dead", "unplug"])
def test_disk_is_lost_while_mounted(
    made: Any,
    formatted: str,
    filesystem: Filesystem,
    module: KernelModule,
    guest: Guest,
    in_guest: GuestPython,
    lacks: list[str],
    lose: str,
    context: RunContext,
) -> None:
    """Every operation comes back; umount and rmmod work; afterwards all is as new."""
    if lose == "unplug" and context.claim is not None:
        pytest.skip("no disk is pulled out of a device: not every bus brings it back")
    disk = FaultyDisk(guest, formatted)
    if lose == "dead":
        disk.open()
    filesystem.mount(disk.path or formatted)
    before = in_guest(guest_code.known, filesystem.path)
    try:
        in_guest(
            guest_code.use_without_disk,
            filesystem.path,
            filesystem.path,
            before,
            lacks,
            lose,
            formatted,
        )
        filesystem.umount()
    finally:
        if lose == "dead":
            disk.fail([])
        else:
            in_guest(faults_in_guest.plug_in, formatted)
    if lose == "dead":
        disk.close()
    module.unload()
    module.load()
    _works_again(filesystem, in_guest, formatted, lacks)


def _works_again(
    filesystem: Filesystem, in_guest: GuestPython, disk: str, lacks: list[str]
) -> None:
    filesystem.mkfs(disk)
    filesystem.mount(disk)
    if not {"write", "create"} & set(lacks):
        note = in_guest(guest_code.tree, filesystem.path, lacks)
        filesystem.remount_cold(fsck=True)
        in_guest(verify, filesystem.path, note)
    filesystem.umount()


def test_unreadable_places_at_mount(
    made: Any,
    faulty: FaultyDisk,
    filesystem: Filesystem,
    scratch: Scratch,
    in_guest: GuestPython,
    context: RunContext,
    lacks: list[str],
) -> None:
    """4 KiB after 4 KiB of the beginning, and places all over the disk, cannot be read."""
    first, others = (10, 4) if context.slowdown > 2 else (32, 16)
    filesystem.mount(faulty.path, *_read_only(lacks))
    before = in_guest(guest_code.known, filesystem.path)
    filesystem.umount()
    total = scratch.size(faulty.disk) // 512
    starts = [*range(0, first * SECTORS_OF_4_KIB, SECTORS_OF_4_KIB)]
    starts += [total * part // others // 8 * 8 for part in range(1, others)]
    in_guest(
        guest_code.mounted_with_holes,
        faulty.disk,
        faulty.path,
        MOUNT_POINT,
        filesystem.type,
        ",".join([*filesystem.declared.options, *_read_only(lacks)]),
        before,
        [(start, SECTORS_OF_4_KIB) for start in starts],
    )
    faulty.fail(ALL_DEAD)
    faulty.forget()
    status, _ = filesystem.try_mount(faulty.path)
    assert status != 0, "a disk of which nothing can be read was mounted"
    faulty.fail([])
    filesystem.mount(faulty.path, *_read_only(lacks))
    if made is not None:
        in_guest(verify, filesystem.path, made)
    filesystem.umount()


def _read_only(lacks: list[str]) -> list[str]:
    return [] if "readonly" in lacks else ["ro"]
