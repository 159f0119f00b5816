"""Read and overwrite scratch disks. Runs in the guest: only the standard library.

Direct I/O where a whole disk is touched: it costs a fraction of going through the page cache and
a pipe under emulation, and what is read is what is on the medium.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import zlib

MIB = 1 << 20
_BLKFLSBUF = 0x1261


def size(disk: str) -> int:
    """Bytes."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def digest(disk: str) -> str:
    """CRC-32 of the whole medium: enough to notice a change nobody wanted."""
    flush(disk)
    buffer, value = mmap.mmap(-1, MIB), 0
    fd = os.open(disk, os.O_RDONLY | os.O_DIRECT)
    try:
        while count := os.readv(fd, [buffer]):
            value = zlib.crc32(memoryview(buffer)[:count], value)
    finally:
        os.close(fd)
    return f"{value:08x}"


def fill(disk: str, random: bool) -> None:
    """Overwrite all of it with zeros, or with random bytes that repeat at no place of note."""
    _not_mounted(disk)
    # A window moves over the noise, so that no two MiB are alike; direct I/O wants aligned ones.
    noise = mmap.mmap(-1, 2 * MIB)
    if random:
        noise[:] = os.urandom(2 * MIB)
    length = size(disk)
    fd = os.open(disk, os.O_WRONLY | os.O_DIRECT)
    try:
        for number, start in enumerate(range(0, length, MIB)):
            shift = number * 4096 % MIB
            count = min(MIB, length - start)
            written = os.pwrite(fd, memoryview(noise)[shift : shift + count], start)
            assert written == count, f"short write on {disk}: {written} of {count}"
        os.fsync(fd)
    finally:
        os.close(fd)
    flush(disk)


def overwrite(disk: str, offset: int, length: int, random: bool) -> None:
    """Overwrite `length` bytes at `offset` with zeros or random bytes."""
    _not_mounted(disk)
    fd = os.open(disk, os.O_WRONLY)
    try:
        os.pwrite(fd, os.urandom(length) if random else bytes(length), offset)
        os.fsync(fd)
    finally:
        os.close(fd)
    flush(disk)


def flush(disk: str) -> None:
    """Write back and forget the block device's cached pages (blockdev --flushbufs)."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF, 0)
    finally:
        os.close(fd)


def _not_mounted(disk: str) -> None:
    device = os.path.realpath(disk)
    with open("/proc/self/mounts") as mounts:  # noqa: PTH123 - pathlib costs too much here
        used = [line.split()[1] for line in mounts if os.path.realpath(line.split()[0]) == device]
    assert not used, f"'{disk}' is mounted on {used[0]}; it must not be overwritten"
