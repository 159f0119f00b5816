"""Scratch disks as tests see them: looked up by our serial, never by a device letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vexrun.guest import disks_in_guest

if TYPE_CHECKING:
    from vexrun.guest.fixtures import Guest

#: Every disk a test may write has a path that starts so; udev makes it from our serial.
_OURS = "/dev/disk/by-id/virtio-vexrun-"


class Scratch:
    """The guest's scratch disks. Paths are /dev/disk/by-id names."""

    def __init__(self, guest: Guest, disks: Mapping[str, str]) -> None:
        self.guest = guest
        self._disks = disks

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
        self.guest.call(disks_in_guest.fill, self._ours(disk), True)

    def fill_zero(self, disk: str) -> None:
        """Overwrite the whole disk with zeros."""
        self.guest.call(disks_in_guest.fill, self._ours(disk), False)

    def overwrite(self, disk: str, offset: int, length: int, *, random: bool = False) -> None:
        """Overwrite `length` bytes at `offset` (both in bytes) with zeros or random bytes."""
        self.guest.call(disks_in_guest.overwrite, self._ours(disk), offset, length, random)

    def digest(self, disk: str) -> str:
        """A checksum of the disk's bytes as they are on the medium."""
        digest: str = self.guest.call(disks_in_guest.digest, disk)
        return digest

    @staticmethod
    def _ours(disk: str) -> str:
        assert disk.startswith(_OURS), f"'{disk}' is not a scratch disk of ours"
        return disk
