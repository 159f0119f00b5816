"""A machine's life with a fake QEMU: it starts or says why not, and leaves nothing behind."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ConfigError, InfrastructureError, TargetLostError
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import is_locked
from vexrun.image.manifest import ImageInputs, Manifest
from vexrun.vm import disks
from vexrun.vm.accel import Accelerator
from vexrun.vm.disks import ScratchPlan
from vexrun.vm.machine import MachinePlan, booted
from vexrun.vm.registry import known_machines
from vexrun.vm.type_names import names_to_reserve

TCG = Accelerator("tcg", "tcg", "max", 10.0)

#: Speaks as much QMP as a machine's beginning and end need, then tells EVENT.
QEMU = f"""
for word; do case $word in unix:*) socket=${{word#unix:}} ;; esac; done
exec -a "$0" {sys.executable} -I -S -c '
import json, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1].split(",")[0])
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
' "$socket" "$@"
"""


@pytest.fixture
def plan(home: Path, tmp_path: Path, programs: Any, monkeypatch: pytest.MonkeyPatch) -> MachinePlan:
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
    manifest = Manifest(
        name="trixie-0",
        key="0",
        inputs=ImageInputs(suite="trixie", disk_gib=12, roles_sha256=""),
        created_at="",
        built_as="root",
        kernel_release="6.12",
        packages={},
        sha256={},
        files_sha256="",
    )
    lock_path("trixie-0").parent.mkdir(parents=True)
    return MachinePlan(
        image=Image(directory, manifest),
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


@pytest.mark.parametrize(
    ("event", "data", "sentence"),
    [
        ("GUEST_PANICKED", {}, "the guest kernel panicked (pvpanic)"),
        ("SHUTDOWN", {"reason": "guest-reset"}, "the guest reset itself"),
        ("SHUTDOWN", {"reason": "guest-shutdown"}, "the guest powered itself off"),
        ("RESET", {"reason": "host-qmp"}, "QEMU reported RESET host-qmp"),
    ],
)
def test_how_a_guest_ended_is_one_sentence(
    plan: MachinePlan, event: str, data: dict[str, str], sentence: str
) -> None:
    with booted(plan) as machine:
        machine.monitor.execute("tell", event="NIC_RX_FILTER_CHANGED")
        assert machine.running
        machine.monitor.execute("tell", event=event, data=data)
        machine.monitor.execute("query-status")  # what came before has been read
        assert machine.how_it_ended() == sentence
        assert not machine.running


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
