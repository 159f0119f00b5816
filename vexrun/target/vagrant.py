"""The target `vm` with the backend `vagrant`: the same guest, held by Vagrant.

`vagrant up` boots the box once a run. Vagrant's snapshot of that moment is what every group of
tests starts from, as it starts from vexrun's own snapshot with the backend `qemu`. Console,
monitor, heartbeat and the judgement of them are those of `vexrun.target.vm`.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from vexrun.events import Emit, Stages
from vexrun.image.box import BoxId
from vexrun.image.box_home import box_directory
from vexrun.results.model import TargetInfo
from vexrun.target.vm import VmPlan, VmTarget
from vexrun.vm.machine import Machine, sweep_dead_machines
from vexrun.vm.snapshot import FIRST_BOOT_DEADLINE_S, prove_provisioning, quiesce, settle
from vexrun.vm.type_names import MODULE as RESERVING_MODULE
from vexrun.vm.type_names import names_to_reserve, reserving_initrd
from vexrun.vm.vagrant_machine import VagrantMachine
from vexrun.workdir import work_directory

#: Beside a box's files, once its guest was seen to hold what the roles promise.
PROOF = "vexrun-proof.json"


class VagrantTarget(VmTarget):
    """A guest that Vagrant booted, and puts back to that moment."""

    starts_by = "vagrant up"

    def __init__(self, plan: VmPlan, box: BoxId, emit: Emit) -> None:
        super().__init__(plan, emit)
        self.box = box
        self._held: VagrantMachine | None = None
        self._boot_s = 0.0
        self._closing = False
        self._owned = ExitStack()

    def open(self) -> None:
        """Boot the box, take Vagrant's snapshot, prepare the guest for the subject."""
        sweep_dead_machines()
        self.plan.console_log.parent.mkdir(parents=True, exist_ok=True)
        self.plan.console_log.touch()
        self._boot()
        self._start()

    def _boot(self) -> None:
        stages = Stages(self.emit)
        reserve = names_to_reserve(self.plan.subject.filesystem.type)
        plan = self.machine_plan()
        work = self._owned.enter_context(work_directory(f"vagrant-{os.getpid()}"))
        if reserve:
            (work / "reserve").mkdir()
            initrd = reserving_initrd(self.plan.image, reserve, work / "reserve")
            plan = replace(plan, initrd=initrd)
        machine = self._held = VagrantMachine(plan, self.box)
        with stages.stage("vagrant up", f"{self.box.name} {self.box.version}"):
            begun = time.monotonic()
            machine.start()
            machine.connect(FIRST_BOOT_DEADLINE_S)
            self._boot_s = time.monotonic() - begun
            settle(machine)
            if reserve:
                machine.shell.run(f"rmmod {RESERVING_MODULE}", timeout_s=300, check=True)
        self._prove_once(machine, stages)
        with stages.stage("vagrant snapshot save"):
            quiesce(machine)
            machine.save_clean()

    def _prove_once(self, machine: VagrantMachine, stages: Stages) -> None:
        """The roles again in the booted box; a box is added once and proven once."""
        record = box_directory(self.box) / PROOF
        if record.is_file():
            return
        artifacts = self.plan.console_log.parent / "ansible"
        with stages.stage("provision proof", "the roles again, in the booted box"):
            result = prove_provisioning(machine, artifacts, stages.emit)
        facts = {"boot_s": round(self._boot_s, 2), "ok": result.ok, "changed": result.changed}
        temporary = record.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(facts))
        temporary.rename(record)

    def _make_machine(self) -> Machine:
        assert self._held is not None, "booted by open()"
        return self._held

    def _bring_up(self, machine: Machine) -> None:
        """The first time it stands where its snapshot was taken."""
        assert machine is self._held, "there is one machine"
        if self.restores:
            self._held.restore_clean()
            machine.wait_for_incoming()

    def _discard(self, machine: Machine) -> None:
        """Before a restore its guest ends at once: what it would still print must not be laid at
        the door of the next one. At the end of the run it is left to `close`."""
        assert machine is self._held, "there is one machine"
        if self._closing:
            self._held.let_go()
        else:
            self._held.end_at_once()

    def close(self) -> None:
        """`vagrant halt` for a guest that is well, and `vagrant destroy`."""
        held, healthy = self._held, self._machine is not None and self._is_well()
        self._closing = True
        try:
            self._drop()
        finally:
            self._held = None
            with self._owned:
                if held is not None and healthy:
                    held.reconnect()
                    held.power_off()
                elif held is not None:
                    held.destroy()

    def _is_well(self) -> bool:
        return self.ended() is None and not self.console.events and not self.console.trouble

    def detach(self) -> bool:
        left = super().detach()
        if left:
            self._held = None
        return left

    @property
    def boot_seconds(self) -> float:
        return self._boot_s

    def info(self) -> TargetInfo:
        """What was booted is the box's disk, not the image's."""
        metadata = json.loads((self.box_files / "metadata.json").read_text())
        return (
            super()
            .info()
            .model_copy(update={"backend": "vagrant", "image_sha256": metadata["vexrun"]["sha256"]})
        )

    @property
    def box_files(self) -> Path:
        return box_directory(self.box)
