"""Where filesystems lie in a disk image: GPT, MBR, or none at all. Nothing is ever mounted."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SECTOR = 512
_EXT4_MAGIC = 0xEF53
#: s_feature_incompat: the journal holds what the filesystem does not.
_NEEDS_RECOVERY = 0x0004
_64BIT = 0x0080
_PROTECTIVE = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)


@dataclass(frozen=True)
class Ext4:
    """An ext2, 3 or 4 filesystem in a raw image; `offset` and `size` in bytes."""

    offset: int
    size: int
    label: str
    uuid: str
    unclean: bool

    def names(self) -> set[str]:
        """What fstab may call it."""
        return {f"LABEL={self.label}", f"UUID={self.uuid}"}


def find_ext4(disk: Path) -> list[Ext4]:
    """Every ext filesystem of a raw disk image, in the order of the disk."""
    with disk.open("rb") as stream:
        offsets = sorted({0, *_partitions(stream)})
        found = (_ext4_at(stream, offset) for offset in offsets)
        return [each for each in found if each is not None]


def _partitions(stream: IO[bytes]) -> Iterator[int]:
    """Byte offsets of the partitions; extended ones of an MBR are not followed."""
    first = _read(stream, 0, _SECTOR)
    if len(first) < _SECTOR or first[510:512] != b"\x55\xaa":
        return
    entries = [first[446 + 16 * n : 462 + 16 * n] for n in range(4)]
    if any(entry[4] == _PROTECTIVE for entry in entries):
        yield from _gpt(stream)
        return
    for entry in entries:
        if entry[4] and entry[4] not in _EXTENDED:
            yield int.from_bytes(entry[8:12], "little") * _SECTOR


def _gpt(stream: IO[bytes]) -> Iterator[int]:
    header = _read(stream, _SECTOR, 92)
    if header[:8] != b"EFI PART":
        return
    table, count, size = struct.unpack_from("<QII", header, 72)
    for number in range(min(count, 256)):
        entry = _read(stream, table * _SECTOR + number * size, 128)
        if len(entry) == 128 and any(entry[:16]):
            yield int.from_bytes(entry[32:40], "little") * _SECTOR


def _ext4_at(stream: IO[bytes], offset: int) -> Ext4 | None:
    block = _read(stream, offset + 1024, 1024)
    if len(block) < 1024 or int.from_bytes(block[0x38:0x3A], "little") != _EXT4_MAGIC:
        return None
    raw = block[0x68:0x78].hex()
    uuid = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
    label = block[0x78:0x88].rstrip(b"\0").decode(errors="replace")
    incompatible = int.from_bytes(block[0x60:0x64], "little")
    blocks = int.from_bytes(block[4:8], "little")
    if incompatible & _64BIT:
        blocks += int.from_bytes(block[0x150:0x154], "little") << 32
    size = blocks * (1024 << int.from_bytes(block[0x18:0x1C], "little"))
    return Ext4(offset, size, label, uuid, bool(incompatible & _NEEDS_RECOVERY))


def _read(stream: IO[bytes], offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)
