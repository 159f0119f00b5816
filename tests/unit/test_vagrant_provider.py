"""The Ruby provider without Vagrant and without a guest: what it starts, keeps and ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vexrun.image.locking import is_locked
from vexrun.settings import MachineSettings
from vexrun.vm.description import box_description

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "vagrant"


#: Of a scratch disk here; the real ones cost a second each.
NOISE = 2**16


def described() -> dict[str, Any]:
    """The description of a box, with small disks."""
    description = box_description(MachineSettings())
    for disk in description["disks"]:
        if disk.get("random"):
            disk["size"] = NOISE
    return description


class Provider:
    """A data directory of Vagrant's and a box, as the provider sees them."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.data, self.box = directory / "data", directory / "the box, it's"
        self.data.mkdir()
        self.box.mkdir()
        self.environment = environment

    def call(self, *words: str, status: int = 0) -> str:
        argv = ["ruby", str(DATA / "drive.rb"), str(self.data), str(self.box), *words]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout.strip() if status == 0 else done.stderr

    @property
    def started(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "started.json").read_text())
        return found

    def command_line(self) -> list[str]:
        path = Path(f"/proc/{self.started['pid']}/cmdline")
        return path.read_bytes().decode().split("\0")[:-1]

    def alive(self) -> bool:
        return is_running(self.started["pid"])


def is_running(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    for program in ("ruby", "setsid", "qemu-img"):
        assert shutil.which(program), f"'{program}' is not installed: make setup"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "qemu-system-x86_64").symlink_to(DATA / "fake_qemu.py")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "VEXRUN_CACHE_DIR": str(tmp_path),
    }
    made = Provider(tmp_path, environment)
    (made.box / "machine.json").write_text(json.dumps(described()))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(made.box / "box.img"), "64M"], check=True
    )
    yield made
    if (made.data / "started.json").exists() and made.started["pid"] and made.alive():
        os.kill(made.started["pid"], signal.SIGKILL)


@pytest.fixture
def up(provider: Provider) -> Provider:
    provider.call("create")
    provider.call("start")
    return provider


def test_there_is_no_machine_before_up(provider: Provider) -> None:
    assert provider.call("state") == "not_created"
    assert provider.call("snapshots") == "[]"


def test_up_starts_what_the_description_says(up: Provider) -> None:
    argv = up.command_line()
    assert up.call("state") == "running"
    assert not [word for word in argv if "@" in word]
    assert argv[argv.index("-m") + 1] == "3000", "what the Vagrantfile says"
    assert argv[argv.index("-smp") + 1] == "2", "what the box says"
    assert argv[argv.index("-accel") + 1].startswith("tcg")
    assert argv[argv.index("-kernel") + 1] == f"{up.box}/vmlinuz", "no comma is doubled here"
    (forward,) = [word for word in argv if "hostfwd" in word]
    assert f"hostfwd=tcp:127.0.0.1:{up.started['ssh']['port']}-:22" in forward


def test_a_comma_in_a_path_is_doubled_where_qemu_splits_at_commas(provider: Provider) -> None:
    provider.call("create")
    provider.call("start", "/home/me/a,b")
    (share,) = [
        word for word in provider.command_line() if "mount_tag" not in word and "id=source" in word
    ]
    assert "path=/home/me/a,,b," in share


def test_disks_are_made_once_and_some_are_noise(up: Provider) -> None:
    disks = {path.name: path.stat() for path in (up.data / "disks").iterdir()}
    assert set(disks) == {
        "root.qcow2",
        "vexrun-scratch0.raw",
        "vexrun-scratch1.raw",
        "vexrun-small.raw",
        "vexrun-noise.raw",
    }
    noise = (up.data / "disks" / "vexrun-scratch0.raw").read_bytes()
    assert len(noise) == NOISE
    assert len(set(noise[:4096])) > 200
    up.call("stop")
    up.call("start")
    assert (up.data / "disks" / "vexrun-scratch0.raw").read_bytes() == noise


def test_locks_live_as_long_as_qemu(up: Provider, tmp_path: Path) -> None:
    up.call("delete")
    lock = tmp_path / "lock"
    lock.touch()
    (up.box / "machine.json").write_text(json.dumps(described() | {"holds": [str(lock)]}))
    up.call("create")
    up.call("start")
    assert is_locked(lock)
    up.call("stop")
    assert not is_locked(lock)


def test_state_and_disks_come_back(up: Provider) -> None:
    scratch = up.data / "disks" / "vexrun-scratch0.raw"
    before = scratch.read_bytes()
    up.call("save", "clean")
    assert up.call("state") == "running", "the guest goes on after it was saved"
    first = up.started["pid"]
    scratch.write_bytes(b"spoiled")
    up.call("restore", "clean")
    assert scratch.read_bytes() == before
    assert up.call("state") == "running"
    assert up.started["pid"] != first
    assert "-incoming" in up.command_line()
    assert up.call("snapshots") == '["clean"]'
    up.call("forget", "clean")
    assert up.call("snapshots") == "[]"


def test_off_and_on_again(up: Provider) -> None:
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(up.started["control"])
        link.recv(100)
        link.sendall(b'{"execute": "system_powerdown"}\n')
        said = b""
        while b"return" not in said:
            said += link.recv(100)
    assert up.call("state") == "poweroff", "QEMU waits after its guest went down"
    up.call("stop")
    assert up.call("state") == "poweroff"
    up.call("start")
    assert up.call("state") == "running"


def test_nothing_is_left(up: Provider) -> None:
    pid, run = up.started["pid"], Path(up.started["control"]).parent
    up.call("save", "clean")
    up.call("delete")
    assert (
        not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    assert not run.exists()
    assert list(up.data.iterdir()) == []


def test_a_qemu_that_was_killed_is_off(up: Provider) -> None:
    os.kill(up.started["pid"], signal.SIGKILL)
    until = time.monotonic() + 5
    while up.alive() and time.monotonic() < until:
        time.sleep(0.02)
    assert up.call("state") == "poweroff"


def test_another_process_under_our_number_is_not_touched(up: Provider) -> None:
    up.call("stop")
    other = subprocess.Popen(["sleep", "60"])
    try:
        noted = up.started | {"pid": other.pid}
        (up.data / "started.json").write_text(json.dumps(noted))
        assert up.call("state") == "poweroff"
        up.call("delete")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_what_qemu_says_is_told(provider: Provider) -> None:
    provider.environment["FAKE_QEMU_FAILS"] = "qemu: no such machine 'q35'"
    provider.call("create")
    assert "no such machine 'q35'" in provider.call("start", status=3)
    assert provider.call("state") == "poweroff"


def test_a_port_taken_meanwhile_is_no_failure(provider: Provider, tmp_path: Path) -> None:
    provider.environment["FAKE_QEMU_FAILS"] = f"once:{tmp_path / 'failed'}"
    provider.call("create")
    provider.call("start")
    assert (tmp_path / "failed").exists()
    assert provider.call("state") == "running"


def test_a_description_of_another_format_is_refused(provider: Provider) -> None:
    path = provider.box / "machine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    assert "no machine description" in provider.call("create", status=3).replace("not a", "no")


def test_a_machine_whose_up_was_killed_is_found_by_its_name(up: Provider) -> None:
    pid = up.started["pid"]
    (up.data / "started.json").write_text(json.dumps(up.started | {"pid": None}))
    assert up.call("state") == "running"
    up.call("stop")
    assert not is_running(pid)


@pytest.mark.parametrize("name", ["../other", "a/b", "", "-f"])
def test_a_snapshot_is_no_path(up: Provider, name: str) -> None:
    assert "cannot be the name of a snapshot" in up.call("save", name, status=3)


def test_the_provider_starts_few_programs_here() -> None:
    """What mounts or formats is sent to the guest; on this machine only these are started."""
    source = "".join(path.read_text() for path in (ROOT / "vagrant" / "provider").glob("*.rb"))
    started = set(re.findall(r'run!\("([\w-]+)"', source))
    started |= set(re.findall(r'Process\.spawn\("?([*\w]+)', source))
    started |= set(re.findall(r"IO\.popen\((?:%w)?\[([*\w-]+)", source))
    assert started == {"qemu-img", "cp", "setsid", "*argv", "qemu-system-x86_64"}
    code = re.sub(r"#.*", "", source)
    assert not re.search(r"%x|\bsystem\(|\bexec\(", code)
