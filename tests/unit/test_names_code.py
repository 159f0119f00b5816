"""The guest code about names, run here on a directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

GUEST = Path(__file__).parents[1] / "guest"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for directory in (GUEST, GUEST / "fsops"):
        monkeypatch.syspath_prepend(str(directory))
    import names_in_guest

    yield names_in_guest
    for name in ("names_in_guest", "tree_in_guest"):
        sys.modules.pop(name, None)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have listings leave a name out, as those of a filesystem that spells it otherwise."""
    real = os.listdir

    def begin(hidden: str) -> None:
        monkeypatch.setattr(
            os, "listdir", lambda path: [name for name in real(path) if name != hidden]
        )

    return begin


def test_what_opens_under_both_spellings_is_respelled(
    names: Any, hide: Callable[[str], None], tmp_path: Path
) -> None:
    tree = names.Tree(str(tmp_path))
    tree.create("..x", 10)
    tree.create("plain", 10)
    os.link(tmp_path / "..x", tmp_path / ".#41DC.x")
    hide("..x")
    assert names._respelled(tree) == {"..x": ".#41DC.x"}


@pytest.mark.parametrize("other", [None, "a-file-of-its-own"])
def test_a_name_that_is_only_gone_is_no_translation(
    names: Any, hide: Callable[[str], None], tmp_path: Path, other: str | None
) -> None:
    tree = names.Tree(str(tmp_path))
    tree.create("..x", 10)
    if other:
        (tmp_path / other).write_bytes(b"")
    hide("..x")
    assert names._respelled(tree) == {}


def test_symbolic_links_that_are_too_long_are_a_limit(
    names: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = os.symlink

    def refuse(target: str, path: str) -> None:
        if len(target) > 32:
            raise OSError(36, "File name too long")
        real(target, path)

    monkeypatch.setattr(os, "symlink", refuse)
    _, limit, sizeless = names.symlinked(str(tmp_path), [1, 13, 39, 40], [])
    assert (limit, sizeless) == (39, False)


def test_nothing_is_respelled_here(names: Any, tmp_path: Path) -> None:
    made, respelled = names.odd_names(str(tmp_path))
    assert respelled == {}
    assert set(made["names"]) == set(names.ODD_NAMES)
