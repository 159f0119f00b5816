"""The QEMU command line: what a guest can reach, and what can reach it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vexrun.vm.accel import Accelerator
from vexrun.vm.disks import SCRATCH_DISKS, ScratchPlan, make_scratch_files
from vexrun.vm.qemu import ROOT_UUID, DiskFormat, GuestHardware, ScratchDisk, qemu_argv

TCG = Accelerator("tcg", "tcg,thread=multi", "max", 10.0)
HARDWARE = GuestHardware(
    name="vexrun-0a1b2c3d",
    accelerator=TCG,
    memory_mib=1024,
    cpus=2,
    kernel=Path("/images/vmlinuz"),
    initrd=Path("/images/initrd.img"),
    root_overlay=Path("/m/root.qcow2"),
    runtime_dir=Path("/run/m"),
    console_log=Path("/runs/console.log"),
    ssh_port=40022,
    source_dir=Path("/home/me/src"),
    scratch=[
        ScratchDisk("vexrun-scratch0", Path("/m/s0.qcow2"), 64, DiskFormat.QCOW2),
        ScratchDisk("vexrun-noise", Path("/m/noise.raw"), 64, readonly=True),
    ],
)


def values(argv: list[str], flag: str) -> list[str]:
    return [argv[n + 1] for n, word in enumerate(argv) if word == flag]


def value(argv: list[str], flag: str) -> str:
    (only,) = values(argv, flag)
    return only


@pytest.fixture
def argv() -> list[str]:
    return qemu_argv(HARDWARE)


def test_every_flag_has_its_value(argv: list[str]) -> None:
    alone = {"-nodefaults", "-no-user-config"}
    assert argv[0] == "qemu-system-x86_64"
    position = 1
    while position < len(argv):
        flag = argv[position]
        assert flag.startswith("-"), f"{flag!r} stands where a flag should"
        position += 1 if flag in alone else 2


def test_the_hardware_is_what_was_asked_for(argv: list[str]) -> None:
    asked = {"-accel": "tcg,thread=multi", "-cpu": "max", "-smp": "2", "-m": "1024"}
    assert {flag: value(argv, flag) for flag in asked} == asked
    assert value(argv, "-kernel") == "/images/vmlinuz"
    assert value(argv, "-initrd") == "/images/initrd.img"
    assert value(argv, "-name").split(",")[0] == HARDWARE.name


def test_only_loopback_reaches_the_guest(argv: list[str]) -> None:
    assert value(argv, "-netdev") == "user,id=net,hostfwd=tcp:127.0.0.1:40022-:22"
    assert value(argv, "-qmp").startswith("unix:/run/m/qmp,")
    assert value(argv, "-chardev").startswith("socket,id=console,path=/run/m/console,")
    assert value(argv, "-display") == "none"


def test_qemu_is_sandboxed(argv: list[str]) -> None:
    on, *denied = value(argv, "-sandbox").split(",")
    assert on == "on"
    assert {"spawn=deny", "elevateprivileges=deny", "resourcecontrol=deny"} <= set(denied)


def test_the_source_is_shared_read_only(argv: list[str]) -> None:
    share = value(argv, "-fsdev").split(",")
    assert "path=/home/me/src" in share
    assert "readonly=on" in share
    assert any("virtio-9p" in device for device in values(argv, "-device"))


def test_every_byte_of_the_console_is_kept(argv: list[str]) -> None:
    chardev = value(argv, "-chardev").split(",")
    assert "logfile=/runs/console.log" in chardev
    assert "logappend=on" in chardev, "a restored machine must not erase the one before"
    assert value(argv, "-serial") == "chardev:console"
    assert "console=ttyS0,115200" in value(argv, "-append")


def test_a_panic_stays_to_be_read(argv: list[str]) -> None:
    assert "panic=0" in value(argv, "-append").split()
    assert "pvpanic-pci" in values(argv, "-device")
    actions = dict(pair.split("=") for pair in value(argv, "-action").split(","))
    assert actions == {"reboot": "shutdown", "shutdown": "pause", "panic": "none"}


def test_the_kernel_finds_its_root_by_uuid(argv: list[str]) -> None:
    assert f"root=UUID={ROOT_UUID}" in value(argv, "-append").split()


def test_disks_are_known_by_our_serials(argv: list[str]) -> None:
    devices = [device for device in values(argv, "-device") if device.startswith("virtio-blk")]
    assert [device.split("serial=")[1] for device in devices] == [
        "vexrun-root",
        "vexrun-scratch0",
        "vexrun-noise",
    ]
    blocks = {block["node-name"]: block for block in map(json.loads, values(argv, "-blockdev"))}
    assert blocks["root"]["file"]["filename"] == "/m/root.qcow2"
    assert blocks["vexrun-scratch0"]["file"]["filename"] == "/m/s0.qcow2"
    assert [blocks[d]["driver"] for d in ("vexrun-scratch0", "vexrun-noise")] == ["qcow2", "raw"]
    assert [blocks[d]["read-only"] for d in ("vexrun-scratch0", "vexrun-noise")] == [False, True]
    assert HARDWARE.scratch[0].device == "/dev/disk/by-id/virtio-vexrun-scratch0"


def test_a_restored_machine_reads_its_state_from_a_descriptor(argv: list[str]) -> None:
    assert "-incoming" not in argv
    assert value(qemu_argv(replace(HARDWARE, incoming_fd=7)), "-incoming") == "fd:7"


def test_commas_in_paths_are_escaped() -> None:
    deep = Path("/a,b")
    argv = qemu_argv(
        replace(
            HARDWARE,
            source_dir=deep / "src",
            console_log=deep / "console.log",
            runtime_dir=deep / "run",
            root_overlay=deep / "root.qcow2",
        )
    )
    assert "path=/a,,b/src," in value(argv, "-fsdev")
    assert "logfile=/a,,b/console.log," in value(argv, "-chardev")
    assert "path=/a,,b/run/console," in value(argv, "-chardev")
    assert value(argv, "-qmp").startswith("unix:/a,,b/run/qmp,server=on")
    assert json.loads(values(argv, "-blockdev")[0])["file"]["filename"] == "/a,b/root.qcow2"


# -- scratch disks -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCRATCH_DISKS, ids=lambda kind: kind.serial)
def test_a_serial_fits_into_virtio(kind: Any) -> None:
    serial = kind.serial
    assert len(serial.encode()) <= 20
    assert serial.startswith("vexrun-"), "ours"


def test_serials_are_unique() -> None:
    assert len({kind.serial for kind in SCRATCH_DISKS}) == len(SCRATCH_DISKS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[ScratchDisk]:
    return make_scratch_files(ScratchPlan(3), tmp_path_factory.mktemp("disks"))


def test_the_disks_under_test_have_the_asked_size(made: list[ScratchDisk]) -> None:
    sizes = {disk.serial: disk.size for disk in made}
    assert sizes["vexrun-scratch0"] == sizes["vexrun-scratch1"] == 3 * 2**20


def test_one_disk_is_too_small_for_any_filesystem(made: list[ScratchDisk]) -> None:
    (small,) = (disk for disk in made if disk.serial == "vexrun-small")
    assert small.file.stat().st_size == small.size == 8192


def test_fixed_sizes_do_not_follow_the_subject(made: list[ScratchDisk]) -> None:
    for disk in made:
        assert (disk.size != 3 * 2**20) == (disk.serial in ScratchPlan().fixed)
        assert disk.readonly == (disk.serial == "vexrun-noise")
