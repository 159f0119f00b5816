"""Brackets every test with marks in the kernel log and says what the kernel did in between.

A mark is written to /dev/kmsg, so it reaches the console and the kernel's buffer alike. What
lies between two marks belongs to the test between them; a mark that cannot be found again means
that log was lost, and a log that was lost is never taken for a clean one.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.kernel_log import confirm, events_in_dmesg, taint_delta, taint_notes
from vexrun.results.model import KernelEvent
from vexrun.vm.console import ConsoleFollower
from vexrun.vm.kmsg import KmsgFollower
from vexrun.vm.standing_shell import StandingShell

#: Printed by the kernel itself when SysRq-h is written: proves that kernel lines arrive.
_KERNEL_CANARY = "sysrq: HELP"


#: Shell builtins only: under emulation a process costs a tenth of a second.
_STATE = (
    "read taint </proc/sys/kernel/tainted && read boot </proc/sys/kernel/random/boot_id && "
    "read up idle </proc/uptime && "
    'echo "$taint" && echo "$boot" && echo "$up" && echo "${EPOCHREALTIME:-0}"'
)
#: A clock that differs by more from the time that has passed was set by somebody.
_CLOCK_JUMP_S = 30.0


@dataclass(frozen=True)
class KernelCheck:
    """What happened since the last check. `log_lost` says which log has a gap, '' for none."""

    events: list[KernelEvent] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    answered: bool = True
    log_lost: str = ""


class KernelWatch:
    """Watches one booted kernel through its console, its log buffer and its taint mask."""

    def __init__(
        self,
        shell: StandingShell,
        console: ConsoleFollower,
        kmsg: KmsgFollower,
        module_names: list[str],
        slowdown: float,
    ) -> None:
        self.shell = shell
        self.console = console
        self.kmsg = kmsg
        self.modules = module_names
        self.patience_s = 20.0 * slowdown
        #: Everything read from the kernel's buffer so far, as `dmesg --raw` prints it.
        self.dmesg = ""
        self._nonce = secrets.token_hex(4)
        self._count = 0
        self._taint = 0
        self._boot_id = ""
        self._clock: float | None = None
        self._early = ""  # of the buffer: read between two checks
        self._confirmed = False  # by what was read so

    def begin(self) -> None:
        """Prove that both channels work, take the baseline, set the first mark.

        Raises InfrastructureError when a channel is deaf: no verdict could be trusted then.
        """
        out = self.shell.run(
            f"echo h >/proc/sysrq-trigger && {_STATE} && echo '{self._mark(0)}' >/dev/kmsg",
            timeout_s=3 * self.patience_s,
            check=True,
        ).stdout
        state = _parse_state(out)
        self._taint, self._boot_id, self._clock = state.taint, state.boot_id, state.booted_at
        in_buffer, came = self.kmsg.read_until(self._name(0), self.patience_s)
        self.dmesg = in_buffer
        if not came or _KERNEL_CANARY not in in_buffer:
            raise InfrastructureError(
                "The kernel's log buffer cannot be trusted: the marker of this session did not "
                f"come back through it ({self.kmsg.lost or 'it is mute'}).",
                evidence=in_buffer[-800:],
            )
        if not self.console.wait_for(self._name(0), self.patience_s):
            raise InfrastructureError(
                "The serial console cannot be trusted: the marker of this session did not come "
                "back through it.",
                evidence=self.console.tail(10),
            )
        # What was said before the subject came is not the subject's.
        self.console.take_events()

    def check(self, timeout_s: float) -> KernelCheck:
        """What the kernel did since the last mark; sets the next one."""
        self._count += 1
        try:
            done = self.shell.run(
                f"{_STATE} && echo '{self._mark(self._count)}' >/dev/kmsg", timeout_s=timeout_s
            )
        except TargetLostError:
            return KernelCheck(self.console.take_events(), answered=False)
        if done.returncode != 0:
            return KernelCheck(
                self.console.take_events(),
                log_lost=f"the state of the kernel could not be read: {done.tail(3)}",
            )
        try:
            state = _parse_state(done.stdout)
        except ValueError:
            return KernelCheck(
                self.console.take_events(),
                log_lost=f"the state of the kernel could not be read: '{done.tail(3)}'",
            )
        read, came = self.kmsg.read_until(self._name(self._count), self.patience_s)
        in_buffer, self._early, self._confirmed = self._early + read, "", False
        self.dmesg += in_buffer
        lost = ""
        if not self.console.wait_for(self._name(self._count), self.patience_s):
            lost = "the serial console did not show the mark that was set"
        elif not came and not self.kmsg.lost:
            lost = "the kernel's log buffer did not show the mark that was set"
        return self._judge(in_buffer, state, lost)

    def confirms(self) -> bool:
        """Whether the kernel's buffer, too, has something bad since the last check."""
        read = self.kmsg.read()
        self._early += read
        # Whole lines come, and one line is enough to tell: what was read before need not be again.
        self._confirmed |= bool(self.kmsg.lost) or bool(events_in_dmesg(read, self.modules))
        return self._confirmed

    def _judge(self, in_buffer: str, state: _State, lost: str) -> KernelCheck:
        # What was printed after the mark is not in `in_buffer` yet: it is the next check's.
        events = self.console.take_events(None if lost else self._name(self._count))
        notes: list[str] = []
        if self.kmsg.lost:
            # Nothing can be refuted any more: the console alone has everything.
            notes.append(f"Kernel messages could be read from the console only: {self.kmsg.lost}.")
        else:
            confirmed = confirm(events, events_in_dmesg(in_buffer, self.modules), True)
            events = confirmed.events
            notes += [
                "Userspace printed something like a kernel report, which the kernel did not "
                f"say: '{event.title}'."
                for event in confirmed.unconfirmed
            ]
        if state.boot_id != self._boot_id:
            events = [*events, silent_event("the guest rebooted")]
        elif jump := self._clock_jump(state):
            events = [*events, silent_event(*jump)]
        events = [*events, *taint_delta(self._taint, state.taint, events=events)]
        notes += taint_notes(self._taint, state.taint)
        self._taint = state.taint
        return KernelCheck(events, notes, log_lost=lost)

    def _clock_jump(self, state: _State) -> tuple[str, str] | None:
        """Title and evidence when somebody has set the guest's clock since the last check.

        Wall clock and uptime of one guest: both stand still together while the host sleeps.
        """
        if state.booted_at is None:
            return None
        before, self._clock = self._clock, state.booted_at
        if before is None or abs(state.booted_at - before) < _CLOCK_JUMP_S:
            return None
        way = "back" if state.booted_at < before else "forward"
        seconds = f"the wall clock moved by {state.booted_at - before:.0f} s against the uptime"
        return f"the guest's clock was set {way}", seconds

    def _name(self, number: int) -> str:
        return f"vexrun-mark {self._nonce} {number:05d}"

    def _mark(self, number: int) -> str:
        return f"<6>{self._name(number)}"


@dataclass(frozen=True)
class _State:
    """`booted_at` is wall clock less uptime, in seconds; None where the shell cannot tell."""

    taint: int
    boot_id: str
    booted_at: float | None


def _parse_state(out: str) -> _State:
    """What _STATE prints."""
    taint, boot_id, up, clock, *_ = out.split()
    wall = float(clock)
    return _State(int(taint), boot_id, wall - float(up) if wall else None)


def silent_event(title: str, *excerpt: str) -> KernelEvent:
    """Something bad the kernel did without a word."""
    return KernelEvent(
        event_class="silent",
        title=title,
        key=title.replace(" ", "-"),
        excerpt=list(excerpt),
        source="qmp",
    )
