"""A filesystem that cannot be written: what its mkfs put there is all there, each time."""

from __future__ import annotations

import pytest
from vexrun.categories import CATEGORIES
from vexrun.guest.context import RunContext
from vexrun.guest.filesystem import Filesystem
from vexrun.guest.fixtures import Notes
from vexrun.guest.payload import GuestPython

from census_in_guest import assert_unchanged, census, first_file, read_in_pieces


@pytest.fixture
def as_made(mounted: Filesystem) -> Filesystem:
    if not {"write", "create"} & mounted.declared.lacked_operations:
        pytest.skip("the filesystem can be written, so other tests bring their own content")
    return mounted


def test_everything_can_be_read(
    as_made: Filesystem, in_guest: GuestPython, context: RunContext, note: Notes
) -> None:
    """Every name, every byte: sizes are what can be read, and links lead somewhere."""
    if CATEGORIES["own"].missing(context.subject, context.source):
        note(
            "No test can put files on the filesystem, and nothing says what must be on it: what is "
            "there was readable, and the same each time. A script of [[scripts]] can compare it "
            "with what mkfs was given."
        )
    found = in_guest(census, as_made.path)
    if len(found) == 1 and not as_made.is_block:
        pytest.skip("nothing is on the nodev filesystem, and nothing can be created")
    assert len(found) > 1, (
        "the filesystem cannot be written, and nothing is on it: there is nothing that any test "
        "could read; have filesystem.mkfs put files there"
    )
    in_guest(assert_unchanged, as_made.path, found, "reading it a second time")


def test_it_is_the_same_after_remounts(as_made: Filesystem, in_guest: GuestPython) -> None:
    before = in_guest(census, as_made.path)
    for number in range(1, 4):
        as_made.remount_cold(fsck=True)
        in_guest(assert_unchanged, as_made.path, before, f"after remount number {number}")


def test_a_file_is_read_in_every_way(as_made: Filesystem, in_guest: GuestPython) -> None:
    """Backwards, at odd offsets, across its end and through a mapping: the same bytes."""
    file = in_guest(first_file, as_made.path)
    if file is None:
        pytest.skip("mkfs puts no file with content on the filesystem")
    in_guest(read_in_pieces, file, "mmap" not in as_made.declared.lacked_operations)
