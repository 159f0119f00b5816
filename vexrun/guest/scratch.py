"""Scratch disks as tests see them: looked up by our serial, never by a device letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vexrun.device.recheck import demand_again
from vexrun.guest import disks_in_guest
from vexrun.guest.context import DeviceClaim

if TYPE_CHECKING:
    from vexrun.guest.fixtures import Guest

#: A disk that fails on demand, on top of a scratch disk (vexrun.guest.faults).
_FAULTY = "/dev/dm-"


class Scratch:
    """The target's scratch disks; nothing else is ever written to.

    In a virtual machine paths are /dev/disk/by-id names of disks that are files of ours. On a
    device they are windows onto its disk, and `claim` says what is asked again each time.
    """

    def __init__(
        self, guest: Guest, disks: Mapping[str, str], claim: DeviceClaim | None = None
    ) -> None:
        self.guest = guest
        self._disks = disks
        self._claim = claim

    @property
    def main(self) -> str:
        """The disk under test."""
        return self._disks["vexrun-scratch0"]

    @property
    def second(self) -> str:
        """A second disk of the same size."""
        return self._disks["vexrun-scratch1"]

    @property
    def small(self) -> str:
        """A disk of 8 KiB, too small for any filesystem."""
        return self._disks["vexrun-small"]

    def size(self, disk: str) -> int:
        """Bytes."""
        size: int = self.guest.call(disks_in_guest.size, disk)
        return size

    def fill_random(self, disk: str) -> None:
        """Overwrite the whole disk with random bytes, so nothing can rely on zeroed media."""
        self.guest.call(disks_in_guest.fill, self.for_writing(disk), True)

    def fill_zero(self, disk: str) -> None:
        """Overwrite the whole disk with zeros."""
        self.guest.call(disks_in_guest.fill, self.for_writing(disk), False)

    def overwrite(self, disk: str, offset: int, length: int, *, random: bool = False) -> None:
        """Overwrite `length` bytes at `offset` (both in bytes) with zeros or random bytes."""
        self.guest.call(disks_in_guest.overwrite, self.for_writing(disk), offset, length, random)

    def digest(self, disk: str) -> str:
        """A checksum of the disk's bytes as they are on the medium."""
        digest: str = self.guest.call(disks_in_guest.digest, disk)
        return digest

    def sectors_written(self, disk: str) -> int | None:
        """How many sectors were ever written to the device or discarded; None if unknown."""
        name = self.guest.resolve(disk).rpartition("/")[2]
        fields = (self.guest.read(f"/sys/class/block/{name}/stat") or "").split()
        # Documentation/block/stat.rst: 6 is written sectors, 13 discarded ones (since 4.18).
        return int(fields[6]) + int(fields[13]) if len(fields) > 13 else None

    def flush(self, disk: str) -> None:
        """Write back what the block device's page cache still holds."""
        self.guest.call(disks_in_guest.flush, disk)

    def for_writing(self, disk: str) -> str:
        """`disk`, which is about to be overwritten: one of ours, and on a device still free.

        Whatever is given a disk to write on gets it from here.
        """
        assert disk in self._disks.values(), f"'{disk}' is not a scratch disk of ours"
        if self._claim is not None:
            name = next(name for name, path in self._disks.items() if path == disk)
            demand_again(self.guest, self._claim, name, disk)
        return disk

    def for_mkfs(self, disk: str) -> str:
        """As `for_writing`; also a path where nothing is, and in a virtual machine a faulty disk.

        On a device a device-mapper device may be anybody's.
        """
        if disk in self._disks.values():
            return self.for_writing(disk)
        faulty = self._claim is None and disk.startswith(_FAULTY)
        assert faulty or not self.guest.exists(disk), f"'{disk}' is not a scratch disk of ours"
        return disk
