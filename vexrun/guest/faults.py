"""A scratch disk that fails when a test says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vexrun.guest import disks_in_guest, faults_in_guest

if TYPE_CHECKING:
    from vexrun.guest.fixtures import Guest

#: (first sector, sectors or 0 for up to the end, "dead", "unwritable" or "cut")
Fault = tuple[int, int, str]

ALL_DEAD: list[Fault] = [(0, 0, "dead")]
ALL_UNWRITABLE: list[Fault] = [(0, 0, "unwritable")]
POWER_CUT: list[Fault] = [(0, 0, "cut")]


class FaultyDisk:
    """A device-mapper device over a scratch disk; what it fails can be changed while in use."""

    def __init__(self, guest: Guest, disk: str) -> None:
        self.guest = guest
        self.disk = disk
        self.path = ""

    def open(self) -> None:
        """Make the device, sound so far."""
        self.guest.check("modprobe -a dm-mod dm-flakey")
        self.path = self.guest.call(faults_in_guest.make, self.disk)

    def fail(self, faults: list[Fault]) -> None:
        """From now on these places fail, and only these; [] makes it sound again."""
        self.guest.call(faults_in_guest.set_faults, self.disk, faults)

    def forget(self) -> None:
        """Drop what the kernel has cached of the device, so that it has to be read again."""
        self.guest.call(disks_in_guest.flush, self.path)

    def sectors_with(self, tag: bytes) -> list[int]:
        """Sectors of the medium that begin with `tag`."""
        found: list[int] = self.guest.call(faults_in_guest.sectors_with, self.disk, tag)
        return found

    def close(self) -> None:
        """Remove the device; the scratch disk below is as sound as it ever was."""
        self.guest.call(faults_in_guest.remove)
