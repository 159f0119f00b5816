"""The guest code about free space, with a statfs made up here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

GUEST = Path(__file__).parents[1] / "guest"
BLOCK = 4096


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for directory in (GUEST, GUEST / "fsops"):
        monkeypatch.syspath_prepend(str(directory))
    import space_in_guest
    import tree_in_guest

    clock = iter(range(1000))
    time = SimpleNamespace(monotonic=lambda: float(next(clock)), sleep=lambda _: None)
    monkeypatch.setattr(tree_in_guest, "time", time)
    monkeypatch.setattr(tree_in_guest, "sync_twice", lambda: None)
    yield space_in_guest
    for name in ("space_in_guest", "tree_in_guest"):
        sys.modules.pop(name, None)


@pytest.fixture
def statfs(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], None]:
    """Make statfs say these numbers of free blocks in turn, the last one for ever."""

    def say(free: list[int]) -> None:
        def statvfs(_: str) -> SimpleNamespace:
            blocks = free.pop(0) if len(free) > 1 else free[0]
            return SimpleNamespace(
                f_bfree=blocks,
                f_bavail=blocks,
                f_blocks=1000,
                f_frsize=BLOCK,
                f_bsize=BLOCK,
                f_files=0,
                f_ffree=0,
                f_namemax=255,
            )

        monkeypatch.setattr(os, "statvfs", statvfs)

    return say


def test_what_is_freed_later_is_waited_for(space: Any, statfs: Callable[[list[int]], None]) -> None:
    """JFS said '65687552 bytes free before, 0 after' right after the last unlink."""
    statfs([10, 10, 10, 998])
    found = space.space_in_the_end("/x", {"free": 1000 * BLOCK, "block": BLOCK})
    assert found["free"] == 998 * BLOCK


def test_what_never_comes_back_is_not_waited_for_for_ever(
    space: Any, statfs: Callable[[list[int]], None]
) -> None:
    statfs([10])
    found = space.space_in_the_end("/x", {"free": 1000 * BLOCK, "block": BLOCK})
    assert found["free"] == 10 * BLOCK


def test_rounds_are_measured_against_the_first(
    space: Any, statfs: Callable[[list[int]], None], tmp_path: Path
) -> None:
    statfs([500, 400, 400, 500])
    rounds = space.cycle(str(tmp_path), 2, 3, 100)
    assert [each["free"] // BLOCK for each in rounds] == [500, 500]
