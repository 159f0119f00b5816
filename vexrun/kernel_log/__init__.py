"""What the kernel said: console and dmesg text in, `KernelEvent`s out.

The story, in the order of the modules: `lines` cuts bytes into kernel lines, `classes` is the
table of what counts as bad, `parser` groups the lines of one report into one event,
`confirmation` tells kernel events from forgeries of userspace, `taint` notices what was never
printed, `load` explains a refused insmod.
"""

from vexrun.kernel_log.classes import EventClass, Signature
from vexrun.kernel_log.confirmation import Confirmation, confirm, dmesg_covers_from
from vexrun.kernel_log.load import explain_insmod, explain_refusal
from vexrun.kernel_log.parser import KernelLogParser, events_in_dmesg
from vexrun.kernel_log.report import frames_in
from vexrun.kernel_log.taint import decode_taint, taint_delta, taint_notes

__all__ = [
    "Confirmation",
    "EventClass",
    "KernelLogParser",
    "Signature",
    "confirm",
    "decode_taint",
    "dmesg_covers_from",
    "events_in_dmesg",
    "explain_insmod",
    "explain_refusal",
    "frames_in",
    "taint_delta",
    "taint_notes",
]
