"""Measure what vexrun promises about speed, as ratios within one run: `make bench`."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from vexrun import bench_detection
from vexrun.config import Backend, TargetKind, make_config
from vexrun.errors import VexrunError
from vexrun.events import Emit, Event, StageStarted, ignore
from vexrun.image import namespace
from vexrun.image.build import build_bare, ensure_base
from vexrun.image.catalog import Image
from vexrun.image.suites import DEFAULT_SUITE, find_suite
from vexrun.interrupt import interruptible
from vexrun.kbuild import BuildPlace, BuildSpec, NativeBuilder
from vexrun.layout import data_root
from vexrun.output import say
from vexrun.playbook import PlaybookResult, run_playbook
from vexrun.session import run_session
from vexrun.settings import load_settings
from vexrun.sources import source_of
from vexrun.subject import load_subject
from vexrun.target.guest_build import GuestBuilder
from vexrun.target.vm import VmPlan, VmTarget
from vexrun.vm.accel import AccelChoice, choose_accelerator
from vexrun.vm.disks import ScratchPlan
from vexrun.vm.machine import MachinePlan, booted
from vexrun.vm.snapshot import FIRST_BOOT_DEADLINE_S, Snapshot, ensure_snapshot, guest_inventory
from vexrun.workdir import work_directory

_RESTORES = 3


def _plan(image: Image, work: Path, snapshot: Snapshot | None) -> MachinePlan:
    settings = load_settings().machine
    (work / "source").mkdir(exist_ok=True)
    return MachinePlan(
        image=image,
        accelerator=choose_accelerator(
            AccelChoice.AUTO, image.kernel, image.manifest.sha256["vmlinuz"]
        ),
        memory_mib=settings.memory_mib,
        cpus=settings.cpus,
        source_dir=work / "source",
        console_log=work / "console.log",
        scratch=ScratchPlan(),
        disk=snapshot.disk if snapshot else image.disk,
        state=snapshot.state if snapshot else None,
    )


def _first_command_s(plan: MachinePlan) -> float:
    """Seconds from starting QEMU to the answer of the first ssh command."""
    begun = time.monotonic()
    with booted(plan) as machine:
        if plan.state is not None:
            machine.wait_for_incoming()
        machine.connect(FIRST_BOOT_DEADLINE_S)
        machine.shell.run("true", check=True)
        return time.monotonic() - begun


def measure_restore(suite: str, emit: Emit) -> tuple[float, float]:
    """Seconds to the first command: after a cold boot, and after a restore (median of 3)."""
    settings = load_settings()
    image = ensure_base(find_suite(suite), settings.image, emit)
    with work_directory("bench-restore") as work:
        plan = _plan(image, work, None)
        snapshot = ensure_snapshot(image, plan.accelerator, settings.machine, emit)
        boot_s = _first_command_s(plan)
        restores = [_first_command_s(_plan(image, work, snapshot)) for _ in range(_RESTORES)]
    return boot_s, statistics.median(restores)


def _measure_builds(suite: str) -> tuple[float, float, str, str]:
    """Seconds and sha256 of minix, built natively and in the guest."""
    settings = load_settings()
    image = ensure_base(find_suite(suite), settings.image, ignore)
    subject = load_subject(data_root() / "examples" / "subjects" / "minix.toml")
    source = source_of(subject, None, image, ignore).path
    accelerator = choose_accelerator(
        AccelChoice.AUTO, image.kernel, image.manifest.sha256["vmlinuz"]
    )
    snapshot = ensure_snapshot(image, accelerator, settings.machine, ignore)
    with work_directory("bench-builds") as work:
        spec = BuildSpec.main(subject)
        native = NativeBuilder(image, source, work / "native", settings.machine.cpus).build(spec)
        plan = VmPlan(
            image=image,
            snapshot=snapshot,
            accelerator=accelerator,
            hardware=settings.machine,
            subject=subject,
            source_dir=source,
            console_log=work / "console.log",
        )
        target = VmTarget(plan, ignore)
        try:
            target.open()
            guest = GuestBuilder(target, work / "guest", work / "ansible", ignore).build(spec)
        finally:
            target.close()
    hashes = [build.module.sha256 if build.module else "none" for build in (native, guest)]
    return native.duration_s, guest.duration_s, hashes[0], hashes[1]


@dataclass(frozen=True)
class Provisioning:
    """Seconds that the same roles take: natively into an image, in a booted guest that was baked,
    and in one that has nothing yet. `changed` counts tasks."""

    native_s: float
    baked_s: float
    baked_changed: int
    bare_s: float
    bare_changed: int


def _measure_provisioning(suite: str, emit: Emit) -> Provisioning:
    settings = load_settings()
    image = ensure_base(find_suite(suite), settings.image, emit)
    with work_directory("bench-provisioning") as work:
        plan = _plan(image, work, None)
        snapshot = ensure_snapshot(image, plan.accelerator, settings.machine, ignore)
        baked_s, baked = _provision(_plan(image, work, snapshot), work)
        bare_image = build_bare(find_suite(suite), settings.image, work / "bare", emit)
        # It was not baked, but its package lists are an hour old at most: no network is measured.
        bare_s, bare = _provision(_plan(bare_image, work, None), work)
        native_s = image.manifest.durations.get("image roles", 0.0)
        native_s -= bare_image.manifest.durations.get("image roles", 0.0)
        namespace.remove_tree(work / "bare")
    return Provisioning(native_s, baked_s, baked.changed, bare_s, bare.changed)


def _provision(plan: MachinePlan, work: Path) -> tuple[float, PlaybookResult]:
    """Seconds and recap of playbooks/provision.yml in a machine started as planned."""
    with booted(plan) as machine:
        if plan.state is not None:
            machine.wait_for_incoming()
        machine.connect(FIRST_BOOT_DEADLINE_S)
        if plan.state is not None:
            machine.set_clock_and_mount_source(600)
        begun = time.monotonic()
        result = run_playbook(
            "provision.yml",
            [guest_inventory(machine)],
            artifact_dir=work / "ansible",
            emit=ignore,
        )
        return time.monotonic() - begun, result


def _measure_test(suite: str) -> dict[str, float]:
    """Stage times of a warm `vexrun test` of minix."""
    config = make_config(
        source=None,
        subject_file=data_root() / "examples" / "subjects" / "minix.toml",
        suite=suite,
        only=[],
        skip=[],
        target=TargetKind.VM,
        backend=Backend.QEMU,
        accel=AccelChoice.AUTO,
        build=BuildPlace.AUTO,
        keep=False,
        command=["make", "bench"],
    )
    begun = time.monotonic()
    results = run_session(config, ignore)
    return {**results.durations, "WHOLE RUN": time.monotonic() - begun}


def _say_stage(event: Event) -> None:
    if isinstance(event, StageStarted):
        say(f"  … {event.stage} {event.detail}")


def main(suite: str = DEFAULT_SUITE) -> None:
    """Print every figure; absolute seconds mean little on a shared machine, ratios do."""
    boot_s, restore_s = measure_restore(suite, _say_stage)
    say("to the first guest command")
    say(f"  cold boot            {boot_s:8.1f} s")
    say(f"  snapshot restore     {restore_s:8.1f} s   1/{boot_s / restore_s:.0f} of a boot")
    native_s, guest_s, native_sha, guest_sha = _measure_builds(suite)
    say("building minix")
    say(f"  natively             {native_s:8.1f} s   {native_sha}")
    say(f"  in the guest         {guest_s:8.1f} s   {guest_sha}")
    same = "identical" if native_sha == guest_sha else "DIFFERENT"
    say(f"  {guest_s / native_s:.1f} times faster natively, sha256 {same}")
    roles = _measure_provisioning(suite, _say_stage)
    say("provisioning: the roles after guest_base")
    say(f"  natively, into the image           {roles.native_s:8.1f} s")
    say(
        f"  in a bare guest                    {roles.bare_s:8.1f} s   "
        f"{roles.bare_changed} tasks changed, {roles.bare_s / roles.native_s:.1f} times as long"
    )
    say(
        f"  again in the guest from the image  {roles.baked_s:8.1f} s   "
        f"{roles.baked_changed} tasks changed"
    )
    bench_detection.report(suite)
    say("a warm 'vexrun test' of minix, by stage")
    stages = _measure_test(suite)
    whole = stages["WHOLE RUN"]
    for name, seconds in stages.items():
        say(f"  {name:<20} {seconds:8.1f} s  {100 * seconds / whole:5.1f} %")


if __name__ == "__main__":
    with interruptible():
        try:
            main(*sys.argv[1:])
        except VexrunError as error:
            say(f"{error.message}\n{error.evidence}\n{error.hint}")
            sys.exit(int(error.exit_code))
