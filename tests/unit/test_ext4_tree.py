"""Foreign disks: filesystems found, and their files copied as they are, all without mounting."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from vexrun.errors import InfrastructureError
from vexrun.image.ext4_tree import copy_tree
from vexrun.image.partitions import Ext4, find_ext4

MIB = 1 << 20
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="owners can only be given as root")


def sbin(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert found is not None
    return found


def make_ext4(tree: Path, file: Path, label: str = "cloudimg-rootfs") -> Path:
    argv = [sbin("mke2fs"), "-q", "-t", "ext4", "-L", label, "-d", str(tree), str(file), "16M"]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return file


def gpt(disk: Path, parts: dict[int, Path]) -> Path:
    """A GPT disk with a filesystem at each MiB; only what a reader of it looks at is made."""
    with disk.open("wb") as stream:
        stream.write(b"\0" * 446 + b"\0\0\0\0\xee" + b"\0" * 11 + b"\0" * 48 + b"\x55\xaa")
        stream.write(b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, 128, 128))
        for number, (offset, part) in enumerate(parts.items()):
            stream.seek(1024 + 128 * number)
            first = offset * MIB // 512
            last = first + part.stat().st_size // 512 - 1
            stream.write(uuid.uuid4().bytes * 2 + struct.pack("<QQ", first, last))
        for offset, part in parts.items():
            stream.seek(offset * MIB)
            stream.write(part.read_bytes())
    return disk


def mbr(disk: Path, parts: dict[int, Path]) -> Path:
    with disk.open("wb") as stream:
        stream.write(b"\0" * 446)
        for offset in parts:
            stream.write(b"\0\0\0\0\x83\0\0\0" + struct.pack("<II", offset * MIB // 512, 32768))
        stream.seek(510)
        stream.write(b"\x55\xaa")
        for offset, part in parts.items():
            stream.seek(offset * MIB)
            stream.write(part.read_bytes())
    return disk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "os-release").write_text("ID=debian\n")
    return root


# -- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [gpt, mbr])
def test_filesystems_are_found_in_partitions(tmp_path: Path, tree: Path, table: object) -> None:
    root = make_ext4(tree, tmp_path / "root")
    boot = make_ext4(tree, tmp_path / "boot", label="BOOT")
    junk = tmp_path / "junk"
    junk.write_bytes(os.urandom(MIB))
    disk = table(tmp_path / "disk", {1: junk, 4: boot, 32: root})  # type: ignore[operator]
    found = find_ext4(disk)
    assert [(each.offset, each.label) for each in found] == [
        (4 * MIB, "BOOT"),
        (32 * MIB, "cloudimg-rootfs"),
    ]
    told = subprocess.run(
        [sbin("blkid"), "-p", "-o", "value", "-s", "UUID", root],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found[1].size == 16 * MIB
    assert found[1].uuid == told.stdout.strip()
    assert found[1].names() == {"LABEL=cloudimg-rootfs", f"UUID={found[1].uuid}"}
    assert not found[1].unclean


def test_a_disk_may_have_no_partitions(tmp_path: Path, tree: Path) -> None:
    assert [each.offset for each in find_ext4(make_ext4(tree, tmp_path / "disk"))] == [0]


@pytest.mark.parametrize("content", [b"", b"short", os.urandom(4 * MIB), b"\0" * MIB])
def test_nothing_is_found_in_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert find_ext4(tmp_path / "disk") == []


def test_a_partition_table_that_points_outside_is_no_crash(tmp_path: Path, tree: Path) -> None:
    disk = gpt(tmp_path / "disk", {1: make_ext4(tree, tmp_path / "root")})
    disk.write_bytes(disk.read_bytes()[: MIB // 2])
    assert find_ext4(disk) == []


# -- copying -------------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path, tree: Path) -> Iterator[Path]:
    """A tree with all that cloud images have, through a disk and back."""
    (tree / "bin").mkdir()
    su = tree / "bin" / "su"
    su.write_bytes(b"x" * 5000)
    if os.geteuid() == 0:
        os.chown(su, 0, 4)
    su.chmod(0o4755)
    os.link(su, tree / "bin" / "other")
    (tree / "bin" / "link").symlink_to("../bin/su")
    (tree / "long").symlink_to("y" * 200)
    (tree / 'we ird"q').write_text("content")
    (tree / "secret").write_text("s")
    (tree / "secret").chmod(0o600)
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    (tree / "group").mkdir()
    (tree / "group").chmod(0o2775)
    (tree / "empty").touch()
    os.mkfifo(tree / "pipe")
    if os.geteuid() == 0:
        ping = tree / "bin" / "ping"
        ping.write_text("p")
        ping.chmod(0o755)
        # VFS_CAP_REVISION_2, effective, CAP_NET_RAW
        os.setxattr(ping, "security.capability", bytes.fromhex("0100000200200000" + "00" * 12))
    disk = gpt(tmp_path / "disk", {1: make_ext4(tree, tmp_path / "root")})
    shutil.rmtree(tree)
    out = tmp_path / "out"
    out.mkdir()
    copy_tree(disk, find_ext4(disk)[0], out, tmp_path)
    yield out


@NEEDS_ROOT
def test_everything_is_as_it_was(copied: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in copied.rglob("*")}
    assert modes["su"] == modes["other"] == 0o4755
    assert (modes["tmp"], modes["group"], modes["secret"]) == (0o1777, 0o2775, 0o600)
    assert stat.S_IMODE(copied.stat().st_mode) == 0o755
    assert (copied / "bin" / "su").stat().st_gid == 4
    assert (copied / "bin" / "su").samefile(copied / "bin" / "other")
    assert (copied / "bin" / "su").read_bytes() == b"x" * 5000
    assert str((copied / "bin" / "link").readlink()) == "../bin/su"
    assert str((copied / "long").readlink()) == "y" * 200
    assert (copied / 'we ird"q').read_text() == "content"
    assert (copied / "empty").stat().st_size == 0
    capability = os.getxattr(copied / "bin" / "ping", "security.capability")
    assert capability.startswith(bytes.fromhex("0100000200200000"))


@NEEDS_ROOT
def test_pipes_and_devices_stay_behind(copied: Path) -> None:
    assert not (copied / "pipe").exists()
    assert {stat.S_IFMT(path.lstat().st_mode) for path in copied.rglob("*")} == {
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
    }


@NEEDS_ROOT
def test_a_journal_with_something_in_it_is_replayed_first(tmp_path: Path, tree: Path) -> None:
    disk = gpt(tmp_path / "disk", {1: make_ext4(tree, tmp_path / "root")})
    subprocess.run(
        [sbin("debugfs"), "-w", "-R", "feature needs_recovery", f"{disk}?offset={MIB}"],
        check=True,
        capture_output=True,
    )
    found = find_ext4(disk)[0]
    assert found.unclean
    (tmp_path / "out").mkdir()
    copy_tree(disk, found, tmp_path / "out", tmp_path)
    assert (tmp_path / "out" / "etc" / "os-release").read_text() == "ID=debian\n"
    assert find_ext4(disk)[0].unclean, "the image itself is left as it is"


@NEEDS_ROOT
@pytest.mark.parametrize("kept", [2 * MIB, 1 * MIB + 4096])
def test_a_disk_cut_short_is_refused(tmp_path: Path, tree: Path, kept: int) -> None:
    (tree / "big").write_bytes(os.urandom(9 * MIB))
    disk = gpt(tmp_path / "disk", {1: make_ext4(tree, tmp_path / "root")})
    found = find_ext4(disk)[0]
    with disk.open("r+b") as stream:
        stream.truncate(kept)
    (tmp_path / "out").mkdir()
    with pytest.raises(InfrastructureError, match=r"could not be read|failed with exit status"):
        copy_tree(disk, found, tmp_path / "out", tmp_path)


@NEEDS_ROOT
def test_no_filesystem_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"\0" * MIB)
    (tmp_path / "out").mkdir()
    with pytest.raises(InfrastructureError, match="could not be read"):
        copy_tree(tmp_path / "disk", Ext4(0, MIB, "", "", False), tmp_path / "out", tmp_path)
