"""The boxes that vexrun's own Vagrant has, made from images when they are asked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vexrun.events import Emit, Note, Progress, Stages
from vexrun.image.box import PROVIDER_FORMAT, BoxId, make_box, write_box
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import exclusive
from vexrun.settings import Settings
from vexrun.vm.vagrant_cli import VagrantCli, vagrant_home
from vexrun.workdir import work_directory


def ensure_box(image: Image, settings: Settings, emit: Emit) -> BoxId:
    """`image`'s box, added to Vagrant's: there already, or made now."""
    box = BoxId.of(image)

    def tell() -> None:
        emit(Note(f"Another vexrun is making the box '{box.name}'; waiting for it."))

    with (
        exclusive(lock_path(f"box-{box.stem}"), on_wait=tell),
        work_directory(f"box-{box.stem}-{os.getpid()}") as work,
    ):
        vagrant = VagrantCli(work)
        if box.version not in vagrant.box_versions(box.name):
            stages = Stages(emit)
            made = make_box(image, work, settings, stages)
            _, catalog = write_box(image, made, work)
            with stages.stage("box add", f"{box.name} {box.version}"):
                vagrant.box_add(catalog)
                emit(Progress(f"{box.name} {box.version} is Vagrant's now"))
    return box


def remove_box(image: Image) -> BoxId | None:
    """Take the box of an image that is no more out of Vagrant's; None when it had none."""
    box = BoxId.of(image)
    version = box_directory(box).parent
    if not version.is_dir():
        return None
    shutil.rmtree(version)
    return box


def box_directory(box: BoxId) -> Path:
    """Where Vagrant keeps the files of a box it has."""
    name = box.name.replace("/", "-VAGRANTSLASH-")
    return vagrant_home() / "boxes" / name / box.version / PROVIDER_FORMAT
