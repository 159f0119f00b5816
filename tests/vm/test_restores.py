"""Clean machines, one after the other: each is reached, heard through both logs, and on time."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
from conftest import SUBJECTS, qemus_of

from vexrun.events import ignore
from vexrun.image.build import ensure_base
from vexrun.image.suites import find_suite
from vexrun.settings import load_settings
from vexrun.subject import load_subject
from vexrun.target.vm import VmPlan, VmTarget
from vexrun.vm.accel import AccelChoice, choose_accelerator
from vexrun.vm.snapshot import ensure_snapshot

pytestmark = [pytest.mark.vm, pytest.mark.slow]

RESTORES = 50
#: The clock is set once, when the machine is restored; a busy machine takes a while to do so.
CLOCK_S = 5.0


def clock_error_s(target: VmTarget) -> float:
    """How far the guest's clock is behind, in seconds; half of the question's way is its due."""
    asked = time.time()
    said = float(target.machine.shell.run("date +%s.%N", timeout_s=120, check=True).stdout)
    return (asked + time.time()) / 2 - said


def test_fifty_restores_in_a_row(suite: str, tmp_path: Path) -> None:
    settings = load_settings()
    image = ensure_base(find_suite(suite), settings.image, ignore)
    accelerator = choose_accelerator(
        AccelChoice.AUTO, image.kernel, image.manifest.sha256["vmlinuz"]
    )
    plan = VmPlan(
        image=image,
        snapshot=ensure_snapshot(image, accelerator, settings.machine, ignore),
        accelerator=accelerator,
        hardware=settings.machine,
        subject=load_subject(SUBJECTS / "minix.toml"),
        source_dir=tmp_path,
        console_log=tmp_path / "console.log",
    )
    (tmp_path / "told.c").write_text("here\n")
    target = VmTarget(plan, ignore)
    took, errors, uptimes, names = [], [], [], set()
    try:
        target.open()
        for number in range(RESTORES):
            begun = time.monotonic()
            # Raises where a machine is not reached, or one of the two kernel logs is deaf.
            target.restore()
            took.append(time.monotonic() - begun)
            names.add(target.machine.name)
            check = target.check_kernel(120)
            assert check.answered, number
            assert not check.events, (number, check.events)
            assert not check.log_lost, (number, check.log_lost)
            shell = target.machine.shell
            assert shell.run("cat /mnt/vexfs-src/told.c", check=True).stdout == "here\n"
            errors.append(clock_error_s(target))
            uptimes.append(float(shell.run("cut -d' ' -f1 /proc/uptime", check=True).stdout))
    finally:
        target.close()
    assert target.restores == len(names) == RESTORES
    print(
        f"\n{RESTORES} restores: {statistics.median(took):.1f} s (median), at most {max(took):.1f};"
        f" clock behind by {min(errors):.2f} to {max(errors):.2f} s"
    )
    assert max(map(abs, errors)) < CLOCK_S, errors
    # Each is the same moment again, not one that is older each time.
    halves = uptimes[: RESTORES // 2], uptimes[RESTORES // 2 :]
    assert abs(statistics.median(halves[0]) - statistics.median(halves[1])) < 30, uptimes
    assert not [name for name in names if qemus_of(name)], "no machine is left"
