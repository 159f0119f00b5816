"""stress-ng's filesystem stressors, several at a time, each checking its own results."""

from __future__ import annotations

import pytest
import stressors_in_guest as guest_code
from vexrun.guest import stress_ng
from vexrun.guest.context import RunContext
from vexrun.guest.fixtures import Guest, Notes

from scenario import Scenario

_REPORT = "/var/lib/vexrun/stress-ng.yaml"


@pytest.mark.needs_operations("write", "create", "unlink", "mkdir")
@pytest.mark.parametrize("group", stress_ng.GROUPS)
def test_stressors(
    survives: Scenario, guest: Guest, context: RunContext, note: Notes, group: str
) -> None:
    """Every stressor works, or says itself why it cannot; what was there before stays whole."""
    stressors = stress_ng.suitable(group, survives.lacks)
    if not stressors:
        pytest.skip(f"the subject file declares that it lacks what '{group}' stressors need")
    longest = survives.in_guest(guest_code.longest_name, survives.mounted.path, survives.lacks)
    if longest < stress_ng.LONGEST_NAME:
        pytest.skip(
            f"names have up to {longest} bytes here, and stress-ng's have {stress_ng.LONGEST_NAME}"
        )
    made = survives.run(guest_code.bystanders)
    seconds = 3 if context.slowdown > 2 else 10
    directory = f"{survives.workdir}/{guest_code.PLACE}"
    status, out, _ = guest.run(
        f"rm -f {_REPORT}; " + stress_ng.command(stressors, seconds, directory, _REPORT)
    )
    names = [each.name for each in stressors]
    verdict = stress_ng.read_verdict(names, status, out, guest.read(_REPORT) or "")
    failed = "; ".join(f"{name}: {why}" for name, why in verdict.failed.items())
    assert not failed, f"stress-ng finds that {failed}\n{out}"
    survives.cool(fsck=True)
    survives.verify(made, cleanup=True)
    if len(verdict.skipped) == len(names):
        pytest.skip("; ".join(verdict.skipped.values()))
    for why in verdict.skipped.values():
        note(f"stress-ng left out a stressor: {why}.")
