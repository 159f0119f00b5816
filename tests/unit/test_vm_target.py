"""A guest that does not answer: when it is believed to hang, and what it is called then."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vexrun.results.model import KernelEvent
from vexrun.target import vm
from vexrun.target.hang import STUCK_S, HangReport, Schedule
from vexrun.target.kernel_watch import KernelCheck
from vexrun.target.vm import VmTarget

STATE = "7 (mount) {state} 1 1 1 0 -1 4194304 10 0 0 0 3 {ticks} 0 0 20 0 1 0 99"
WAITS = "/proc/7/stack:[<0>] demo_wait+0x1e/0x20 [demo]"
SPINS = "\n".join(
    f"[  200.000000] {line}"
    for line in ("NMI backtrace for cpu 1", "RIP: 0010:demo_spin+0x7/0x10 [demo]", "sysrq: shown")
)


class Guest:
    """What a guest does; the target is asked what it makes of it."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.silent = 0.0
        self.broken = False
        self.answers, self.says = True, "sysrq: Show Blocked State\n"
        self.starved = False
        self.tasks = ""
        self.checks = [KernelCheck()]
        self.end: str | None = None
        self.confirmed = False
        self.console = SimpleNamespace(
            position=1000, poll=lambda: None, events=[], trouble=False, tail=lambda _: "last line"
        )
        self.asked = 0
        log = directory / "console.log"
        log.write_bytes(b"")
        self.target = target = VmTarget.__new__(VmTarget)
        vm.VmTarget.__init__(target, self._plan(log), lambda _: None)
        target._machine = SimpleNamespace(  # type: ignore[assignment]
            pid=1,
            lost_by_host=False,
            died=False,
            how_it_ended=lambda: self.end,
            monitor=SimpleNamespace(execute=lambda *_, **__: "RIP=ffffffffc0ba7007"),
        )
        target._channels.console = self.console  # type: ignore[assignment]
        target._channels.heartbeat = self  # type: ignore[assignment]
        target._channels.standing = SimpleNamespace(run=self._run)  # type: ignore[assignment]
        target._channels.watch = SimpleNamespace(check=self._check, confirms=lambda: self.confirmed)  # type: ignore[assignment]
        target.begin_test()
        monkeypatch.setattr(vm, "kernel_answers", self._kernel_answers)
        monkeypatch.setattr(Schedule, "starved_since", lambda *_: self.starved)

    def _plan(self, log: Path) -> Any:
        module = SimpleNamespace(sysfs_name="demo")
        accelerator = SimpleNamespace(name="tcg")
        subject = SimpleNamespace(module=module)
        return SimpleNamespace(console_log=log, subject=subject, accelerator=accelerator)

    def silent_for(self) -> float:
        return self.silent

    def _run(self, command: str, *, timeout_s: float) -> Any:
        return SimpleNamespace(stdout=self.tasks)

    def _check(self, timeout_s: float) -> KernelCheck:
        return self.checks.pop(0)

    def _kernel_answers(self, *_: Any) -> tuple[bool, str]:
        self.asked += 1
        return self.answers, self.says

    def dies(self) -> None:
        """Neither a process nor the kernel moves any more."""
        self.silent, self.answers, self.says = 500.0, False, ""

    def notice(self, after: float = 100.0, limit_s: float = 200.0) -> HangReport | None:
        return self.target.notice_hang(time.monotonic() - after, limit_s)


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(tmp_path, monkeypatch)


UNANSWERED = KernelCheck(answered=False)


# -- noticing -----------------------------------------------------------------------------------


def test_a_guest_that_beats_is_left_alone(guest: Guest) -> None:
    assert guest.notice() is None
    assert guest.asked == 0


def test_a_mute_guest_is_noticed(guest: Guest) -> None:
    guest.dies()
    report = guest.notice()
    assert report is not None and report.mute
    assert "mute" in report.name
    assert "RIP=ffffffffc0ba7007" in report.details


@pytest.mark.parametrize(
    "spared",
    [
        lambda guest: setattr(guest, "silent", 40.0),
        lambda guest: setattr(guest, "broken", True),
        lambda guest: setattr(guest, "answers", True),
        lambda guest: setattr(guest, "starved", True),
    ],
    ids=["silent for a short time", "only ssh is gone", "its kernel answers", "starved"],
)
def test_silence_alone_is_no_hang(guest: Guest, spared: Callable[[Guest], None]) -> None:
    guest.dies()
    spared(guest)
    assert guest.notice() is None


def test_a_short_test_is_not_looked_at(guest: Guest) -> None:
    guest.dies()
    assert guest.notice(after=10.0) is None


def test_a_task_that_never_leaves_the_kernel_is_noticed(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.tasks = STATE.format(state="R", ticks=0)
    assert guest.notice() is None
    later = time.monotonic() + STUCK_S + 5
    guest.tasks, guest.says = STATE.format(state="R", ticks=int(STUCK_S * 100)), SPINS
    monkeypatch.setattr(vm.time, "monotonic", lambda: later)
    report = guest.target.notice_hang(later - 200, 200)
    assert report is not None
    assert report.name.startswith("livelock: 'mount' has not left the kernel for 125 s")
    assert report.name.endswith("; CPU 1 runs in demo_spin")
    assert "demo_spin" in report.details


# -- naming -------------------------------------------------------------------------------------


def test_who_waits_in_the_module_is_named(guest: Guest) -> None:
    guest.tasks = STATE.format(state="S", ticks=3) + "\n" + WAITS
    assert guest.target.explain_hang().name == "asleep: 'mount' waits in demo_wait"


def test_who_spins_in_the_module_is_named(guest: Guest) -> None:
    guest.says = SPINS
    assert guest.target.explain_hang().name == "livelock: CPU 1 runs in demo_spin"


def test_a_flood_is_named(guest: Guest) -> None:
    guest.console.position += 9 << 20
    assert "floods the console (9 MiB" in guest.target.explain_hang().name


def test_a_kernel_without_processes_is_named(guest: Guest) -> None:
    guest.silent = 100.0
    assert "its processes do not" in guest.target.explain_hang().name


# -- the check after a test ---------------------------------------------------------------------


def test_a_slow_guest_is_asked_again(guest: Guest) -> None:
    guest.checks = [UNANSWERED, KernelCheck(notes=["late"])]
    check = guest.target.check_kernel(60)
    assert check.answered
    assert check.events == []
    assert check.notes == ["late"]


def test_a_guest_whose_sshd_was_killed(guest: Guest) -> None:
    guest.broken = True
    guest.checks = [UNANSWERED]
    (event,) = guest.target.check_kernel(60).events
    assert event.title == "ssh is gone, while the guest's kernel still answers"


def test_a_mute_guest_is_not_asked_again(guest: Guest) -> None:
    guest.dies()
    guest.checks = [UNANSWERED]
    (event,) = guest.target.check_kernel(60).events
    assert event.event_class == "silent"
    assert "mute" in event.title


def test_a_starved_guest_is_nobodys_crash(guest: Guest) -> None:
    guest.dies()
    guest.starved = True
    guest.checks = [UNANSWERED, UNANSWERED]
    check = guest.target.check_kernel(60)
    assert check.events == []
    assert "hardly lets it run" in check.log_lost


def test_a_guest_that_ended_says_how(guest: Guest) -> None:
    guest.console.take_events = list
    guest.end = "the guest reset itself"
    (event,) = guest.target.check_kernel(60).events
    assert event.title == "the guest reset itself"


# -- forgeries in the middle of a test ----------------------------------------------------------


@pytest.mark.parametrize(
    ("confirmed", "silent", "believed"),
    [(True, 0.0, True), (False, 0.0, False), (False, 100.0, True)],
    ids=["in the kernel's buffer", "on the console only", "where nobody could forge"],
)
def test_what_the_console_shows_is_believed(
    guest: Guest, confirmed: bool, silent: float, believed: bool
) -> None:
    assert not guest.target.believes_trouble(), "there is none"
    guest.console.events = [KernelEvent(event_class="oops", title="x")]
    guest.confirmed, guest.silent = confirmed, silent
    assert guest.target.believes_trouble() is believed


# -- whose memory is worth keeping ---------------------------------------------------------------


def test_a_guest_that_lives_keeps_its_memory(guest: Guest) -> None:
    assert guest.target.dead_machine() is None
    guest.target.explain_hang()
    assert guest.target.dead_machine() is None, "it hangs, and its kernel answers"


def test_the_memory_of_a_mute_guest_can_be_had(guest: Guest) -> None:
    guest.dies()
    guest.target.explain_hang()
    assert guest.target.dead_machine() == (guest.target.machine, "the guest is mute")
    guest.target.begin_test()
    assert guest.target.dead_machine() is None, "that was another test's"


def test_the_memory_of_a_kernel_that_died_can_be_had(guest: Guest) -> None:
    machine: Any = guest.target.machine
    guest.end, machine.died = "the guest reset itself", True
    assert guest.target.dead_machine() == (machine, "the guest reset itself")
    guest.end, machine.died = "the guest powered itself off", False
    assert guest.target.dead_machine() is None
    machine.died = machine.lost_by_host = True
    assert guest.target.dead_machine() is None


# -- a module that was found to hang ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        ({}, 30),
        ({"module_frame": None}, 60),
        ({"title": "soft lockup in demo_spin"}, 60),
        ({"event_class": "warning"}, 60),
    ],
    ids=["a task in the module", "another's task", "another hang", "no hang"],
)
def test_the_next_machine_waits_less_for_a_module_that_blocks(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], seconds: int
) -> None:
    told: list[str] = []
    monkeypatch.setattr(VmTarget, "slowdown", 1.0)
    subject: Any = guest.target.plan.subject
    subject.names_to_block = ["demo", "fs-demofs"]
    machine: Any = SimpleNamespace(
        set_clock_and_mount_source=lambda _limit, command: told.append(command)
    )
    guest.target._prepare(machine)
    assert "echo 60 >/proc/sys/kernel/hung_task_timeout_secs" in told[0]
    assert "install fs-demofs /bin/false" in told[0]
    event = {
        "event_class": "hang",
        "title": "task mount blocked in demo_wait",
        "module_frame": "demo_wait+0x1/0x2 [demo]",
    }
    guest.checks = [KernelCheck([KernelEvent(**{**event, **changed})])]
    guest.target.check_kernel(60)
    guest.target._prepare(machine)
    assert f"echo {seconds} >/proc/sys/kernel/hung_task_timeout_secs" in told[1]


# -- the emulator's own faults -------------------------------------------------------------------

STALE_INT3 = KernelEvent(
    event_class="oops",
    title="oops: int3",
    excerpt=[
        "Oops: int3: 0000 [#1] PREEMPT SMP NOPTI",
        "RIP: 0010:run_timer_softirq+0xd7/0xf0",
        "Code: 48 89 df e8 ba ca b7 00 eb <0a> 48 83 c4 08",
    ],
)


@pytest.mark.parametrize(("accelerator", "excused"), [("tcg", True), ("kvm", False)])
def test_a_stale_translation_is_no_finding(guest: Guest, accelerator: str, excused: bool) -> None:
    guest.target.plan.accelerator = SimpleNamespace(name=accelerator)  # type: ignore[misc]
    after = KernelEvent(event_class="hang", title="task blocked")
    guest.checks = [KernelCheck([STALE_INT3, after], ["a note"], False)]
    check = guest.target.check_kernel(60)
    assert (check.events == []) == excused
    assert ("run_timer_softirq+0xd7/0xf0 that is no longer" in check.log_lost) == excused
    assert check.notes == ["a note"]


def test_what_happened_before_the_emulators_fault_is_a_finding(guest: Guest) -> None:
    guest.target.plan.accelerator = SimpleNamespace(name="tcg")  # type: ignore[misc]
    before = KernelEvent(event_class="warning", title="WARNING in demo_write")
    guest.checks = [KernelCheck([before, STALE_INT3], [], False)]
    assert guest.target.check_kernel(60).events == [before, STALE_INT3]
