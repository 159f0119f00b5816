"""A full filesystem: ENOSPC, nothing lost that was accepted, and all of it comes back."""

from __future__ import annotations

from typing import Any

import full_in_guest as guest_code
import pytest

from scenario import Scenario

pytestmark = pytest.mark.needs_operations("write", "create", "unlink", "statfs")


@pytest.fixture
def fillable(survives: Scenario) -> Scenario:
    """Something that gets full before the machine's memory does."""
    available, memory = survives.in_guest(guest_code.capacity, survives.mounted.path)
    if not survives.mounted.is_block and (not available or available > memory // 4):
        pytest.skip(
            "the nodev filesystem has no size of its own (statfs), so filling it would only fill "
            "the machine's memory"
        )
    assert available, "statfs says that nothing is available on a fresh filesystem"
    return survives


def _emptied(fillable: Scenario, note: Any, before: dict[str, int]) -> None:
    """From a cold cache: all accepted content is right, removing it gives the space back."""
    fillable.cool(fsck=True)
    fillable.verify(note)
    note = fillable.run(guest_code.emptied, note, before)
    fillable.cool(fsck=True)
    fillable.verify(note, cleanup=True)


@pytest.mark.needs_operations("largefile")
def test_filled_by_large_files(fillable: Scenario) -> None:
    note, before = fillable.run(guest_code.by_large_files)
    _emptied(fillable, note, before)


def test_filled_by_small_files(fillable: Scenario) -> None:
    note, before, _ = fillable.run(guest_code.by_small_files, fillable.lacks)
    _emptied(fillable, note, before)


def test_filled_to_the_last_block(fillable: Scenario) -> None:
    note, before = fillable.run(guest_code.to_the_last_block, fillable.lacks)
    _emptied(fillable, note, before)
