"""Directories: mkdir and rmdir, nesting, and complete listings of crowded ones."""

from __future__ import annotations

import directories_in_guest as guest_code
import pytest

from scenario import Scenario

pytestmark = pytest.mark.needs_operations("write", "create", "unlink")

WHERE = [
    pytest.param("", id="root"),
    pytest.param("sub", id="subdirectory", marks=pytest.mark.needs_operations("mkdir")),
]


@pytest.mark.needs_operations("mkdir")
def test_mkdir_and_rmdir(survives: Scenario) -> None:
    survives(guest_code.directories)


@pytest.mark.needs_operations("mkdir")
def test_eight_levels(survives: Scenario) -> None:
    survives(guest_code.nested, 8)


@pytest.mark.needs_operations("mkdir")
def test_thirty_levels(survives: Scenario) -> None:
    survives(guest_code.nested, 30, fsck=True)


@pytest.mark.needs_operations("mkdir")
def test_many_subdirectories(survives: Scenario) -> None:
    survives(guest_code.many_directories, 40, fsck=True)


@pytest.mark.needs_operations("mkdir", "manyfiles")
def test_hundreds_of_subdirectories(survives: Scenario) -> None:
    """More than a link count of one byte can tell."""
    survives(guest_code.many_directories, 300, fsck=True)


def test_directory_up_to_its_limit(survives: Scenario) -> None:
    """Where directories take less, all of it can be used."""
    if "manyfiles" not in survives.lacks:
        pytest.skip("crowded directories have tests of their own")
    survives.in_two_steps(guest_code.up_to_its_limit, 300, then=guest_code.emptied_and_filled_again)


@pytest.mark.needs_operations("manyfiles")
@pytest.mark.parametrize("where", WHERE)
def test_crowded_thinned_and_refilled_directory(survives: Scenario, where: str) -> None:
    """Hundreds of files, every second one goes, new ones come: each time from a cold cache."""
    note = survives.run(guest_code.crowded, where, 300)
    survives.cool()
    note = survives.run(guest_code.thinned, note, where)
    survives.cool(fsck=True)
    survives.verify(note)
    note = survives.run(guest_code.refilled, note, where)
    survives.cool()
    survives.verify(note, cleanup=True)


@pytest.mark.needs_operations("manyfiles")
def test_listing_while_entries_are_removed(survives: Scenario) -> None:
    survives(guest_code.emptied_while_read, 900)


def test_rewinding_a_listing(survives: Scenario) -> None:
    survives(guest_code.reread_from_positions, 60)


def test_a_listing_goes_on_from_every_position(survives: Scenario) -> None:
    survives(guest_code.found_again_by_position, 60)


@pytest.mark.needs_operations("manyfiles")
def test_directory_of_long_names(survives: Scenario) -> None:
    """100 KB of names, where names may be so long: more than a directory's direct blocks."""
    note = survives.run(guest_code.long_names, 500, survives.lacks)
    survives.cool(fsck=True)
    note = survives.run(guest_code.thinned_long_names, note)
    survives.cool(fsck=True)
    survives.verify(note, cleanup=True)
