"""The machine itself: snapshots, provisioning, what a person finds in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SUBJECTS, vexrun

pytestmark = pytest.mark.vm


@pytest.fixture
def machine(suite: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A machine of this test's own, with a source tree in `tmp_path`."""
    (tmp_path / "hello.c").write_text("first\n")
    before = {record["name"] for record in json.loads(vexrun("vm", "status", "--json"))}
    vexrun("vm", "up", str(tmp_path), "--suite", suite)
    records = json.loads(vexrun("vm", "status", "--json"))
    (record,) = [record for record in records if record["name"] not in before]
    try:
        yield record
    finally:
        vexrun("vm", "down", "--name", record["name"])


def in_guest(machine: dict[str, Any], command: str) -> str:
    return vexrun("vm", "ssh", "--name", machine["name"], "--", command)


def test_source_is_shared_read_only_and_always_current(
    machine: dict[str, Any], tmp_path: Path
) -> None:
    assert in_guest(machine, "cat /mnt/vexfs-src/hello.c") == "first\n"
    (tmp_path / "hello.c").write_text("second\n")
    assert in_guest(machine, "cat /mnt/vexfs-src/hello.c") == "second\n"
    said = in_guest(machine, "touch /mnt/vexfs-src/new 2>&1 || true")
    assert "Read-only file system" in said
    assert not (tmp_path / "new").exists()
    assert "vexfs-src /mnt/vexfs-src 9p" in in_guest(machine, "cat /etc/fstab")


def test_scratch_disks_are_found_by_serial_and_the_clock_is_right(machine: dict[str, Any]) -> None:
    disks = in_guest(machine, "ls /dev/disk/by-id").split()
    assert {"virtio-vexrun-scratch0", "virtio-vexrun-scratch1"} <= set(disks)
    assert abs(int(in_guest(machine, "date +%s")) - time.time()) < 120


def test_only_loopback_listens_for_the_guest(machine: dict[str, Any]) -> None:
    port = f"{machine['ssh_port']:04X}"
    listening = [
        row.split()[1]
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if row.split()[3] == "0A" and row.split()[1].endswith(f":{port}")
    ]
    assert listening == [f"0100007F:{port}"]


def test_baked_image_provisions_without_a_change(machine: dict[str, Any], suite: str) -> None:
    said = vexrun("provision", "vm", "--name", machine["name"])
    assert "changed=0" in said


def test_restore_is_much_faster_than_a_boot(suite: str) -> None:
    """A loose bound against rot; `make bench` measures the ratio."""
    from vexrun.bench import measure_restore
    from vexrun.events import ignore

    boot_s, restore_s = measure_restore(suite, ignore)
    assert restore_s < boot_s / 3, (boot_s, restore_s)


def test_subject_files_of_the_examples_are_valid() -> None:
    from vexrun.subject import load_subject

    names = {load_subject(path).name for path in SUBJECTS.glob("*.toml")}
    assert {"minix", "ext2", "exfat"} <= names
