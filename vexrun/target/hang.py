"""What is wrong with a guest that does not go on: asked of its kernel, and called by a name.

The kernel is asked with SysRq keys over the serial console, which works as long as one processor
takes interrupts, whatever became of ssh, of the disk and of every process.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vexrun.errors import InfrastructureError
from vexrun.kernel_log import EventClass, frames_in
from vexrun.results.model import FrameAddress, KernelEvent, StackFrame
from vexrun.vm.machine import Machine

#: A test that made the kernel print so much has no other trouble.
FLOOD_BYTES = 4 << 20
#: One system call may run so long at least, or half of the test's time, before it counts as
#: stuck. The kernel's own detectors speak after 60 s (lockups, RCU) and BLOCKED_S.
STUCK_S = 120.0
BLOCKED_S = 60
#: On the machines that follow one on which the kernel found a task blocked in the module.
BLOCKED_AGAIN_S = 30
_EXCERPT_LINES = 60

_BLOCKED, _BACKTRACES = "Show Blocked State", "Show backtrace of all active CPUs"
_TASK = re.compile(r"task:(?P<name>\S+) +state:(?P<state>\S)")
_CPU = re.compile(r"NMI backtrace for cpu (?P<cpu>\d+)|CPU: (?P<other>\d+) ")


@dataclass(frozen=True)
class HangReport:
    """`name` says in one clause what kind of hang it is, '' when nothing is known."""

    name: str
    details: str = ""
    mute: bool = False  # not even the kernel answers
    starved: bool = False  # and this machine hardly let it run: nobody's fault there
    culprit: Culprit | None = None


def ask_kernel(machine: Machine, keys: str) -> None:
    """Press SysRq keys on the serial console: a break, then the key.

    Raises InfrastructureError when QEMU refuses, OSError when its console socket does.
    """
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(5)
        console.connect(str(machine.runtime_dir / "console"))
        for key in keys:
            machine.monitor.execute("chardev-send-break", id="console")
            console.sendall(key.encode())
            time.sleep(0.3)


def kernel_answers(
    machine: Machine, said: Callable[[], str], keys: str, patience_s: float
) -> tuple[bool, str]:
    """Whether the kernel reacts to SysRq keys, and what it said.

    `said` returns what the console has shown since it was first called.
    """
    said()
    try:
        ask_kernel(machine, keys)
    except (InfrastructureError, OSError) as error:
        return False, f"the serial console could not be asked: {error}"
    until, text = time.monotonic() + patience_s, ""
    while time.monotonic() < until:
        before, text = text, said()
        # Complete when nothing was added for a second.
        if "sysrq: " in text and text == before:
            return True, text
        time.sleep(1.0)
    return "sysrq: " in text, text


@dataclass(frozen=True)
class Schedule:
    """Seconds all threads of a process have run, and have waited for a processor, by `at`."""

    ran: float
    waited: float
    at: float

    @classmethod
    def of(cls, pid: int | None, proc: Path = Path("/proc")) -> Schedule:
        """As it is now; of a process that is gone nothing."""
        ran = waited = 0
        for file in (proc / str(pid) / "task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # the thread has just ended
                first, second, _ = file.read_text().split()
                ran, waited = ran + int(first), waited + int(second)
        return cls(ran / 1e9, waited / 1e9, time.monotonic())

    def starved_since(self, before: Schedule) -> bool:
        """Whether this machine hardly let it run meanwhile: its silence then proves nothing."""
        passed = self.at - before.at
        return self.ran - before.ran < passed / 10 and self.waited - before.waited > passed / 2


@dataclass(frozen=True)
class Culprit:
    """A task or processor that is inside the module, of all that SysRq-l and SysRq-w show."""

    name: str
    frames: list[StackFrame]
    lines: list[str]

    def event(self) -> KernelEvent:
        first = self.frames[0]
        return KernelEvent(
            event_class=EventClass.HANG.value,
            title=self.name,
            module_frame=f"{first.function}+{first.offset} [{first.module}]",
            key=f"hang-in-{first.function}",
            excerpt=self.lines[:_EXCERPT_LINES],
            frames=self.frames,
        )


def find_culprit(text: str, module: str) -> Culprit | None:
    """Who is in the module, by what SysRq-l and SysRq-w showed; None when nobody is."""
    head, lines = "", list[str]()
    for line in [*text.splitlines(), _BLOCKED]:
        begins = _TASK.search(line) or _CPU.search(line)
        if not begins and _BACKTRACES not in line and _BLOCKED not in line:
            lines.append(line)
            continue
        # Not a frame that the unwinder only guessed (`? function`).
        found = frames_in("\n".join(lines), [module])
        frames = [frame for frame in found if frame.address is not FrameAddress.GUESS]
        if head and frames:
            return Culprit(f"{head} {frames[0].function}", frames, lines)
        head, lines = _head(line), [line]
    return None


def _head(line: str) -> str:
    """How the name of a hang begins whose stack follows this line; '' for one that is none."""
    if task := _TASK.search(line):
        return f"blocked: '{task['name']}' waits in" if task["state"] == "D" else ""
    if cpu := _CPU.search(line):
        return f"livelock: CPU {cpu['cpu'] or cpu['other']} runs in"
    return ""


def is_blocked_task(event: KernelEvent) -> bool:
    """Whether the kernel says that a task has waited in the module for too long."""
    hang = event.event_class == EventClass.HANG
    return hang and event.module_frame is not None and event.title.startswith("task ")


def with_culprit(events: list[KernelEvent], culprit: Culprit | None) -> list[KernelEvent]:
    """Hang events, the one about the module first.

    The kernel complains of a task that waits, and not always of the one it waits for: where one
    processor does not come back, `khugepaged` may be reported first, or alone.
    """
    if not events or any(event.event_class != EventClass.HANG for event in events):
        return events
    told = [event for event in events if event.module_frame]
    if events[0].module_frame or (not told and culprit is None):
        return events
    first = told[0] if told else culprit.event() if culprit else events[0]
    return [first, *(event for event in events if event is not first)]


# -- a task that never comes back from the kernel -------------------------------------------


def look_command(module: str) -> str:
    """A shell command, nearly all builtins, for StuckWatch.look and waiting_in."""
    return (
        'for f in /proc/[0-9]*/stat; do read -r line <"$f" && echo "$line"; done 2>/dev/null; '
        f"grep -s '\\[{module}\\]' /proc/[0-9]*/stack; true"
    )


_STAT = re.compile(r"(?P<pid>\d+) \((?P<name>.*)\) (?P<state>\S) (?P<rest>.*)")
_STACK = re.compile(r"/proc/(?P<pid>\d+)/stack:.*\] (?P<func>[\w.]+)\+")
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_TICKS_PER_S = 100  # USER_HZ, which is part of the kernel's interface


@dataclass
class _Task:
    name: str
    user: int
    since: float
    system: int


@dataclass
class StuckWatch:
    """Finds a process that runs in the kernel and has been in one system call for too long.

    A task that returns to its program now and then uses time there, however little. One that
    only waits may be a daemon doing its duty: those are for the kernel's own detector, and for
    `waiting_in` when the test's time is over.
    """

    _tasks: dict[str, _Task] = field(default_factory=dict)

    def look(self, output: str, now: float, limit_s: float = STUCK_S) -> str:
        """The name of the hang, '' when there is none (yet). `limit_s` is for one system call."""
        seen: dict[str, _Task] = {}
        stuck = ""
        for pid, state, name, user, system in _user_tasks(output):
            known = self._tasks.get(pid)
            if known is None or (known.name, known.user) != (name, user):
                known = _Task(name, user, now, system)
            seen[pid] = known
            lasted = now - known.since
            ran = (system - known.system) / _TICKS_PER_S
            if state == "R" and lasted > limit_s and ran > 0.8 * lasted:
                stuck = f"livelock: '{name}' has not left the kernel for {lasted:.0f} s"
        self._tasks = seen
        return stuck


def waiting_in(output: str) -> str:
    """Which process waits inside the module, and where, as a name for the hang; '' for none."""
    frames: dict[str, str] = {}
    for found in _STACK.finditer(output):
        frames.setdefault(found["pid"], found["func"])
    for pid, state, name, _, _ in _user_tasks(output):
        if pid in frames and state in "SD":
            doing = "blocked" if state == "D" else "asleep"
            return f"{doing}: '{name}' waits in {frames[pid]}"
    return ""


def _user_tasks(output: str) -> Iterator[tuple[str, str, str, int, int]]:
    """Pid, state, name, user and system time of every process that is no kernel thread."""
    for line in output.splitlines():
        stat = _STAT.match(line)
        fields = stat["rest"].split() if stat else []
        if stat is None or len(fields) < 12 or int(fields[5]) & _KERNEL_THREAD:
            continue
        yield stat["pid"], stat["state"], stat["name"], int(fields[10]), int(fields[11])
