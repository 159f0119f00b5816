"""The filesystem under test: format, mount, prove that it is mounted, unmount, remount cold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vexrun.guest import mounting_in_guest
from vexrun.guest.context import MOUNT_POINT, SECOND_MOUNT_POINT, RunContext
from vexrun.guest.scratch import Scratch
from vexrun.subject import Backing

if TYPE_CHECKING:
    from vexrun.guest.fixtures import Guest


class Filesystem:
    """Every mount names the type, so nothing but the subject's module can answer for it."""

    def __init__(self, guest: Guest, context: RunContext, scratch: Scratch) -> None:
        self.guest = guest
        self.context = context
        self.scratch = scratch
        self.declared = context.subject.filesystem
        self.path = MOUNT_POINT
        #: Files of a test that did not end may lie in its root: no other test wants them.
        self.spoiled = False
        #: Sectors each disk had taken before its last mkfs.
        self._before_mkfs: dict[str, int] = {}

    @property
    def type(self) -> str:
        return self.declared.type

    @property
    def is_block(self) -> bool:
        return self.declared.backing is Backing.BLOCK

    def mounted_from(self, disk: str) -> str:
        """What mount(2) is given as its source."""
        return disk if self.is_block else self.declared.source

    def try_mkfs(self, disk: str) -> tuple[int, str]:
        """Run the declared mkfs on a scratch disk, or what prepares a nodev filesystem.

        Returns its exit status and what it said.
        """
        if not self.is_block and self.declared.prepare is not None:
            command = self.context.command(self.declared.prepare)
        elif not self.is_block or self.declared.mkfs is None:
            return 0, "nothing to format"
        else:
            command = self.context.command(self.declared.mkfs, device=self.scratch.for_mkfs(disk))
        # mkfs must not wait for an answer nobody will give.
        status, out, err = self.guest.run(f"( {command} ) </dev/null 2>&1")
        return status, (out + err).strip()

    def mkfs(self, disk: str) -> None:
        """Format a scratch disk; the test fails with what mkfs said when it does not work."""
        self._note_sectors(disk)
        status, said = self.try_mkfs(disk)
        hint = ""
        if status == 127:
            hint = "; if the program comes from a Debian package, add it to subject.packages"
        what = "mkfs" if self.is_block else "filesystem.prepare"
        assert status == 0, f"{what} failed with exit status {status}: {said}{hint}"

    def _note_sectors(self, disk: str) -> None:
        """For a mount that fails: whether mkfs wrote anything. 'true' formats at mount."""
        self._before_mkfs.pop(disk, None)
        if self.is_block and (self.declared.mkfs or "true").strip() != "true":
            written = self.scratch.sectors_written(disk)
            if written is not None:
                self._before_mkfs[disk] = written

    def _left_blank(self, disk: str) -> bool:
        """Whether mkfs said that it worked, and nothing has reached the disk since."""
        if disk not in self._before_mkfs:
            return False
        self.scratch.flush(disk)
        return self.scratch.sectors_written(disk) == self._before_mkfs[disk]

    def fsck(self, disk: str) -> None:
        """Run the declared fsck, when there is one, on an unmounted disk; it must find it clean."""
        if self.declared.fsck is None:
            return
        command = self.context.command(self.declared.fsck, device=disk)
        status, out, err = self.guest.run(f"( {command} ) </dev/null 2>&1")
        assert status == 0, f"fsck found problems (exit status {status}): {(out + err).strip()}"

    def try_mount(self, disk: str, *options: str, path: str = MOUNT_POINT) -> tuple[int, str]:
        """mount(2) with the declared options and `options`: 0 or 1, and the name of the errno.

        The system call, so that no helper of userspace answers in the kernel's place, and because
        a program costs 0.2 s and more under emulation.
        """
        said = self.guest.call(
            mounting_in_guest.try_mount,
            self.mounted_from(disk),
            path,
            self.type,
            ",".join([*self.declared.options, *options]),
        )
        return (1 if said else 0), said

    def mount(self, disk: str, *options: str, path: str = MOUNT_POINT) -> None:
        """Mount, and prove from /proc that this type is mounted there."""
        status, said = self.try_mount(disk, *options, path=path)
        if status != 0:
            log = self.guest.run("dmesg | tail -n 5")[1].strip()
            why = "; mkfs said it worked and has written nothing" if self._left_blank(disk) else ""
            if said == "ENODEV" and not self._is_registered():
                why = (
                    f": the module is loaded and has registered no type '{self.type}' "
                    "(filesystem.type of the subject file)"
                )
            raise AssertionError(
                f"mount of type '{self.type}' fails with {said}{why}\nlast kernel lines:\n{log}"
            )
        self.assert_mounted(path)

    def _is_registered(self) -> bool:
        lines = (self.guest.read("/proc/filesystems") or "").splitlines()
        return any(line.split()[-1:] == [self.type] for line in lines)

    def mount_record(self, path: str = MOUNT_POINT) -> dict[str, str] | None:
        """Device, type and options of what is mounted on `path`; None when nothing is."""
        mounts = self.guest.read("/proc/self/mounts")
        assert mounts is not None, "/proc/self/mounts cannot be read"
        for line in reversed(mounts.splitlines()):
            device, point, kind, options, *_ = line.split()
            if point == path:
                return {"device": device, "type": kind, "options": options}
        return None

    def is_mounted(self, path: str = MOUNT_POINT) -> bool:
        record = self.mount_record(path)
        return record is not None and record["type"] == self.type

    def assert_mounted(self, path: str = MOUNT_POINT) -> None:
        """Fail unless the type under test is what answers at `path`."""
        record = self.mount_record(path)
        assert record is not None, f"nothing is mounted on {path}"
        assert record["type"] == self.type, (
            f"{path} is a '{record['type']}', not the '{self.type}' under test"
        )

    def try_umount(self, path: str = MOUNT_POINT) -> tuple[int, str]:
        """umount(2): 0 or 1, and the name of the errno."""
        said = self.guest.call(mounting_in_guest.try_umount, path)
        return (1 if said else 0), said

    def umount(self, path: str = MOUNT_POINT) -> None:
        """Unmount, and prove from /proc that it is gone."""
        self.guest.call(mounting_in_guest.umount, path)

    def umount_all(self) -> None:
        """Unmount whatever earlier tests left on our mount points."""
        for path in (MOUNT_POINT, SECOND_MOUNT_POINT):
            while self.mount_record(path) is not None:
                self.umount_once(path)

    def umount_once(self, path: str) -> None:
        status, said = self.try_umount(path)
        assert status == 0, f"umount of what an earlier test left on {path} failed: {said}"

    def drop_caches(self) -> None:
        """Write everything back and forget clean pages, dentries and inodes."""
        self.guest.check("sync && echo 3 >/proc/sys/vm/drop_caches")

    def remount_cold(self, *options: str, fsck: bool = False) -> None:
        """umount, forget every cache, with `fsck` check the medium, mount again.

        umount drops the filesystem's dentries, inodes and pages, and flushing the block device
        drops its buffers: nothing of it is left to be read from memory. Through the system calls
        themselves, because every program costs 0.1 s and more under emulation.
        """
        command = None
        if fsck and self.is_block and self.declared.fsck is not None:
            command = self.context.command(self.declared.fsck, device=self.scratch.main)
        self.guest.call(
            mounting_in_guest.remount_cold,
            self.mounted_from(self.scratch.main),
            MOUNT_POINT,
            self.type,
            ",".join([*self.declared.options, *options]),
            self.is_block,
            command,
        )
        self.assert_mounted()
