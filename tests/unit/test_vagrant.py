"""The box, the machine description, and Vagrant's words when it fails. No guest is started."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Programs

from vexrun.errors import ExitCode, InfrastructureError
from vexrun.image import box as box_module
from vexrun.image.box import BoxId, boot_area, catalog_of, write_box
from vexrun.image.box_home import box_directory, remove_box
from vexrun.image.catalog import Image
from vexrun.settings import MachineSettings
from vexrun.vm.accel import Accelerator
from vexrun.vm.description import box_description, description_of
from vexrun.vm.disks import SCRATCH_DISKS, ScratchPlan
from vexrun.vm.machine import MachinePlan
from vexrun.vm.qemu import GuestHardware, qemu_argv
from vexrun.vm.qemu_process import UNKNOWN_STATUS, AdoptedQemu, qemu_named
from vexrun.vm.vagrant_cli import VagrantCli, vagrant_home
from vexrun.vm.vagrant_machine import VagrantMachine, end_vagrant_machine

ROOT = Path(__file__).resolve().parents[2]
TCG = Accelerator("tcg", "tcg,thread=multi", "max", 10.0)


# -- the box ------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path, make_manifest: Any) -> Image:
    manifest = make_manifest(created_at="2026-11-21T22:56:56+00:00")
    return Image(tmp_path / "image", manifest)


def test_versions_sort_by_the_time_of_their_images(make_manifest: Any, tmp_path: Path) -> None:
    times = ["2026-01-02T00:03:04+00:00", "2026-01-02T10:00:00+00:00", "2026-11-01T00:00:00+00:00"]
    boxes = [BoxId.of(Image(tmp_path, make_manifest(created_at=each))) for each in times]
    numbers = [tuple(map(int, box.version.split("."))) for box in boxes]
    assert numbers == sorted(numbers)
    # Vagrant reads a version as RubyGems does, without leading zeros.
    assert all(re.fullmatch(r"\d+(\.(0|[1-9]\d*)){2}", box.version) for box in boxes)


def test_a_layer_is_a_box_of_its_own(make_manifest: Any, tmp_path: Path) -> None:
    made = make_manifest(created_at="2026-01-02T00:03:04+00:00")
    layer = make_manifest(
        "trixie-layer-1",
        created_at=made.created_at,
        inputs=made.inputs.model_copy(update={"base_key": "0"}),
    )
    names = [BoxId.of(Image(tmp_path, each)).name for each in (made, layer)]
    assert names == ["vexrun/trixie", "vexrun/trixie-layer-1"]


@pytest.fixture
def grub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "grub"
    directory.mkdir()
    (directory / "boot.img").write_bytes(bytes(range(256)) * 2)
    monkeypatch.setattr(box_module, "_GRUB", directory)
    return directory


def test_a_partition_table_and_the_boot_loader_lie_before_the_partition(grub: Path) -> None:
    area = boot_area(b"core", 12 * 2**30)
    assert len(area) == 2**20
    assert area[:440] == (grub / "boot.img").read_bytes()[:440]
    assert area[510:516] == b"\x55\xaacore"
    entry = area[446:462]
    assert entry[0] == 0x80, "BIOS boots it"
    assert entry[4] == 0x83, "Linux"
    assert int.from_bytes(entry[8:12], "little") * 512 == 2**20
    assert int.from_bytes(entry[12:16], "little") * 512 == 12 * 2**30
    assert area[462:510] == bytes(48), "and no other"


def test_a_missing_boot_loader_is_named(
    grub: Path, programs: Programs, image: Image, tmp_path: Path
) -> None:
    programs.nothing_else()
    with pytest.raises(InfrastructureError, match="GRUB") as caught:
        box_module._require_grub()
    assert "grub-pc-bin" in caught.value.hint


def test_a_box_file_appears_whole_with_its_catalog(image: Image, tmp_path: Path) -> None:
    files, output = tmp_path / "files", tmp_path / "out"
    files.mkdir()
    for name in ("metadata.json", "box.img", "Vagrantfile", "vagrant_key"):
        (files / name).write_text(name)
    (files / "vagrant_key").chmod(0o600)
    file, catalog = write_box(image, files, output)
    listing = subprocess.run(["tar", "-tvf", file], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in listing.stdout.splitlines()] == sorted(
        path.name for path in files.iterdir()
    )
    assert re.search(r"-rw------- (root/root|0/0) .* vagrant_key", listing.stdout)
    told = json.loads(catalog.read_text())
    assert told["name"] == "vexrun/trixie"
    (version,) = told["versions"]
    assert version["version"] == "20261121.225656.1"
    (provider,) = version["providers"]
    assert provider["name"] == "libvirt"
    assert provider["url"] == f"file://{file}"
    sum_of = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True)
    assert sum_of.stdout.startswith(provider["checksum"])
    assert sorted(path.name for path in output.iterdir()) == sorted([file.name, catalog.name])


def test_a_catalog_names_a_path_with_spaces_as_a_url() -> None:
    catalog = catalog_of(BoxId("vexrun/a", "1.2.3"), Path("/my boxes/a.box"), "0")
    assert "file:///my%20boxes/a.box" in json.dumps(catalog)


def test_with_its_image_a_box_goes_too(image: Image, home: Path) -> None:
    assert remove_box(image) is None
    directory = box_directory(BoxId.of(image))
    directory.mkdir(parents=True)
    older = directory.parent.with_name("20250101.0.1")
    older.mkdir()
    assert remove_box(image) == BoxId.of(image)
    assert not directory.parent.exists()
    assert older.exists(), "another image's"


def test_the_well_known_key_is_not_put_in() -> None:
    script = (ROOT / "vexrun" / "image" / "box.sh").read_text()
    assert "authorized_key" in script
    assert "AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr" not in script


# -- the machine description --------------------------------------------------------------------

HARDWARE = GuestHardware(
    name="vexrun-0a1b2c3d",
    accelerator=TCG,
    memory_mib=1024,
    cpus=2,
    kernel=Path("/images/vmlinuz"),
    initrd=Path("/images/initrd.img"),
    root_overlay=Path("/m/root.qcow2"),
    runtime_dir=Path("/run/m"),
    console_log=Path("/runs/console.log"),
    ssh_port=40022,
    source_dir=Path("/home/me/src"),
    control_socket=Path("/run/m/control"),
)


def test_a_description_starts_the_machine_that_vexrun_would_start() -> None:
    described = description_of(HARDWARE, disks=[], ssh={})
    argv = [word.replace("@port@", "40022") for word in described["argv"]]
    assert argv == qemu_argv(HARDWARE)
    extra = ["-qmp", "unix:/run/m/control,server=on,wait=off"]
    without = qemu_argv(replace(HARDWARE, control_socket=None))
    position = next(n for n, word in enumerate(argv) if word.endswith("control,server=on,wait=off"))
    assert argv[: position - 1] + argv[position + 1 :] == without
    assert argv[position - 1 : position + 1] == extra


def test_a_box_leaves_to_the_provider_what_it_alone_knows() -> None:
    described = box_description(MachineSettings(memory_mib=1024, cpus=3))
    words = set(re.findall(r"@([a-z]+)@", json.dumps(described)))
    known = {"name", "box", "data", "run", "source", "memory", "cpus", "accel", "cpu", "port"}
    assert words == known
    provider = (ROOT / "vagrant" / "provider" / "guest.rb").read_text()
    assert {word for word in known if f'"{word}" =>' not in provider} == set()
    assert (described["memory_mib"], described["cpus"]) == (1024, 3)
    assert set(described["accelerators"]) == {"kvm", "tcg"}


def test_a_box_has_our_scratch_disks() -> None:
    described = box_description(MachineSettings())
    argv = " ".join(described["argv"])
    for kind in SCRATCH_DISKS:
        assert f"serial={kind.serial}" in argv
    made = {Path(disk["path"]).stem for disk in described["disks"]}
    assert made == {"root", *(kind.serial for kind in SCRATCH_DISKS)}
    written = {Path(path).stem for path in described["writable"]}
    assert written == made - {"vexrun-noise"}, "what is only read need not be kept"


# -- calling Vagrant ----------------------------------------------------------------------------


@pytest.fixture
def fake_vagrant(programs: Programs, home: Path) -> Programs:
    (programs.directory / "vagrant").symlink_to(ROOT / "tests/data/vagrant/fake_vagrant.py")
    (programs.directory / "qemu-system-x86_64").symlink_to(ROOT / "tests/data/vagrant/fake_qemu.py")
    return programs


def calls(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_vagrants_own_words_are_the_evidence(programs: Programs, home: Path) -> None:
    programs.add("vagrant", "echo 'The provider is broken:' >&2; echo 'no such box' >&2; exit 7")
    cli = VagrantCli(home)
    with pytest.raises(InfrastructureError, match="'vagrant up' failed with exit status 7") as told:
        cli.up()
    assert told.value.evidence == "The provider is broken:\nno such box"
    assert told.value.exit_code is ExitCode.INFRASTRUCTURE
    assert str(home / "vagrant.log") in told.value.hint


def test_only_the_words_of_the_failed_command_are_told(programs: Programs, home: Path) -> None:
    programs.add("vagrant", 'echo "said by $1"; [ "$1" = up ]')
    cli = VagrantCli(home)
    cli.up()
    with pytest.raises(InfrastructureError) as told:
        cli.halt()
    assert told.value.evidence == "said by halt"


def test_what_a_captured_command_printed_is_told_too(programs: Programs, home: Path) -> None:
    programs.add("vagrant", "echo 'on stdout'; echo 'on stderr' >&2; exit 1")
    with pytest.raises(InfrastructureError) as told:
        VagrantCli(home).ssh_config()
    assert set(told.value.evidence.splitlines()) == {"on stdout", "on stderr"}


def test_a_missing_vagrant_is_named(programs: Programs, home: Path) -> None:
    programs.nothing_else()
    with pytest.raises(InfrastructureError, match="'vagrant' is not installed") as told:
        VagrantCli(home).up()
    assert "apt-get install" in told.value.hint


def test_the_users_own_vagrant_is_left_alone(
    programs: Programs, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAGRANT_HOME", "/home/me/.vagrant.d")
    monkeypatch.setenv("VAGRANT_VAGRANTFILE", "Other")
    programs.add("vagrant", f"env | grep ^VAGRANT_ | sort >{home}/environment")
    VagrantCli(home).up()
    told = dict(line.split("=", 1) for line in (home / "environment").read_text().splitlines())
    assert told == {
        "VAGRANT_HOME": str(vagrant_home()),
        "VAGRANT_DOTFILE_PATH": str(home / "vagrant"),
        "VAGRANT_DEFAULT_PROVIDER": "vexrun",
        "VAGRANT_NO_PLUGINS": "1",
        "VAGRANT_NO_COLOR": "1",
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }
    assert vagrant_home() == home / "cache" / "vagrant"


def test_the_heading_is_no_snapshot(programs: Programs, home: Path) -> None:
    programs.add("vagrant", "printf '==> default: \\nclean\\nmine\\n'")
    assert VagrantCli(home).snapshots() == ["clean", "mine"]


def test_no_snapshots_are_none(programs: Programs, home: Path) -> None:
    programs.add("vagrant", "echo '==> default: No snapshots have been taken yet!'")
    assert VagrantCli(home).snapshots() == []


def test_versions_of_one_box_are_found(programs: Programs, home: Path) -> None:
    lines = [
        "1,,box-name,vexrun/trixie",
        "1,,box-provider,libvirt",
        "1,,box-version,20260101.0.1",
        "1,,box-name,vexrun/sid",
        "1,,box-provider,libvirt",
        "1,,box-version,20260202.0.1",
    ]
    programs.add("vagrant", "\n".join(f"echo {line}" for line in lines))
    assert VagrantCli(home).box_versions("vexrun/trixie") == ["20260101.0.1"]


def test_where_vagrant_has_a_box(home: Path) -> None:
    directory = box_directory(BoxId("vexrun/trixie", "1.2.3"))
    assert directory == vagrant_home() / "boxes/vexrun-VAGRANTSLASH-trixie/1.2.3/libvirt"


# -- a machine of Vagrant's ---------------------------------------------------------------------


@pytest.fixture
def plan(
    fake_vagrant: Programs,
    tmp_path: Path,
    make_manifest: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> MachinePlan:
    from vexrun.image.catalog import lock_path
    from vexrun.vm import disks

    monkeypatch.setattr(disks, "SCRATCH_DISKS", disks.SCRATCH_DISKS[:1])
    directory = tmp_path / "image"
    (directory / "ssh").mkdir(parents=True)
    (directory / "ssh" / "host.pub").write_text("ssh-ed25519 AAAA host\n")
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


BOX = BoxId("vexrun/trixie", "1.2.3")


def nothing_left(machine: VagrantMachine) -> bool:
    left = [machine.directory, machine.runtime_dir]
    return not any(path.exists() for path in left) and qemu_named(machine.name) is None


def test_vagrant_holds_the_machine_and_we_watch_it(plan: MachinePlan, home: Path) -> None:
    machine = VagrantMachine(plan, BOX)
    try:
        machine.start()
        first = machine.pid
        assert first == qemu_named(machine.name)
        assert machine.running
        assert machine.monitor.execute("query-status") == {"status": "running"}
        config = (machine.runtime_dir / "ssh_config").read_text()
        assert "Port 40022" in config, "as Vagrant said"
        assert "StrictHostKeyChecking yes" in config, "which Vagrant did not say"
        machine.save_clean()
        machine.restore_clean()
        assert machine.pid not in (None, first)
        assert machine.running
    finally:
        machine.destroy()
    commands = [call["command"] for call in calls(home / "cache" / "machines" / "vagrant.calls")]
    assert commands == [
        "up",
        "ssh-config",
        "snapshot save",
        "snapshot restore",
        "ssh-config",
        "destroy",
    ]
    assert nothing_left(machine)


def test_halt_comes_before_destroy(plan: MachinePlan, home: Path) -> None:
    machine = VagrantMachine(plan, BOX)
    machine.start()
    machine.power_off()
    commands = [call["command"] for call in calls(home / "cache" / "machines" / "vagrant.calls")]
    assert commands[-2:] == ["halt", "destroy"]
    assert nothing_left(machine)


def test_an_up_that_fails_tells_why_and_leaves_nothing(
    plan: MachinePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vexrun.process._KEPT_VARIABLES", ("HOME", "FAKE_VAGRANT_FAILS"))
    monkeypatch.setenv("FAKE_VAGRANT_FAILS", "up")
    machine = VagrantMachine(plan, BOX)
    with pytest.raises(InfrastructureError, match="'vagrant up' failed") as told:
        machine.start()
    assert "no kernel in it" in told.value.evidence
    machine.destroy()
    assert nothing_left(machine)


def test_a_destroy_that_fails_is_told_and_qemu_is_gone_all_the_same(
    plan: MachinePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vexrun.process._KEPT_VARIABLES", ("HOME", "FAKE_VAGRANT_FAILS"))
    monkeypatch.setenv("FAKE_VAGRANT_FAILS", "destroy")
    machine = VagrantMachine(plan, BOX)
    machine.start()
    with pytest.raises(InfrastructureError, match="'vagrant destroy' failed"):
        machine.destroy()
    assert nothing_left(machine)


def test_a_qemu_that_ends_is_seen(plan: MachinePlan) -> None:
    machine = VagrantMachine(plan, BOX)
    try:
        machine.start()
        assert machine.pid is not None
        AdoptedQemu(machine.pid).kill()
        AdoptedQemu.wait(machine._process, 10)  # type: ignore[arg-type]
        assert not machine.running
        assert machine.lost_by_host
        assert machine.how_it_ended() == f"QEMU is gone (exit status {UNKNOWN_STATUS})"
    finally:
        machine.destroy()


def test_a_process_that_is_gone_cannot_be_adopted() -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    with pytest.raises(ProcessLookupError):
        AdoptedQemu(done.pid)


def test_a_vagrant_that_still_waits_for_the_guest_is_no_obstacle(
    plan: MachinePlan, home: Path, programs: Programs
) -> None:
    """A killed `molecule create` leaves `vagrant up` behind, which holds Vagrant's lock."""
    machine = VagrantMachine(plan, BOX)
    try:
        machine.start()
        (programs.directory / "vagrant").unlink()
        gone = home / "gone"
        words = "echo 'another process is already executing an action' >&2"
        programs.add("vagrant", f"[ -e {gone} ] || {{ touch {gone}; {words}; exit 1; }}")
        end_vagrant_machine(machine.directory, BOX)
        assert len(programs.calls("vagrant")) == 2
        assert qemu_named(machine.name) is None
    finally:
        programs.add("vagrant")
        machine.destroy()
