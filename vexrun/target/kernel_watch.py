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
from vexrun.vm.ssh import GuestShell

#: Printed by the kernel itself when SysRq-h is written: proves that kernel lines arrive.
_KERNEL_CANARY = "sysrq: HELP"


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
        self, shell: GuestShell, console: ConsoleFollower, module_names: list[str], slowdown: float
    ) -> None:
        self.shell = shell
        self.console = console
        self.modules = module_names
        self.slowdown = slowdown
        self._nonce = secrets.token_hex(4)
        self._count = 0
        self._taint = 0
        self._boot_id = ""

    def begin(self) -> None:
        """Prove that both channels work, take the baseline, set the first mark.

        Raises InfrastructureError when a channel is deaf: no verdict could be trusted then.
        """
        out = self.shell.run(
            f"echo '{self._mark(0)}' >/dev/kmsg && echo h >/proc/sysrq-trigger && "
            "cat /proc/sys/kernel/tainted /proc/sys/kernel/random/boot_id && "
            f"echo '{self._mark(1)}' >/dev/kmsg && dmesg -r",
            timeout_s=60 * max(1.0, self.slowdown),
            check=True,
        ).stdout
        taint, boot_id, log = out.split("\n", 2)
        self._taint, self._boot_id, self._count = int(taint), boot_id, 1
        in_buffer = self._since(log, 0)
        if in_buffer is None or _KERNEL_CANARY not in in_buffer:
            raise InfrastructureError(
                "The kernel's log buffer cannot be trusted: the marker of this session did not "
                "come back through dmesg.",
                evidence=log[-800:],
            )
        if not self.console.wait_for(self._name(1), 20 * self.slowdown):
            raise InfrastructureError(
                "The serial console cannot be trusted: the marker of this session did not come "
                "back through it.",
                evidence=self.console.tail(10),
            )
        # What was said before the subject came is not the subject's.
        self.console.take_events()

    def check(self, timeout_s: float) -> KernelCheck:
        """What the kernel did since the last mark; sets the next one."""
        last, following = self._count, self._count + 1
        self._count = following
        command = (
            "cat /proc/sys/kernel/tainted /proc/sys/kernel/random/boot_id; "
            f"dmesg -r | sed -n '/{self._name(last)}$/,$p'; "
            f"echo '{self._mark(following)}' >/dev/kmsg"
        )
        try:
            done = self.shell.run(command, timeout_s=timeout_s)
        except TargetLostError:
            return KernelCheck(self.console.take_events(), answered=False)
        taint_text, _, rest = done.stdout.partition("\n")
        boot_id, _, log = rest.partition("\n")
        if done.returncode != 0 or not taint_text.strip().isdigit():
            return KernelCheck(
                self.console.take_events(),
                log_lost=f"the kernel log could not be read: {done.tail(3)}",
            )
        lost = ""
        if not self.console.wait_for(self._name(following), 20 * self.slowdown):
            lost = "the serial console did not show the mark that was set"
        in_buffer = self._since(log, last)
        seen_on_console = self.console.take_events()
        if in_buffer is None:
            # The ring buffer wrapped: the console alone has everything.
            events, unconfirmed = seen_on_console, []
        else:
            confirmed = confirm(seen_on_console, events_in_dmesg(in_buffer, self.modules), True)
            events, unconfirmed = confirmed.events, confirmed.unconfirmed
        if boot_id.strip() != self._boot_id:
            events = [*events, silent_event("the guest rebooted")]
        taint = int(taint_text)
        notes = taint_notes(self._taint, taint)
        events = [*events, *taint_delta(self._taint, taint, events=events)]
        self._taint = taint
        notes += [
            f"Userspace printed something like a kernel report, which the kernel did not say: "
            f"'{event.title}'."
            for event in unconfirmed
        ]
        if in_buffer is None:
            notes.append(
                "The kernel's log buffer overflowed during a test; the console has it all."
            )
        return KernelCheck(events, notes, log_lost=lost)

    def _name(self, number: int) -> str:
        return f"vexrun-mark {self._nonce} {number:05d}"

    def _mark(self, number: int) -> str:
        return f"<6>{self._name(number)}"

    def _since(self, log: str, number: int) -> str | None:
        """The part of a dmesg text after mark `number`, None when the mark is not in it."""
        _, found, after = log.partition(self._name(number))
        return after if found else None


def silent_event(title: str, *excerpt: str) -> KernelEvent:
    """Something bad the kernel did without a word."""
    return KernelEvent(
        event_class="silent",
        title=title,
        key=title.replace(" ", "-"),
        excerpt=list(excerpt),
        source="qmp",
    )
