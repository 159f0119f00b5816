"""The connection into a root filesystem, with a fake prefix instead of namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix that records its arguments and runs the rest in a directory."""
    script = tmp_path / "enter"
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n'
        f"if [ -e {tmp_path}/broken ]; then\n"
        '  echo "mount: /proc: permission denied" >&2; exit 32\nfi\n'
        f'shift\ncd {tmp_path} && exec "$@"\n'
    )
    script.chmod(0o755)
    return script


def ansible(tmp_path: Path, enter: object, *args: str) -> subprocess.CompletedProcess[str]:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(
        "all: {hosts: {rootfs: {ansible_connection: rootfs, "
        f"ansible_python_interpreter: {sys.executable}, "
        f"ansible_remote_tmp: {tmp_path}/remote, vexrun_rootfs_enter: {enter}}}}}}}\n"
    )
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "vexrun" / "ansible_plugins" / "connection"),
    }
    return subprocess.run(
        ["ansible", "-i", str(inventory), "rootfs", *args],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_commands_run_behind_the_whole_prefix(tmp_path: Path, prefix: Path) -> None:
    done = ansible(tmp_path, [str(prefix), "--"], "-m", "command", "-a", "pwd")
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(tmp_path) in done.stdout
    assert all(
        call.startswith("-- /bin/sh -c ") for call in (tmp_path / "calls").read_text().splitlines()
    )


def test_files_travel_through_the_prefix_both_ways(tmp_path: Path, prefix: Path) -> None:
    content = bytes(range(256)) * 50
    (tmp_path / "here").write_bytes(content)
    enter = [str(prefix), "--"]
    there, back = tmp_path / "it's there", tmp_path / "back"
    done = ansible(tmp_path, enter, "-m", "copy", "-a", f'src={tmp_path}/here dest="{there}"')
    assert done.returncode == 0, done.stdout + done.stderr
    assert there.read_bytes() == content
    done = ansible(tmp_path, enter, "-m", "fetch", "-a", f'src="{there}" dest={back} flat=true')
    assert done.returncode == 0, done.stdout + done.stderr
    assert back.read_bytes() == content


def test_a_prefix_that_cannot_mount_is_unreachable_and_says_why(
    tmp_path: Path, prefix: Path
) -> None:
    (tmp_path / "broken").touch()
    done = ansible(tmp_path, [str(prefix), "--"], "-m", "command", "-a", "true")
    assert done.returncode == 4
    assert "permission denied" in done.stdout + done.stderr
    assert str(prefix) in done.stdout + done.stderr


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    done = ansible(tmp_path, ["/nonexistent/unshare"], "-m", "command", "-a", "true")
    assert done.returncode == 4
    assert "'/nonexistent/unshare' does not start" in done.stdout + done.stderr
