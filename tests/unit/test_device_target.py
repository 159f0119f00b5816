"""A device that does not answer: what it has become, and whose fault that is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import MakeSubject
from test_device_guards import FREE, description

from vexrun.device.description import CriticalMachines
from vexrun.device.facts import Facts
from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.guest.payload import GuestCodeError
from vexrun.results.model import DeviceInfo, KernelEvent
from vexrun.target import device as device_module
from vexrun.target.device import DevicePlan, DeviceTarget
from vexrun.target.kernel_watch import KernelCheck

WAS, NOW = FREE["boot_id"], "another-boot"
PANIC = KernelEvent(event_class="panic", title="planted panic", key="panic")


class Shelf:
    """What the device does, and the target that is asked what it makes of it."""

    def __init__(self, directory: Path, subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.boots = [WAS]  # what it answers, the last one for ever
        self.connected = True
        self.beats = True
        self.heard: list[str] = []
        self.by_switch = False
        self.checks = [KernelCheck()]
        self.notes: list[str] = []
        self.events: list[KernelEvent] = []
        info = DeviceInfo(name="shelf", boot_ids=[WAS])
        file = description(device__back_within_s=10, recovery__procedure="Room 12.")
        plan = DevicePlan(
            device=file,
            critical=CriticalMachines(),
            subject=subject,
            rundir=directory,
            suite="trixie",
            info=info,
            note=self.notes.append,
        )
        self.target = target = DeviceTarget(plan)
        target._before = Facts.model_validate(FREE)
        target._channels.console = SimpleNamespace(  # type: ignore[assignment]
            take_events=self._take, events=[], trouble=False, position=0, close=lambda: None
        )
        target._channels.watch = SimpleNamespace(check=self._check, dmesg="")  # type: ignore[assignment]
        target._channels.heartbeat = SimpleNamespace(  # type: ignore[assignment]
            broken=False, silent_for=lambda: 0.0 if self.beats else 999.0, close=lambda: None
        )
        monkeypatch.setattr(target, "_ask_boot_id", self._boot)
        monkeypatch.setattr(target, "_answers_as_before", lambda: self.connected)
        monkeypatch.setattr(target, "_hear", self._hear)
        monkeypatch.setattr(device_module.time, "sleep", lambda _: self._tick())
        self.clock = 0.0
        monkeypatch.setattr(device_module.time, "monotonic", lambda: self.clock)

    def _tick(self) -> None:
        self.clock += 3.0

    def _boot(self) -> str:
        return self.boots.pop(0) if len(self.boots) > 1 else self.boots[0]

    def _take(self) -> list[KernelEvent]:
        taken, self.events = self.events, []
        return taken

    def _check(self, timeout_s: float) -> KernelCheck:
        return self.checks.pop(0)

    def _hear(self, is_back: bool) -> None:
        self.heard.append("back" if is_back else "away")
        self.target._by_switch = self.by_switch


@pytest.fixture
def shelf(
    tmp_path: Path, make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch, home: Path
) -> Any:
    made = Shelf(tmp_path, make_subject(), monkeypatch)
    yield made
    made.target._channels.console = made.target._channels.watch = (
        made.target._channels.heartbeat
    ) = None
    made.target.close()


def test_a_device_that_beats_goes_on(shelf: Shelf) -> None:
    assert shelf.target.ended() is None
    assert shelf.target.check_kernel(10).answered


def test_a_missed_beat_is_no_end(shelf: Shelf) -> None:
    shelf.beats = False
    assert shelf.target.ended() is None
    assert shelf.heard == []


def test_a_device_that_came_back_is_known_by_its_boot_id(shelf: Shelf) -> None:
    shelf.beats, shelf.boots = False, ["", "", NOW]
    assert shelf.target.ended() == "the device was booted again"
    assert shelf.heard == ["back"]
    assert shelf.target.plan.info.boot_ids == [WAS, NOW]
    shelf.events = [PANIC, PANIC.model_copy()]
    check = shelf.target.check_kernel(10)
    assert [event.title for event in check.events] == ["planted panic"]
    assert not check.answered


def test_a_boot_without_a_word_is_a_kernel_event(shelf: Shelf) -> None:
    shelf.beats, shelf.boots = False, [NOW]
    (event,) = shelf.target.check_kernel(10).events
    assert "without a word" in event.title


def test_a_boot_by_its_own_switch_is_nobodys_crash(shelf: Shelf) -> None:
    shelf.beats, shelf.boots, shelf.by_switch = False, [NOW], True
    check = shelf.target.check_kernel(10)
    assert check.events == []
    assert "dead man's switch" in check.log_lost


def test_a_switch_that_acts_while_the_connection_stands_is_nobodys_failure(shelf: Shelf) -> None:
    """The words to it go over a connection of their own."""
    shelf.target._channels.kmsg = SimpleNamespace(  # type: ignore[assignment]
        switch_acts=True, close=lambda: None
    )
    check = shelf.target.check_kernel(10)
    assert check.events == []
    assert "dead man's switch has acted" in check.log_lost


def test_a_switch_that_acts_during_the_last_test_is_seen_in_its_check(shelf: Shelf) -> None:
    kmsg = SimpleNamespace(switch_acts=False, close=lambda: None)
    shelf.target._channels.kmsg = kmsg  # type: ignore[assignment]

    def check(_: float) -> KernelCheck:
        kmsg.switch_acts = True
        return KernelCheck()

    shelf.target._channels.watch = SimpleNamespace(check=check, dmesg="")  # type: ignore[assignment]
    assert "dead man's switch has acted" in shelf.target.check_kernel(10).log_lost


def test_words_to_the_switch_go_on_over_another_connection(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = SimpleNamespace(broken=False, close=lambda: None)
    monkeypatch.setattr(device_module, "SignOfLife", lambda _: again)
    shelf.target._life = SimpleNamespace(broken=True, close=lambda: None)  # type: ignore[assignment]
    assert shelf.target.ended() is None
    assert shelf.target._life is again  # type: ignore[comparison-overlap]


def test_a_connection_after_the_switch_has_acted_is_not_as_before(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    asked: list[str] = []

    def run(command: str, **_: Any) -> Any:
        asked.append(command)
        return SimpleNamespace(returncode=1)

    shelf.target.shell = SimpleNamespace(  # type: ignore[assignment]
        run=run, disconnect=lambda: None
    )
    assert not shelf.target._answers_as_before()
    assert "vexrun-deadman" in asked[0]


def test_a_lost_connection_is_nobodys_crash(shelf: Shelf) -> None:
    shelf.beats, shelf.connected = False, False
    check = shelf.target.check_kernel(10)
    assert check.events == []
    assert "not booted again" in check.log_lost


def test_a_device_that_stays_away_is_an_error_and_its_recovery_is_told(shelf: Shelf) -> None:
    shelf.beats, shelf.boots = False, [""]
    check = shelf.target.check_kernel(10)
    assert check.events == []
    assert "has not come back within 10 s" in check.log_lost
    assert any("Room 12." in note for note in shelf.notes)
    assert shelf.heard == ["away"]


def test_last_words_of_a_device_that_stays_away_count(shelf: Shelf) -> None:
    shelf.beats, shelf.boots, shelf.events = False, [""], [PANIC]
    assert shelf.target.check_kernel(10).events == [PANIC]


def test_a_check_without_an_answer_is_asked_once_more(shelf: Shelf) -> None:
    shelf.checks = [KernelCheck(answered=False), KernelCheck()]
    assert shelf.target.check_kernel(10).answered


def test_what_fails_on_the_device_is_no_failed_test() -> None:
    """Another run has the windows: that ends this one with a sentence, and no traceback."""

    class Agent:
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    calls = device_module._Calls(None, 1.0)  # type: ignore[arg-type]
    agent = calls._agent = Agent()  # type: ignore[assignment]
    with pytest.raises(InfrastructureError, match="has a 'vexrun-small' already") as caught, calls:
        raise GuestCodeError("has a 'vexrun-small' already\n\nin the guest:\nTraceback")
    assert "Traceback" in caught.value.evidence
    assert agent.stopped


def test_a_device_is_not_replaced_and_not_kept(shelf: Shelf) -> None:
    with pytest.raises(InfrastructureError, match="not replaced"):
        shelf.target.restore()
    assert not shelf.target.detach()


def test_without_a_watch_nothing_is_known(shelf: Shelf) -> None:
    shelf.target._channels.watch = None
    with pytest.raises(TargetLostError):
        shelf.target.check_kernel(10)
