"""What the guest's half of the failing-media tests accepts; its faults are made up here."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GUEST = Path(__file__).parents[1] / "guest"


@pytest.fixture
def media(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for directory in (GUEST, GUEST / "errors"):
        monkeypatch.syspath_prepend(str(directory))
    import media_in_guest

    for module, name in (
        (media_in_guest.faults_in_guest, "set_faults"),
        (media_in_guest.disks_in_guest, "flush"),
        (media_in_guest.mounting_in_guest, "try_mount"),
        (media_in_guest.mounting_in_guest, "umount"),
    ):
        monkeypatch.setattr(module, name, lambda *_: "")
    yield media_in_guest
    for name in ("media_in_guest", "census_in_guest", "tree_in_guest"):
        sys.modules.pop(name, None)


def mounted_with_a_hole(media: Any, root: Path) -> int:
    before = media.known(str(root))
    worked: int = media.mounted_with_holes("disk", "dm", str(root), "demo", "", before, [(0, 8)])
    return worked


@pytest.mark.parametrize("error", [None, errno.EIO])
def test_free_space_may_be_what_cannot_be_read(
    media: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    """vfat counts free clusters at the first statfs, and says EIO when its table is unreadable."""
    (tmp_path / "file").write_bytes(b"content")

    def statvfs(_path: str) -> None:
        if error is not None:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(media.os, "statvfs", statvfs)
    assert mounted_with_a_hole(media, tmp_path) == 1


@pytest.mark.parametrize("change", ["fsynced_then_cut", "named_and_fsynced_then_cut"])
@pytest.mark.parametrize("lacks", [[], ["mkdir", "truncate", "largefile"]])
def test_all_that_is_noted_before_the_cut_was_fsynced(
    media: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, lacks: list[str]
) -> None:
    real, flushed = {name: getattr(os, name) for name in ("fsync", "fdatasync")}, []

    def noted(flush: str) -> Any:
        def call(fd: int) -> None:
            flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))  # noqa: PTH115, PTH119
            real[flush](fd)

        return call

    for name in real:
        monkeypatch.setattr(os, name, noted(name))
    note = getattr(media, change)(str(tmp_path / "work"), "disk", lacks)
    sys.modules["tree_in_guest"].verify(str(tmp_path / "work"), note, cleanup=True)
    if change == "fsynced_then_cut":
        assert set(flushed) == set(note["names"])
    else:
        assert flushed == ["new", "work"] + ([] if "mkdir" in lacks else ["new", "d"])


def test_directory_without_fsync_is_a_skip(
    media: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(sys.modules["tree_in_guest"].Refused, match="fsync of a directory"):
        media.named_and_fsynced_then_cut(str(tmp_path / "work"), "disk", [])


def test_ballast_of_files_with_a_largest_size(
    media: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 KiB a file: one file would leave the disk as empty as it was."""
    full = __import__("full_in_guest")
    tree = sys.modules["tree_in_guest"].Tree(str(tmp_path / "work"))
    real = os.write

    def write(fd: int, data: bytes) -> int:
        room = 65_536 - os.fstat(fd).st_size
        if not room:
            raise OSError(errno.EFBIG, "File too large")
        return real(fd, data[:room])

    monkeypatch.setattr(os, "write", write)
    full._write_ballast(tree, 500_000, 1000)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "work").iterdir())
    assert sizes == [41_248, *[65_536] * 7]
    assert tree.strangers == {f"ballast{number}" for number in range(8)}
    sys.modules.pop("full_in_guest")
