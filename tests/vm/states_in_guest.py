"""States a disk may be in that no run may touch, made on a disk that is ours. Runs in the machine.

LVM, RAID and ZFS are not installed there: what their tools would have written is written here.
"""

from __future__ import annotations

import os
import struct
import subprocess


def lvm_member(disk: str) -> None:
    """A physical volume's label in sector 1 (lib/format_text/layout.h of LVM2)."""
    body = struct.pack("<I", 32) + b"LVM2 001" + b"abcdefghijklmnopqrstuvwxyz012345"
    body = body.ljust(512 - 20, b"\0")
    crc = 0xF597A6CF
    for byte in body:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    _write(disk, 512, b"LABELONE" + struct.pack("<QI", 1, crc) + body)


def raid_member(disk: str) -> None:
    """A superblock of version 1.2, 4 KiB from the start (include/uapi/linux/raid/md_p.h)."""
    block = bytearray(4096)
    struct.pack_into("<IIII", block, 0, 0xA92B4EFC, 1, 0, 0)
    block[16:32] = bytes(range(16))
    block[32:64] = b"shelf:0".ljust(32, b"\0")
    struct.pack_into("<Q", block, 80, 2048)  # size
    struct.pack_into("<QQQ", block, 128, 2048, 4096, 8)  # data_offset, data_size, super_offset
    total = sum(struct.unpack_from("<64I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    _write(disk, 4096, bytes(block))


def zfs_member(disk: str) -> None:
    """Uberblocks in all four labels (vdev_impl.h of ZFS)."""
    fd = os.open(disk, os.O_RDWR)
    size = os.lseek(fd, 0, os.SEEK_END) // (256 << 10) * (256 << 10)
    os.close(fd)
    uberblock = struct.pack("<QQQQQ", 0x00BAB10C, 5000, 4, 1, 2).ljust(1024, b"\0")
    for label in (0, 256 << 10, size - (512 << 10), size - (256 << 10)):
        _write(disk, label, bytes(128 << 10))
        for number in range(16):
            _write(disk, label + (128 << 10) + number * 1024, uberblock)


def partition_table(disk: str) -> None:
    """A master boot record with two partitions of 8 MiB; sfdisk is not installed."""
    record = bytearray(512)
    for number, start in enumerate((2048, 2048 + 16384)):
        struct.pack_into("<B3sB3sII", record, 446 + 16 * number, 0, b"", 0x83, b"", start, 16384)
    record[510:] = b"\x55\xaa"
    _write(disk, 0, bytes(record))


def mounted_partition(disk: str) -> None:
    partition_table(disk)
    _run("blockdev", "--rereadpt", disk)
    _run("udevadm", "settle")
    part = f"{os.path.realpath(disk)}1"
    _run("mkfs.ext4", "-q", "-F", part)
    _run("mkdir", "-p", "/mnt/part")
    _run("mount", "-o", "ro", part, "/mnt/part")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def luks(disk: str) -> None:
    """The beginning of a LUKS 1 header."""
    _write(disk, 0, b"LUKS\xba\xbe\x00\x01".ljust(1024, b"\0"))


def bcache(disk: str) -> None:
    """A backing device's superblock (drivers/md/bcache/bcache_ondisk.h)."""
    magic = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    block = bytearray(4096)
    struct.pack_into("<QQQ", block, 0, 0, 8, 1)
    block[24:40] = magic
    block[40:56] = bytes(range(16))
    _write(disk, 4096, bytes(block))


def hold(disk: str, name: str) -> str:
    """A device-mapper device over the disk, as LVM and dm-crypt make them."""
    import faults_in_guest  # type: ignore[import-not-found]

    made: str = faults_in_guest.make_mapped(name, [(0, 2048, "linear", f"{disk} 0")])
    return made


def release(name: str) -> None:
    import faults_in_guest

    faults_in_guest.remove(name)


def _write(disk: str, offset: int, data: bytes) -> None:
    fd = os.open(disk, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)
