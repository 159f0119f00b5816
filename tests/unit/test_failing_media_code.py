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
