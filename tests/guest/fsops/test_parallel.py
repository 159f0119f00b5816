"""Several processes at once: unique inodes, and nobody's data in somebody else's file."""

from __future__ import annotations

import processes_in_guest as guest_code
import pytest

from scenario import Scenario

pytestmark = pytest.mark.needs_operations("write", "create")

WORKERS = 4
KIB = 1024


@pytest.mark.parametrize(
    "own_directories",
    [
        pytest.param(False, id="same-directory"),
        pytest.param(True, id="own-directories", marks=pytest.mark.needs_operations("mkdir")),
    ],
)
def test_parallel_creates(survives: Scenario, own_directories: bool) -> None:
    survives(guest_code.created_in_parallel, WORKERS, 25, own_directories, fsck=True)


def test_parallel_writes_to_files_of_their_own(survives: Scenario) -> None:
    survives(guest_code.written_in_parallel, WORKERS, 300 * KIB)


def test_parallel_writes_to_one_file(survives: Scenario) -> None:
    survives(guest_code.shared_file_in_parallel, WORKERS, 150_000)


@pytest.mark.needs_operations("rename", "unlink")
def test_parallel_create_rename_unlink(survives: Scenario) -> None:
    survives(guest_code.churned_in_parallel, WORKERS, 25, fsck=True)


@pytest.mark.needs_operations("mkdir", "unlink")
def test_every_kind_of_change_at_once(survives: Scenario) -> None:
    """Each in a directory of its own: a lock order that is not one ends in a deadlock."""
    survives(guest_code.each_at_its_own, survives.lacks, 3, fsck=True)
