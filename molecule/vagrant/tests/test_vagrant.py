"""After converge: it is the box's guest, Vagrant holds it, and the roles found nothing to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vexrun.image.box import BoxId
from vexrun.vm.machine import machines_dir
from vexrun.vm.vagrant_cli import VagrantCli
from vexrun.vm.vagrant_machine import vagrant_of

DIRECTORY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    (found,) = json.loads((DIRECTORY / "vexrun_machines.json").read_text())["machines"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="session")
def vagrant(machine: dict[str, Any]) -> VagrantCli:
    directory = machines_dir() / machine["name"]
    return vagrant_of(directory, BoxId(*machine["box"]), outlives_us=True)


def test_roles_change_nothing_in_the_box(machine: dict[str, Any]) -> None:
    changed = map(json.loads, (DIRECTORY / "changes.jsonl").read_text().splitlines())
    in_the_box = [line["task"] for line in changed if line["host"] != "localhost"]
    assert in_the_box == ["Leave a trace"], "only this one is no role's"


def test_vagrant_says_it_is_up_and_how_to_reach_it(
    vagrant: VagrantCli, machine: dict[str, Any]
) -> None:
    assert vagrant.state() == "running"
    assert int(vagrant.ssh_config()["Port"]) == machine["ssh_port"]


def test_it_is_the_box(host: Any) -> None:
    assert host.user("vagrant").home == "/home/vagrant"
    assert host.run("su vagrant -c 'sudo -n id -u'").stdout.strip() == "0"


def test_vagrants_well_known_key_is_not_in_it(host: Any) -> None:
    keys = host.file("/home/vagrant/.ssh/authorized_keys").content_string.splitlines()
    assert len(keys) == 1
    assert keys[0].startswith("ssh-ed25519 ")


def test_source_is_shared_read_only(host: Any) -> None:
    mount = host.mount_point("/mnt/vexfs-src")
    assert mount.filesystem == "9p"
    assert "ro" in mount.options


@pytest.mark.parametrize("serial", ["vexrun-scratch0", "vexrun-scratch1", "vexrun-small"])
def test_scratch_disks_have_our_serials(host: Any, serial: str) -> None:
    assert host.file(f"/dev/disk/by-id/virtio-{serial}").exists
