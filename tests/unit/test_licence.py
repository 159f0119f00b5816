"""The licence a source tree declares for its module."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexrun.licence import declared_licences


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("a.c", 'MODULE_LICENSE("GPL");', "GPL"),
        ("a.c", 'MODULE_LICENSE ( "Dual BSD/GPL" ) ;', "Dual BSD/GPL"),
        ("a.rs", 'module! { type: A, license: "GPL v2" }', "GPL v2"),
        ("a.c", '#define LICENCE "GPL"\nMODULE_LICENSE(LICENCE);', "GPL"),
        ("a.c", '#  define LICENCE ("GPL")\nMODULE_LICENSE(LICENCE);', "GPL"),
        ("a.c", "MODULE_LICENSE(FROM_THE_MAKEFILE);", ""),
    ],
)
def test_licence_is_found(tmp_path: Path, name: str, text: str, licence: str) -> None:
    (tmp_path / name).write_text(text)
    assert declared_licences(tmp_path) == {tmp_path / name: licence}


def test_macro_may_stand_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("MODULE_LICENSE(LICENCE);")
    (tmp_path / "a.h").write_text('#define LICENCE "Dual MIT/GPL"\n')
    assert declared_licences(tmp_path) == {tmp_path / "a.c": "Dual MIT/GPL"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.c", "int f(void);"),
        ("a.mod.c", 'MODULE_LICENSE("GPL");'),
        ("notes.txt", 'MODULE_LICENSE("GPL");'),
    ],
)
def test_nothing_is_declared(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert declared_licences(tmp_path) == {}
