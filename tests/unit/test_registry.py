"""Machines that are up: found while their QEMU lives, ended by what they are, not by a number."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vexrun.errors import ConfigError
from vexrun.image.locking import exclusive
from vexrun.vm.machine import MachineState, sweep_dead_machines
from vexrun.vm.registry import (
    FREE,
    end_machine,
    end_named,
    find_machine,
    known_machines,
    machines_in,
)

pytestmark = pytest.mark.usefixtures("home")

Process = subprocess.Popen[bytes]
Start = Callable[..., Process]


@pytest.fixture
def machines(home: Path) -> Path:
    return home / "cache" / "machines"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts something that sleeps under another name, holding `lock` as QEMU does."""
    started: list[Process] = []

    def start(called: str, *arguments: str, lock: Path | None = None) -> Process:
        code = "import time; time.sleep(60)"
        argv = [called, "-S", "-c", code, *arguments]
        descriptors = []
        if lock is not None:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptors = [os.open(lock, os.O_CREAT | os.O_RDWR)]
            fcntl.flock(descriptors[0], fcntl.LOCK_EX)
        child = subprocess.Popen(argv, executable=sys.executable, pass_fds=descriptors)
        started.append(child)
        for descriptor in descriptors:
            os.close(descriptor)
        # exec closes the pipe that Popen waits for before the new command line can be read.
        while not Path(f"/proc/{child.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()


def record(directory: Path, name: str, pid: int = 1, state: str = "up") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    note = {"name": name, "pid": pid, "ssh_config": "/c", "console_socket": "/s", "state": state}
    (directory / "machine.json").write_text(json.dumps(note))


def qemu(start: Start, machines: Path, name: str) -> Process:
    """A machine that is up."""
    record(machines / name, name)
    lock = machines / name / "lock"
    return start("qemu-system-x86_64", "-name", f"{name},process={name}", "-m", "1", lock=lock)


# -- finding -------------------------------------------------------------------------------------


def test_without_a_machine_the_next_command_is_told() -> None:
    assert known_machines() == []
    with pytest.raises(ConfigError, match="No machine is up") as caught:
        find_machine(None)
    assert caught.value.hint == "Run: vexrun vm up"


def test_machines_whose_qemu_lives_are_known(start: Start, machines: Path) -> None:
    qemu(start, machines, "vexrun-aaaa")
    newest = qemu(start, machines, "vexrun-bbbb")
    os.utime(machines / "vexrun-aaaa", (1, 1))
    assert [machine.name for machine in known_machines()] == ["vexrun-aaaa", "vexrun-bbbb"]
    assert find_machine(None).name == "vexrun-bbbb"
    assert find_machine("vexrun-aaaa").name == "vexrun-aaaa"
    with pytest.raises(ConfigError, match="no machine 'vexrun-cccc'"):
        find_machine("vexrun-cccc")
    assert newest.poll() is None


@pytest.mark.parametrize("note", ["starting", None, ""], ids=["starting", "torn", "empty"])
def test_a_machine_whose_vexrun_was_killed_is_listed_and_can_be_ended(
    start: Start, machines: Path, note: str | None
) -> None:
    process = qemu(start, machines, "vexrun-aaaa")
    if note:
        record(machines / "vexrun-aaaa", "vexrun-aaaa", state=note)
    else:  # the disk was full
        (machines / "vexrun-aaaa" / "machine.json").write_text('{"name"' if note is None else "")
    (machines / "vexrun-aaaa" / "owner").touch()
    (machine,) = known_machines()
    assert machine.describe()["state"] == "left behind"
    assert machine.describe()["name"] == "vexrun-aaaa"
    with pytest.raises(ConfigError, match="No machine is up") as caught:
        find_machine(None)
    assert caught.value.evidence == "machines: 'vexrun-aaaa' (left behind)"
    end_machine(find_machine(None, *FREE))
    assert process.wait(5) == -15
    assert known_machines() == []


def test_a_machine_that_is_being_started_is_its_vexruns(start: Start, machines: Path) -> None:
    process = qemu(start, machines, "vexrun-aaaa")
    record(machines / "vexrun-aaaa", "vexrun-aaaa", state="starting")
    with exclusive(machines / "vexrun-aaaa" / "owner"):
        assert [machine.state for machine in known_machines()] == [MachineState.STARTING]
        assert machines_in(*FREE) == []
        with pytest.raises(ConfigError, match="No machine is up"):
            find_machine(None, *FREE)
        assert find_machine("vexrun-aaaa").name == "vexrun-aaaa", "when it is named"
    assert process.poll() is None


def test_what_a_dead_machine_left_is_swept(
    start: Start, machines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "run" / "vexrun-dead"
    runtime.mkdir(parents=True)
    record(machines / "vexrun-dead", "vexrun-dead")
    (machines / "vexrun-dead" / "runtime_dir").write_text(str(runtime))
    qemu(start, machines, "vexrun-aaaa")
    sweep_dead_machines()
    assert [path.name for path in machines.iterdir()] == ["vexrun-aaaa"]
    assert not runtime.exists()


def test_a_note_that_names_another_directory_deletes_nothing(
    machines: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (machines / "vexrun-dead").mkdir(parents=True)
    (machines / "vexrun-dead" / "runtime_dir").write_text(str(precious))
    sweep_dead_machines()
    assert not (machines / "vexrun-dead").exists()
    assert precious.exists()


# -- ending --------------------------------------------------------------------------------------


def test_a_machine_is_ended_and_its_remains_deleted(start: Start, machines: Path) -> None:
    process = qemu(start, machines, "vexrun-aaaa")
    other = qemu(start, machines, "vexrun-bbbb")
    end_machine(find_machine("vexrun-aaaa"))
    assert process.wait(5) == -15
    assert not (machines / "vexrun-aaaa").exists()
    assert other.poll() is None
    assert (machines / "vexrun-bbbb").exists()


@pytest.mark.parametrize(
    ("called", "arguments"),
    [
        pytest.param("python3", ("-name", "vexrun-aaaa"), id="no QEMU"),
        pytest.param("qemu-system-x86_64", ("-name", "vexrun-bbbb"), id="another machine"),
        pytest.param("qemu-system-x86_64", ("-name", "vexrun-aaaa2"), id="a longer name"),
        pytest.param("qemu-system-x86_64", ("vexrun-aaaa",), id="only mentioned"),
        pytest.param("qemu-system-x86_64", ("vexrun-aaaa", "-name"), id="nothing after -name"),
    ],
)
def test_a_remembered_pid_of_somebody_else_is_left_alone(
    start: Start, machines: Path, called: str, arguments: tuple[str, ...]
) -> None:
    """The machine died, and its number went to another process."""
    somebody = start(called, *arguments, lock=machines / "vexrun-aaaa" / "lock")
    record(machines / "vexrun-aaaa", "vexrun-aaaa", somebody.pid)
    end_machine(find_machine("vexrun-aaaa"))
    assert somebody.poll() is None


def test_a_machine_that_is_gone_is_no_error() -> None:
    assert end_named("vexrun-aaaa") is False
