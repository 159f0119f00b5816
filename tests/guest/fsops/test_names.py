"""Names: rename, unlink, hard and symbolic links, long and odd names."""

from __future__ import annotations

from collections.abc import Callable

import names_in_guest as guest_code
import pytest

from scenario import Scenario

pytestmark = pytest.mark.needs_operations("write", "create")


@pytest.mark.needs_operations("rename")
def test_rename(survives: Scenario) -> None:
    survives(guest_code.renamed)


@pytest.mark.needs_operations("rename")
def test_rename_replaces_files(survives: Scenario) -> None:
    survives(guest_code.renamed_over_files, fsck=True)


@pytest.mark.needs_operations("rename", "mkdir")
def test_rename_across_directories(survives: Scenario) -> None:
    survives(guest_code.renamed_across_directories)


@pytest.mark.needs_operations("rename", "mkdir")
def test_rename_of_directories(survives: Scenario) -> None:
    survives(guest_code.renamed_directories, fsck=True)


@pytest.mark.needs_operations("rename")
def test_names_are_exchanged_or_that_is_refused(survives: Scenario) -> None:
    """RENAME_EXCHANGE and RENAME_WHITEOUT: taken for a plain rename they lose a file."""
    survives(guest_code.exchanged, survives.lacks, fsck=True)


@pytest.mark.needs_operations("mkdir")
def test_dot_dot_is_the_parent(survives: Scenario) -> None:
    note = survives.run(guest_code.renamed_directories)
    survives.cool()
    survives.in_guest(guest_code.dot_dot_is_parent, survives.workdir, note)
    survives.verify(note, cleanup=True)


@pytest.mark.needs_operations("unlink")
def test_unlink(survives: Scenario) -> None:
    survives(guest_code.unlinked)


@pytest.mark.needs_operations("unlink")
def test_unlink_while_open_keeps_the_data(survives: Scenario) -> None:
    survives(guest_code.unlinked_while_open, fsck=True)


@pytest.mark.needs_operations("hardlink")
def test_file_that_gets_its_name_later(survives: Scenario) -> None:
    survives(guest_code.named_later, fsck=True)


@pytest.mark.needs_operations("hardlink", "unlink")
def test_hard_links(survives: Scenario) -> None:
    survives(guest_code.hard_linked, False)


@pytest.mark.needs_operations("hardlink", "unlink", "mkdir")
def test_hard_links_across_directories(survives: Scenario) -> None:
    survives(guest_code.hard_linked, True, fsck=True)


@pytest.mark.needs_operations("hardlink", "unlink")
def test_many_hard_links(survives: Scenario) -> None:
    survives(guest_code.many_links, 60)


@pytest.mark.needs_operations("symlink")
@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([1, 13, 39, 40, 58, 59, 60, 61, 64], id="in-the-inode-and-just-beyond"),
        pytest.param([95, 96, 119, 120, 121, 126, 127, 128, 159, 160], id="in-larger-inodes"),
        pytest.param([200, 255, 256, 500], id="in-a-block"),
        pytest.param([1000, 1022], id="nearly-1KiB"),
    ],
)
def test_symbolic_links(
    survives: Scenario, lengths: list[int], note: Callable[[str], None]
) -> None:
    limit, sizeless = survives.telling(guest_code.symlinked, lengths, survives.lacks)
    if limit is not None:
        note(f"Symbolic links to {limit} bytes are refused (ENAMETOOLONG).")
    if sizeless:
        note("The size of a symbolic link is 0; POSIX has it be the length of its target.")


@pytest.mark.needs_operations("symlink", "mkdir")
def test_symbolic_links_to_directories(survives: Scenario) -> None:
    survives(guest_code.symlinked_directories)


def test_longest_names(survives: Scenario) -> None:
    survives(guest_code.longest_names, survives.lacks)


def test_odd_names(survives: Scenario, note: Callable[[str], None]) -> None:
    """A filesystem may spell a name in its own way, as UDF does, and say so in its listings."""
    (respelled,) = survives.telling(guest_code.odd_names)
    for name, spelling in respelled.items():
        note(f"A file made as '{name}' is '{spelling}' in a listing and after a remount.")


def test_names_of_other_alphabets(survives: Scenario, note: Callable[[str], None]) -> None:
    """Bytes above 127, where a character is not what a signed char makes of it."""
    (respelled,) = survives.telling(guest_code.foreign_names)
    for name, spelling in respelled.items():
        note(f"A file made as '{name}' is '{spelling}' in a listing and after a remount.")


@pytest.mark.needs_operations("casesensitive")
def test_names_that_differ_in_case(survives: Scenario) -> None:
    survives(guest_code.names_by_case)
