"""The scratch disks every guest has: sparse raw files, each with a serial of ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vexrun.vm.qemu import ScratchDisk

_MIB = 2**20


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
    """Create the raw files in `directory`."""
    disks = []
    for kind in SCRATCH_DISKS:
        path = directory / f"{kind.serial}.raw"
        size = kind.fixed_size or plan.size_mib * _MIB
        _write(path, size, os.urandom if kind.random else None)
        disks.append(ScratchDisk(kind.serial, path, kind.readonly))
    return disks


def _write(path: Path, size: int, content: Callable[[int], bytes] | None) -> None:
    with path.open("wb") as stream:
        if content is not None:
            for start in range(0, size, _MIB):
                stream.write(content(min(_MIB, size - start)))
        stream.truncate(size)
