"""Free space shrinks by what is written and comes back when it is removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import space_in_guest as guest_code
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.payload import GuestCodeError, GuestPython
from vexrun.subject import Subject

from scenario import refusal

pytestmark = pytest.mark.needs_operations("write", "create", "unlink", "statfs")

KIB = 1024


def _assert_same(before: dict[str, int], after: dict[str, int], when: str) -> None:
    """Free blocks and inodes are as before, give or take SLACK_BLOCKS."""
    lost = before["free"] - after["free"]
    slack = guest_code.SLACK_BLOCKS * before["block"]
    assert abs(lost) <= slack, (
        f"{when} there are {abs(lost)} bytes {'less' if lost > 0 else 'more'} free than before "
        f"({before['free']} before, {after['free']} after; up to {slack} bytes are tolerated)"
    )
    # Where inodes come from the free blocks, or are just the ids not used yet, their number is
    # no account of them: it changes with the free space, or is the full range of the id.
    if before["files"] != after["files"] or before["files"] >= 0xFFFFFFFF - 0xFFFF:
        return
    gone = before["ffree"] - after["ffree"]
    assert not before["files"] or abs(gone) <= guest_code.SLACK_BLOCKS, (
        f"{when} there are {abs(gone)} inodes {'less' if gone > 0 else 'more'} free than before "
        f"({before['ffree']} before, {after['ffree']} after)"
    )


def _settle(mounted: Filesystem, subject: Subject) -> None:
    if "persistence" not in subject.filesystem.lacked_operations:
        mounted.remount_cold(fsck=True)


def test_free_space_shrinks_by_a_write_and_returns(
    in_guest: GuestPython, mounted: Filesystem, workdir: str, subject: Subject
) -> None:
    count = 12
    available = in_guest(guest_code.space, mounted.path)["avail"]
    size = min(128 * KIB, int(available * 0.5) // count // 512 * 512)
    before, full = in_guest(guest_code.fill_some, workdir, size, count)
    used, written = before["free"] - full["free"], size * count
    # Indirect blocks and the like come on top; compression is not expected of patterned data.
    most = written * 3 // 2 + (count + 32) * before["block"]
    assert written * 9 // 10 <= used <= most, (
        f"{written} bytes were written, and free space shrank by {used}"
    )
    if before["files"] and before["ffree"]:
        assert full["ffree"] <= before["ffree"], "creating files made more inodes free"
    _settle(mounted, subject)
    _assert_same(full, in_guest(guest_code.space, mounted.path), "after a remount")
    empty = in_guest(guest_code.empty_again, workdir, count, before)
    _assert_same(before, empty, f"after {count} files were removed again")
    _settle(mounted, subject)
    _assert_same(before, in_guest(guest_code.space, mounted.path), "after the removal, remounted")
    in_guest(guest_code.drop, workdir)


@pytest.mark.parametrize(
    ("cycle", "arguments"),
    [
        pytest.param(guest_code.cycle, (12, 20 * KIB), id="create-and-unlink"),
        pytest.param(
            guest_code.cycle_of_directories,
            (12,),
            id="mkdir-and-rmdir",
            marks=pytest.mark.needs_operations("mkdir"),
        ),
        pytest.param(
            guest_code.cycle_of_replacements,
            (12, 20 * KIB),
            id="rename-over-a-file",
            marks=pytest.mark.needs_operations("rename"),
        ),
        pytest.param(
            guest_code.cycle_of_replaced_directories,
            (12,),
            id="rename-over-a-directory",
            marks=pytest.mark.needs_operations("rename", "mkdir"),
        ),
        pytest.param(
            guest_code.cycle_of_truncates,
            (600 * KIB,),
            id="write-and-truncate",
            marks=pytest.mark.needs_operations("truncate"),
        ),
        pytest.param(guest_code.cycle_of_ghosts, (300 * KIB,), id="unlink-while-open"),
    ],
)
def test_cycles_do_not_leak(
    in_guest: GuestPython,
    mounted: Filesystem,
    workdir: str,
    subject: Subject,
    cycle: Callable[..., Any],
    arguments: tuple[int, ...],
) -> None:
    try:
        rounds = in_guest(cycle, workdir, 4, *arguments)
    except GuestCodeError as error:
        reason = refusal(error)
        in_guest(guest_code.drop, workdir)
        pytest.skip(reason)
    # The first round may leave a grown directory and warmed-up bookkeeping behind.
    _assert_same(rounds[0], rounds[-1], f"after {len(rounds) - 1} more rounds")
    _settle(mounted, subject)
    in_guest(guest_code.drop, workdir)
