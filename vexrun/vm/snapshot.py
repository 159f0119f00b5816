"""RAM snapshots: boot and prove an image once, start every later machine from that moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexrun.errors import InfrastructureError, KernelDiedError, TargetLostError, VexrunError
from vexrun.events import Emit, Note, Progress, Stages
from vexrun.image.catalog import Image, lock_path
from vexrun.image.locking import exclusive
from vexrun.kernel_log import KernelLogParser
from vexrun.layout import cache_dir, state_dir
from vexrun.playbook import InventoryHost, PlaybookResult, run_playbook
from vexrun.process import run
from vexrun.settings import MachineSettings
from vexrun.vm.accel import Accelerator
from vexrun.vm.disks import SCRATCH_DISKS, ScratchPlan
from vexrun.vm.machine import Machine, MachinePlan, booted
from vexrun.vm.qemu import KERNEL_ARGUMENTS
from vexrun.vm.ssh import HOST_ALIAS
from vexrun.vm.type_names import MODULE as RESERVING_MODULE
from vexrun.vm.type_names import reserving_initrd
from vexrun.workdir import work_directory

#: Raise when what happens before saving changes in a way the other inputs do not show.
_RECIPE = 2
#: A first boot takes 27 s on an idle machine without KVM and 175 s on a busy one.
FIRST_BOOT_DEADLINE_S = 600.0


@dataclass(frozen=True)
class Snapshot:
    """A machine at rest: its disk, RAM state, first console bytes and how it came to be."""

    directory: Path
    facts: dict[str, Any]

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def boot_console(self) -> Path:
        return self.directory / "console.log"

    @property
    def boot_seconds(self) -> float:
        """Seconds from starting QEMU to the first ssh command when this was made."""
        return float(self.facts["boot_s"])

    @classmethod
    def open(cls, directory: Path) -> Snapshot | None:
        try:
            facts = json.loads((directory / "snapshot.json").read_text())
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None
        snapshot = cls(directory, facts)
        complete = all(p.is_file() for p in (snapshot.disk, snapshot.state, snapshot.boot_console))
        return snapshot if complete else None


def snapshot_name(
    image: Image, accelerator: Accelerator, hardware: MachineSettings, reserve: tuple[str, ...]
) -> str:
    """Name in the cache: whatever changes the saved devices or RAM changes the name."""
    version = run(["qemu-system-x86_64", "--version"]).stdout.splitlines()[0]
    inputs = (
        _RECIPE,
        version,
        accelerator.name,
        hardware.memory_mib,
        hardware.cpus,
        KERNEL_ARGUMENTS,
        [disk.serial for disk in SCRATCH_DISKS],
        reserve,
        # Contents, not names: an image rebuilt under its name has another disk below the RAM.
        sorted(image.manifest.sha256.items()),
    )
    return f"{image.name}-{hashlib.sha256(repr(inputs).encode()).hexdigest()[:12]}"


def ensure_snapshot(
    image: Image,
    accelerator: Accelerator,
    hardware: MachineSettings,
    emit: Emit,
    reserve: tuple[str, ...] = (),
) -> Snapshot:
    """The snapshot of this image under this accelerator: from the cache, or made now.

    `reserve` names filesystem types to keep free (vexrun.vm.type_names).
    """
    name = snapshot_name(image, accelerator, hardware, reserve)
    final = cache_dir() / "snapshots" / name
    found = Snapshot.open(final)
    if found is not None:
        return found

    def tell() -> None:
        emit(Note(f"Another vexrun is making the snapshot '{name}'; waiting for it."))

    with exclusive(lock_path(f"snapshot-{name}"), on_wait=tell):
        found = Snapshot.open(final)
        if found is None:
            found = _make(image, accelerator, hardware, final, emit, reserve)
    return found


def _make(
    image: Image,
    accelerator: Accelerator,
    hardware: MachineSettings,
    final: Path,
    emit: Emit,
    reserve: tuple[str, ...],
) -> Snapshot:
    shutil.rmtree(final, ignore_errors=True)
    final.parent.mkdir(exist_ok=True)

    def attempt() -> dict[str, Any]:
        with work_directory(f"{final.name}-{os.getpid()}") as work:
            try:
                facts = _boot_and_save(image, accelerator, hardware, work, emit, reserve)
                work.rename(final)
            except BaseException as error:
                kept = _keep_evidence(work)
                if isinstance(error, VexrunError):
                    error.hint = f"{error.hint}\nThe guest's console is in '{kept}'.".strip()
                raise
            return facts

    try:
        facts = attempt()
    except KernelDiedError as error:
        # Nothing of a subject is in this guest. An emulator can be at fault; an image is so twice.
        emit(Note(f"{error.message} It is booted once more.\n{error.hint}"))
        facts = attempt()
    return Snapshot(final, facts)


def _boot_and_save(
    image: Image,
    accelerator: Accelerator,
    hardware: MachineSettings,
    work: Path,
    emit: Emit,
    reserve: tuple[str, ...],
) -> dict[str, Any]:
    """Fill `work` with a snapshot: disk.qcow2, state, console.log, snapshot.json."""
    (work / "empty").mkdir()
    if reserve:
        (work / "reserve").mkdir()
    initrd = reserving_initrd(image, reserve, work / "reserve") if reserve else None
    plan = MachinePlan(
        image=image,
        initrd=initrd,
        accelerator=accelerator,
        memory_mib=hardware.memory_mib,
        cpus=hardware.cpus,
        source_dir=work / "empty",
        console_log=work / "console.log",
        scratch=ScratchPlan(),
        disk=image.disk,
    )
    stages = Stages(emit)
    with booted(plan) as machine:
        with stages.stage("first boot", f"{image.name} under {accelerator.name}"):
            begun = time.monotonic()
            connect_or_tell(machine, work / "console.log")
            boot_s = time.monotonic() - begun
            settle(machine)
            if reserve:
                machine.shell.run(f"rmmod {RESERVING_MODULE}", timeout_s=300, check=True)
        proof = _prove_once(image, machine, work / "ansible", stages)
        with stages.stage("save snapshot"):
            quiesce(machine)
            machine.save_state(work / "state")
            shutil.move(machine.directory / "root.qcow2", work / "disk.qcow2")
    facts = {
        "boot_s": round(boot_s, 2),
        "provision": proof,
        "image": image.name,
        "accel": accelerator.name,
    }
    for directory in ("ansible", "reserve"):
        shutil.rmtree(work / directory, ignore_errors=True)
    (work / "empty").rmdir()
    (work / "snapshot.json").write_text(json.dumps(facts, indent=2))
    return facts


def connect_or_tell(machine: Machine, console: Path) -> None:
    """The first login. Raises KernelDiedError as soon as the kernel has panicked.

    So early in a boot no driver for pvpanic is there, and QEMU does not know.
    """
    try:
        machine.connect(FIRST_BOOT_DEADLINE_S, lambda: not _panicked(console))
    except TargetLostError as error:
        if not _panicked(console):
            raise
        parser = KernelLogParser()
        events = [*parser.feed(console.read_bytes()), *parser.finish()]
        raise KernelDiedError(
            "The guest's own kernel died while it booted for the first time: "
            f"{events[0].title if events else 'panic'}.",
            evidence="\n".join(events[0].excerpt[:12]) if events else "",
        ) from error
    machine.shell.run("true", check=True)


def _panicked(console: Path) -> bool:
    return console.exists() and b"] Kernel panic - not syncing" in console.read_bytes()


def _keep_evidence(work: Path) -> Path:
    """A machine that would not come up left a console log: move it where it survives."""
    kept = state_dir() / "failures" / f"{time.strftime('%Y%m%dT%H%M%S')}-{work.name}"
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("console.log", "ansible"):
        if (work / name).exists():
            shutil.move(work / name, kept / name)
    return kept


def guest_inventory(machine: Machine, group: str = "vm") -> InventoryHost:
    """The inventory host that stands for a running guest."""
    config = machine.shell.config
    return InventoryHost(
        group,
        HOST_ALIAS,
        {"ansible_ssh_common_args": f"-F {config}", "ansible_host": HOST_ALIAS},
    )


def prove_provisioning(machine: Machine, artifact_dir: Path, emit: Emit) -> PlaybookResult:
    """Apply the provisioning roles to the booted guest; a baked image changes nothing.

    Raises InfrastructureError naming the tasks that changed something, and what of the boot failed:
    a mount that timed out looks like a role's fault.
    """
    result = run_playbook(
        "provision.yml", [guest_inventory(machine)], artifact_dir=artifact_dir, emit=emit
    )
    emit(Progress(f"{result.ok} tasks ok, {result.changed} changed"))
    if result.changed:
        raise InfrastructureError(
            "The image does not hold what its roles promise: applied again in the booted guest "
            f"they changed {result.changed} things.",
            evidence="\n".join([*result.changed_tasks, *_boot_complaints(machine)]),
            hint="Make those tasks idempotent; a changed role makes a new image by itself.",
        )
    return result


def _boot_complaints(machine: Machine) -> list[str]:
    """Errors of the guest's systemd since it booted, the last ten."""
    said = machine.shell.run(
        "journalctl -b -p err -n 10 -o short-monotonic --no-pager -q _PID=1", timeout_s=60
    )
    return [f"in its boot: {line}" for line in said.stdout.splitlines()]


def _prove_once(
    image: Image, machine: Machine, artifact_dir: Path, stages: Stages
) -> dict[str, Any]:
    """The proof of the base image: a layer adds packages, not roles, so it need not repeat it."""
    base = image.manifest.inputs.base_key or image.manifest.key
    record = cache_dir() / "proofs" / f"{base}.json"
    if record.is_file():
        earlier: dict[str, Any] = json.loads(record.read_text())
        return earlier
    with stages.stage("provision proof", "the roles again, in the booted guest"):
        result = prove_provisioning(machine, artifact_dir, stages.emit)
    proof = {"ok": result.ok, "changed": result.changed, "image": image.name}
    record.parent.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(proof))
    temporary.rename(record)
    return proof


def settle(machine: Machine) -> None:
    """Wait until booting is over, so that nothing of it runs after a restore."""
    machine.shell.run("systemctl is-system-running --wait", timeout_s=FIRST_BOOT_DEADLINE_S)


def quiesce(machine: Machine) -> None:
    """Leave little in RAM and nothing mounted: QEMU refuses to save while 9p is mounted.

    One more login after the caches were dropped: what answers the first login after a restore
    need not be read from the disk then.
    """
    machine.shell.run(
        "umount /mnt/vexfs-src 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches; sync",
        check=True,
    )
    machine.shell.disconnect()
    machine.connect(FIRST_BOOT_DEADLINE_S)
    machine.shell.run("true", check=True)
    machine.shell.disconnect()
