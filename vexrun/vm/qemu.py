"""The QEMU command line of a guest, as a pure function of what it should be."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from vexrun.vm.accel import Accelerator

#: ext4 UUID that vexrun.image.build gives every root filesystem.
ROOT_UUID = "76657872-756e-4000-8000-726f6f740000"

KERNEL_ARGUMENTS = (
    f"root=UUID={ROOT_UUID}",
    "rw",
    "console=ttyS0,115200",
    "loglevel=7",
    "printk.time=1",
    "panic=0",  # stay, so that the memory can still be read; vexrun ends the machine itself
    "net.ifnames=0",
    "fsck.mode=skip",
    "systemd.show_status=0",
    # 90 s are not enough for a mount that loads modules while an emulated guest boots.
    "systemd.default_timeout_start_sec=600",
    "no_timer_check",  # TCG timers jitter; the check panics a healthy guest under load
    "random.trust_cpu=on",
    "audit=0",
    # Memory errors of the module under test must not stay silent: guards, poison, KFENCE.
    # An emulated CPU may be away for longer than the stock 21 and 30 s without any fault.
    "rcupdate.rcu_cpu_stall_timeout=60",
    "workqueue.watchdog_thresh=60",
    "slub_debug=FZP",
    "kfence.sample_interval=100",
    "apparmor=0",
)


class DiskFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"


@dataclass(frozen=True)
class ScratchDisk:
    """A disk the guest may destroy, found by `serial` (at most 20 bytes, virtio's limit).

    `size` is what the guest sees, in bytes.
    """

    serial: str
    file: Path
    size: int
    format: DiskFormat = DiskFormat.RAW
    readonly: bool = False

    @property
    def device(self) -> str:
        """Its name inside the guest; never /dev/vdX, whose order is nobody's promise."""
        return f"/dev/disk/by-id/virtio-{self.serial}"


@dataclass(frozen=True)
class GuestHardware:
    """Everything the QEMU command line says. Sizes in MiB."""

    name: str
    accelerator: Accelerator
    memory_mib: int
    cpus: int
    kernel: Path
    initrd: Path
    root_overlay: Path
    runtime_dir: Path
    console_log: Path
    ssh_port: int
    source_dir: Path
    scratch: list[ScratchDisk] = field(default_factory=list)
    incoming_fd: int | None = None
    reboots: bool = False  # a reset boots it again, as it does a machine of metal
    #: A second monitor, for who starts and snapshots the machine in our place (vagrant/provider).
    control_socket: Path | None = None

    @property
    def monitor_socket(self) -> Path:
        return self.runtime_dir / "qmp"

    @property
    def console_socket(self) -> Path:
        return self.runtime_dir / "console"


def qemu_argv(hardware: GuestHardware) -> list[str]:
    """The command; each flag stands on one line with its value."""
    h = hardware
    lines: list[tuple[str, ...]] = [
        ("qemu-system-x86_64",),
        ("-name", f"{h.name},process={h.name[:15]}"),
        ("-nodefaults",),
        ("-no-user-config",),
        ("-machine", "q35,usb=off,vmport=off"),
        ("-accel", h.accelerator.qemu_accel),
        ("-cpu", h.accelerator.qemu_cpu),
        ("-smp", str(h.cpus)),
        ("-m", str(h.memory_mib)),
        ("-display", "none"),
        ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        ("-kernel", str(h.kernel)),
        ("-initrd", str(h.initrd)),
        ("-append", " ".join(KERNEL_ARGUMENTS)),
        ("-qmp", f"unix:{_escape(h.monitor_socket)},server=on,wait=off"),
        ("-chardev", _console_chardev(h)),
        ("-serial", "chardev:console"),
        ("-device", "pvpanic-pci"),
        ("-device", "virtio-rng-pci"),
        ("-device", "virtio-balloon-pci"),
        # Keep QEMU after the guest went down or panicked: the evidence is collected first.
        ("-action", f"reboot={'reset' if h.reboots else 'shutdown'},shutdown=pause,panic=none"),
        ("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{h.ssh_port}-:22"),
        ("-device", "virtio-net-pci,netdev=net"),
        ("-blockdev", _root_disk(h.root_overlay)),
        ("-device", "virtio-blk-pci,drive=root,serial=vexrun-root"),
        ("-fsdev", _source_share(h.source_dir)),
        ("-device", "virtio-9p-pci,fsdev=source,mount_tag=vexfs-src"),
    ]
    for disk in h.scratch:
        lines.append(("-blockdev", _scratch_disk(disk)))
        lines.append(("-device", f"virtio-blk-pci,drive={disk.serial},serial={disk.serial}"))
    if h.control_socket is not None:
        lines.append(("-qmp", f"unix:{_escape(h.control_socket)},server=on,wait=off"))
    if h.incoming_fd is not None:
        lines.append(("-incoming", f"fd:{h.incoming_fd}"))
    return [word for line in lines for word in line]


def _console_chardev(h: GuestHardware) -> str:
    # The log file sees every byte, connected or not; the socket is for `vexrun vm console`.
    return (
        f"socket,id=console,path={_escape(h.console_socket)},server=on,wait=off,"
        f"logfile={_escape(h.console_log)},logappend=on"
    )


def _source_share(directory: Path) -> str:
    return (
        f"local,id=source,path={_escape(directory)},security_model=none,readonly=on,multidevs=remap"
    )


def _root_disk(overlay: Path) -> str:
    return json.dumps(
        {
            "node-name": "root",
            "driver": "qcow2",
            "discard": "unmap",
            "file": {
                "driver": "file",
                "filename": str(overlay),
                "cache": {"no-flush": True},  # disposable: host crash safety is worthless
            },
            "cache": {"no-flush": True},
        }
    )


def _scratch_disk(disk: ScratchDisk) -> str:
    return json.dumps(
        {
            "node-name": disk.serial,
            "driver": disk.format.value,
            "read-only": disk.readonly,
            "discard": "unmap",
            "detect-zeroes": "unmap",
            "file": {
                "driver": "file",
                "filename": str(disk.file),
                "discard": "unmap",
                "cache": {"no-flush": True},
            },
        }
    )


def _escape(path: Path) -> str:
    """QEMU's key=value options double a literal comma."""
    return str(path).replace(",", ",,")
