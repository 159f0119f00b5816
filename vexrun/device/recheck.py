"""Asked by tests on a device, right before each step that destroys something there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vexrun.device import facts_in_guest
from vexrun.device.description import CriticalMachines, Device
from vexrun.device.facts import Facts, facts_request
from vexrun.device.guards import Here, Phase, Question, RefusedError, demand
from vexrun.errors import TargetLostError
from vexrun.guest.context import DeviceClaim

if TYPE_CHECKING:
    from vexrun.guest.fixtures import Guest


def demand_again(guest: Guest, claim: DeviceClaim, name: str, path: str) -> None:
    """Every guard once more, on facts of this moment; signatures are the tests' own by now.

    `path` is about to be written: it still has to be the window `name`, for the kernel gives its
    number to another device as soon as the window is gone.

    Raises TargetLostError for a refusal: nobody's test has failed, and nothing may go on.
    """
    said = guest.call(facts_in_guest.read, facts_request(claim.by_id, signatures=False))
    question = Question(
        device=Device.model_validate_json(claim.device),
        critical=CriticalMachines.model_validate_json(claim.critical),
        facts=Facts.model_validate(said),
        here=Here(claim.machine_id, claim.boot_id),
        phase=Phase.RUNNING,
        claimed=Facts.model_validate_json(claim.facts),
    )
    try:
        demand(question)
    except RefusedError as error:
        raise TargetLostError(f"{error.message} Nothing was written.") from error
    holders = [each for part in question.own_parts for each in part.holders]
    if f"{path.rpartition('/')[2]} ({name})" not in holders:
        raise TargetLostError(
            f"'{path}' is not vexrun's window '{name}' any more. Nothing was written."
        )
