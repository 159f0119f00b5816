"""Disks full of noise: what QEMU's own tools find in them, before and after a guest writes."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

import pytest

from vexrun.errors import InfrastructureError
from vexrun.process import run
from vexrun.vm.disks import ScratchPlan, demand_space, make_overlay, make_scratch_files
from vexrun.vm.noise_disk import write_noise_disk

MIB = 2**20

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")


def content(disk: Path) -> bytes:
    """What a guest reads."""
    raw = disk.with_suffix(".raw")
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw)])
    data = raw.read_bytes()
    raw.unlink()
    return data


def sound(disk: Path) -> bool:
    return "No errors were found" in run(["qemu-img", "check", str(disk)]).stdout


@pytest.mark.parametrize("size", [512, 65536, MIB - 512, MIB, 3 * MIB, 64 * MIB])
def test_it_has_its_size_and_no_zeroes(tmp_path: Path, size: int) -> None:
    disk = tmp_path / "disk.qcow2"
    write_noise_disk(disk, size)
    assert sound(disk)
    data = content(disk)
    assert len(data) == size
    assert b"\0" * 64 not in data


@pytest.mark.parametrize("size_mib", [64, 4096])
def test_it_costs_the_same_whatever_its_size(tmp_path: Path, size_mib: int) -> None:
    disk = tmp_path / "disk.qcow2"
    write_noise_disk(disk, size_mib * MIB)
    assert sound(disk)
    assert disk.stat().st_blocks * 512 < 20 * MIB


def test_no_two_are_alike(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_noise_disk(tmp_path / f"{name}.qcow2", MIB)
    assert content(tmp_path / "a.qcow2") != content(tmp_path / "b.qcow2")


def test_what_a_guest_writes_appears_there_and_nowhere_else(tmp_path: Path) -> None:
    """The clusters of the pool are mapped four times on average."""
    noise, disk = tmp_path / "noise.qcow2", tmp_path / "disk.qcow2"
    write_noise_disk(noise, 64 * MIB)
    make_overlay(disk, noise)
    expected = bytearray(content(disk))
    commands = []
    for offset in range(0, 64 * MIB, 7 * 65536 + 4096):
        commands += ["-c", f"write -q -P 0x5a {offset} 4096"]
        expected[offset : offset + 4096] = b"\x5a" * 4096
    run(["qemu-io", "-f", "qcow2", *commands, str(disk)])
    assert sound(disk)
    assert sound(noise)
    assert content(disk) == expected


# -- space ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_mib", "free_gib", "enough"), [(64, 1.2, True), (64, 1.1, False), (4096, 8.9, False)]
)
def test_disks_that_may_fill_the_hosts_are_refused_with_figures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size_mib: int,
    free_gib: float,
    enough: bool,
) -> None:
    usage = types.SimpleNamespace(free=int(free_gib * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    if enough:
        demand_space(ScratchPlan(size_mib), tmp_path)
        return
    with pytest.raises(InfrastructureError) as caught:
        demand_space(ScratchPlan(size_mib), tmp_path)
    needed = (2 * size_mib + 1024) / 1024
    assert f"may grow to {needed:.1f} GiB" in caught.value.message
    assert f"'{tmp_path}' has {free_gib:.1f} GiB free" in caught.value.message
    assert f"2 scratch disks of {size_mib} MiB" in caught.value.evidence
    assert caught.value.exit_code == 69


def test_the_disks_of_a_machine_are_made_in_no_time_and_no_space(tmp_path: Path) -> None:
    disks = make_scratch_files(ScratchPlan(4096), tmp_path)
    assert [disk.size // MIB for disk in disks] == [4096, 4096, 0, 64]
    assert sum(disk.file.stat().st_blocks * 512 for disk in disks) < 60 * MIB
