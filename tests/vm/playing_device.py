"""A virtual machine that plays the test device: own disks, own journal, its own reboots.

It is restored from the suite's snapshot, reached over ssh like any machine, and described by a
device file like any device; nothing else here knows that it is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from vexrun.events import ignore
from vexrun.image.build import ensure_base
from vexrun.image.suites import find_suite
from vexrun.settings import load_settings
from vexrun.vm import machine as machine_module
from vexrun.vm.accel import AccelChoice, choose_accelerator
from vexrun.vm.disks import ScratchPlan
from vexrun.vm.machine import Machine, MachinePlan, booted
from vexrun.vm.qemu import GuestHardware, qemu_argv
from vexrun.vm.snapshot import ensure_snapshot

#: Its root logs in on the serial console by itself.
AUTOLOGIN = 'users = ["root"]'
DISK = "/dev/disk/by-id/virtio-vexrun-scratch0"
DISK_MIB = 192


@dataclass(frozen=True)
class PlayedDevice:
    """The machine, and what a device file has to say of it."""

    machine: Machine
    machine_id: str

    def run(self, command: str, timeout_s: float = 120.0) -> str:
        return self.machine.shell.run(command, timeout_s=timeout_s, check=True).stdout

    def make_blank(self) -> None:
        """Nothing at the ends of the disk, where whatever owns one has its signature."""
        last = f"$(($(blockdev --getsize64 {DISK}) / 1048576 - 1))"
        for first in ("0", last):
            self.run(f"dd if=/dev/zero of={DISK} bs=1M count=1 seek={first} conv=fsync status=none")

    def file(
        self,
        disk: str = "vexrun-scratch0",
        *,
        allow: str = AUTOLOGIN,
        more: str = "",
        **changed: str,
    ) -> str:
        """The text of a device file; keywords replace values of [device] and [disk]."""
        image = self.machine.plan.image
        values = {
            "address": '"127.0.0.1"',
            "port": str(self.machine.ssh_port),
            "key": f'"{image.client_key}"',
            "host_key": f'"{" ".join(image.host_public_key.split()[:2])}"',
            "machine_id": f'"{self.machine_id}"',
            "groups": '["device"]',
            "slowdown": "10.0",
            "back_within_s": "600",
            "by_id": f'"/dev/disk/by-id/virtio-{disk}"',
            "serial": f'"{disk}"',
            "max_gib": "1",
            "released": '""',
            **changed,
        }
        disk_keys = ("by_id", "serial", "max_gib", "released")
        first = [f"{key} = {value}" for key, value in values.items() if key not in disk_keys]
        second = [f"{key} = {values[key]}" for key in disk_keys]
        return "\n".join(["[device]", *first, "[disk]", *second, "[allow]", allow, more, ""])


@contextmanager
def played_device(suite: str, directory: Path, disk_mib: int = DISK_MIB) -> Iterator[PlayedDevice]:
    """A machine that is up, and gone with the block."""
    settings = load_settings()
    image = ensure_base(find_suite(suite), settings.image, ignore)
    accelerator = choose_accelerator(
        AccelChoice.AUTO, image.kernel, image.manifest.sha256["vmlinuz"]
    )
    snapshot = ensure_snapshot(image, accelerator, settings.machine, ignore)
    (directory / "empty").mkdir()
    plan = MachinePlan(
        image=image,
        accelerator=accelerator,
        memory_mib=settings.machine.memory_mib,
        cpus=settings.machine.cpus,
        source_dir=directory / "empty",
        console_log=directory / "device-console.log",
        scratch=ScratchPlan(disk_mib),
        disk=snapshot.disk,
        state=snapshot.state,
        reboots=True,
    )
    with booted(plan) as machine:
        machine.wait_for_incoming()
        machine.resize_scratch()
        machine.connect(600)
        machine.set_clock_and_mount_source(600, "umount /mnt/vexfs-src")
        machine_id = machine.shell.run("cat /etc/machine-id", check=True).stdout.strip()
        yield PlayedDevice(machine, machine_id)


@contextmanager
def played_device_with_erst(
    suite: str, directory: Path, patch: pytest.MonkeyPatch
) -> Iterator[PlayedDevice]:
    """A machine whose firmware keeps records for pstore (ERST, ACPI 6.4 chapter 18.5).

    It is booted from its image: the snapshot was made without that device.
    """
    settings = load_settings()
    image = ensure_base(find_suite(suite), settings.image, ignore)
    record = directory / "erst"
    memory = f"memory-backend-file,id=erst,mem-path={record},size=64K,share=on"

    def argv(hardware: GuestHardware) -> list[str]:
        return [*qemu_argv(hardware), "-object", memory, "-device", "acpi-erst,memdev=erst"]

    patch.setattr(machine_module, "qemu_argv", argv)
    (directory / "empty").mkdir()
    plan = MachinePlan(
        image=image,
        accelerator=choose_accelerator(
            AccelChoice.AUTO, image.kernel, image.manifest.sha256["vmlinuz"]
        ),
        memory_mib=settings.machine.memory_mib,
        cpus=settings.machine.cpus,
        source_dir=directory / "empty",
        console_log=directory / "device-console.log",
        scratch=ScratchPlan(DISK_MIB),
        disk=image.disk,
        reboots=True,
    )
    with booted(plan) as machine:
        machine.connect(600)
        machine_id = machine.shell.run("cat /etc/machine-id", check=True).stdout.strip()
        yield PlayedDevice(machine, machine_id)
