"""A machine's life with a fake QEMU: it starts or says why not, and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ConfigError, InfrastructureError, TargetLostError
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import is_locked
from vexrun.process import run
from vexrun.vm import disks
from vexrun.vm.accel import Accelerator
from vexrun.vm.disks import ScratchPlan
from vexrun.vm.machine import Machine, MachinePlan, MachineState, booted, runtime_dir
from vexrun.vm.registry import FREE, end_machine, find_machine, known_machines
from vexrun.vm.type_names import names_to_reserve

TCG = Accelerator("tcg", "tcg", "max", 10.0)

#: Speaks as much QMP as a machine's beginning and end need, then tells EVENT.
QEMU = f"""
for word; do case $word in unix:*) socket=${{word#unix:}}; socket=${{socket//,,/,}} ;; esac; done
exec -a "$0" {sys.executable} -I -S -c '
import json, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1].removesuffix(",server=on,wait=off"))
server.listen()
link = server.accept()[0]
def say(message):
    link.sendall(json.dumps(message).encode() + b"\\r\\n")
def requests():
    decoder, text = json.JSONDecoder(), ""
    while data := link.recv(4096):  # without newlines between them
        text += data.decode()
        while text.strip():
            try:
                asked, end = decoder.raw_decode(text.lstrip())
            except ValueError:
                break
            text = text.lstrip()[end:]
            yield asked
version = dict(qemu=dict(major=10, minor=0, micro=0), package="")
say(dict(QMP=dict(version=version, capabilities=[])))
for asked in requests():
    same = dict(id=asked["id"]) if "id" in asked else dict()
    if asked["execute"] == "refuse-this":
        say(dict(error={{"class": "GenericError", "desc": "no such thing"}}, **same))
        continue
    if asked["execute"] == "die":
        sys.exit(3)
    say({{"return": dict(status="running"), **same}})
    if asked["execute"] == "tell":
        event = asked["arguments"]["event"]
        time = dict(seconds=1, microseconds=0)
        data = asked["arguments"].get("data", dict())
        say(dict(event=event, data=data, timestamp=time))
server.accept()  # a monitor that goes does not end QEMU
' "$socket" "$@"
"""


@pytest.fixture
def plan(
    home: Path,
    tmp_path: Path,
    programs: Any,
    make_manifest: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> MachinePlan:
    """Everything a machine needs; sockets lie in a short path."""
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    # One small disk: filling the others with random bytes takes longer than all the rest.
    monkeypatch.setattr(disks, "SCRATCH_DISKS", disks.SCRATCH_DISKS[:1])
    directory = tmp_path / "image"
    (directory / "ssh").mkdir(parents=True)
    (directory / "ssh" / "host.pub").write_text("ssh-ed25519 AAAA host\n")
    programs.add("qemu-img")
    programs.add("qemu-system-x86_64", QEMU)
    lock_path("trixie-0").parent.mkdir(parents=True)
    return MachinePlan(
        image=Image(directory, make_manifest()),
        accelerator=TCG,
        memory_mib=512,
        cpus=1,
        source_dir=tmp_path,
        console_log=tmp_path / "console.log",
        scratch=ScratchPlan(1),
        disk=directory / "root.qcow2",
    )


Nothing = Callable[[], None]


@pytest.fixture
def nothing_left(home: Path, tmp_path: Path) -> Nothing:
    def check() -> None:
        assert list((home / "cache" / "machines").iterdir()) == []
        assert list((tmp_path / "t").iterdir()) == []
        assert not is_locked(lock_path("trixie-0")), "the image is free again"

    return check


def test_a_machine_lives_as_long_as_its_block(plan: MachinePlan, nothing_left: Nothing) -> None:
    with pytest.raises(ZeroDivisionError), booted(plan) as machine:
        assert machine.running
        assert machine.how_it_ended() is None
        assert is_locked(lock_path("trixie-0")), "its image cannot be removed"
        assert [disk.serial for disk in machine.scratch] == ["vexrun-scratch0"]
        assert f"Port {machine.ssh_port}\n" in machine.shell.config.read_text()
        assert known_machines() == [], "it belongs to this run alone"
        process = machine._process
        raise ZeroDivisionError
    assert process is not None
    assert process.returncode is not None
    nothing_left()


KILLED_WHILE = {
    "starting QEMU": "from vexrun.vm import qmp; qmp.Monitor.connect = die",
    "waiting for ssh": "from vexrun.vm.machine import Machine; Machine.connect = die",
    "mounting the source": (
        "from vexrun.vm.machine import Machine; Machine.connect = lambda *_: None; "
        "Machine.set_clock_and_mount_source = die"
    ),
}


@pytest.mark.parametrize("moment", KILLED_WHILE)
def test_a_machine_whose_vexrun_is_killed_while_it_starts_is_listed_and_ended(
    plan: MachinePlan, nothing_left: Nothing, moment: str, tmp_path: Path
) -> None:
    """`vexrun vm up` and SIGKILL: its QEMU is to outlive vexrun, so it must be found again."""
    (tmp_path / "plan").write_bytes(pickle.dumps(plan))
    code = (
        "import os, pickle, signal, sys, tempfile\n"
        "from pathlib import Path\n"
        "tempfile.tempdir = sys.argv[2]\n"
        "def die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{KILLED_WHILE[moment]}\n"
        "from vexrun.vm.detached import start_detached\n"
        "start_detached(pickle.loads(Path(sys.argv[1]).read_bytes()))"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "plan"), str(tmp_path / "t")]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    (machine,) = known_machines()
    assert machine.state is MachineState.LEFT_BEHIND
    assert Path(f"/proc/{machine.record['pid']}").exists()
    assert machine.record["image"] == "trixie-0"
    end_machine(find_machine(None, *FREE))
    assert known_machines() == []
    nothing_left()


def test_a_detached_machine_is_up(plan: MachinePlan, nothing_left: Nothing) -> None:
    machine = Machine(replace(plan, outlives_us=True))
    machine.start()
    assert [each.state for each in known_machines()] == [MachineState.STARTING]
    process = machine._process
    record = machine.detach()
    (known,) = known_machines()
    assert known.describe() == record
    assert known.state is MachineState.UP
    assert process is not None
    killer = threading.Thread(target=process.wait)  # init would reap it
    killer.start()
    end_machine(known)
    killer.join()
    nothing_left()


def test_a_full_disk_of_this_machine_is_not_the_guests_doing(plan: MachinePlan) -> None:
    with booted(plan) as machine:
        data = {"node-name": "vexrun-scratch0", "action": "report", "nospace": False}
        machine.monitor.execute("tell", event="BLOCK_IO_ERROR", data=data)
        machine.monitor.execute("query-status")
        assert machine.running, "the guest got an error, and may go on"
        data = {**data, "action": "stop", "nospace": True}
        machine.monitor.execute("tell", event="BLOCK_IO_ERROR", data=data)
        machine.monitor.execute("query-status")
        assert not machine.running
        assert machine.lost_by_host
        said = machine.how_it_ended()
    assert said is not None
    assert said.startswith("this machine's disk is full: QEMU stopped the guest at a write to 'v")


def test_a_panic_is_the_guests_doing_even_when_qemu_is_gone(plan: MachinePlan) -> None:
    with booted(plan) as machine:
        machine.monitor.execute("tell", event="GUEST_PANICKED")
        machine.monitor.execute("query-status")
        assert not machine.lost_by_host


# -- sockets -------------------------------------------------------------------------------------


def test_sockets_have_a_place_of_a_path_that_is_short_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deep TMPDIR: QEMU and ssh refuse a socket's path of more than 107 bytes."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    chosen = runtime_dir("vexrun-0123abcd")
    assert not chosen.is_relative_to(deep)
    assert len(str(chosen)) + len("/ssh.0123456789abcdef") <= 107


@pytest.mark.parametrize("name", ["a dir with blanks", "caf\u00e9", "comma,and%percent"])
def test_sockets_live_in_the_temporary_directory_whatever_it_is_called(
    tmp_path: Path, name: str, plan: MachinePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's own directory takes most of a socket's path.
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as short:
        place = Path(short) / name
        place.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        with booted(plan) as machine:
            assert machine.runtime_dir.parent == place
            control = ["ssh", "-G", "-F", str(machine.shell.config), "vexrun-vm"]
            said = run(control).stdout.splitlines()
            assert f"controlpath {machine.runtime_dir}/ssh" in said
        assert list(place.iterdir()) == []


def test_no_place_for_sockets_is_an_error_with_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InfrastructureError, match="have 70 bytes for the directory") as caught:
        runtime_dir("vexrun-0123abcd")
    assert "TMPDIR" in caught.value.hint


@pytest.mark.parametrize(
    ("event", "data", "sentence", "died"),
    [
        ("GUEST_PANICKED", {}, "the guest kernel panicked (pvpanic)", True),
        ("SHUTDOWN", {"reason": "guest-reset"}, "the guest reset itself", True),
        ("SHUTDOWN", {"reason": "guest-shutdown"}, "the guest powered itself off", False),
        ("RESET", {"reason": "host-qmp"}, "QEMU reported RESET host-qmp", False),
    ],
)
def test_how_a_guest_ended_is_one_sentence(
    plan: MachinePlan, event: str, data: dict[str, str], sentence: str, died: bool
) -> None:
    with booted(plan) as machine:
        machine.monitor.execute("tell", event="NIC_RX_FILTER_CHANGED")
        assert machine.running
        machine.monitor.execute("tell", event=event, data=data)
        machine.monitor.execute("query-status")  # what came before has been read
        assert machine.how_it_ended() == sentence
        assert machine.died is died
        assert not machine.running


def test_a_machine_that_boots_again_has_not_ended(plan: MachinePlan) -> None:
    with booted(replace(plan, reboots=True)) as machine:
        for event in ("GUEST_PANICKED", "RESET"):
            machine.monitor.execute("tell", event=event, data={"reason": "guest-reset"})
        machine.monitor.execute("query-status")
        assert machine.how_it_ended() is None
        assert machine.running
        machine.monitor.execute("tell", event="SHUTDOWN", data={"reason": "guest-shutdown"})
        machine.monitor.execute("query-status")
        assert machine.how_it_ended() == "the guest powered itself off"


def test_a_refused_command_is_not_a_lost_machine(plan: MachinePlan) -> None:
    with booted(plan) as machine:
        with pytest.raises(InfrastructureError, match="'refuse-this': no such thing") as caught:
            machine.monitor.execute("refuse-this", node_name="x")
        assert not isinstance(caught.value, TargetLostError)
        assert "node-name" in caught.value.evidence
        assert machine.running


def test_a_qemu_that_dies_is_a_lost_machine(plan: MachinePlan, nothing_left: Nothing) -> None:
    with booted(plan) as machine:
        with pytest.raises(TargetLostError, match="did not answer the QMP command 'die'"):
            machine.monitor.execute("die")
        assert machine._process is not None
        machine._process.wait()
        assert machine.how_it_ended() == "QEMU is gone (exit status 3)"
    nothing_left()


def test_a_qemu_that_does_not_start_says_why(
    plan: MachinePlan, programs: Any, nothing_left: Nothing
) -> None:
    programs.add("qemu-system-x86_64", "echo 'qemu: -cpu max: not supported' >&2; exit 1")
    with pytest.raises(InfrastructureError, match="QEMU did not start") as caught, booted(plan):
        pass
    assert caught.value.evidence.startswith("$ qemu-system-x86_64 -name ")
    assert caught.value.evidence.endswith("qemu: -cpu max: not supported")
    assert caught.value.hint == "Run: vexrun doctor"
    assert len(programs.calls("qemu-system-x86_64")) == 1
    nothing_left()


def test_a_port_that_somebody_took_is_tried_again(
    plan: MachinePlan, programs: Any, tmp_path: Path
) -> None:
    busy = "echo 'Could not set up host forwarding rule' >&2; exit 1"
    script = f"if [ ! -e {tmp_path}/once ]; then : >{tmp_path}/once; {busy}; fi\n{QEMU}"
    programs.add("qemu-system-x86_64", script)
    with booted(plan) as machine:
        assert machine.running
    programs.add("qemu-system-x86_64", busy)
    with pytest.raises(InfrastructureError, match="QEMU did not start"), booted(plan):
        pass
    assert len(programs.calls("qemu-system-x86_64")) == 2 + 3


@pytest.mark.parametrize("program", ["qemu-img", "qemu-system-x86_64"])
def test_a_qemu_that_is_not_installed_is_named(
    plan: MachinePlan, programs: Any, program: str, nothing_left: Nothing
) -> None:
    (programs.directory / program).unlink()
    programs.link("setpriv", "bash")
    programs.nothing_else()
    with pytest.raises(InfrastructureError, match=f"'{program}' is not installed"), booted(plan):
        pass
    nothing_left()


# -- type names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reserved"), [("minix", ()), ("ext2", ("ext2",)), ("ext3", ("ext3",))]
)
def test_names_that_the_root_filesystem_takes_are_reserved(
    kind: str, reserved: tuple[str, ...]
) -> None:
    assert names_to_reserve(kind) == reserved


def test_the_root_filesystems_own_type_cannot_be_tested() -> None:
    with pytest.raises(ConfigError, match="'ext4' is the guest's own root filesystem"):
        names_to_reserve("ext4")
