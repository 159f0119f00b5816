"""The taint mask: what the kernel holds against itself, printed or not.

An out-of-tree, unsigned module sets O and E by being loaded: that is normal here. Only bits
that say the kernel broke become events. P (the module's licence is not GPL), C, K, X, N, J, F, R
and the bits about hardware, firmware and user requests are facts about what was loaded, not
about a failure: `taint_notes` names them for the report, and the structure tests judge licences.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vexrun.kernel_log.classes import EventClass
from vexrun.results.model import KernelEvent

_C = EventClass


@dataclass(frozen=True)
class Taint:
    """One bit of /proc/sys/kernel/tainted (include/linux/panic.h).

    `explained_by`: classes of events that set this bit; empty for bits that are no failure.
    """

    bit: int
    letter: str
    name: str
    explained_by: frozenset[EventClass] = frozenset()

    @property
    def mask(self) -> int:
        return 1 << self.bit


#: Anything that ends in a WARN() or a die(): the message before it may give another class.
_REPORTS = frozenset(_C) - {_C.SILENT, _C.LOAD, _C.HANG}

TAINTS: tuple[Taint, ...] = (
    Taint(0, "P", "proprietary module"),
    Taint(1, "F", "module force loaded"),
    Taint(2, "S", "CPU out of specification"),
    Taint(3, "R", "module force unloaded"),
    Taint(4, "M", "machine check", frozenset({_C.PANIC})),
    Taint(5, "B", "bad page", frozenset({_C.MEMORY, _C.SANITIZER, _C.UNLOAD, _C.OOPS, _C.PANIC})),
    Taint(6, "U", "requested by userspace"),
    Taint(7, "D", "kernel died (oops or BUG)", _REPORTS - {_C.WARNING}),
    Taint(8, "A", "ACPI table overridden"),
    Taint(9, "W", "warning", _REPORTS),
    Taint(10, "C", "staging driver"),
    Taint(11, "I", "firmware workaround"),
    Taint(12, "O", "out-of-tree module"),
    Taint(13, "E", "unsigned module"),
    Taint(14, "L", "soft lockup", frozenset({_C.HANG, _C.PANIC})),
    Taint(15, "K", "live patched"),
    Taint(16, "X", "auxiliary, set by the distribution"),
    Taint(17, "T", "structure randomisation"),
    Taint(18, "N", "in-kernel test"),
    Taint(19, "J", "fwctl used a mutating debug operation"),
)
FAILURES = tuple(taint for taint in TAINTS if taint.explained_by)
#: O + E: what loading an out-of-tree, unsigned module does.
LOADED_MODULE = 1 << 12 | 1 << 13


def decode_taint(mask: int) -> list[Taint]:
    """The rows of the set bits, lowest first; bits of newer kernels get the letter `?`."""
    known = {taint.bit: taint for taint in TAINTS}
    bits = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    return [known.get(bit, Taint(bit, "?", f"unknown bit {bit}")) for bit in bits]


def taint_delta(
    before: int,
    after: int,
    allowed: int = LOADED_MODULE,
    events: Iterable[KernelEvent] = (),
) -> list[KernelEvent]:
    """Failures the kernel noted in its taint mask without an event in `events` that explains it.

    Masks are the values of /proc/sys/kernel/tainted. Bits are sticky: what was set `before` can
    not be seen again, so restore a clean machine after an event.
    """
    new = after & ~before & ~allowed
    classes = {EventClass(event.event_class) for event in events}
    return [
        KernelEvent(
            event_class=EventClass.SILENT.value,
            title=f"taint {taint.letter} set without a line",
            key=f"taint-{taint.letter}",
            excerpt=[
                f"tainted {before} -> {after}: bit {taint.bit} ({taint.letter}: {taint.name})"
            ],
            source="taint",
        )
        for taint in FAILURES
        if new & taint.mask and not classes & taint.explained_by
    ]


def taint_notes(before: int, after: int, allowed: int = LOADED_MODULE) -> list[str]:
    """One sentence for each new bit that is worth knowing but no failure."""
    failures = {taint.bit for taint in FAILURES}
    return [
        f"The kernel's taint mask gained '{taint.letter}' ({taint.name})."
        for taint in decode_taint(after & ~before & ~allowed)
        if taint.bit not in failures
    ]
