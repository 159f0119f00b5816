"""Which accelerator really works here.

/dev/kvm may open, report its version and create machines, and still hang every stock kernel
before its first console line (a paravirtual nested KVM does). So the probe boots the real guest
kernel and waits for that line. The answer is remembered until the host reboots.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.layout import cache_dir
from vexrun.process import run, running
from vexrun.workdir import work_directory

#: A working KVM prints the first line in well under a second; the contract is 15 s in all.
PROBE_DEADLINE_S = 8.0
_KVM = Path("/dev/kvm")


class AccelChoice(StrEnum):
    """What the user may ask for."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class Accelerator:
    """An accelerator in use. `slowdown` scales time limits: 1 is KVM on a current machine."""

    name: str
    qemu_accel: str
    qemu_cpu: str
    slowdown: float
    reason: str = ""


_KVM_ROW = Accelerator("kvm", "kvm", "host", 1.0)
# thread=multi belongs to -accel, not to -machine; -cpu max because TCG has no host model.
_TCG_ROW = Accelerator("tcg", "tcg,thread=multi,tb-size=512", "max", 10.0)
ACCELERATORS = (_KVM_ROW, _TCG_ROW)


def choose_accelerator(choice: AccelChoice, kernel: Path, kernel_sha256: str) -> Accelerator:
    """The accelerator to use for guests with this kernel.

    Raises InfrastructureError when KVM was demanded and does not work.
    """
    if choice is AccelChoice.TCG:
        return _with_reason(_TCG_ROW, "asked for")
    problem = kvm_problem(kernel, kernel_sha256)
    if problem is None:
        return _with_reason(_KVM_ROW, "the guest kernel boots under KVM")
    if choice is AccelChoice.KVM:
        raise InfrastructureError(
            f"KVM was asked for and cannot be used: {problem}.",
            hint="Leave --accel out: vexrun then uses TCG (software emulation).",
        )
    return _with_reason(_TCG_ROW, problem)


def _with_reason(row: Accelerator, reason: str) -> Accelerator:
    return Accelerator(row.name, row.qemu_accel, row.qemu_cpu, row.slowdown, reason)


def kvm_problem(kernel: Path, kernel_sha256: str) -> str | None:
    """Why KVM cannot be used, in words that follow 'because'; None when it works."""
    if not _KVM.exists():
        return "there is no /dev/kvm"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return "this user may not open /dev/kvm (sudo usermod -aG kvm USER, then log in again)"
    key = _fact_key(kernel_sha256)
    remembered = _recall(key)
    if remembered is not None:
        return remembered or None
    problem = _boot_under_kvm(kernel)
    _remember(key, problem or "")
    return problem


def _boot_under_kvm(kernel: Path) -> str | None:
    with work_directory(f"probe-{os.getpid()}") as directory:
        console = directory / "console"
        errors = directory / "stderr"
        argv = [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256"),
            *("-kernel", str(kernel), "-serial", f"file:{console}", "-no-reboot"),
            *("-append", "console=ttyS0 earlyprintk=ttyS0,115200 panic=-1"),
        ]
        with errors.open("wb") as stream, running(argv, stderr=stream) as guest:
            until = time.monotonic() + PROBE_DEADLINE_S
            while time.monotonic() < until:
                if console.exists() and b"Linux version" in console.read_bytes():
                    return None
                if guest.poll() is not None:
                    said = errors.read_text(errors="replace").strip().splitlines()
                    return f"QEMU cannot use KVM here ({said[-1] if said else 'it just exited'})"
                time.sleep(0.05)
    return (
        "/dev/kvm opens, but a stock kernel prints nothing under it within "
        f"{PROBE_DEADLINE_S:.0f} s"
    )


def _fact_key(kernel_sha256: str) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    version = run(["qemu-system-x86_64", "--version"]).stdout.splitlines()[0]
    return f"{boot} {kernel_sha256} {version}"


def _memory_file() -> Path:
    return cache_dir() / "kvm-probe.json"


def _recall(key: str) -> str | None:
    try:
        remembered = json.loads(_memory_file().read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    answer = remembered.get(key) if isinstance(remembered, dict) else None
    return answer if isinstance(answer, str) else None


def _remember(key: str, answer: str) -> None:
    _memory_file().parent.mkdir(parents=True, exist_ok=True)
    temporary = _memory_file().with_suffix(f".{os.getpid()}")
    # Only this boot and kernel matter, so the file never grows.
    temporary.write_text(json.dumps({key: answer}))
    temporary.rename(_memory_file())
