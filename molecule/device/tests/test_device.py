"""After converge: the device can build a module, and is still who it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

DIRECTORY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])


@pytest.fixture(scope="session")
def changed() -> list[dict[str, str]]:
    """Every task that changed something since `create`."""
    lines = (DIRECTORY / "changes.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_it_is_still_who_it_was(host: Any) -> None:
    assert host.run("sha256sum --check --quiet /var/lib/vexrun/identity").rc == 0


def test_roles_for_guests_of_ours_were_not_applied(changed: list[dict[str, str]]) -> None:
    roles = {line["role"] for line in changed if line["role"]}
    assert roles == {"source_mount"}, "the build directory, and nothing else"


@pytest.mark.parametrize("program", ["gcc", "make", "cargo", "fio", "gdb"])
def test_programs_are_there(host: Any, program: str) -> None:
    assert host.run(f"command -v {program}").rc == 0


def test_the_running_kernel_has_its_headers(host: Any) -> None:
    assert host.file("/var/lib/vexrun/build").is_directory
    assert host.run("test -e /lib/modules/$(uname -r)/build/Makefile").rc == 0


def test_nothing_was_loaded_or_mounted(host: Any) -> None:
    assert host.run("grep -E '^(minix|vexfs)' /proc/modules").rc == 1
    assert not host.mount_point("/mnt/vexrun").exists
    assert host.run("grep vexfs-src /etc/fstab").rc == host.run("grep 9p /etc/fstab").rc
