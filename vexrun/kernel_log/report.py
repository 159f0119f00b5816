"""One report of the kernel: the lines from its first sign to its end, made into an event.

A report is what a kernel engineer would paste into a bug: `cut here`, the reason, registers,
call trace, `end trace`. An oops that then panics the machine stays one report: its class becomes
`panic`, its title and key stay those of the oops, so the same bug is recognised with and without
panic_on_oops.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Collection
from functools import lru_cache

from vexrun.kernel_log.classes import CUT_HERE, END_TRACE, EventClass, Signature
from vexrun.kernel_log.lines import LineReader, LogLine
from vexrun.results.model import FrameAddress, KernelEvent, StackFrame

EXCERPT_HEAD = 47
EXCERPT_TAIL = 12
MAX_LINES = 4000  # a slab dump of one page alone has hundreds of lines
MAX_GAP_S = 11.0  # rcu waits up to 10 s for the other CPUs' backtraces
MAX_TITLE = 160
MAX_EXCERPT_LINE = 400
MAX_FRAMES = 32  # of the subject's modules; recursion repeats the same ones, which count once

_FRAME = re.compile(
    r"(?P<guess>\? )?(?P<frame>(?P<func>[A-Za-z_][\w.$]*)\+(?P<offset>0x[0-9a-f]+/0x[0-9a-f]+)"
    r"(?: \[(?P<module>[\w-]+)(?: [0-9a-f]{20,40})?\])?)"
)
_RIP = re.compile(r"(?:RIP: 0010:|pc : |epc : |EIP: )")
_USER_RIP = re.compile(r"RIP: 0033:")
#: Lines whose address is the instruction itself. All others are return addresses: sprint_backtrace
#: (%pB) looks up one byte less, so that a call at the very end of a function keeps its name.
_AT_INSTRUCTION = re.compile(rf"{_RIP.pattern}|WARNING: |BUG: KFENCE: |initcall ")

#: Lines that belong to a report, as opposed to what other parts of the kernel say meanwhile.
_BODY = re.compile(
    r"\s|$|CPU: |Tainted: |Hardware name|RIP: |RSP: |R\w\w: |Code: |[FC]S: |CR\d: |DR\d: |PKRU: "
    r"|Call Trace|Call trace|Modules linked in|Unloaded tainted|---\[|#PF: |PGD |Oops|<TASK>|<IRQ>"
    r"|irq event stamp|(?:hard|soft)irqs |Workqueue: |Sending NMI|NMI backtrace|rcu: |task:|\(\w"
    r"|Kernel Offset|Preemption disabled|in_atomic\(\)|preempt_count|={6,}|-{6,}|\*{3,}|\"echo 0 "
    r"|(?:Read|Write) (?:of|at)|(?:Allocated|Freed) (?:by|in)|allocated by|freed by|The buggy|page:"
    r"|flags:|raw:|page dumped|Slab |Object |Padding|Redzone|Bytes b4|Last |FIX |INFO: |Disabling"
    r"|note: |kfence-#|Memory state|head:|page_type|last enabled|last disabled|process |stack:"
    r"|other info|Possible unsafe|the existing dependency|which lock already|but task|but there"
    r"|\d+ locks? held|no locks held|1 lock held|stack backtrace|#\d+:|->|locks held|\*\*\*"
    r"|Rebooting in|Dumping ftrace|SMP: |Comm: |pc : |lr : |sp : |x\d+ ?: |pstate: |BUG: |WARNING: "
    r"|Showing |workqueue |pool \d|pending: |in-flight: |comm |Mem-Info|Node |oom-kill"
    r"|lowmem_reserve|Tasks state|\[ +pid|\[ +\d+\]|\d+ (?:total|pages)|Free swap|Total swap"
    r"|active_anon|KASAN: "
)
_TERMINAL = re.compile(r"---\[ end Kernel panic")

#: Functions that every report of a kind goes through: they say nothing about where.
_PLUMBING = re.compile(
    r"(?:dump_stack|show_stack|dump_backtrace|panic|vpanic|nmi_panic|__warn|warn_slowpath|report_bug"
    r"|handle_bug|exc_|asm_|__die|die\b|page_fault_oops|do_user_addr_fault|bad_area|__bad_area"
    r"|no_context|kasan_|__kasan|print_|check_memory_region|__schedule|schedule|io_schedule"
    r"|preempt_schedule|__might_|___might|mutex_lock|__mutex|down_|rwsem_|__down|wait_for_|__wait_for"
    r"|watchdog|__hrtimer|hrtimer_|sysvec_|__sysvec|nmi_|rcu_|kfence_|__sysrq|lock_acquire|__lock_"
    r"|object_err|slab_|__slab|free_debug|alloc_debug|free_to_partial|free_single|kmem_cache_|kfree"
    r"|__kmem|kmalloc|__kmalloc|sysfs_|kobject_|refcount_warn|debug_|oom_kill|out_of_memory|bad_page"
    r"|dump_header|warn_alloc|__list_|list_|usercopy_|__check_|check_heap|msleep|fortify|trace_|ret_from)"
)
_SUFFIX = re.compile(r"\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)*|\.cold$")
_VOLATILE = re.compile(
    r"0x[0-9a-fA-F]+|\b[0-9a-f]{8,16}\b|\bPID:? ?\d+|\bpid[=:] ?\d+|\bCPU#? ?\d+"
)
_KWORKER = re.compile(r"kworker/[\w:+.-]+")
_SPACES = re.compile(r"\s+")
_SLAB_CACHE = re.compile(r"slab \S+: ")


def plain_function(name: str) -> str:
    """A function's name in the source, without the compiler's suffixes."""
    return _SUFFIX.sub("", name)


@lru_cache(maxsize=1024)
def stable(text: str) -> str:
    """Text without addresses, PIDs and CPU numbers."""
    text = _KWORKER.sub("kworker", _VOLATILE.sub("N", text))
    return _SPACES.sub(" ", text).strip()


@lru_cache(maxsize=1024)
def _key(event_class: str, title: str, function: str) -> str:
    # Linux 6.12.y names the damage in a line before the one with the cache, 6.1 in one; and an
    # allocation moves between kmalloc caches when an unrelated member is added to its struct.
    title = _SLAB_CACHE.sub("slab: ", title)
    material = "|".join((event_class, re.sub(r"\d+", "#", title), function))
    return hashlib.sha256(material.encode("utf-8", "replace")).hexdigest()[:12]


def frames_in(text: str, modules: Collection[str] = ()) -> list[StackFrame]:
    """The frames inside the modules in kernel lines that are no event: stacks asked for by SysRq.

    Without modules, of every one.
    """
    report = Report(LogLine(0, ""), [name.replace("-", "_") for name in modules], "")
    for line in LineReader().feed(text.encode("utf-8", "replace") + b"\n"):
        report._look_for_frames(line.text)
    return list(report._frames.values())


class Report:
    """Collects the lines of one report; `event()` makes the KernelEvent."""

    def __init__(self, first: LogLine, modules: Collection[str], source: str) -> None:
        self.first = first
        self.last = first
        self.signature: Signature | None = None
        self.root_class = EventClass.WARNING  # of a `cut here` that names no reason
        self.event_class = EventClass.WARNING
        self.ended = False  # saw its end marker; only register lines or a panic may follow
        self.terminal = False  # nothing can follow
        self.count = 0
        self._modules = modules
        self._source = source
        self._groups: dict[str, str] = {}
        self._message = ""  # first line behind `cut here`
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=EXCERPT_TAIL)
        self._foreign: list[LogLine] = []  # trailing lines that look unrelated
        self._rip: str | None = None
        self._module_frame: str | None = None
        self._module_function = ""
        self._guessed_frame: str | None = None
        self._guessed_function = ""
        self._where: str | None = None
        self._frames: dict[str, StackFrame] = {}  # of our modules, by their text
        self._is_cut = False

    # -- collecting

    def define(self, signature: Signature, groups: dict[str, str | None]) -> None:
        """Says what this report is about; later signatures do not rename it."""
        self.signature = signature
        self.root_class = self.event_class = signature.event_class
        self._groups = {name: value or "" for name, value in groups.items()}

    def add(self, line: LogLine) -> None:
        """A line of the report."""
        for foreign in self._foreign:
            self._keep(foreign)
            if not self.ended:
                self._look_for_frames(foreign.text)
        self._foreign.clear()
        self._keep(line)
        self.last = line
        text = line.text
        if CUT_HERE.match(text):
            self._is_cut = True
        elif self._is_cut and not self._message:
            self._message = text
        end = END_TRACE.match(text)
        if end:
            self.ended = True
            self.terminal = end["what"] == "Kernel panic"
        elif not self.ended:
            self._look_for_frames(text)

    def offer(self, line: LogLine) -> bool:
        """Takes a line that carries no signature, or refuses it: then the report is over."""
        if self.terminal or self.count >= MAX_LINES or self.signature_is_single:
            return False
        if line.text.startswith("sysrq: "):
            # Somebody asks the kernel for something else: what it says now is no report's.
            return False
        if self._is_of_blocked_task and line.text.startswith("NMI backtrace for cpu"):
            # So it is with what every CPU does: the task that is blocked runs on none.
            return False
        if line.seconds - self.last.seconds > MAX_GAP_S:
            return False
        if _BODY.match(line.text) or (self.signature is None and not self._message):
            self.add(line)
            return True
        patience = self.signature.patience if self.signature else 8
        if len(self._foreign) >= patience:
            return False
        self._foreign.append(line)
        return True

    @property
    def _is_of_blocked_task(self) -> bool:
        return self.signature is not None and self.signature.name == "hung_task"

    @property
    def signature_is_single(self) -> bool:
        return self.signature is not None and self.signature.single

    def absorb(self, other: Report) -> None:
        """Takes over the lines of a `cut here` that turned out to belong to this report."""
        for text in [*other._head, *other._tail]:
            self._keep_text(text)
        for frame, decoded in other._frames.items():
            self._frames.setdefault(frame, decoded)
        self._foreign.clear()
        self.last = other.last

    def conclude_with_panic(self, line: LogLine) -> None:
        """The machine panicked because of this report."""
        self.event_class = EventClass.PANIC
        self.add(line)

    def _keep(self, line: LogLine) -> None:
        self._keep_text(str(line)[:MAX_EXCERPT_LINE])

    def _keep_text(self, text: str) -> None:
        self.count += 1
        if len(self._head) < EXCERPT_HEAD:
            self._head.append(text)
        else:
            self._tail.append(text)

    def _look_for_frames(self, text: str) -> None:
        if _USER_RIP.match(text):
            return
        match = _FRAME.search(text)
        if match is None:
            return
        function = plain_function(match["func"])
        guess = match["guess"] is not None
        if _RIP.match(text) and self._rip is None:
            self._rip = function
        module = (match["module"] or "").replace("-", "_")
        ours = bool(module) and (not self._modules or module in self._modules)
        if ours and not guess and self._module_frame is None:
            self._module_frame, self._module_function = match["frame"], function
        elif ours and guess and self._guessed_frame is None:
            self._guessed_frame, self._guessed_function = match["frame"], function
        if ours:
            self._keep_frame(match, at_instruction=_AT_INSTRUCTION.match(text) is not None)
        if self._where is None and not guess and not _PLUMBING.match(function):
            self._where = function

    def _keep_frame(self, match: re.Match[str], *, at_instruction: bool) -> None:
        """Each frame once, where it was first seen for certain."""
        text, symbol = match["frame"], match["func"]
        if symbol.startswith("__pfx_"):  # a pointer to a function, no place in one
            return
        address = FrameAddress.INSTRUCTION if at_instruction else FrameAddress.RETURN
        if match["guess"]:
            address = FrameAddress.GUESS
        known = self._frames.get(text)
        if known is not None and known.address is FrameAddress.GUESS is not address:
            del self._frames[text]
        if len(self._frames) < MAX_FRAMES:
            frame = StackFrame(
                function=symbol, module=match["module"], offset=match["offset"], address=address
            )
            self._frames.setdefault(text, frame)

    # -- the result

    @property
    def module_frame(self) -> str | None:
        return self._module_frame or self._guessed_frame

    def _function(self) -> str:
        """Where it happened: the faulting function of an oops, else the subject's own."""
        faulted = self.root_class in (EventClass.OOPS, EventClass.HANG)
        rip = self._rip if self._rip and not _PLUMBING.match(self._rip) else None
        if faulted and rip:
            return rip
        return self._module_function or rip or self._where or ""

    @property
    def title(self) -> str:
        if self.signature is None:
            return stable(f"WARNING: {self._message}" if self._message else "WARNING")[:MAX_TITLE]
        function = self._function()
        groups = {name: stable(value) for name, value in self._groups.items()}
        if groups.get("func"):
            groups["func"] = plain_function(groups["func"])
        if groups.get("file", "").startswith("/"):
            # An out-of-tree module is compiled by absolute path, which differs per machine.
            groups["file"] = groups["file"].rpartition("/")[2]
        groups.setdefault("func", function)
        groups["where"] = f" in {function}" if function else ""
        return stable(self.signature.title.format(**groups))[:MAX_TITLE].rstrip(": ")

    @property
    def key(self) -> str:
        """The same crash in another run, even after an unrelated edit moved its line."""
        frame = self._module_function or self._guessed_function
        return _key(self.root_class.value, self.title, frame)

    def event(self) -> KernelEvent:
        left_out = self.count - len(self._head) - len(self._tail)
        excerpt = list(self._head)
        if left_out > 0:
            excerpt.append(f"… {left_out} lines left out …")
        excerpt += self._tail
        return KernelEvent(
            event_class=self.event_class.value,
            title=self.title,
            module_frame=self.module_frame,
            console_offset=self.first.offset if self._source == "console" else None,
            key=self.key,
            excerpt=excerpt,
            source=self._source,
            source_line=self._printed_line(),
            frames=self._certain_first(),
        )

    def _certain_first(self) -> list[StackFrame]:
        """As printed, but what the unwinder only guessed does not stand first: there one looks."""
        frames = list(self._frames.values())
        certain = (n for n, frame in enumerate(frames) if frame.address is not FrameAddress.GUESS)
        first = next(certain, 0)
        return [*frames[first:], *frames[:first]]

    def _printed_line(self) -> str | None:
        """File and line that the kernel printed itself, when they must be the subject's.

        The kernel's own files are compiled by paths relative to its tree, an out-of-tree module's
        by absolute ones.
        """
        file, line = self._groups.get("file", ""), self._groups.get("line", "")
        ours = file.startswith("/") or (bool(file) and self.root_class is EventClass.RUST)
        return f"{file}:{line}" if ours else None
