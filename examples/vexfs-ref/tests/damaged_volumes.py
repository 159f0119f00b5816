#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Damaged volumes: refused, or errors from whatever meets the damage; never a crash or a hang.

usage: damaged_volumes.py DEVICE TOOLS [--all]

Makes a small volume with a tree of every kind of inode on it, then damages it again and again:
bytes of the superblock, its fields behind a right checksum, inodes, directories, block maps and
bitmaps. What can still be mounted is walked, read, written and unmounted. The kernel's log is
judged by whoever runs this (vexrun does).

Some hundred volumes are made, the same ones each time; --all makes every one there is, which
takes ten minutes in an emulated machine.

Runs as root in a virtual machine with the module loaded. It overwrites DEVICE.
"""

# ruff: noqa: PTH102, PTH106, PTH108, PTH116, PTH123, PTH208, PTH211
import ctypes
import errno
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from functools import partial

BLOCK = 4096
BLOCKS = 128
INODE = 256
#: Words of the superblock that a mount must not believe: all but checksum, state, free counts,
#: uuid and label.
GEOMETRY = range(1, 15)
REFUSALS = {errno.EINVAL, errno.EIO}
#: What must be said of a volume: a mount must refuse it, fsck must tell, or neither must.
REFUSED, TOLD, EITHER = "refused", "told", "either"
#: Volumes of each kind of damage that are made without --all.
A_FEW = 12
#: For one volume. Even an emulated machine needs seconds.
PATIENCE_S = 60

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    """A call of libc; returns the errno, 0 when it succeeded."""
    if function(*arguments) == 0:
        return 0
    return ctypes.get_errno()


def mount(device, where):
    return call(libc.mount, device.encode(), where.encode(), b"vexfs_ref", 0, None)


def umount(where):
    code = call(libc.umount2, where.encode(), 0)
    if code:
        raise SystemExit(f"umount says {errno.errorcode.get(code, code)}")


class Volume:
    """The device, the bytes of the good volume, and where to mount it."""

    def __init__(self, device, tools, where):
        self.device, self.where = device, where
        image = f"{where}.image"
        with open(image, "wb") as file:
            file.truncate(BLOCKS * BLOCK)
        subprocess.run([f"{tools}/vexctl", "mkfs", "--inodes", "64", image], check=True)
        with open(image, "rb") as file:
            self.write(file.read())
        os.unlink(image)
        self.mounted(self.populate)
        self.good = self.read()
        self.fsck = f"{tools}/fsck.vexfs-ref"
        assert subprocess.run([self.fsck, device]).returncode == 0, "the good volume is not clean"

    def write(self, content):
        with open(self.device, "r+b", buffering=0) as file:
            assert file.write(content) == len(content)

    def read(self):
        with open(self.device, "rb") as file:
            return file.read(BLOCKS * BLOCK)

    def mounted(self, work):
        """Mount, work, umount. Returns the errno of a mount that was refused."""
        code = mount(self.device, self.where)
        if not code:
            try:
                work(self.where)
            finally:
                umount(self.where)
        return code

    @staticmethod
    def populate(root):
        for name in ("dir", "dir/sub", "full"):
            os.mkdir(f"{root}/{name}")
        for number in range(12):
            with open(f"{root}/full/name-{number:03d}" + "x" * number, "wb") as file:
                file.write(bytes([number]) * (number * 700))
        with open(f"{root}/dir/indirect", "wb") as file:
            file.write(b"i" * (20 * BLOCK))
        with open(f"{root}/dir/sub/double", "wb") as file:
            file.write(b"d" * 100)
            file.seek((12 + 1024 + 5) * BLOCK)
            file.write(b"e" * 5000)
        os.symlink("short", f"{root}/short")
        os.symlink("l" * 1000, f"{root}/dir/long")
        os.link(f"{root}/dir/indirect", f"{root}/linked")
        os.mkfifo(f"{root}/fifo")


def ignore_errors(function, *arguments):
    """What a damaged volume answers is its affair, as long as it answers."""
    try:
        return function(*arguments)
    except OSError:
        return None


def read_some(path):
    with open(path, "rb", buffering=0) as file:
        for offset in (0, 13 * BLOCK, (12 + 1024 + 5) * BLOCK):
            os.pread(file.fileno(), 9000, offset)


def change(path):
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"w" * 6000, 11 * BLOCK + 100)
        os.ftruncate(file.fileno(), 5000)


def poke(root):
    """Everything a user might do, on whatever is there; at most a few hundred names."""
    todo, seen = [root], 0
    while todo and seen < 300:
        directory = todo.pop()
        for name in ignore_errors(os.listdir, directory) or ():
            path, seen = f"{directory}/{name}", seen + 1
            status = ignore_errors(os.lstat, path)
            if status is None:
                ignore_errors(os.unlink, path)
            elif stat.S_ISDIR(status.st_mode):
                if path.count("/") < 12:
                    todo.append(path)
                ignore_errors(os.mkdir, f"{path}/new")
            elif stat.S_ISREG(status.st_mode):
                ignore_errors(read_some, path)
                ignore_errors(change, path)
            elif stat.S_ISLNK(status.st_mode):
                ignore_errors(os.readlink, path)
    for old, new in (
        ("dir/indirect", "full/moved"),
        ("full/moved", "linked"),
        ("dir/sub", "full/sub"),
        ("dir", "full/sub/dir"),
        ("full/name-000", "full/" + "z" * 200),
    ):
        ignore_errors(os.rename, f"{root}/{old}", f"{root}/{new}")
    for number in range(6):
        ignore_errors(os.mknod, f"{root}/made{number}", stat.S_IFREG | 0o644)
        ignore_errors(os.link, f"{root}/made{number}", f"{root}/full/again{number}")
    for directory, names, files in os.walk(root, topdown=False, followlinks=False):
        if directory.count("/") > 14:
            continue
        for name in files:
            ignore_errors(os.unlink, f"{directory}/{name}")
        for name in names:
            ignore_errors(os.rmdir, f"{directory}/{name}")
    ignore_errors(os.sync)


# -- damage ----------------------------------------------------------------------------------


def word(content, offset):
    return struct.unpack_from("<I", content, offset)[0]


def seal_super(content):
    struct.pack_into("<I", content, 0, zlib.crc32(bytes(content[4:BLOCK])))


def seal_inode(content, offset, number):
    checksum = zlib.crc32(struct.pack("<I", number) + bytes(content[offset + 4 : offset + INODE]))
    struct.pack_into("<I", content, offset, checksum)


def superblock_bytes(good):
    """Every byte that means something, and some that do not."""
    for offset in [*range(120), *range(120, BLOCK, 199)]:
        bad = bytearray(good)
        bad[offset] ^= 1 << offset % 8
        yield f"byte {offset} of the superblock", bad


def superblock_fields(good):
    """Nonsense behind a right checksum, and whether it must be refused."""
    for field in GEOMETRY:
        value = word(good, 4 * field)
        for wrong in {0, 1, value + 1, value - 1 & 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF} - {value}:
            bad = bytearray(good)
            struct.pack_into("<I", bad, 4 * field, wrong)
            seal_super(bad)
            # A block more or less than there were is another volume, not an impossible one.
            another = field == 5 and abs(wrong - value) == 1
            yield f"word {field} of the superblock is {wrong:#x}", bad, not another


def metadata_marked_free(good):
    for block in (0, 2, 5):
        bad = bytearray(good)
        bad[word(good, 36) * BLOCK + block // 8] &= ~(1 << block % 8)
        yield f"block {block} is marked free", bad
    bad = bytearray(good)
    bad[word(good, 28) * BLOCK] &= ~1
    yield "the root is marked free", bad


def used_inodes(good):
    table = word(good, 44) * BLOCK
    for number in range(1, word(good, 24) + 1):
        offset = table + (number - 1) * INODE
        if any(good[offset : offset + INODE]):
            yield number, offset


def inode_words(good, chance):
    """Single fields of inodes, with a right checksum: the validation itself is what is tested."""
    values = (0, 1, 2, 3, 17, 255, 256, 257, BLOCKS, 0x41ED, 0x7FFFFFFF, 0xFFFFFFFF)
    for number, offset in used_inodes(good):
        for field in range(1, INODE // 4, 1 if number < 4 else 3):
            if chance.random() > 0.35:
                continue
            bad = bytearray(good)
            wrong = chance.choice(values)
            struct.pack_into("<I", bad, offset + 4 * field, wrong)
            seal_inode(bad, offset, number)
            yield f"word {field} of inode {number} is {wrong:#x}", bad


def random_bytes(good, chance, area, count):
    """One to four random bytes of an area; inodes get a right checksum every second time."""
    first, last = area
    for turn in range(count):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(first, last)] = chance.choice(
                (0, 1, 8, 255, chance.randrange(256))
            )
        if turn % 2:
            for number, offset in used_inodes(bad):
                seal_inode(bad, offset, number)
        yield f"random bytes from {first // BLOCK} on, turn {turn}", bad


def directory_blocks(good):
    for _, offset in used_inodes(good):
        if stat.S_ISDIR(word(good, offset + 4)):
            yield word(good, offset + 80)


def map_blocks(good):
    for _, offset in used_inodes(good):
        for slot in (12, 13):
            block = word(good, offset + 80 + 4 * slot)
            if block and block < BLOCKS:
                yield block


def lost_blocks(good):
    """Blocks that nobody has, marked in use."""
    bad = bytearray(good)
    bad[word(good, 36) * BLOCK + (BLOCKS - 8) // 8] |= 0x0F
    yield "blocks that nobody has are marked in use", bad


def all_damage(good, chance, few):
    """(what, content, what must be said of it)."""

    def some(volumes, count=A_FEW):
        volumes = list(volumes)
        return chance.sample(volumes, min(count, len(volumes))) if few else volumes

    for what, bad in some(superblock_bytes(good)):
        yield what, bad, REFUSED
    for what, bad, impossible in some(superblock_fields(good), 2 * A_FEW):
        yield what, bad, REFUSED if impossible else EITHER
    for what, bad in metadata_marked_free(good):
        yield what, bad, REFUSED
    for what, bad in lost_blocks(good):
        yield what, bad, TOLD
    table = word(good, 44) * BLOCK
    data = word(good, 52) * BLOCK
    further = some(inode_words(good, chance), 3 * A_FEW)
    further += some(random_bytes(good, chance, (table, data), 40))
    further += some(random_bytes(good, chance, (BLOCK, table), 15), A_FEW // 2)
    for block in [*directory_blocks(good), *map_blocks(good)]:
        # Records and numbers are at the beginning of a block; the rest is mostly empty.
        area = block * BLOCK, block * BLOCK + 400
        further += some(random_bytes(good, chance, area, 15), A_FEW // 3)
    yield from ((*each, EITHER) for each in further)


def examine(volume, what, bad, must):
    """fsck it, mount it, use it. Returns whether a mount refused it."""
    expect_an_end(what)
    volume.write(bad)
    checked = subprocess.run([volume.fsck, volume.device], stdout=subprocess.DEVNULL).returncode
    if checked not in (0, 4) or (must != EITHER and checked != 4):
        raise SystemExit(f"{what}: fsck ends with {checked}")
    code = volume.mounted(poke)
    if must == REFUSED and code not in REFUSALS:
        said = errno.errorcode.get(code, code) if code else "success"
        raise SystemExit(f"{what}: mount says {said}, and not EINVAL or EIO")
    return bool(code)


def links_are_counted_up_to(limit, volume):
    """A volume whose file has all names but one that are possible."""
    nearly = bytearray(volume.good)
    for number, offset in used_inodes(nearly):
        if stat.S_ISREG(word(nearly, offset + 4)) and word(nearly, offset + 8) == 2:
            struct.pack_into("<I", nearly, offset + 8, limit - 1)
            seal_inode(nearly, offset, number)

    def add_two(root):
        os.link(f"{root}/linked", f"{root}/last")
        try:
            os.link(f"{root}/linked", f"{root}/too-many")
        except OSError as error:
            if error.errno == errno.EMLINK:
                return
            raise
        raise SystemExit(f"{limit + 1} links were made")

    volume.write(nearly)
    if code := volume.mounted(add_two):
        raise SystemExit(f"a file with many links: mount says {errno.errorcode[code]}")


def expect_an_end(what):
    """What is called again and again by a program must come to an end as well."""
    late = f"{what}: no end after {PATIENCE_S} s"
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(late))
    signal.alarm(PATIENCE_S)


def damage_is_told(volume):
    """Where the kernel cannot but notice, whoever asks gets EIO."""

    def fails(what, work, root):
        try:
            work(root)
        except OSError as error:
            if error.errno == errno.EIO:
                return
            raise
        raise SystemExit(f"{what}: it worked, and must be EIO")

    for number, offset in used_inodes(volume.good):
        mode, size = word(volume.good, offset + 4), word(volume.good, offset + 24)
        if stat.S_ISREG(mode) and size == 20 * BLOCK:
            elsewhere = bytearray(volume.good)
            struct.pack_into("<I", elsewhere, offset + 80, 1)
            seal_inode(elsewhere, offset, number)
        elif stat.S_ISDIR(mode):
            long_record = bytearray(volume.good)  # of the last directory that was made: 'full'
            block = word(long_record, offset + 80)
            struct.pack_into("<H", long_record, block * BLOCK + 16 + 4, 2 * BLOCK)
    for what, bad, work in (
        (
            "a file with a block of metadata",
            elsewhere,
            lambda root: os.stat(f"{root}/dir/indirect"),
        ),
        ("a record that leaves its block", long_record, lambda root: os.listdir(f"{root}/full")),
    ):
        expect_an_end(what)
        volume.write(bad)
        if code := volume.mounted(partial(fails, what, work)):
            raise SystemExit(f"{what}: mount says {errno.errorcode[code]}")


def main():
    device, tools = sys.argv[1:3]
    chance = random.Random(20)
    refused = worked = 0
    slowest = 0.0, "none"
    where = tempfile.mkdtemp(prefix="damaged-volumes-")
    try:
        volume = Volume(device, tools, where)
        for what, bad, must in all_damage(volume.good, chance, "--all" not in sys.argv):
            begun = time.monotonic()
            if examine(volume, what, bad, must):
                refused += 1
            else:
                worked += 1
            slowest = max(slowest, (time.monotonic() - begun, what))
        damage_is_told(volume)
        links_are_counted_up_to(65_000, volume)
        volume.write(volume.good)
        if code := volume.mounted(poke):
            raise SystemExit(f"the good volume is no longer mounted: {errno.errorcode[code]}")
    finally:
        os.rmdir(where)
    print(f"the slowest took {slowest[0]:.1f} s: {slowest[1]}")
    print(f"damaged volumes: {refused} refused, {worked} mounted and used")


if __name__ == "__main__":
    main()
