"""A tree at depth through several remounts, changed in between."""

from __future__ import annotations

import pytest
import whole_tree_in_guest as guest_code

from scenario import Scenario


@pytest.mark.needs_operations("write", "create")
def test_tree_survives_changes_and_remounts(survives: Scenario) -> None:
    note = survives.run(guest_code.whole_tree, survives.lacks)
    survives.cool(fsck=True)
    survives.verify(note)
    note = survives.run(guest_code.changed_tree, note, survives.lacks)
    survives.cool(fsck=True)
    survives.verify(note)
    survives.cool(fsck=True)
    survives.verify(note, cleanup=True)
