"""What a device says about itself: what cannot be read, and what lies on a disk without a name."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Programs

from vexrun.device import facts_in_guest, provisioning, windows_in_guest
from vexrun.device.facts import Facts
from vexrun.errors import InfrastructureError

MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file in place of a disk: zeros."""
    file = tmp_path / "disk"
    file.write_bytes(bytes(4 * MIB))
    return file


def written(disk: Path, offset: int, content: bytes) -> Path:
    with disk.open("r+b") as stream:
        stream.seek(offset)
        stream.write(content)
    return disk


NOTHING = "echo '{\"signatures\": []}'"


@pytest.mark.parametrize(
    ("offset", "first"), [(0, 0), (70_000, 70_000), (MIB - 1, MIB - 1), (4 * MIB - 1, 4 * MIB - 1)]
)
def test_data_at_either_end_is_a_signature(
    disk: Path, offset: int, first: int, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain dm-crypt, or what a failed test of the subject has left: libblkid knows neither."""
    programs.add("wipefs", NOTHING)
    use_programs(monkeypatch, programs)
    problems: list[str] = []
    assert facts_in_guest._signatures(str(disk), problems) == []
    (found,) = facts_in_guest._signatures(str(written(disk, offset, b"\x01")), problems)
    assert (found["type"], found["offset"]) == ("unknown data", first)
    assert found["uuid"].startswith("data-")
    (other,) = facts_in_guest._signatures(str(written(disk, offset, b"\x02")), problems)
    assert other["uuid"] != found["uuid"], "a release holds for this content and for no other"
    assert problems == []


def use_programs(monkeypatch: pytest.MonkeyPatch, programs: Programs) -> None:
    """The script takes its programs from the system's directories alone."""
    real = subprocess.run

    def run(argv: list[str], **options: Any) -> Any:
        options["env"] = {"PATH": os.environ["PATH"]}
        return real(argv, **options)

    monkeypatch.setattr(facts_in_guest.subprocess, "run", run)


def test_a_signature_that_has_a_name_needs_no_other(
    disk: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.add("wipefs", 'echo \'{"signatures": [{"type": "ext4", "offset": "0x438"}]}\'')
    use_programs(monkeypatch, programs)
    (found,) = facts_in_guest._signatures(str(written(disk, 0, b"x")), [])
    assert found["type"] == "ext4"


def test_what_cannot_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_in_guest, "_NEEDED", (f"{tmp_path}/missing",))
    monkeypatch.setattr(facts_in_guest, "_READ", (f"{tmp_path}/missing", f"{tmp_path}/optional"))
    (problem,) = facts_in_guest._unreadable()
    assert "missing' cannot be read: No such file" in problem
    (tmp_path / "optional").mkdir()
    assert len(facts_in_guest._unreadable()) == 2, "it is there, and cannot be read"


@pytest.mark.parametrize(
    ("number", "busy", "problems"), [(errno.EBUSY, True, 0), (errno.ENOMEDIUM, False, 1)]
)
def test_a_disk_that_cannot_be_opened_is_not_free(
    number: int, busy: bool, problems: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(facts_in_guest.os, "open", refuse)
    said: list[str] = []
    assert facts_in_guest._is_busy("/dev/vdb", said) is busy
    assert len(said) == problems


def test_mounts_are_read_once_for_each_view_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred rows for each process, before each mkfs, took 20 s under emulation.

    A process in a root of its own has another view, and so has one that is gone by half.
    """
    views = {
        "self": ("mnt:[1]", "/"),
        "1": ("mnt:[1]", "/"),
        "7": ("mnt:[1]", "/srv/jail"),
        "8": ("mnt:[2]", "/"),
    }
    read: list[str] = []

    def readlink(path: str) -> str:
        _, _, pid, *what = path.split("/")
        if pid == "9":
            raise OSError(errno.ENOENT, "gone")
        return views[pid][0 if what == ["ns", "mnt"] else 1]

    def lines(path: str) -> list[str]:
        read.append(path.split("/")[2])
        return [f"row of {read[-1]}"]

    monkeypatch.setattr(facts_in_guest.os, "readlink", readlink)
    monkeypatch.setattr(facts_in_guest.os, "listdir", lambda _: ["1", "7", "8", "9", "self"])
    monkeypatch.setattr(facts_in_guest, "_lines", lines)
    assert facts_in_guest._mounts_of_all() == {f"row of {pid}" for pid in ("self", "7", "8", "9")}
    assert sorted(read) == ["7", "8", "9", "self"]


BTRFS = "30 1 0:29 /root / rw,relatime shared:1 - btrfs /dev/vda3 rw\n"
OVERLAY = "30 1 0:29 / / rw,relatime - overlay overlay rw\n"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A machine with vda (vda3) and vdb (vdb1), and a root filesystem as mountinfo says."""

    def made(mountinfo: str) -> None:
        real = {"isdir": os.path.isdir, "exists": os.path.exists, "realpath": os.path.realpath}
        (tmp_path / "btrfs" / "1234" / "devices" / "vda3").mkdir(parents=True)
        (tmp_path / "btrfs" / "1234" / "devices" / "vdb1").mkdir()
        (tmp_path / "btrfs" / "features").mkdir()
        parents = {"vda3": "vda", "vdb1": "vdb"}
        monkeypatch.setattr(facts_in_guest, "_lines", lambda _: mountinfo.splitlines())
        monkeypatch.setattr(facts_in_guest, "_parent", parents.get)
        listed = facts_in_guest._listed
        monkeypatch.setattr(
            facts_in_guest,
            "_listed",
            lambda path: listed(path.replace("/sys/fs/btrfs", f"{tmp_path}/btrfs")),
        )
        monkeypatch.setattr(
            facts_in_guest.os.path,
            "isdir",
            lambda path: (
                path.rpartition("/")[2] in (*parents, *parents.values())
                if path.startswith("/sys/class/block/")
                else real["isdir"](path)
            ),
        )

    return made


def test_a_system_on_btrfs_stands_on_all_of_its_disks(system: Callable[[str], None]) -> None:
    """btrfs mounts with a device number that no disk has."""
    system(BTRFS)
    assert facts_in_guest._carries_system("vda")
    assert facts_in_guest._carries_system("vdb"), "the second device of the filesystem"
    assert not facts_in_guest._carries_system("vdc")
    assert facts_in_guest._unknown_ground() == []


def test_ground_that_cannot_be_told_is_a_problem(system: Callable[[str], None]) -> None:
    system(OVERLAY)
    assert not facts_in_guest._carries_system("vda")
    (problem,) = facts_in_guest._unknown_ground()
    assert "which disk carries '/' cannot be told" in problem


def test_who_is_asked_for_uuids_is_found_though_no_link_leads_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "/etc/fstab": 'UUID="ab-1" /srv ext4 noauto 0 0\n',
        "/etc/crypttab": "x LABEL=old none",
    }
    monkeypatch.setattr(facts_in_guest, "_lines", lambda path: files.get(path, "").splitlines())
    monkeypatch.setattr(facts_in_guest, "_text", lambda _: "")
    found = facts_in_guest._configured()
    assert set(found) == {"UUID=ab-1", "LABEL=old"}
    assert "/etc/fstab" in found["UUID=ab-1"][0]


def test_windows_of_another_run_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that begin at once: only one gets the disk, and the other takes nothing from it."""
    closed: list[str] = []
    monkeypatch.setattr(windows_in_guest, "_is_still", lambda *_: None)
    monkeypatch.setattr(windows_in_guest, "close_windows", closed.extend)
    monkeypatch.setattr(windows_in_guest, "_exists", lambda name: name == "vexrun-scratch1")
    sizes = [("vexrun-scratch0", MIB), ("vexrun-scratch1", MIB)]
    with pytest.raises(AssertionError, match="'vexrun-scratch1' already"):
        windows_in_guest.open_windows("/dev/vdb", "254:16", sizes)
    assert closed == []


def test_half_a_set_of_windows_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(windows_in_guest, "_is_still", lambda *_: None)
    monkeypatch.setattr(windows_in_guest, "close_windows", closed.extend)
    monkeypatch.setattr(windows_in_guest, "_exists", lambda _: False)

    def make(name: str, _: Any) -> str:
        if name == "vexrun-scratch1":
            raise OSError(errno.EBUSY, "busy")
        return "/dev/dm-0"

    monkeypatch.setattr(windows_in_guest.faults_in_guest, "make_mapped", make)
    sizes = [("vexrun-scratch0", MIB), ("vexrun-scratch1", MIB)]
    with pytest.raises(OSError, match="busy"):
        windows_in_guest.open_windows("/dev/vdb", "254:16", sizes)
    assert closed == ["vexrun-scratch0"]


def test_its_own_addresses_are_those_of_this_machine() -> None:
    """Read here: what /proc/net says is the same everywhere."""
    found = facts_in_guest._addresses()
    assert not any(each.startswith("127.") or each == "::1" for each in found)


def test_this_machine_can_be_asked() -> None:
    """The answer has the shape that is checked at the edge; no disk is looked at."""
    said = facts_in_guest.read({"by_id": None})
    assert Facts.model_validate(said).boot_id


def test_a_device_without_python_is_not_provisioned(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot say which machine it is, so nothing is installed there."""
    from contextlib import contextmanager
    from types import SimpleNamespace

    from test_device_guards import description

    from vexrun.process import Completed

    @contextmanager
    def connection(_: Any) -> Any:
        yield SimpleNamespace(
            run=lambda *_, **__: Completed(("ssh",), 127, "", "bash: python3: command not found"),
            config=None,
        )

    monkeypatch.setattr(provisioning, "connection", connection)
    monkeypatch.setattr(provisioning, "run_playbook", lambda *_, **__: pytest.fail("was run"))
    with pytest.raises(InfrastructureError, match="could not be asked"):
        provisioning.provision_device(description(), check=False, emit=lambda _: None)
