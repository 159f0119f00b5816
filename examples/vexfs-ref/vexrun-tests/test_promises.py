"""What vexfs-ref promises beyond what every filesystem does.

pytest with vexrun's fixtures: docs/writing-tests.md of vexrun, 'Tests of your own'.
"""

import promises_in_guest as guest_code
import pytest

from vexrun.guest.faults import POWER_CUT, FaultyDisk


@pytest.fixture
def disk(filesystem, scratch, guest):
    """The second disk, formatted, under a device that can lose its power; not mounted."""
    filesystem.mkfs(scratch.second)
    disk = FaultyDisk(guest, scratch.second)
    disk.open()
    yield disk
    filesystem.umount_all()
    disk.close()


def test_vexctl_adds_and_finds_vectors(guest, context, mounted):
    file = f"{mounted.path}/vectors"
    rows = r"1 2 3\n4 5 6\n-7 8 9\n4 5 6\n"
    said = guest.check(context.command(f"printf '{rows}' | {{tools}}/vexctl vectors add {file}"))
    assert said == "4 vectors of 3 dimensions added from row 0 on\n"
    for k, found in ((1, "1\t1\n"), (3, "1\t1\n3\t1\n0\t22\n"), (9, "1\t1\n3\t1\n0\t22\n2\t146\n")):
        search = f"{{tools}}/vexctl vectors search {file} -k {k} 4 5 5"
        assert guest.check(context.command(search)) == found
    guest.check(f"rm {file}")


def test_vexctl_fails_where_there_is_nothing_to_search(guest, context, mounted):
    search = f"{{tools}}/vexctl vectors search {mounted.path}/missing -k 1 4"
    status, _, said = guest.run(context.command(search))
    assert status == 1
    assert "missing" in said


def test_volume_is_clean_while_mounted_read_only(guest, mounted, in_guest):
    """A snapshot of the disk then is as good as one taken after umount."""
    device = mounted.scratch.main
    assert in_guest(guest_code.state, device) == 0, "in use, and not marked so on the medium"
    guest.check(f"mount -o remount,ro {mounted.path}")
    try:
        mounted.fsck(device)
        assert in_guest(guest_code.state, device) == guest_code.CLEAN
    finally:
        guest.check(f"mount -o remount,rw {mounted.path}")
    assert in_guest(guest_code.state, device) == 0


def test_mapped_bytes_behind_the_end_are_no_content(mounted, in_guest, workdir):
    """Kernels before 6.12 leave this to the filesystem, and some in-tree ones forget it."""
    in_guest(guest_code.grown_over_mapped_bytes, workdir)


def test_file_outlives_a_power_cut_after_its_fsync(disk, filesystem, in_guest):
    """fsync writes all metadata of the volume: the file is there, and so is its name."""
    filesystem.mount(disk.path)
    in_guest(guest_code.fsynced, filesystem.path)
    disk.fail(POWER_CUT)
    filesystem.umount()
    disk.fail([])
    disk.forget()
    filesystem.mount(disk.path)
    in_guest(guest_code.fsynced_is_there, filesystem.path)


def test_times_are_kept_to_the_nanosecond(mounted, in_guest, workdir):
    before = in_guest(guest_code.timed, workdir)
    mounted.remount_cold()
    assert in_guest(guest_code.times, workdir) == before


def test_mapped_store_on_a_full_volume_is_a_bus_error(mounted, in_guest, workdir):
    """Who stores learns that there is no room, and not the writeback a minute later."""
    in_guest(guest_code.mapped_store_on_a_full_volume, workdir)
    mounted.remount_cold(fsck=True)
