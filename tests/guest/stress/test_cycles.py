"""Loading and mounting again and again: nothing is left behind, and racing users do no harm."""

from __future__ import annotations

import cycles_in_guest as guest_code
import pytest
from vexrun.guest.context import MOUNT_POINT, SECOND_MOUNT_POINT, RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.kernel_module import KernelModule
from vexrun.guest.payload import GuestPython
from vexrun.guest.scratch import Scratch
from vexrun.subject import Subject

from tree_in_guest import verify

#: Rounds whose growth is compared; a leak shows in each of them.
ROUNDS = 3


def cycles(context: RunContext) -> int:
    """Repetitions a round: fewer on a slow machine, never fewer than tell a leak from noise."""
    return max(10, round(80 / context.slowdown))


@pytest.fixture
def lacks(subject: Subject) -> list[str]:
    return sorted(subject.filesystem.lacked_operations)


@pytest.fixture
def formatted(filesystem: Filesystem, scratch: Scratch) -> str:
    filesystem.mkfs(scratch.main)
    return filesystem.mounted_from(scratch.main)


def test_loading_leaves_no_memory_behind(
    filesystem: Filesystem, module: KernelModule, in_guest: GuestPython, context: RunContext
) -> None:
    """Dozens of loads and unloads; the kernel's memory and slab caches stop growing."""
    module.unload()
    module.provide_needs()
    assert context.module is not None, "there is no built module"
    left = in_guest(
        guest_code.loads,
        context.module.path,
        module.parameters(),
        module.name,
        filesystem.type,
        ROUNDS,
        cycles(context),
    )
    assert not left, f"every load and unload leaves behind {left}"
    module.load()


def test_mounting_leaves_no_memory_behind(
    formatted: str,
    filesystem: Filesystem,
    module: KernelModule,
    in_guest: GuestPython,
    context: RunContext,
    lacks: list[str],
) -> None:
    """Dozens of mounts, each used and unmounted: no memory, no reference stays."""
    left, before, after = in_guest(
        guest_code.mounts,
        formatted,
        MOUNT_POINT,
        filesystem.type,
        ",".join(filesystem.declared.options),
        lacks,
        module.name,
        ROUNDS,
        cycles(context),
    )
    assert not left, f"every mount and umount leaves behind {left}"
    assert (before, after) == (0, 0), (
        f"nothing is mounted, and the module's reference count is {after}; it was {before} before "
        "the first mount"
    )


def test_refused_mounts_leave_no_memory_behind(
    filesystem: Filesystem, scratch: Scratch, in_guest: GuestPython, context: RunContext
) -> None:
    """Dozens of mounts of a disk without a filesystem: what each had taken, it gives back."""
    if not filesystem.is_block:
        pytest.skip("the subject file declares a nodev filesystem, which has no disk")
    scratch.fill_random(scratch.second)
    left = in_guest(
        guest_code.refusals,
        scratch.second,
        MOUNT_POINT,
        filesystem.type,
        ",".join(filesystem.declared.options),
        ROUNDS,
        cycles(context),
    )
    assert not left, f"every mount that is refused leaves behind {left}"


def test_mounting_races_with_users(
    formatted: str,
    filesystem: Filesystem,
    module: KernelModule,
    in_guest: GuestPython,
    context: RunContext,
    lacks: list[str],
) -> None:
    """Processes open, read and write while it is mounted twice and unmounted, again and again."""
    note = None
    if not {"write", "create", "persistence"} & set(lacks):
        filesystem.mount(formatted)
        note = in_guest(guest_code.raced_tree, filesystem.path, lacks)
        filesystem.umount()
    used = in_guest(
        guest_code.races,
        formatted,
        MOUNT_POINT,
        SECOND_MOUNT_POINT,
        filesystem.type,
        # A second mount shares the first one's superblock only if it is as read-only as that.
        ",".join([*filesystem.declared.options, *(["ro"] if "write" in lacks else [])]),
        lacks,
        2.0 if context.slowdown > 2 else 5.0,
    )
    assert used, "no process found the filesystem mounted"
    assert filesystem.mount_record() is None, "something is still mounted"
    if note is not None:
        filesystem.fsck(formatted)
        filesystem.mount(formatted)
        in_guest(verify, filesystem.path, note)
        filesystem.umount()
    module.unload()
    module.load()
