"""What the Vagrant provider is to start: the command line of vexrun.vm.qemu, as a JSON document.

The provider (vagrant/provider) decides nothing about a guest. It replaces the `@words@` of a
description by what it alone knows, makes the disks that are not there, and starts QEMU.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from vexrun.settings import MachineSettings
from vexrun.vm.accel import ACCELERATORS, Accelerator
from vexrun.vm.disks import SCRATCH_DISKS
from vexrun.vm.qemu import DiskFormat, GuestHardware, ScratchDisk, qemu_argv

#: Raised when the provider must read a description in another way.
FORMAT = 1
#: Where a box's guest has the source, from its fstab.
SOURCE_MOUNT = "/mnt/vexfs-src"
#: The user of a box, and what the box calls its private key.
BOX_USER = "vagrant"
BOX_KEY = "vagrant_key"

_PORT = "hostfwd=tcp:127.0.0.1:0-:22"
_SCRATCH_MIB = 64
_KEPT_BY_QEMU = Accelerator("any", "@accel@", "@cpu@", 1.0)


def description_of(
    hardware: GuestHardware,
    *,
    disks: list[dict[str, Any]],
    ssh: dict[str, str],
    holds: list[Path] | None = None,
    source_mount: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """`hardware` for the provider, which finds the ssh port itself.

    `disks`: what the provider makes before the first start. `holds`: files that are locked for
    as long as QEMU lives. `source_mount`: where the guest has the source, when the provider is to
    unmount it before it saves a snapshot; None when its caller does.
    """
    assert hardware.control_socket is not None, "the provider needs a monitor of its own"
    argv = qemu_argv(replace(hardware, ssh_port=0))
    assert sum(_PORT in word for word in argv) == 1, "one forward to the guest's ssh"
    written = [hardware.root_overlay, *(d.file for d in hardware.scratch if not d.readonly)]
    return {
        "format": FORMAT,
        "argv": [word.replace(_PORT, _PORT.replace(":0-", ":@port@-")) for word in argv],
        "control": str(hardware.control_socket),
        "console": str(hardware.console_log),
        "log": "@data@/qemu.log",
        "disks": disks,
        "writable": [str(path) for path in written],
        "holds": [str(path) for path in holds or []],
        "ssh": ssh,
        "source_mount": source_mount,
        **more,
    }


def box_description(hardware: MachineSettings) -> dict[str, Any]:
    """The machine that a box's files make by themselves, without vexrun."""
    scratch = [
        ScratchDisk(
            kind.serial,
            Path(f"@data@/disks/{kind.serial}.raw"),
            kind.fixed_size or _SCRATCH_MIB * 2**20,
            DiskFormat.RAW,
            kind.readonly,
        )
        for kind in SCRATCH_DISKS
    ]
    random = {kind.serial for kind in SCRATCH_DISKS if kind.random}
    root = Path("@data@/disks/root.qcow2")
    guest = GuestHardware(
        name="@name@",
        accelerator=_KEPT_BY_QEMU,
        memory_mib=hardware.memory_mib,
        cpus=hardware.cpus,
        kernel=Path("@box@/vmlinuz"),
        initrd=Path("@box@/initrd.img"),
        root_overlay=root,
        runtime_dir=Path("@run@"),
        console_log=Path("@data@/console.log"),
        ssh_port=0,
        source_dir=Path("@source@"),
        scratch=scratch,
        control_socket=Path("@run@/control"),
    )
    disks: list[dict[str, Any]] = [{"path": str(root), "backing": "@box@/box.img"}]
    disks += [
        {"path": str(disk.file), "size": disk.size, "random": disk.serial in random}
        for disk in scratch
    ]
    described = description_of(
        guest,
        disks=disks,
        ssh={"user": BOX_USER, "key": f"@box@/{BOX_KEY}"},
        source_mount=SOURCE_MOUNT,
        kernel="@box@/vmlinuz",
        memory_mib=hardware.memory_mib,
        cpus=hardware.cpus,
        accelerators={
            row.name: {"accel": row.qemu_accel, "cpu": row.qemu_cpu} for row in ACCELERATORS
        },
    )
    argv = described["argv"]
    for flag, word in (("-m", "@memory@"), ("-smp", "@cpus@")):
        argv[argv.index(flag) + 1] = word
    return described


def write_description(description: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(description, indent=2) + "\n")
