"""What an emulated processor did wrong: an oops that nobody in the guest has caused.

The kernel patches its own code while other processors run it: an int3 stands in for the first
byte, and goes again. QEMU's TCG before 8.1 could translate such a place while it was being written
and keep what it read ("accel/tcg: Always lock pages before translation", deba78709a). A processor
then stops at an int3 that has long been gone, wherever the kernel patches: timers, the scheduler.
A processor of silicon cannot, nor can a module make it: the report itself shows which byte is in
memory.
"""

from __future__ import annotations

import re

from vexrun.results.model import KernelEvent

_TRAP = re.compile(r"(?:Oops: )?int3: 0000 \[#\d+\]")
_PLACE = re.compile(r"RIP: 0010:(?P<place>\S+)")
#: The byte that the instruction pointer stands at is in brackets; the trap's own is before it.
_BYTES = re.compile(r"Code: (?:[0-9a-f]{2} )*(?P<before>[0-9a-f]{2} [0-9a-f]{2}) <[0-9a-f]{2}>")
#: The two encodings of int3, the longer one whole.
_INT3 = re.compile(r".. cc|cd 03")


def trap_that_is_not_there(event: KernelEvent) -> str:
    """Where a processor met an int3 that the guest's memory does not hold, '' for none."""
    lines = iter(event.excerpt)
    if not any(_TRAP.search(line) for line in lines):
        return ""
    place = ""
    for line in lines:  # behind the trap: the first registers are those of the trap
        if not place and (found := _PLACE.search(line)):
            place = found["place"]
        if "Code: " in line:
            code = _BYTES.search(line)
            return place if code and not _INT3.fullmatch(code["before"]) else ""
    return ""
