"""The first boot of an image: what becomes of it when its own kernel dies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vexrun.errors import InfrastructureError, KernelDiedError, TargetLostError
from vexrun.events import Event, Note
from vexrun.image.catalog import Image
from vexrun.settings import MachineSettings
from vexrun.vm import snapshot
from vexrun.vm.accel import Accelerator

PANIC = (
    Path(__file__).parents[1] / "data" / "logs" / "emulator" / "stale_int3-6.12.log"
).read_text()
pytestmark = pytest.mark.usefixtures("home")

TCG = Accelerator("tcg", "tcg,thread=multi", "max", 10.0)


class Boots:
    """First boots that end with these errors, then with success."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        work = arguments[3]
        self.count += 1
        (work / "console.log").write_text(f"boot {self.count}")
        if self.errors:
            raise self.errors.pop(0)
        for name in ("disk.qcow2", "state"):
            (work / name).touch()
        (work / "snapshot.json").write_text("{}")
        return {"boot_s": 1.0}


def make(
    boots: Boots, make_manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Event]:
    monkeypatch.setattr(snapshot, "_boot_and_save", boots)
    monkeypatch.setattr(snapshot, "snapshot_name", lambda *_: "demo-1")
    told: list[Event] = []
    snapshot.ensure_snapshot(Image(tmp_path, make_manifest()), TCG, MachineSettings(), told.append)
    return told


def test_a_kernel_that_dies_while_it_boots_gets_a_second_chance(
    make_manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = Boots(KernelDiedError("The guest's own kernel died."))
    told = make(boots, make_manifest, tmp_path, monkeypatch)
    assert boots.count == 2
    (note,) = [each.text for each in told if isinstance(each, Note)]
    assert "kernel died. It is booted once more." in note
    kept = Path(note.rpartition("console is in '")[2].removesuffix("'."))
    assert (kept / "console.log").read_text() == "boot 1"


def test_an_image_whose_kernel_dies_twice_does_not_work(
    make_manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = Boots(*[KernelDiedError("The guest's own kernel died.") for _ in range(2)])
    with pytest.raises(KernelDiedError, match="kernel died") as caught:
        make(boots, make_manifest, tmp_path, monkeypatch)
    assert boots.count == 2
    assert "The guest's console is in" in caught.value.hint


class DyingMachine:
    """Never answers, and stops waiting when it is told that the guest is dead."""

    shell = SimpleNamespace(run=None)

    def connect(self, deadline_s: float, alive: Any) -> None:
        assert deadline_s > 0
        assert not alive(), "this guest would be waited for until the deadline"
        raise TargetLostError("The guest ended before ssh answered.")


def test_a_panic_before_any_driver_is_there_is_seen_on_the_console(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    console.write_text(PANIC)
    with pytest.raises(KernelDiedError, match=r"booted for the first time: .*int3") as caught:
        snapshot.connect_or_tell(DyingMachine(), console)  # type: ignore[arg-type]
    assert "run_timer_softirq" in caught.value.evidence


def test_roles_that_changed_something_come_with_what_failed_in_the_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first boot so slow that its mount timed out: the role mounted it, and was blamed alone."""
    mount = "source_mount : Mount it, unless it is mounted"
    result = SimpleNamespace(ok=21, changed=1, changed_tasks=[mount])
    monkeypatch.setattr(snapshot, "run_playbook", lambda *_, **__: result)
    line = "[  146.1] vexrun systemd[1]: Failed to mount mnt-vexfs\\x2dsrc.mount - /mnt/vexfs-src."
    shell = SimpleNamespace(
        config=tmp_path / "ssh_config", run=lambda *_, **__: SimpleNamespace(stdout=f"{line}\n")
    )
    machine: Any = SimpleNamespace(shell=shell)
    with pytest.raises(InfrastructureError, match="they changed 1 things") as caught:
        snapshot.prove_provisioning(machine, tmp_path, lambda _: None)
    assert caught.value.evidence.splitlines() == [mount, f"in its boot: {line}"]
