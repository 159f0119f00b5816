"""Categories that a subject has no test for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vexrun.categories import CATEGORIES, OWN_TESTS_DIR, without_missing
from vexrun.errors import ConfigError
from vexrun.subject import Subject

MakeSubject = Callable[..., Subject]
ROWS = [CATEGORIES[name] for name in ("build", "unit", "own")]
CRATE = '[[crates]]\ndir = "cli"\nbin = "cli"\n'
SUITE = '[[unit]]\nname = "a"\nrun = "true"\n'
SCRIPT = '[[scripts]]\nname = "a"\nrun = "true"\nsuccess = "ok"\n'


def names(
    subject: Subject, source: Path | None = None, only: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    kept, notes = without_missing(ROWS, only, subject, source)
    return [row.name for row in kept], notes


def test_what_has_no_test_is_left_out_and_said(make_subject: MakeSubject, tmp_path: Path) -> None:
    kept, notes = names(make_subject(), tmp_path)
    assert kept == ["build"]
    assert (
        "'unit' was not run: the subject file declares neither [[crates]] nor [[unit]]" in notes[0]
    )
    assert "'own' was not run" in notes[1]


@pytest.mark.parametrize(
    ("more", "expected"),
    [(CRATE, ["build", "unit"]), (SUITE, ["build", "unit"]), (SCRIPT, ["build", "own"])],
)
def test_what_is_declared_is_run(more: str, expected: list[str], make_subject: MakeSubject) -> None:
    assert names(make_subject(more))[0] == expected


def test_directory_of_own_tests_needs_no_declaration(
    make_subject: MakeSubject, tmp_path: Path
) -> None:
    (tmp_path / OWN_TESTS_DIR).mkdir()
    assert names(make_subject(), tmp_path)[0] == ["build", "own"]


def test_what_was_asked_for_is_never_left_out(make_subject: MakeSubject) -> None:
    """It fails then, because nothing runs in it."""
    assert names(make_subject(), only=("unit", "own")) == (["build", "unit", "own"], [])


def test_nothing_left_is_an_error(make_subject: MakeSubject) -> None:
    with pytest.raises(ConfigError, match="no test in any") as caught:
        without_missing([CATEGORIES["unit"]], [], make_subject(), None)
    assert "neither [[crates]]" in (caught.value.evidence or "")


@pytest.mark.parametrize("key", ["unit", "scripts"])
def test_names_of_suites_and_scripts_are_their_own(key: str, make_subject: MakeSubject) -> None:
    twice = {"unit": SUITE, "scripts": SCRIPT}[key] * 2
    with pytest.raises(ConfigError) as caught:
        make_subject(twice)
    assert f"[[{key}]] need names of their own" in (caught.value.evidence or "")


@pytest.mark.parametrize(
    ("filesystem", "left_out"),
    [
        ('mkfs = "true"', []),
        ('mkfs = "true"\nlacks = ["create", "unlink"]', ["perf"]),
        ('backing = "nodev"', ["mkfs"]),
        ('backing = "nodev"\nlacks = ["write"]', ["mkfs", "perf"]),
        ('backing = "nodev"\nlacks = ["create"]', ["mkfs", "errors", "perf"]),
    ],
)
def test_what_a_filesystem_lacks_can_leave_a_category_empty(
    filesystem: str, left_out: list[str], make_subject: MakeSubject
) -> None:
    """Each would fail a sound module: a category in which no test ran is a failure."""
    subject = make_subject(filesystem=f'type = "demo"\n{filesystem}')
    rows = [row for row in CATEGORIES.values() if row.needs_guest and row.name != "own"]
    kept, notes = without_missing(rows, [], subject, None)
    assert [row.name for row in rows if row not in kept] == left_out
    assert len(notes) == len(left_out)


@pytest.mark.parametrize("name", ["mkfs", "errors", "perf"])
def test_what_was_asked_for_by_name_stays(name: str, make_subject: MakeSubject) -> None:
    subject = make_subject(filesystem='type = "demo"\nbacking = "nodev"\nlacks = ["create"]')
    assert without_missing([CATEGORIES[name]], [name], subject, None)[0] == [CATEGORIES[name]]
