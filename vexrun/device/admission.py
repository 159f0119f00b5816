"""Everything that is asked before a run on a device begins: guards, gate, a person or a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vexrun.device.confirmation import confirm
from vexrun.device.connection import connection
from vexrun.device.description import CriticalMachines, Device
from vexrun.device.facts import Facts, read_facts
from vexrun.device.guards import Here, Question, demand
from vexrun.device.passage import Pass, show_pass
from vexrun.results.model import DeviceInfo
from vexrun.subject import Subject


@dataclass(frozen=True)
class DeviceRequest:
    """What `--target device` was given. `token` is that of --confirm."""

    device: Device
    critical: CriticalMachines
    seal: Path | None = None
    override: str | None = None
    token: str | None = None


@dataclass(frozen=True)
class Admitted:
    """A request whose every question was answered."""

    request: DeviceRequest
    facts: Facts
    shown: Pass
    confirmed: str

    def info(self) -> DeviceInfo:
        """As the results tell it."""
        disk = self.request.device.disk
        return DeviceInfo(
            name=self.request.device.name,
            machine_id=self.facts.machine_id,
            hostname=self.facts.hostname,
            disk=disk.by_id if disk else "",
            disk_serial=disk.serial if disk else "",
            confirmed=self.confirmed,
            seal_sha256=self.shown.seal_sha256,
            gate_run=self.shown.run_id,
            override=self.shown.override,
            problems=list(self.shown.problems),
        )


def admit(request: DeviceRequest, subject: Subject) -> Admitted:
    """Ask the device's guards, then the gate, then for a confirmation. Changes nothing.

    Raises RefusedError for whatever is against it.
    """
    device = request.device
    with connection(device) as shell:
        facts = read_facts(shell, device.disk.by_id if device.disk else None)
    demand(Question(device, request.critical, facts, Here.read(), subject))
    shown = show_pass(request.seal, request.override, facts.release)
    return Admitted(request, facts, shown, confirm(device, request.token))
