"""Kernel or forger? What the console shows, checked against the kernel's own buffer.

Any process may write `[    1.234567] Kernel panic - not syncing` to the console, or the same
words to /dev/kmsg, where the console shows them with a true timestamp. Only the kernel's buffer
(dmesg) knows the facility of a record. So while the guest lives and its dmesg was read, an event
is what dmesg says; a guest that no longer answers has only the console, which then stands alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from vexrun.kernel_log.classes import BANNER, EventClass
from vexrun.kernel_log.lines import LineReader
from vexrun.results.model import KernelEvent

_STAMP = re.compile(r"\[ *(\d+\.\d{6})\] ?")
#: Console and dmesg copies of one report may start at different lines of it (console loglevel).
_SAME_REPORT_S = 1.0


@dataclass(frozen=True)
class Confirmation:
    """`events` happened; `unconfirmed` were only claimed on the console, by userspace."""

    events: list[KernelEvent] = field(default_factory=list)
    unconfirmed: list[KernelEvent] = field(default_factory=list)


def dmesg_covers_from(text: str | bytes) -> float:
    """From which kernel time (seconds) on `dmesg -r` output is complete.

    0.0 if it still begins with the boot banner; the first record's time if the ring buffer has
    wrapped; infinity if there is no kernel line, because such a text is not a log that was read.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    for line in LineReader(console=False).feed(data + b"\n"):
        if line.from_kernel:
            return 0.0 if BANNER.match(line.text) else line.seconds
    return math.inf


def confirm(
    console_events: Sequence[KernelEvent],
    dmesg_events: Sequence[KernelEvent],
    guest_answered: bool,
    *,
    covered_from: float = 0.0,
    console_read_to: int | None = None,
) -> Confirmation:
    """Merges both views; an event seen in both is one event with its console offset.

    `guest_answered` means: the guest lived and its dmesg was read to the end.
    `covered_from` is what `dmesg_covers_from` says about that text, and `console_read_to` how
    many bytes console.log had just before dmesg was asked for (None: no event is younger than
    the dmesg text). Console events outside these bounds cannot be refuted and stand: a record
    reaches the kernel's buffer before the console, so dmesg has everything older than itself.
    A reboot stands too (compare boot ids to be sure), and everything before it, because the
    new kernel's dmesg knows nothing of it.
    """
    rebooted_at = max(
        (event.console_offset or 0 for event in console_events if _is_reboot(event)), default=-1
    )
    unmatched = list(dmesg_events)
    events: list[KernelEvent] = []
    unconfirmed: list[KernelEvent] = []
    for event in console_events:
        before_reboot = (event.console_offset or 0) <= rebooted_at
        twin = None if before_reboot else _twin(event, unmatched)
        if twin is not None:
            unmatched.remove(twin)
            events.append(_merge(event, twin))
        elif (
            not guest_answered
            or before_reboot
            or _time(event) < covered_from
            or (console_read_to is not None and (event.console_offset or 0) >= console_read_to)
        ):
            events.append(event)
        else:
            unconfirmed.append(event)
    return Confirmation(events=[*events, *unmatched], unconfirmed=unconfirmed)


def _is_reboot(event: KernelEvent) -> bool:
    return event.event_class == EventClass.SILENT.value and event.key == "rebooted"


def _twin(event: KernelEvent, candidates: Sequence[KernelEvent]) -> KernelEvent | None:
    for candidate in candidates:
        if event.excerpt[:1] and event.excerpt[0] in candidate.excerpt:
            return candidate
    for candidate in candidates:
        if event.key == candidate.key and abs(_time(event) - _time(candidate)) < _SAME_REPORT_S:
            return candidate
    return None


def _merge(console: KernelEvent, dmesg: KernelEvent) -> KernelEvent:
    """The console's event, with the words of whichever copy is more complete."""
    better = dmesg if len(dmesg.excerpt) > len(console.excerpt) else console
    return better.model_copy(
        update={"console_offset": console.console_offset, "source": console.source}
    )


def _time(event: KernelEvent) -> float:
    """Kernel time of an event's first line, in seconds; 0 if it has none."""
    match = _STAMP.match(event.excerpt[0]) if event.excerpt else None
    return float(match[1]) if match else 0.0
