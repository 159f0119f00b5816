"""A guest that does not go on: what its kernel says about it, and the name of the hang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vexrun.kernel_log import KernelLogParser
from vexrun.results.model import KernelEvent
from vexrun.target.hang import (
    STUCK_S,
    Schedule,
    StuckWatch,
    find_culprit,
    look_command,
    waiting_in,
    with_culprit,
)
from vexrun.vm.heartbeat import Heartbeat
from vexrun.vm.ssh import GuestShell

LOGS = Path(__file__).parent.parent / "data" / "hangs"


# -- what SysRq-l and SysRq-w showed ------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "module", "name"),
    [
        ("blocked-6.12", "canaryfs", "blocked: 'mount' waits in canaryfs_wait_for_ever"),
        ("spinning-6.12", "canaryfs", "livelock: CPU 0 runs in canaryfs_spin"),
        ("livelock-6.12", "canaryfs", "livelock: CPU 0 runs in canaryfs_livelock"),
        ("spinning-unrelated_task-6.12", "canaryfs", "livelock: CPU 0 runs in canaryfs_spin"),
        ("blocked-6.12", "otherfs", ""),
        ("spinning-6.12", "otherfs", ""),
    ],
)
def test_a_hang_has_a_name_when_the_module_is_in_it(log: str, module: str, name: str) -> None:
    culprit = find_culprit((LOGS / f"{log}.log").read_text(), module)
    assert (culprit.name if culprit else "") == name


def test_a_frame_that_the_unwinder_only_guessed_names_nothing() -> None:
    text = (
        "[    9.000000] task:mount state:D stack:0\n"
        "[    9.000000]  ? demo_old_call+0x1/0x2 [demo]\n"
        "[    9.000000]  schedule+0x1/0x2\n"
    )
    assert find_culprit(text, "demo") is None


def test_who_waits_is_not_who_is_to_blame() -> None:
    """Linux 6.12, one processor in a loop for 97 s: khugepaged was reported, and nothing else."""
    text = (LOGS / "spinning-unrelated_task-6.12.log").read_text()
    parser = KernelLogParser(["canaryfs"], offset=1)
    events = [*parser.feed(text.encode()), *parser.finish()]
    assert {event.title for event in events} == {"task khugepaged blocked in __flush_work"}
    assert [event.module_frame for event in events] == [None] * len(events), (
        "stacks that were asked for are no part of a report"
    )
    first, *others = with_culprit(events, find_culprit(text, "canaryfs"))
    assert (first.event_class, first.title) == ("hang", "livelock: CPU 0 runs in canaryfs_spin")
    assert first.module_frame == "canaryfs_spin+0x7/0x10 [canaryfs]"
    assert first.frames[0].function == "canaryfs_spin"
    assert "CPU: 0 " in first.excerpt[0]
    assert others == events


def test_a_report_about_the_module_goes_before_one_about_who_waits() -> None:
    waits = KernelEvent(event_class="hang", title="task khugepaged blocked in __flush_work")
    spins = KernelEvent(event_class="hang", title="soft lockup", module_frame="demo_spin+0x1/0x2")
    oops = KernelEvent(event_class="oops", title="NULL pointer dereference")
    culprit = find_culprit(
        "[    9.000000] NMI backtrace for cpu 0\n[    9.000000]  demo_spin+0x1/0x2 [demo]\n", "demo"
    )
    assert with_culprit([waits, spins], culprit) == [spins, waits]
    assert with_culprit([spins, waits], culprit) == [spins, waits]
    assert with_culprit([oops, waits], culprit) == [oops, waits], "an oops explains a hang"
    assert with_culprit([], culprit) == [], "without a report it is the outcome 'hung'"
    assert with_culprit([waits], None) == [waits]


# -- a task that never comes back ---------------------------------------------------------------


def stat(pid: int, name: str, state: str, user: int, system: int, flags: int = 0x400000) -> str:
    """A line of /proc/PID/stat, whose times are in hundredths of a second."""
    return f"{pid} ({name}) {state} 1 1 1 0 -1 {flags} 10 0 0 0 {user} {system} 0 0 20 0 1 0 99"


def stack(pid: int, function: str) -> str:
    return f"/proc/{pid}/stack:[<0>] {function}+0x1e/0x20 [demo]"


@pytest.fixture
def watch() -> StuckWatch:
    return StuckWatch()


LATER = STUCK_S + 1


def busy(system: float) -> str:
    return stat(7, "mount", "R", 3, int(system * 100))


def test_a_task_that_runs_in_the_kernel_for_ever_is_a_livelock(watch: StuckWatch) -> None:
    assert watch.look(busy(0), 0) == ""
    assert watch.look(busy(60), 60) == "", "one minute may be honest work"
    assert watch.look(busy(LATER), LATER).startswith("livelock: 'mount' has not left the kernel")


def test_a_task_that_comes_back_to_its_program_is_at_work(watch: StuckWatch) -> None:
    """The same process, mostly in the kernel: many short calls."""
    for step in range(40):
        seen = stat(7, "python3", "R", 3 + step, step * 990)
        assert watch.look(seen + "\n" + stack(7, "demo_unlink"), step * 10.0) == ""


def test_a_guest_that_is_starved_is_not_in_a_livelock(watch: StuckWatch) -> None:
    """It had a third of a processor only: the machine below is busy."""
    watch.look(busy(0), 0)
    assert watch.look(busy(LATER / 3), LATER) == ""


def test_half_of_a_long_tests_time_is_granted(watch: StuckWatch) -> None:
    watch.look(busy(0), 0, 500)
    assert watch.look(busy(LATER), LATER, 500) == ""
    assert watch.look(busy(501), 501, 500) != ""


@pytest.mark.parametrize("state", ["S", "D"])
def test_who_only_waits_is_not_ended_early(watch: StuckWatch, state: str) -> None:
    """It may be a daemon of the subject's, waiting for work where it should."""
    seen = f"{stat(7, 'demod', state, 3, 9)}\n{stack(7, 'demo_wait')}"
    watch.look(seen, 0)
    assert watch.look(seen, LATER) == ""


def test_another_process_with_the_same_number_starts_anew(watch: StuckWatch) -> None:
    watch.look(stat(7, "mount", "R", 3, 0), 0)
    watch.look(stat(7, "umount", "R", 3, 6000), 60)
    assert watch.look(stat(7, "umount", "R", 3, int(LATER * 100)), LATER) == ""


@pytest.mark.parametrize(("state", "doing"), [("S", "asleep"), ("D", "blocked")])
def test_when_time_is_over_it_is_said_who_waits_where(state: str, doing: str) -> None:
    seen = [stat(5, "sshd", "S", 3, 9), stat(7, "a) R (b", state, 3, 9)]
    frames = [stack(7, "demo_wait"), stack(7, "demo_fill_super")]
    assert waiting_in("\n".join(seen + frames)) == f"{doing}: 'a) R (b' waits in demo_wait"
    assert waiting_in("\n".join(seen)) == "", "outside the module it is a daemon"


def test_a_kernel_thread_of_the_module_may_wait() -> None:
    seen = f"{stat(7, 'demo_worker', 'S', 0, 9, 0x208040)}\n{stack(7, 'demo_worker')}"
    assert waiting_in(seen) == ""


def test_the_command_asks_for_the_module_only() -> None:
    assert r"'\[demo\]'" in look_command("demo")


# -- whose fault silence is ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ran", "waited", "starved"),
    [
        (0.5, 38.0, True),  # runnable all the time, and never let run
        (20.0, 19.0, False),  # a busy machine, and a guest that spins nevertheless
        (40.0, 0.1, False),
        (0.0, 0.0, False),  # halted with interrupts off: it wants no processor
    ],
)
def test_a_guest_that_is_not_let_run_is_not_mute(ran: float, waited: float, starved: bool) -> None:
    before = Schedule(100.0, 50.0, 0.0)
    assert Schedule(100.0 + ran, 50.0 + waited, 20.0).starved_since(before) is starved


def test_the_schedule_is_read_of_all_threads(tmp_path: Path) -> None:
    for thread, text in {"7": "1500000000 500000000 9\n", "8": "2500000000 0 3\n"}.items():
        (tmp_path / "7" / "task" / thread).mkdir(parents=True)
        (tmp_path / "7" / "task" / thread / "schedstat").write_text(text)
    now = Schedule.of(7, tmp_path)
    assert (now.ran, now.waited) == (4.0, 0.5)
    assert Schedule.of(None, tmp_path).ran == 0


# -- the heartbeat ------------------------------------------------------------------------------


def test_a_guest_that_beats_is_not_silent(tmp_path: Path, programs: Any) -> None:
    programs.add("ssh", "while echo; do sleep 0.05; done")
    beat = Heartbeat(GuestShell(tmp_path / "ssh_config"))
    try:
        while beat._file.stat().st_size < 2:
            assert not beat.broken
        assert beat.silent_for() < 5
    finally:
        beat.close()


def test_a_shell_that_ended_is_no_silence(tmp_path: Path, programs: Any) -> None:
    programs.add("ssh", "exit 255")
    beat = Heartbeat(GuestShell(tmp_path / "ssh_config"))
    try:
        beat._child.wait(10)
        assert beat.broken
    finally:
        beat.close()


def test_the_beat_needs_no_process_and_ends_with_its_connection(
    tmp_path: Path, programs: Any
) -> None:
    """The real shell loop: it beats at once, and its end is the end of stdin."""
    programs.add("ssh", 'while [ "$1" != -- ]; do shift; done; eval "$2"')
    beat = Heartbeat(GuestShell(tmp_path / "ssh_config"))
    try:
        while beat._file.stat().st_size < 2:
            assert not beat.broken
        assert beat._child.stdin is not None
        beat._child.stdin.close()
        assert beat._child.wait(10) == 0
    finally:
        beat.close()
