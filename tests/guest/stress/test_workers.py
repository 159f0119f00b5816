"""Several processes change one filesystem, while something else disturbs them."""

from __future__ import annotations

import pytest
import workers_in_guest as guest_code
from vexrun.guest.context import RunContext

from census_in_guest import census
from scenario import Scenario

WORKERS = 4


def turns(context: RunContext, at_full_speed: int, least: int) -> int:
    """Less work on a slow machine, but never less than makes processes meet."""
    return max(least, round(at_full_speed / context.slowdown))


OWN = pytest.mark.needs_operations("mkdir")
FSYNC = pytest.mark.needs_operations("fsync")


@pytest.mark.needs_operations("write", "create", "unlink")
@pytest.mark.parametrize(
    ("storm", "own_directories"),
    [
        pytest.param("listings", False, id="same-directory-listings"),
        pytest.param("listings", True, id="own-directories-listings", marks=OWN),
        pytest.param("sync", False, id="same-directory-sync"),
        pytest.param("fsync", True, id="own-directories-fsync", marks=[OWN, FSYNC]),
        pytest.param("dropped-caches", False, id="same-directory-dropped-caches"),
    ],
)
def test_workers_keep_their_content(
    survives: Scenario, context: RunContext, storm: str, own_directories: bool
) -> None:
    """Create, rewrite, append, cut, rename, link, remove: all of it is there after a remount."""
    survives(
        guest_code.worked,
        survives.lacks,
        WORKERS,
        turns(context, 1500, 80),
        storm,
        own_directories,
        fsck=True,
    )


def test_readers_agree(survives: Scenario, context: RunContext) -> None:
    """Processes read the same tree at once with caches dropped; also on a read-only filesystem."""
    note = None
    if not {"write", "create"} & set(survives.lacks):
        note = survives.run(guest_code.to_be_read, survives.lacks)
    root, in_guest = survives.mounted.path, survives.in_guest
    before = in_guest(census, root)
    if len(before) == 1:
        pytest.skip("nothing is on the filesystem, and nothing can be created")
    rounds = turns(context, 40, 3)
    total = in_guest(guest_code.read_in_parallel, root, before, WORKERS, rounds)
    assert total == WORKERS * rounds, f"{total} rounds of reading were made"
    if note is not None:
        survives.verify(note, cleanup=True)
