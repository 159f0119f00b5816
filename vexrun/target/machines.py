"""The virtual machine of a run: which kind, and what it starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vexrun.config import Backend, RunConfig
from vexrun.events import Emit, Stages
from vexrun.image.box_home import ensure_box
from vexrun.image.catalog import Image
from vexrun.target.vagrant import VagrantTarget
from vexrun.target.vm import VmPlan, VmTarget
from vexrun.vm.accel import Accelerator
from vexrun.vm.snapshot import ensure_snapshot
from vexrun.vm.type_names import names_to_reserve


def machine_of(
    config: RunConfig,
    image: Image,
    accelerator: Accelerator,
    source: Path,
    console_log: Path,
    stages: Stages,
    emit: Emit,
) -> VmTarget:
    """The machine that was asked for, not opened yet.

    Its box or its RAM snapshot is made first, if there is none.
    """
    settings, subject = config.settings, config.subject
    plan = VmPlan(
        image=image,
        snapshot=None,
        accelerator=accelerator,
        hardware=settings.machine,
        subject=subject,
        source_dir=source,
        console_log=console_log,
        outlives_us=config.keep,
    )
    if config.backend is Backend.VAGRANT:
        with stages.stage("box"):
            return VagrantTarget(plan, ensure_box(image, settings, emit), emit)
    with stages.stage("snapshot"):
        names = names_to_reserve(subject.filesystem.type)
        snapshot = ensure_snapshot(image, accelerator, settings.machine, emit, names)
        return VmTarget(replace(plan, snapshot=snapshot), emit)
