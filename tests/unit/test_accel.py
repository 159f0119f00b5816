"""The accelerator probe: /dev/kvm is believed only after a kernel booted under it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import ExitCode, InfrastructureError
from vexrun.vm import accel
from vexrun.vm.accel import AccelChoice, choose_accelerator, kvm_problem

pytestmark = pytest.mark.usefixtures("home")

VERSION = 'if [ "$1" = --version ]; then echo "QEMU emulator version 10.0"; exit; fi\n'
#: Finds the console file among the arguments.
CONSOLE = "for word; do case $word in file:*) console=${word#file:} ;; esac; done\n"
BOOTS = VERSION + CONSOLE + 'echo "[    0.0] Linux version 6.12" >"$console"; exec sleep 60'
HANGS = VERSION + CONSOLE + ': >"$console"; exec sleep 60'
REFUSES = VERSION + "echo warning: x >&2; echo 'Could not access KVM kernel module' >&2; exit 1"
SILENT = VERSION + "exit 1"

KERNEL = Path("/images/vmlinuz")


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev/kvm that opens."""
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accel, "_KVM", device)
    monkeypatch.setattr(accel, "PROBE_DEADLINE_S", 5.0)
    return device


def boots(programs: Any) -> list[str]:
    """The calls that tried to boot a kernel."""
    calls: list[str] = programs.calls("qemu-system-x86_64")
    return [call for call in calls if call != "--version"]


def test_a_kernel_that_boots_proves_kvm(programs: Any, kvm: Path) -> None:
    programs.add("qemu-system-x86_64", BOOTS)
    chosen = choose_accelerator(AccelChoice.AUTO, KERNEL, "k1")
    assert (chosen.name, chosen.qemu_accel, chosen.qemu_cpu) == ("kvm", "kvm", "host")
    assert "boots under KVM" in chosen.reason
    (probe,) = boots(programs)
    assert f"-kernel {KERNEL}" in probe
    assert "-accel kvm" in probe


def test_a_kvm_that_hangs_kernels_ends_in_tcg(
    programs: Any, kvm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "PROBE_DEADLINE_S", 0.4)
    programs.add("qemu-system-x86_64", HANGS)
    chosen = choose_accelerator(AccelChoice.AUTO, KERNEL, "k1")
    assert (chosen.name, chosen.qemu_cpu) == ("tcg", "max")
    assert chosen.slowdown > 1
    assert "prints nothing under it" in chosen.reason
    assert "\n" not in chosen.reason


@pytest.mark.parametrize(
    ("script", "said"),
    [(REFUSES, "(Could not access KVM kernel module)"), (SILENT, "(it just exited)")],
)
def test_what_qemu_says_is_the_reason(programs: Any, kvm: Path, script: str, said: str) -> None:
    programs.add("qemu-system-x86_64", script)
    assert kvm_problem(KERNEL, "k1") == f"QEMU cannot use KVM here {said}"


@pytest.mark.parametrize("script", [BOOTS, REFUSES])
def test_the_answer_is_remembered(programs: Any, kvm: Path, script: str) -> None:
    programs.add("qemu-system-x86_64", script)
    first = kvm_problem(KERNEL, "k1")
    assert kvm_problem(KERNEL, "k1") == first
    assert len(boots(programs)) == 1


def test_another_kernel_another_qemu_or_a_broken_memory_asks_again(
    programs: Any, kvm: Path, home: Path
) -> None:
    programs.add("qemu-system-x86_64", REFUSES)
    kvm_problem(KERNEL, "k1")
    kvm_problem(KERNEL, "k2")
    assert len(boots(programs)) == 2, "another kernel"
    programs.add("qemu-system-x86_64", REFUSES.replace("10.0", "11.0"))
    kvm_problem(KERNEL, "k2")
    assert len(boots(programs)) == 3, "another QEMU"
    memory = home / "cache" / "kvm-probe.json"
    for broken in ("{", "[]", '{"x": 5}'):
        memory.write_text(broken)
        kvm_problem(KERNEL, "k2")
    assert len(boots(programs)) == 6, "a memory that cannot be read"


def test_without_kvm_nothing_is_started(programs: Any, kvm: Path) -> None:
    programs.add("qemu-system-x86_64", BOOTS)
    kvm.unlink()
    chosen = choose_accelerator(AccelChoice.AUTO, KERNEL, "k1")
    assert (chosen.name, chosen.reason) == ("tcg", "there is no /dev/kvm")
    assert programs.calls("qemu-system-x86_64") == []


def test_a_kvm_that_may_not_be_opened_says_how_to_get_in(
    programs: Any, kvm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.add("qemu-system-x86_64", BOOTS)
    # Root may open anything, so the mode of the file would not do.
    monkeypatch.setattr(os, "access", lambda path, *_: path != kvm)
    problem = kvm_problem(KERNEL, "k1")
    assert problem is not None
    assert "usermod -aG kvm" in problem
    assert boots(programs) == []


def test_kvm_that_was_demanded_and_fails_is_infrastructure(programs: Any, kvm: Path) -> None:
    programs.add("qemu-system-x86_64", REFUSES)
    with pytest.raises(InfrastructureError, match="KVM was asked for and cannot be used") as caught:
        choose_accelerator(AccelChoice.KVM, KERNEL, "k1")
    assert "Could not access" in caught.value.message
    assert caught.value.exit_code is ExitCode.INFRASTRUCTURE
    assert "--accel" in caught.value.hint


def test_tcg_that_was_asked_for_asks_nobody(programs: Any, kvm: Path) -> None:
    programs.add("qemu-system-x86_64", BOOTS)
    assert choose_accelerator(AccelChoice.TCG, KERNEL, "k1").name == "tcg"
    assert programs.calls("qemu-system-x86_64") == []


def test_no_qemu_at_all_is_named(programs: Any, kvm: Path) -> None:
    programs.link("setpriv")
    programs.nothing_else()
    with pytest.raises(InfrastructureError, match="'qemu-system-x86_64' is not installed"):
        kvm_problem(KERNEL, "k1")
