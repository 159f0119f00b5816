"""The scratch disks every guest has, each with a serial of ours."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.process import run
from vexrun.vm.noise_disk import write_noise_disk
from vexrun.vm.qemu import DiskFormat, ScratchDisk

_MIB = 2**20
#: What a guest writes to its root disk in a run, generously.
_ROOT_GROWTH_MIB = 1024


@dataclass(frozen=True)
class _DiskKind:
    """`random` disks start full of random bytes, so that nothing can rely on zeroed media."""

    serial: str
    purpose: str
    random: bool = False
    readonly: bool = False
    fixed_size: int | None = None  # bytes; None: the subject's size_mib


#: A new disk is one more row; the order is the order on the PCI bus, which nobody may rely on.
SCRATCH_DISKS = (
    _DiskKind("vexrun-scratch0", "the disk under test", random=True),
    _DiskKind("vexrun-scratch1", "a second disk", random=True),
    _DiskKind("vexrun-small", "too small for any filesystem", fixed_size=16 * 512),
    # Of one size always: QEMU refuses to resize a read-only disk after a restore.
    _DiskKind(
        "vexrun-noise",
        "random bytes to copy from",
        random=True,
        readonly=True,
        fixed_size=64 * _MIB,
    ),
)


@dataclass(frozen=True)
class ScratchPlan:
    """Sizes of this machine's scratch disks."""

    size_mib: int = 64
    fixed: frozenset[str] = field(
        default_factory=lambda: frozenset(
            disk.serial for disk in SCRATCH_DISKS if disk.fixed_size is not None
        )
    )


def make_scratch_files(plan: ScratchPlan, directory: Path) -> list[ScratchDisk]:
    """Create the disks' files in `directory`; they grow as the guest writes."""
    return [
        _make(kind, kind.fixed_size or plan.size_mib * _MIB, directory) for kind in SCRATCH_DISKS
    ]


def _make(kind: _DiskKind, size: int, directory: Path) -> ScratchDisk:
    if not kind.random:
        path = directory / f"{kind.serial}.raw"
        with path.open("wb") as stream:
            stream.truncate(size)
        return ScratchDisk(kind.serial, path, size, DiskFormat.RAW, kind.readonly)
    path = directory / f"{kind.serial}.qcow2"
    if kind.readonly:
        write_noise_disk(path, size)
    else:
        noise = directory / f"{kind.serial}-below.qcow2"
        write_noise_disk(noise, size)
        make_overlay(path, noise)
    return ScratchDisk(kind.serial, path, size, DiskFormat.QCOW2, kind.readonly)


def make_overlay(path: Path, below: Path) -> None:
    """A disposable qcow2 image at `path` that takes the writes to `below`."""
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2"]
    run([*create, "-b", str(below), str(path)])


def demand_space(plan: ScratchPlan, directory: Path) -> None:
    """Raise InfrastructureError when the machine's disks could fill the host's.

    QEMU stops a guest whose write finds no space, and the test of the moment would take the blame.
    """
    growing = [kind for kind in SCRATCH_DISKS if kind.random and not kind.readonly]
    needed = (len(growing) * plan.size_mib + _ROOT_GROWTH_MIB) / 1024
    free = shutil.disk_usage(directory).free / 2**30
    if free < needed:
        raise InfrastructureError(
            f"The disks of a machine may grow to {needed:.1f} GiB, and '{directory}' has "
            f"{free:.1f} GiB free.",
            evidence=f"{len(growing)} scratch disks of {plan.size_mib} MiB (filesystem.size_mib), "
            f"and {_ROOT_GROWTH_MIB} MiB for the root disk",
            hint="Free some space, lower filesystem.size_mib, or set VEXRUN_CACHE_DIR to a larger "
            "disk.",
        )
