"""What a run asks of Vagrant, and when. No guest is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vexrun.errors import InfrastructureError
from vexrun.events import ignore
from vexrun.image.box import BoxId
from vexrun.image.box_home import box_directory
from vexrun.image.catalog import Image
from vexrun.settings import MachineSettings
from vexrun.target import channels, vm
from vexrun.target import vagrant as target_module
from vexrun.target.vagrant import PROOF, VagrantTarget
from vexrun.target.vm import VmPlan
from vexrun.vm.accel import Accelerator
from vexrun.vm.machine import MachinePlan

TCG = Accelerator("tcg", "tcg", "max", 10.0)
BOX = BoxId("vexrun/trixie", "1.2.3")


class Machine:
    """Writes down what was asked of it; `end` is why its guest is gone."""

    def __init__(self, plan: MachinePlan, box: BoxId, asked: list[str]) -> None:
        self.plan, self.box, self._asked = plan, box, asked
        self.end: str | None = None
        self.fails_at = ""
        self.directory = Path("/nowhere")
        self.shell = SimpleNamespace(run=lambda *_, **__: None, config=Path("/nowhere"))
        self.scratch: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def ask(*_: Any, **__: Any) -> None:
            self._asked.append(name)
            if name == self.fails_at:
                raise InfrastructureError(f"{name} failed")

        return ask

    def how_it_ended(self) -> str | None:
        return self.end


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def target(
    home: Path,
    tmp_path: Path,
    asked: list[str],
    make_manifest: Any,
    make_subject: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[VagrantTarget]:
    silent = SimpleNamespace(begin=lambda: None, close=lambda: None, dmesg="")
    for name in ("StandingShell", "KernelWatch", "Heartbeat"):
        monkeypatch.setattr(channels, name, lambda *_: silent)
    monkeypatch.setattr(vm, "KmsgFollower", lambda *_: silent)
    monkeypatch.setattr(
        target_module, "VagrantMachine", lambda plan, box: Machine(plan, box, asked)
    )
    monkeypatch.setattr(target_module, "settle", lambda _: asked.append("settle"))
    monkeypatch.setattr(target_module, "quiesce", lambda _: asked.append("quiesce"))

    def prove(*_: Any) -> Any:
        asked.append("prove")
        return SimpleNamespace(ok=19, changed=0)

    monkeypatch.setattr(target_module, "prove_provisioning", prove)
    files = box_directory(BOX)
    files.mkdir(parents=True)
    (files / "metadata.json").write_text(json.dumps({"vexrun": {"sha256": "of the box"}}))
    manifest = make_manifest(sha256={"root.qcow2": "of the image"})
    plan = VmPlan(
        image=Image(tmp_path, manifest),
        snapshot=None,
        accelerator=TCG,
        hardware=MachineSettings(),
        subject=make_subject(),
        source_dir=tmp_path,
        console_log=tmp_path / "run" / "console.log",
    )
    made = VagrantTarget(plan, BOX, ignore)
    yield made
    made.close()


START = ["start", "connect", "settle", "prove", "quiesce", "save_clean"]
READY = ["connect", "set_clock_and_mount_source"]
LET_GO = ["let_go"]
RESTORED = ["restore_clean", "wait_for_incoming", *READY]


def test_a_box_is_booted_once_and_every_group_starts_from_vagrants_snapshot(
    target: VagrantTarget, asked: list[str]
) -> None:
    target.open()
    assert asked == [*START, *READY]
    asked.clear()
    target.restore()
    target.restore()
    assert asked == ["end_at_once", *RESTORED, "end_at_once", *RESTORED]
    assert target.restores == 2
    asked.clear()
    target.close()
    assert asked == [*LET_GO, "reconnect", "power_off"]


def test_a_box_is_proven_once(target: VagrantTarget, asked: list[str]) -> None:
    target.open()
    target.close()
    facts = json.loads((box_directory(BOX) / PROOF).read_text())
    assert (facts["ok"], facts["changed"]) == (19, 0)
    asked.clear()
    target.restores, target._closing = 0, False
    target.open()
    assert asked[0] == "start"
    assert "prove" not in asked


def test_a_guest_that_is_not_well_is_not_asked_to_shut_down(
    target: VagrantTarget, asked: list[str]
) -> None:
    target.open()
    assert target._held is not None
    target._held.end = "the guest kernel panicked (pvpanic)"  # type: ignore[attr-defined]
    asked.clear()
    target.close()
    assert asked == [*LET_GO, "destroy"]


@pytest.mark.parametrize("step", ["start", "connect", "save_clean"])
def test_a_failure_on_the_way_up_leaves_no_machine(
    target: VagrantTarget, asked: list[str], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(plan: MachinePlan, box: BoxId) -> Machine:
        machine = Machine(plan, box, asked)
        machine.fails_at = step
        return machine

    monkeypatch.setattr(target_module, "VagrantMachine", failing)
    with pytest.raises(InfrastructureError, match=step):
        target.open()
    target.close()
    assert asked[-1] == "destroy"
    assert not (box_directory(BOX) / PROOF).exists() or step == "save_clean"


def test_what_was_booted_is_reported(target: VagrantTarget, asked: list[str]) -> None:
    target.open()
    info = target.info()
    assert (info.kind, info.backend) == ("vm", "vagrant")
    assert info.image_sha256 == "of the box"
    assert info.restored_from_snapshot
    assert target.slowdown == TCG.slowdown, "measured on its own boot, never below the table"


def test_the_console_says_where_the_boot_ends(target: VagrantTarget, asked: list[str]) -> None:
    target.open()
    log = target.plan.console_log.read_text()
    assert "--- vexrun: machine restored from its snapshot" in log
