"""Machines that outlive the process that starts them: `vexrun vm up`, `molecule create`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vexrun.vm.machine import Machine, MachinePlan
from vexrun.vm.snapshot import FIRST_BOOT_DEADLINE_S

MakeMachine = Callable[[MachinePlan, Callable[[str], Path] | None], Machine]


def start_detached(
    plan: MachinePlan,
    *,
    console_log: Callable[[str], Path] | None = None,
    announce: Callable[[str], None] = lambda _name: None,
    make: MakeMachine = Machine,
) -> dict[str, object]:
    """Start `plan`, from its saved state or with a cold boot, mount the source, let it go.

    `announce` hears the machine's name before QEMU exists, so that a caller who is killed half
    way can find it again (`vexrun.vm.registry.end_named`). `make` decides what holds the machine.
    Returns the record of Machine.detach.
    """
    machine = make(replace(plan, outlives_us=True), console_log)
    announce(machine.name)
    try:
        machine.start()
        if plan.state is not None:
            machine.wait_for_incoming()
            machine.resize_scratch()
        machine.connect(FIRST_BOOT_DEADLINE_S)
        machine.set_clock_and_mount_source(FIRST_BOOT_DEADLINE_S)
    except BaseException:
        machine.destroy()
        raise
    return machine.detach()
