"""The roles of the group `device`, applied to a test device over ssh."""

from __future__ import annotations

from vexrun.device.connection import connection, device_inventory
from vexrun.device.description import Device, load_critical
from vexrun.device.facts import read_facts
from vexrun.device.guards import Here, Question, RefusedError, refusals
from vexrun.events import Emit, Stages
from vexrun.playbook import PlaybookResult, run_playbook
from vexrun.provisioning import fresh_artifacts

#: What has to hold before packages are installed there; no disk is touched.
_ASKED = frozenset({"machine-id", "this-machine", "critical"})


def provision_device(device: Device, *, check: bool, emit: Emit) -> PlaybookResult:
    """Apply the roles; with `check`, only look.

    Raises RefusedError when another machine answers than the one described, or one that matters;
    InfrastructureError naming the task where a role failed.
    """
    with connection(device) as shell:
        facts = read_facts(shell, None)
        _refuse_another(device, Question(device, load_critical(), facts, Here.read()))
        with Stages(emit).stage(
            "provision", f"{device.name}, check only" if check else device.name
        ):
            return run_playbook(
                "provision.yml",
                [device_inventory(device, shell.config)],
                artifact_dir=fresh_artifacts(f"provision-{device.name}"),
                emit=emit,
                check=check,
            )


def _refuse_another(device: Device, question: Question) -> None:
    for refusal in refusals(question):
        if refusal.guard in _ASKED:
            raise RefusedError(
                f"Nothing is installed on '{device.name}': {refusal.found}", hint=refusal.do
            )
