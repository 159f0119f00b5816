"""Content by other ways than read and write: direct, vectored, copied by the kernel, reserved.

The plain ways are tested before these (test_content.py): what fails there first is easier to read.
"""

from __future__ import annotations

import access_in_guest as guest_code
import pytest

from scenario import Scenario

pytestmark = pytest.mark.needs_operations("write", "create")

WORKERS = 4


def test_direct_and_cached_content_are_one(survives: Scenario) -> None:
    """O_DIRECT among reads and writes; skipped where it cannot be opened so (EINVAL)."""
    survives(guest_code.direct, survives.lacks, fsck=True)


def test_many_buffers_at_once(survives: Scenario) -> None:
    survives(guest_code.vectored)


@pytest.mark.needs_operations("truncate")
def test_copies_made_by_the_kernel(survives: Scenario) -> None:
    """What cp(1) and file servers use; changing a copy leaves the source alone."""
    (refused,) = survives.telling(guest_code.copied_by_the_kernel)
    if len(refused) == guest_code.WAYS_TO_COPY:
        pytest.skip("the filesystem offers neither sendfile nor copy_file_range nor reflinks")


def test_data_is_where_seek_finds_it(survives: Scenario) -> None:
    survives(guest_code.sought, survives.lacks, also=guest_code.check_holes)


def test_reserved_and_punched_space_reads_as_zeros(survives: Scenario) -> None:
    """fallocate in each of its modes, on a disk that holds old data."""
    note, refused = survives.run(guest_code.preallocated, survives.lacks)
    survives.cool(fsck=True)
    survives.verify(note, cleanup=True)
    if len(refused) == guest_code.WAYS_TO_ALLOCATE:
        pytest.skip("the filesystem does not offer fallocate (EOPNOTSUPP)")


@pytest.mark.needs_operations("append")
def test_parallel_appends_to_one_file(survives: Scenario) -> None:
    """O_APPEND of several processes: nobody's record is lost, torn or written over."""
    survives(guest_code.logged, WORKERS, 40, survives.lacks, also=guest_code.check_log)
