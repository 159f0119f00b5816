"""The reference subject: its three descriptions of the format agree, and its fsck is sharp.

The volumes are made here, by a third transcription of the format, and then damaged by one thing
each: fsck must name it.
"""

from __future__ import annotations

import itertools
import random
import re
import shutil
import stat
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from vexrun.subject import load_subject

REF = Path(__file__).parents[2] / "examples" / "vexfs-ref"
HEADER = (REF / "vexfs_ref_fs.h").read_text()

BLOCK, INODE = 4096, 256
BLOCKS, INODES = 64, 32
INODE_BITMAP, BLOCK_BITMAP, TABLE, DATA = 1, 2, 3, 5
ROOT, SUB, FILE, LINK, BIG, FIFO = 1, 2, 3, 4, 5, 6
ROOT_BLOCK, SUB_BLOCK, FILE_BLOCK, LINK_BLOCK, MAP_BLOCK, BIG_BLOCK = range(DATA, DATA + 6)
REG, DIR, FT_FIFO, FT_LNK = 1, 2, 5, 7


class Volume:
    """A volume in memory: two directories, files, links, a fifo."""

    def __init__(self) -> None:
        self.bytes = bytearray(BLOCKS * BLOCK)
        used = DATA + 6
        self._bits(INODE_BITMAP, 6, INODES)
        self._bits(BLOCK_BITMAP, used, BLOCKS)
        self.inode(ROOT, stat.S_IFDIR | 0o755, 3, BLOCK, {0: ROOT_BLOCK})
        self.inode(SUB, stat.S_IFDIR | 0o755, 2, BLOCK, {0: SUB_BLOCK})
        self.inode(FILE, stat.S_IFREG | 0o644, 2, 100, {0: FILE_BLOCK})
        self.inode(LINK, stat.S_IFLNK | 0o777, 1, 200, {0: LINK_BLOCK})
        self.inode(BIG, stat.S_IFREG | 0o644, 1, 13 * BLOCK, {12: MAP_BLOCK}, blocks=2)
        self.inode(FIFO, stat.S_IFIFO | 0o600, 1, 0, {})
        self.directory(
            ROOT_BLOCK, (".", ROOT, DIR), ("..", ROOT, DIR), ("sub", SUB, DIR), ("file", FILE, REG)
        )
        self.directory(
            SUB_BLOCK,
            (".", SUB, DIR),
            ("..", ROOT, DIR),
            ("again", FILE, REG),
            ("link", LINK, FT_LNK),
            ("big", BIG, REG),
            ("fifo", FIFO, FT_FIFO),
        )
        self.put(LINK_BLOCK * BLOCK, b"t" * 200)
        self.words(MAP_BLOCK * BLOCK, BIG_BLOCK)
        numbers = [0x46525856, 1, BLOCK, INODE, BLOCKS, INODES, INODE_BITMAP, 1, BLOCK_BITMAP, 1]
        numbers += [TABLE, DATA - TABLE, DATA, 0, 1, BLOCKS - used, INODES - 6]
        self.words(4, *numbers)
        self.seal_super()

    def put(self, offset: int, content: bytes) -> None:
        self.bytes[offset : offset + len(content)] = content

    def words(self, offset: int, *values: int) -> None:
        self.put(offset, struct.pack(f"<{len(values)}I", *values))

    def _bits(self, block: int, used: int, size: int) -> None:
        value = (1 << BLOCK * 8) - (1 << size) | (1 << used) - 1
        self.put(block * BLOCK, value.to_bytes(BLOCK, "little"))

    def flip_bit(self, block: int, bit: int) -> None:
        self.bytes[block * BLOCK + bit // 8] ^= 1 << bit % 8

    def seal_super(self) -> None:
        self.words(0, zlib.crc32(self.bytes[4:BLOCK]))

    def super_word(self, offset: int, value: int) -> None:
        self.words(offset, value)
        self.seal_super()

    def inode_at(self, number: int) -> int:
        return TABLE * BLOCK + (number - 1) * INODE

    def inode(
        self,
        number: int,
        mode: int,
        links: int,
        size: int,
        places: dict[int, int],
        blocks: int | None = None,
    ) -> None:
        at = self.inode_at(number)
        self.words(at + 4, mode, links)
        self.put(at + 24, size.to_bytes(8, "little"))
        self.words(at + 32, len(places) if blocks is None else blocks)
        for slot, block in places.items():
            self.words(at + 80 + 4 * slot, block)
        self.seal_inode(number)

    def seal_inode(self, number: int) -> None:
        at = self.inode_at(number)
        checksum = zlib.crc32(struct.pack("<I", number) + self.bytes[at + 4 : at + INODE])
        self.words(at, checksum)

    def inode_word(self, number: int, offset: int, value: int) -> None:
        self.words(self.inode_at(number) + offset, value)
        self.seal_inode(number)

    def directory(self, block: int, *entries: tuple[str, int, int]) -> None:
        at = block * BLOCK
        end = at + BLOCK
        for index, (name, number, kind) in enumerate(entries):
            length = (8 + len(name) + 7) & ~7 if index + 1 < len(entries) else end - at
            self.put(at, struct.pack("<IHBB", number, length, len(name), kind) + name.encode())
            at += length

    def entry_at(self, block: int, name: str) -> int:
        return self.bytes.index(name.encode(), block * BLOCK, (block + 1) * BLOCK) - 8


Damage = Callable[[Volume], None]


def _names_a_free_inode(volume: Volume) -> None:
    volume.words(volume.entry_at(SUB_BLOCK, "fifo"), 20)


def _second_parent(volume: Volume) -> None:
    volume.words(volume.entry_at(SUB_BLOCK, "fifo"), SUB)


def _circle(volume: Volume) -> None:
    """The subdirectory names itself, and the root no longer names it."""
    volume.words(volume.entry_at(ROOT_BLOCK, "sub"), BIG)
    volume.words(volume.entry_at(SUB_BLOCK, "big"), SUB)
    volume.words(SUB_BLOCK * BLOCK + 16, SUB)


def _free_inode_is_not_empty(volume: Volume) -> None:
    volume.words(volume.inode_at(12) + 100, 1)


def _wrong_checksum(volume: Volume) -> None:
    volume.words(volume.inode_at(FILE) + 16, 77)


#: What is damaged, how, and what fsck must say about it.
DAMAGE: dict[str, tuple[Damage, str]] = {
    "magic": (lambda v: v.super_word(4, 1), "there is no vexfs-ref here"),
    "super-checksum": (lambda v: v.words(8, 3), "superblock: wrong checksum"),
    "version": (lambda v: v.super_word(8, 2), "wrong version"),
    "geometry": (lambda v: v.super_word(44, 4), "wrong version, sizes or positions"),
    "features": (lambda v: v.super_word(56, 1), "wrong version"),
    "damaged-state": (lambda v: v.super_word(60, 3), "the kernel has met damage"),
    "free-blocks": (lambda v: v.super_word(64, 5), "5 free blocks, there are 53"),
    "free-inodes": (lambda v: v.super_word(68, 5), "5 free inodes, there are 26"),
    "reserved": (lambda v: v.super_word(200, 1), "reserved bytes"),
    "block-leaked": (lambda v: v.flip_bit(BLOCK_BITMAP, 40), "block 40: marked in use"),
    "block-marked-free": (
        lambda v: v.flip_bit(BLOCK_BITMAP, FILE_BLOCK),
        f"block {FILE_BLOCK}: inode {FILE} has it, and it is marked free",
    ),
    "metadata-marked-free": (lambda v: v.flip_bit(BLOCK_BITMAP, 3), "block 3: metadata"),
    "block-padding": (lambda v: v.flip_bit(BLOCK_BITMAP, 9000), "block bitmap: bit 9000"),
    "inode-padding": (lambda v: v.flip_bit(INODE_BITMAP, 100), "inode bitmap: bit 100"),
    "inode-leaked": (lambda v: v.flip_bit(INODE_BITMAP, 9), "inode 10: marked in use"),
    "inode-marked-free": (
        lambda v: v.flip_bit(INODE_BITMAP, FIFO - 1),
        f"inode {FIFO}: marked free, but it is not empty",
    ),
    "free-inode-in-use": (_free_inode_is_not_empty, "inode 12: marked free, but"),
    "inode-checksum": (_wrong_checksum, f"inode {FILE}: wrong checksum"),
    "mode": (lambda v: v.inode_word(FILE, 4, 0o170644), "unknown type"),
    "wide-mode": (lambda v: v.inode_word(FILE, 4, 0x100081A4), "impossible mode"),
    "links": (
        lambda v: v.inode_word(FILE, 8, 3),
        f"inode {FILE}: 3 links, and 2 names",
    ),
    "no-links": (lambda v: v.inode_word(FILE, 8, 0), "in use without a link"),
    "directory-links": (lambda v: v.inode_word(ROOT, 8, 2), "2 links, its 1 subdirectories"),
    "time": (lambda v: v.inode_word(FILE, 64, 1_000_000_000), "impossible time"),
    "flags": (lambda v: v.inode_word(FILE, 76, 1), "unknown flags"),
    "block-count": (lambda v: v.inode_word(BIG, 32, 1), f"inode {BIG}: has 2 blocks and says 1"),
    "block-out-of-range": (
        lambda v: v.inode_word(FILE, 80, 64),
        "block 64 is none of the data blocks 5 to 63",
    ),
    "block-in-metadata": (lambda v: v.inode_word(FILE, 80, 2), "block 2 is none"),
    "block-twice": (
        lambda v: v.inode_word(FILE, 80, ROOT_BLOCK),
        f"block {ROOT_BLOCK} belongs to inode {ROOT} as well",
    ),
    "block-map-out-of-range": (
        lambda v: v.words(MAP_BLOCK * BLOCK + 4, 1 << 31),
        "block 2147483648 is none",
    ),
    "block-behind-the-end": (
        lambda v: v.inode_word(BIG, 24, 12 * BLOCK),
        f"inode {BIG}: map block {MAP_BLOCK} is wholly behind the end",
    ),
    "data-behind-the-end": (
        lambda v: v.put(FILE_BLOCK * BLOCK + 100, b"x"),
        f"inode {FILE}: there is old data behind its last byte",
    ),
    "directory-size": (lambda v: v.inode_word(SUB, 24, BLOCK + 1), "impossible size"),
    "directory-hole": (
        lambda v: v.inode_word(SUB, 24, 2 * BLOCK),
        "1 blocks for a size of 8192",
    ),
    "link-target": (lambda v: v.put(LINK_BLOCK * BLOCK + 7, b"\0"), "is not 200 bytes long"),
    "special-with-block": (lambda v: v.inode_word(FIFO, 80, 40), "blocks where there can be none"),
    "special-with-device": (lambda v: v.inode_word(FIFO, 20, 7), "a device number"),
    "dot": (lambda v: v.words(SUB_BLOCK * BLOCK, ROOT), f"directory {SUB}: its '.' is inode 1"),
    "dot-dot": (
        lambda v: v.words(SUB_BLOCK * BLOCK + 16, SUB),
        f"its '..' is inode {SUB}, its parent is {ROOT}",
    ),
    "dot-missing": (lambda v: v.put(SUB_BLOCK * BLOCK + 8, b"x"), "record 0 is not '.'"),
    "record-length": (
        lambda v: v.put(SUB_BLOCK * BLOCK + 4, struct.pack("<H", 12)),
        "block 0 has a record of 12 bytes at byte 0",
    ),
    "record-of-nothing": (
        lambda v: v.put(SUB_BLOCK * BLOCK + 4, bytes(2)),
        "block 0 has a record of 0 bytes",
    ),
    "record-too-long": (
        lambda v: v.put(v.entry_at(SUB_BLOCK, "fifo") + 4, struct.pack("<H", 4096)),
        "has a record of 4096 bytes",
    ),
    "slash-in-a-name": (
        lambda v: v.put(v.entry_at(SUB_BLOCK, "fifo") + 9, b"/"),
        "has a wrong record",
    ),
    "name-twice": (
        lambda v: v.put(v.entry_at(SUB_BLOCK, "fifo") + 8, b"link"),
        f"directory {SUB}: has two names 'link'",
    ),
    "name-of-a-free-inode": (_names_a_free_inode, "'fifo' is inode 20, which is free"),
    "type-in-a-record": (
        lambda v: v.put(v.entry_at(SUB_BLOCK, "fifo") + 7, bytes([REG])),
        "'fifo' has type 1, inode 6 has type 5",
    ),
    "unnamed-inode": (
        lambda v: v.words(v.entry_at(SUB_BLOCK, "fifo"), 0),
        f"inode {FIFO}: in use, and no directory names it",
    ),
    "two-parents": (_second_parent, f"is directory {SUB}, which has a name in"),
    "root-named": (
        lambda v: v.words(v.entry_at(SUB_BLOCK, "fifo"), ROOT),
        "'fifo' is the root",
    ),
    "circle": (_circle, f"inode {SUB}: the directory cannot be reached"),
    "root-is-a-file": (
        lambda v: v.inode_word(ROOT, 4, stat.S_IFREG | 0o644),
        "there is no root directory",
    ),
}


@pytest.fixture(scope="module")
def fsck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here (cc)")
    program = tmp_path_factory.mktemp("fsck") / "fsck.vexfs-ref"
    argv = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*argv, "-o", program, REF / "fsck.c"], check=True)
    return program


def checked(fsck: Path, image: Path, content: bytes) -> tuple[int, str]:
    image.write_bytes(content)
    done = subprocess.run([fsck, image], capture_output=True, text=True, check=False, timeout=120)
    assert image.read_bytes() == content, "fsck changed the volume"
    return done.returncode, done.stdout


def test_fsck_finds_nothing_on_a_good_volume(fsck: Path, tmp_path: Path) -> None:
    status, said = checked(fsck, tmp_path / "image", bytes(Volume().bytes))
    assert (status, said.count("\n")) == (0, 1), said
    assert "clean, 64 blocks, 32 inodes" in said


@pytest.mark.parametrize("what", DAMAGE)
def test_fsck_names_the_damage(fsck: Path, tmp_path: Path, what: str) -> None:
    damage, expected = DAMAGE[what]
    volume = Volume()
    damage(volume)
    status, said = checked(fsck, tmp_path / "image", bytes(volume.bytes))
    assert status == 4, said
    assert expected in said


def test_fsck_of_a_truncated_volume(fsck: Path, tmp_path: Path) -> None:
    status, said = checked(fsck, tmp_path / "image", bytes(Volume().bytes[: 40 * BLOCK]))
    assert status == 4
    assert "64 blocks do not fit on a device of 40" in said


def test_fsck_that_cannot_be_made_is_no_verdict(fsck: Path, tmp_path: Path) -> None:
    done = subprocess.run([fsck, tmp_path / "missing"], capture_output=True, check=False)
    assert done.returncode == 8
    assert subprocess.run([fsck], capture_output=True, check=False).returncode == 8


def test_volume_in_use_is_checked_without_its_counts(fsck: Path, tmp_path: Path) -> None:
    volume = Volume()
    volume.words(64, 5)
    volume.super_word(60, 0)
    status, said = checked(fsck, tmp_path / "image", bytes(volume.bytes))
    assert status == 0
    assert "not unmounted cleanly" in said


@pytest.mark.parametrize("seed", range(4))
def test_fsck_survives_noise(fsck: Path, tmp_path: Path, seed: int) -> None:
    """Random bytes in all metadata, checksums made right again: an answer, never a crash."""
    chance = random.Random(seed)
    for _ in range(25):
        volume = Volume()
        for _ in range(chance.randint(1, 6)):
            area = chance.choice(((TABLE * BLOCK, TABLE * BLOCK + 6 * INODE), (BLOCK, 11 * BLOCK)))
            volume.bytes[chance.randrange(*area)] = chance.choice((0, 1, 8, 255))
        for number in range(1, 7):
            volume.seal_inode(number)
        status, said = checked(fsck, tmp_path / "image", bytes(volume.bytes))
        assert status in (0, 4), said


# -- the descriptions agree ------------------------------------------------------------------


def _structure_size(name: str) -> int:
    body = re.search(rf"struct {name} \{{(.*?)\n\}};", HEADER, re.DOTALL)
    assert body is not None, f"the header has no struct {name}"
    widths = re.findall(r"^\t__(?:u|le)(\d+)\s", body[1], re.MULTILINE)
    return sum(int(width) // 8 for width in widths)


@pytest.mark.parametrize(
    ("request_name", "direction", "structure"),
    [
        ("STATUS", 2, "vexfs_ref_status"),
        ("ADD_VECTORS", 3, "vexfs_ref_add_vectors"),
        ("SEARCH", 3, "vexfs_ref_search"),
    ],
)
def test_request_numbers_agree(request_name: str, direction: int, structure: str) -> None:
    """The header, vexctl and the subject file: one number each."""
    macro = "_IOR" if direction == 2 else "_IOWR"
    found = re.search(
        rf"VEXFS_REF_IOC_{request_name}\s+{macro}\(VEXFS_REF_IOC, (\d+), struct {structure}\)",
        HEADER,
    )
    assert found is not None, f"the header does not define {request_name}"
    number = direction << 30 | _structure_size(structure) << 16 | 0xE7 << 8 | int(found[1])
    declared = load_subject(REF / "vexrun.toml").ioctl.requests
    assert declared[request_name] == number
    rust = (REF / "vexctl" / "src" / "ioctl.rs").read_text()
    assert f"assert_eq!({request_name}, 0x{number >> 16:04x}_{number & 0xFFFF:04x});" in rust


def test_the_subject_file_declares_what_the_makefile_knows() -> None:
    subject = load_subject(REF / "vexrun.toml")
    kbuild = (REF / "Kbuild").read_text()
    for key in itertools.chain.from_iterable(variant.make_vars for variant in subject.variants):
        assert f"$({key})" in kbuild, f"Kbuild knows no variable {key}"


def test_every_source_file_names_its_licence() -> None:
    sources = [
        path
        for path in REF.rglob("*")
        if path.suffix in (".c", ".h", ".rs") and "target" not in path.parts
    ]
    assert len(sources) > 15
    for path in sources:
        assert "SPDX-License-Identifier: GPL-2.0" in path.read_text()[:200], path
