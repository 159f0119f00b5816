"""After converge: the image kept its promises, and the subject is loaded, mounted and sound."""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Created

from vexrun.kernel_log import KernelLogParser, events_in_dmesg

MOUNT_POINT = "/mnt/vexrun"
BANNER = "Linux version "
PROVISION = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "playbooks" / "provision.yml"


def test_roles_change_nothing_in_a_machine_made_from_the_image(
    changed_tasks: list[dict[str, str]],
) -> None:
    plays = yaml.safe_load(PROVISION.read_text())
    roles = {role["role"] for play in plays if play["hosts"] == "vm" for role in play["roles"]}
    assert roles
    assert "module_build" in {line["role"] for line in changed_tasks}, "nothing was recorded"
    assert [line for line in changed_tasks if line["role"] in roles] == []


def test_source_is_shared_read_only(host: Any) -> None:
    share = host.mount_point("/mnt/vexfs-src")
    assert share.filesystem == "9p"
    assert "ro" in share.options


def test_loaded_module_is_the_built_file(host: Any, created: Created) -> None:
    built = host.check_output(f"/sbin/modinfo -F srcversion {created.ko}")
    loaded = host.check_output(f"cat /sys/module/{created.module}/srcversion")
    assert built, f"{created.ko} has no srcversion, so nothing could be proven"
    assert loaded == built


def test_loaded_module_is_not_the_copy_of_the_kernel(host: Any, created: Created) -> None:
    in_kernel = host.run(f"/sbin/modinfo -F srcversion {created.module}")
    loaded = host.check_output(f"cat /sys/module/{created.module}/srcversion")
    assert in_kernel.rc != 0 or in_kernel.stdout.strip() != loaded


def test_mounted_with_its_type(host: Any, created: Created) -> None:
    mount = host.mount_point(MOUNT_POINT)
    assert mount.exists
    assert mount.filesystem == created.subject.filesystem.type


def test_file_survives_a_cold_remount(host: Any, created: Created) -> None:
    mount = host.mount_point(MOUNT_POINT)
    assert mount.filesystem == created.subject.filesystem.type, "the file would go elsewhere"
    content = os.urandom(30_000)  # its hex has to fit into one argument, 128 KiB
    line = shlex.quote(content.hex())
    path = f"{MOUNT_POINT}/kept/file"
    host.check_output(f"mkdir -p {MOUNT_POINT}/kept && printf %s {line} >{path}")
    host.check_output(
        f"umount {MOUNT_POINT} && sync && echo 3 >/proc/sys/vm/drop_caches && "
        f"! test -e {path} && "
        f"mount --internal-only --types {mount.filesystem} --options "
        f"{','.join(['rw', *created.subject.filesystem.options])} {mount.device} {MOUNT_POINT}"
    )
    assert host.mount_point(MOUNT_POINT).filesystem == mount.filesystem
    read_back = host.check_output(f"sha256sum {path}").split()[0]
    assert read_back == hashlib.sha256(content.hex().encode()).hexdigest()


@pytest.fixture(scope="module")
def mark(host: Any) -> str:
    """A line the kernel log has from now on: a log without it was not read, or lost something."""
    text = f"vexrun-molecule-{os.urandom(4).hex()}"
    host.check_output(f"echo {text} >/dev/kmsg")
    return text


def test_kernel_said_nothing_bad(host: Any, created: Created, mark: str) -> None:
    log = host.check_output("dmesg -r")
    assert BANNER in log.splitlines()[0], "the kernel log has lost its beginning"
    assert mark in log
    events = events_in_dmesg(log, [created.module])
    assert [event.title for event in events] == []


def test_console_tells_the_same_story(created: Created, mark: str) -> None:
    until = time.monotonic() + 20
    while mark.encode() not in created.console_log.read_bytes() and time.monotonic() < until:
        time.sleep(0.2)
    data = created.console_log.read_bytes()
    assert BANNER.encode() in data
    assert mark.encode() in data, "the console shows nothing of what the kernel says"
    parser = KernelLogParser([created.module])
    events = [*parser.feed(data), *parser.finish()]
    assert [event.title for event in events] == []
