"""Scratch disks as tests see them: looked up by our serial, never by a device letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

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
        return int(self.guest.check(f"blockdev --getsize64 {disk}"))

    def fill_random(self, disk: str) -> None:
        """Overwrite the whole disk with random bytes, so nothing can rely on zeroed media."""
        self._writable(disk)
        noise = self._disks["vexrun-noise"]
        # The noise disk may be smaller than this one: repeat it.
        self.guest.check(
            f"size=$(blockdev --getsize64 {disk}); while cat {noise}; do :; done 2>/dev/null | "
            f"dd of={disk} bs=4M conv=fsync,notrunc iflag=fullblock,count_bytes count=$size "
            "status=none"
        )

    def fill_zero(self, disk: str) -> None:
        """Overwrite the whole disk with zeros."""
        self._writable(disk)
        self.guest.check(f"blkdiscard --zeroout {disk} && blockdev --flushbufs {disk}")

    def overwrite(self, disk: str, offset: int, length: int, *, random: bool = False) -> None:
        """Overwrite `length` bytes at `offset` (both in bytes) with zeros or random bytes."""
        self._writable(disk)
        source = self._disks["vexrun-noise"] if random else "/dev/zero"
        self.guest.check(
            f"dd if={source} of={disk} bs=64K count={length} seek={offset} "
            "iflag=count_bytes,fullblock oflag=seek_bytes conv=fsync,notrunc status=none"
        )

    def digest(self, disk: str) -> str:
        """sha256 of the disk's bytes as they are on the medium."""
        return self.guest.check(
            f"blockdev --flushbufs {disk} && sha256sum {disk} | cut -d ' ' -f 1"
        ).strip()

    def _writable(self, disk: str) -> None:
        assert disk.startswith(_OURS), f"'{disk}' is not a scratch disk of ours"
        status, out, _ = self.guest.run(f"findmnt -rn -S $(readlink -f {disk}) -o TARGET")
        assert status != 0, f"'{disk}' is mounted on {out.strip()}; it must not be overwritten"
