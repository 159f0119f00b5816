"""The table of what counts as bad: one row per signature, first match wins.

Every pattern is matched at the START of a kernel message (behind timestamp and priority), never
searched inside it: `DEBUG` contains `BUG`, and any text may be quoted in the middle of a line.
Taken from the printk formats of Linux 6.1 to 6.18 (x86, and arm64 where it differs).

Deliberately no events, because a healthy kernel says them while a filesystem is being tested:
`EXT4-fs error` and other filesystems' own complaints about a medium (but for the guest's root
disk, which is sound: who damaged it wrote where it should not), `Buffer I/O error`,
`I/O error, dev …`, `attempt to access beyond end of device`, `loading out-of-tree module taints
kernel`, `module verification failed: … tainting kernel`, `workqueue: … hogged CPU` and
`perf: interrupt took too long` (usual under TCG), `WARNING: Spectre v2 mitigation …`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from vexrun.kernel_log.load import REFUSALS


class EventClass(StrEnum):
    """What kind of harm; the `class` of a KernelEvent."""

    PANIC = "panic"
    OOPS = "oops"
    WARNING = "warning"
    SANITIZER = "sanitizer"
    LOCKING = "locking"
    ATOMIC = "atomic"
    HANG = "hang"
    MEMORY = "memory"
    UNLOAD = "unload"
    LOAD = "load"
    RUST = "rust"
    SILENT = "silent"


@dataclass(frozen=True)
class Signature:
    """One row.

    `title` is a format string over the pattern's named groups and `where`, which becomes
    ` in FUNCTION` or nothing. `continues` names signatures whose still open report this line
    belongs to (kernels print one failure as several of them); the earlier row keeps naming it.
    A `single` row is a report of one line, whatever follows.
    """

    name: str
    event_class: EventClass
    pattern: str
    title: str
    continues: frozenset[str] = frozenset()
    single: bool = False
    patience: int = 8  # unrelated-looking kernel lines tolerated inside the report


_PANIC, _OOPS, _WARNING = EventClass.PANIC, EventClass.OOPS, EventClass.WARNING
_SANITIZER, _LOCKING, _ATOMIC = EventClass.SANITIZER, EventClass.LOCKING, EventClass.ATOMIC
_HANG, _MEMORY, _UNLOAD = EventClass.HANG, EventClass.MEMORY, EventClass.UNLOAD

_FUNC = r"(?P<func>[\w.$]+)(?:\+0x\S+)?(?: \[(?P<mod>[\w-]+)[^\]]*\])?"
_FILE = r"(?P<file>[^\s:]+):(?P<line>\d+)"

#: What a BUG() or WARN() may follow: messages printed just before it (CHECK_DATA_CORRUPTION,
#: usercopy, fortify, Rust's panic handler, the allocator's checks).
_DATA_CORRUPTION = frozenset(
    {
        "list_add",
        "list_del",
        "busy_inodes",
        "usercopy",
        "fortify",
        "rust_panic",
        "dentry_in_use",
        "refcount",
        "slab_remaining",
        "slab_leaked",
        "slab",
        "slab_check",
        "odebug",
        "cfi",
        "debug_locks",
        "duplicate_proc",
        "duplicate_cache",
        "proc_leftover",
        "kobject_misuse",
        "blocking_ops",
        "initcall_imbalance",
        "rcu_context_switch",
        "field_spanning",
    }
)
#: The first line of an oops on x86, which `Oops: 0002 [#1]` or a trap name then follows.
_DYING = _DATA_CORRUPTION | {
    "null_deref",
    "page_fault",
    "nx_page",
    "smep",
    "stack_guard",
    "kernel_bug",
    "kernel_bug_unlocated",
    "double_fault",
    "arm64_null",
    "arm64_fault",
}

SIGNATURES: tuple[Signature, ...] = (
    # -- panic: when it only concludes an earlier report, the parser keeps that report's title
    Signature(
        "panic",
        _PANIC,
        r"Kernel panic - not syncing(?:: (?P<reason>.*))?$",
        "panic: {reason}",
        patience=40,
    ),
    # -- sanitizers come before the oopses: their lines also begin with BUG:
    Signature(
        "kasan",
        _SANITIZER,
        rf"BUG: KASAN: (?P<what>[\w-]+(?: or [\w-]+)*) (?:in|on) {_FUNC}",
        "KASAN: {what} in {func}",
    ),
    Signature("kasan_other", _SANITIZER, r"BUG: KASAN: (?P<what>.*)", "KASAN: {what}{where}"),
    Signature(
        "kfence",
        _SANITIZER,
        rf"BUG: KFENCE: (?P<what>.+?) in {_FUNC}",
        "KFENCE: {what} in {func}",
    ),
    Signature(
        "kmsan", _SANITIZER, rf"BUG: KMSAN: (?P<what>[\w-]+) in {_FUNC}", "KMSAN: {what} in {func}"
    ),
    Signature(
        "kcsan",
        _SANITIZER,
        r"BUG: KCSAN: (?P<what>[\w -]+) in (?P<func>[\w.]+)(?: / (?P<other>[\w.]+))?",
        "KCSAN: {what} in {func}",
    ),
    Signature(
        "sanitizer_other",
        _SANITIZER,
        r"BUG: (?P<tool>K[A-Z]{2,5}AN|KFENCE): (?P<what>.*)",
        "{tool}: {what}{where}",
    ),
    Signature(
        "ubsan",
        _SANITIZER,
        rf"(?:Internal error: )?UBSAN: (?P<what>[\w -]+) in {_FILE}(?::\d+)?",
        "UBSAN: {what} at {file}:{line}",
    ),
    # -- oops
    Signature(
        "null_deref",
        _OOPS,
        r"BUG: kernel NULL pointer dereference",
        "NULL pointer dereference{where}",
        continues=frozenset({"nx_page", "smep"}),
    ),
    Signature(
        "page_fault",
        _OOPS,
        r"BUG: unable to handle (?:page fault|kernel paging request|kernel NULL pointer)",
        "page fault at a bad address{where}",
        continues=frozenset({"nx_page", "smep"}),
    ),
    Signature("unable", _OOPS, r"BUG: unable to handle ", "unhandled fault{where}"),
    Signature(
        "nx_page",
        _OOPS,
        r"kernel tried to execute NX-protected page",
        "execution of a non-executable page{where}",
    ),
    Signature(
        "smep",
        _OOPS,
        r"unable to execute userspace code \(SMEP\?\)",
        "execution of userspace memory by the kernel{where}",
    ),
    Signature(
        "stack_guard",
        _OOPS,
        r"BUG: (?:(?P<stack>\w+) stack guard page was hit|stack guard page)",
        "stack overflow{where}",
    ),
    Signature("stack_overflow", _OOPS, r"kernel stack overflow", "stack overflow{where}"),
    Signature(
        "double_fault",
        _OOPS,
        r"(?:traps: )?(?:PANIC: )?double fault",
        "double fault{where}",
        continues=frozenset({"stack_guard", "double_fault"}),
    ),
    Signature(
        "kernel_bug",
        _OOPS,
        rf"kernel BUG at {_FILE}!",
        "kernel BUG at {file}:{line}{where}",
        continues=_DATA_CORRUPTION,
    ),
    Signature(
        "kernel_bug_unlocated",
        _OOPS,
        r"(?:[Kk]ernel BUG(?: at)?\b|BUG: failure at )",
        "kernel BUG{where}",
        continues=_DATA_CORRUPTION,
    ),
    Signature(
        "general_protection",
        _OOPS,
        r"(?:Oops: )?general protection fault",
        "general protection fault{where}",
        continues=_DYING,
    ),
    Signature(
        "divide",
        _OOPS,
        r"(?:Oops: )?divide error:",
        "division by zero{where}",
        continues=_DYING,
    ),
    Signature(
        "invalid_opcode",
        _OOPS,
        r"(?:Oops: )?invalid opcode:",
        "invalid opcode{where}",
        continues=_DYING,
    ),
    Signature(
        "trap",
        _OOPS,
        r"(?:Oops: )?(?P<trap>stack segment|segment not present|invalid TSS|bounds|"
        r"alignment check|int3|overflow|coprocessor error|simd exception|"
        r"control protection fault|stack guard page):(?: \w+)? [0-9a-f]{4} \[#",
        "{trap}{where}",
        continues=_DYING,
    ),
    Signature("oops", _OOPS, r"Oops(?: - [\w ]+)?: ", "Oops{where}", continues=_DYING),
    Signature(
        "arm64_null",
        _OOPS,
        r"Unable to handle kernel NULL pointer dereference",
        "NULL pointer dereference{where}",
    ),
    Signature(
        "arm64_fault", _OOPS, r"Unable to handle kernel ", "page fault at a bad address{where}"
    ),
    Signature(
        "internal_error", _OOPS, r"Internal error: ", "internal error{where}", continues=_DYING
    ),
    Signature(
        "usercopy",
        _OOPS,
        r"usercopy: Kernel memory (?P<what>exposure|overwrite) attempt detected",
        "usercopy: kernel memory {what} attempt{where}",
    ),
    Signature("cfi", _OOPS, r"CFI failure at " + _FUNC, "control-flow integrity failure in {func}"),
    Signature("endbr", _OOPS, r"(?:traps: )?Missing ENDBR: ", "missing ENDBR{where}"),
    # -- rust
    Signature(
        "rust_panic",
        EventClass.RUST,
        r"rust_kernel: panicked at (?:'(?P<message>.*)', )?(?P<file>[^\s:']+):(?P<line>\d+)",
        "Rust panic at {file}:{line}",
    ),
    Signature(
        "rust_panic_other", EventClass.RUST, r"rust_kernel: panicked at", "Rust panic{where}"
    ),
    # -- locking (lockdep and the debug checks of the locks themselves)
    Signature(
        "lockdep",
        _LOCKING,
        r"(?:WARNING|INFO): (?P<what>possible (?:circular locking dependency|recursive locking|"
        r"irq lock inversion dependency)|inconsistent lock state|suspicious RCU usage|"
        r"bad unlock balance|bad contention|held lock freed|nested lock was not taken|"
        r"lock held when returning to user space|"
        r"[\w-]+-safe -> [\w-]+-unsafe lock order)",
        "{what}{where}",
    ),
    Signature(
        "locks_still_held",
        _LOCKING,
        r"WARNING: .{1,64} still has locks held!",
        "still has locks held{where}",
    ),
    Signature(
        "wait_context", _LOCKING, r"\[ BUG: Invalid wait context \]", "invalid wait context{where}"
    ),
    Signature(
        "lockdep_bug",
        _LOCKING,
        r"\[ BUG: (?P<what>[^\]]{1,80}?) \]",
        "lockdep: {what}{where}",
    ),
    Signature(
        "static_key",
        _LOCKING,
        r"INFO: trying to register non-static key",
        "unregistered lock{where}",
    ),
    Signature(
        "spinlock",
        _LOCKING,
        r"BUG: (?P<what>(?:spinlock|rwlock|raw_spinlock) [\w -]+?)(?: on CPU#\d+.*|,.*|$)",
        "{what}{where}",
    ),
    Signature(
        "debug_locks", _LOCKING, r"DEBUG_LOCKS_WARN_ON\((?P<what>.*)\)", "lock check {what}{where}"
    ),
    Signature(
        "rcu_context_switch",
        _LOCKING,
        r"Voluntary context switch within RCU read-side critical section!",
        "context switch within RCU read-side critical section{where}",
    ),
    # -- atomic
    Signature(
        "scheduling_while_atomic",
        _ATOMIC,
        r"BUG: scheduling while atomic",
        "scheduling while atomic{where}",
    ),
    Signature(
        "sleeping_in_atomic",
        _ATOMIC,
        r"BUG: sleeping function called from invalid context",
        "sleeping function called from invalid context{where}",
    ),
    Signature(
        "preemptible",
        _ATOMIC,
        r"BUG: using (?P<what>\w+)\(\) in preemptible",
        "{what}() in preemptible code{where}",
    ),
    Signature(
        "leaked_atomic",
        _ATOMIC,
        r"BUG: workqueue leaked (?:lock|atomic)|workqueue: .{1,80} leaked (?:lock|atomic)",
        "workqueue function leaked a lock or atomic context{where}",
    ),
    Signature(  # no stack, no WARNING, no taint
        "softirq_leaked_atomic",
        _ATOMIC,
        r"(?:softirq: )?huh, entered softirq \d+ (?P<what>\w+) .* with preempt_count \w+, exited ",
        "softirq {what} leaked atomic context",
        single=True,
    ),
    Signature(
        "blocking_ops",
        _ATOMIC,
        r"do not call blocking ops when !TASK_RUNNING",
        "blocking operation while not TASK_RUNNING{where}",
    ),
    Signature(
        "initcall_imbalance",
        _ATOMIC,
        r"initcall (?P<func>[\w.]+)\S* (?:\[[^\]]*\] )?returned with (?P<what>[\w ]+)",
        "{func} returned with {what}",
    ),
    # -- hang
    Signature(
        "soft_lockup",
        _HANG,
        r"(?:NMI )?watchdog: BUG: soft lockup",
        "soft lockup{where}",
        patience=20,
    ),
    Signature(
        "hard_lockup",
        _HANG,
        r"(?:NMI )?watchdog: (?:CPU\d+: )?Watchdog detected hard LOCKUP",
        "hard lockup{where}",
        patience=20,
    ),
    Signature(
        "hung_task",
        _HANG,
        r"INFO: task (?P<task>.{1,32}?):\d+ (?:<[^>]*> )?(?:is )?blocked .*for more than \d+ s",
        "task {task} blocked{where}",
    ),
    Signature(
        "rcu_stall",
        _HANG,
        r"(?:rcu: )?INFO: rcu\w* (?:self-)?detected (?:\w+ )?stalls?",
        "RCU stall{where}",
        patience=40,
    ),
    Signature(
        "rcu_starved",
        _HANG,
        r"rcu: (?P<what>rcu\w* \S*kthread \S*) starved for \d+ jiffies",
        "RCU kthread starved{where}",
        continues=frozenset({"rcu_stall"}),
    ),
    Signature(
        "workqueue_lockup",
        _HANG,
        r"BUG: workqueue lockup - pool",
        "workqueue lockup{where}",
        patience=40,
    ),
    # -- unload: things the subject left behind
    Signature(
        "slab_remaining",
        _UNLOAD,
        r"BUG (?P<cache>\S+) \((?:Tainted|Not tainted)[^)]*\): Objects remaining",
        "objects remaining in slab cache {cache}",
    ),
    Signature(
        "slab_leaked",
        _UNLOAD,
        r"(?:kmem_cache_destroy|slab) (?P<cache>\S+): Slab cache still has objects",
        "objects remaining in slab cache {cache}",
        continues=frozenset({"slab_remaining"}),
    ),
    Signature(
        "busy_inodes",
        _UNLOAD,
        r"VFS: Busy inodes after unmount of \S+(?: \((?P<fstype>[^)]*)\))?",
        "busy inodes after unmount of {fstype}",
    ),
    Signature(
        "dentry_in_use",
        _UNLOAD,
        r"BUG: Dentry .* still in use \(-?\d+\) \[unmount of (?P<fstype>\S+)",
        "dentry still in use at unmount of {fstype}",
    ),
    Signature(
        "duplicate_name",
        _UNLOAD,
        r"sysfs: cannot create duplicate filename '(?P<path>[^']*)'",
        "duplicate sysfs name {path}",
        patience=30,
    ),
    Signature(
        "duplicate_kobject",
        _UNLOAD,
        r"(?:kobject: )?kobject_add_internal failed for (?P<path>\S+) with -EEXIST",
        "duplicate kobject {path}",
        continues=frozenset({"duplicate_name"}),
    ),
    Signature(
        "kobject_misuse",
        _UNLOAD,
        r"kobject: '(?P<path>[^']*)' \([^)]*\): (?P<what>is not initialized, yet kobject_\w+\(\) "
        r"is being called)",
        "kobject {path}: {what}",
    ),
    Signature(  # a stack, but no WARNING and no taint; `kobject: ` before it since Linux 6.3
        "kobject_init",
        _UNLOAD,
        r"(?:kobject: )?kobject \([^)]*\): (?P<what>tried to init an initialized object|"
        r"must have a ktype to be initialized properly|invalid kobject pointer)",
        "kobject: {what}{where}",
    ),
    Signature(
        "duplicate_proc",
        _UNLOAD,
        r"proc_dir_entry '(?P<path>[^']*)' already registered",
        "duplicate /proc entry {path}",
    ),
    Signature(
        "proc_leftover",
        _UNLOAD,
        r"remove_proc_entry: removing non-empty directory '(?P<path>[^']*)'",
        "/proc directory {path} removed while not empty",
    ),
    Signature(
        "duplicate_debugfs",
        _UNLOAD,
        r"debugfs: (?:Directory|File|directory|file) '(?P<path>[^']*)' .*already present",
        "duplicate debugfs entry {path}",
        single=True,
    ),
    Signature(
        "duplicate_sysctl",
        _UNLOAD,
        r"sysctl duplicate entry: (?P<path>\S+)",
        "duplicate sysctl entry {path}",
        single=True,  # 6.1 prints a stack behind it, 6.12 none: the same key on both
    ),
    Signature(
        "duplicate_cache",
        _UNLOAD,
        r"kmem_cache of name '(?P<cache>[^']*)' already exists",
        "duplicate slab cache {cache}",
    ),
    # -- memory
    Signature(
        "bad_page",
        _MEMORY,
        r"BUG: Bad (?P<what>page state|page map|page cache|rss-counter state)",
        "bad {what}{where}",
    ),
    Signature(
        "pgtables",
        _MEMORY,
        r"BUG: non-zero pgtables_bytes on freeing mm",
        "non-zero pgtables_bytes on freeing mm",
        single=True,
    ),
    Signature(  # since Linux 6.12.y and 6.16 a line of its own before the slab report
        "slab_check",
        _MEMORY,
        r"\[(?P<what>[A-Z][\w ]{1,60})\] 0x[0-9a-f]+-0x[0-9a-f]+ @offset=",
        "slab: {what}{where}",
        patience=20,
    ),
    Signature(
        "slab",
        _MEMORY,
        r"BUG (?P<cache>\S+) \((?:Tainted|Not tainted)[^)]*\): (?P<what>.*)",
        "slab {cache}: {what}{where}",
        continues=frozenset({"slab_check"}),
        patience=20,
    ),
    Signature("slab_other", _MEMORY, r"BUG (?P<cache>kmalloc-\S+)", "slab {cache}{where}"),
    Signature(
        "refcount",
        _MEMORY,
        r"refcount_t: (?P<what>[^;.]*)",
        "refcount_t: {what}{where}",
    ),
    Signature(
        "list_add", _MEMORY, r"list_add (?:corruption|double add)", "list_add corruption{where}"
    ),
    Signature("list_del", _MEMORY, r"list_del corruption", "list_del corruption{where}"),
    Signature(
        "fortify",
        _MEMORY,
        r"(?:fortify: )?(?:(?P<func>\w+): )?detected buffer overflow",
        "detected buffer overflow{where}",
    ),
    Signature(
        "field_spanning",
        _MEMORY,
        r"(?P<func>\w+): detected field-spanning (?P<what>write|read)",
        "field-spanning {what}{where}",
    ),
    Signature(
        "odebug", _MEMORY, r"ODEBUG: (?P<what>\w+(?: \w+)?) ", "ODEBUG: {what} object{where}"
    ),
    Signature(  # no WARNING and no taint; the root disk of our machines is the first one
        "root_damaged",
        _MEMORY,
        r"EXT4-fs error \(device vda\d*\): (?P<func>\w+)",
        "the guest's root filesystem is damaged: {func}",
        single=True,
    ),
    Signature("kmemleak", _MEMORY, r"unreferenced object 0x[0-9a-f]+", "memory leak{where}"),
    Signature(
        "kmemleak_summary",
        _MEMORY,
        r"kmemleak: \d+ new suspected memory leaks",
        "suspected memory leaks",
        single=True,
    ),
    Signature(
        "oom_invoked",
        _MEMORY,
        r".{1,32} invoked oom-killer: ",
        "out of memory",
        patience=80,
    ),
    Signature(
        "oom_memcg",
        _MEMORY,
        r"Memory cgroup out of memory: Killed process",
        "out of memory in a memory cgroup",
        continues=frozenset({"oom_invoked"}),
    ),
    Signature(
        "oom_killed",
        _MEMORY,
        r"Out of memory(?: \([^)]*\))?: Killed process",
        "out of memory",
        continues=frozenset({"oom_invoked"}),
    ),
    Signature(
        "page_allocation",
        _MEMORY,
        r".{1,32}: page allocation failure: order:(?P<order>\d+)",
        "page allocation failure of order {order}{where}",
        patience=40,
    ),
    Signature(
        "vmalloc",
        _MEMORY,
        r".{1,32}: (?:vmalloc error: size \d+, (?P<what>[a-z_ ]+)|vmalloc: allocation failure)",
        "vmalloc: {what}{where}",
        patience=40,
    ),
    Signature(  # a stack, but no WARNING and no taint
        "block_size",
        _MEMORY,
        r"getblk\(\): invalid block size \d+ requested",
        "buffer of an invalid block size{where}",
    ),
    # -- load
    *(
        Signature(refusal.name, EventClass.LOAD, refusal.pattern, refusal.title, single=True)
        for refusal in REFUSALS
    ),
    # -- warning: last, because everything above is more precise
    Signature(
        "warning",
        _WARNING,
        rf"WARNING: CPU: \d+ PID: \d+ at {_FILE}(?: {_FUNC})?",
        "WARNING at {file}:{line} {func}",
        continues=_DATA_CORRUPTION,
    ),
    Signature(  # since Linux 6.19, and where bug verbosity is configured without a file
        "warning_reordered",
        _WARNING,
        rf"WARNING: {_FILE} at {_FUNC}",
        "WARNING at {file}:{line} {func}",
        continues=_DATA_CORRUPTION,
    ),
    Signature(
        "warning_unlocated",
        _WARNING,
        rf"WARNING: (?:CPU: \d+ PID: \d+ )?at {_FUNC}",
        "WARNING at {func}",
        continues=_DATA_CORRUPTION,
    ),
    Signature(
        "suspicious_return",
        _WARNING,
        r"do_init_module: '(?P<module>[^']*)'->init suspiciously returned (?P<value>-?\d+)",
        "{module}: init suspiciously returned {value}",
    ),
    Signature("msr", _WARNING, r"unchecked MSR access error", "unchecked MSR access{where}"),
)

#: A panic for one of these reasons concludes the report just before it, if that is of a class
#: that leads to it: a WARNING some lines earlier has not killed init.
_DIED = frozenset(EventClass) - {_WARNING, _HANG, EventClass.LOAD}
_CONCLUDING: tuple[tuple[str, frozenset[EventClass]], ...] = (
    (r"(?:[\w ]+: )?panic_on_(?:warn|taint)", frozenset(EventClass)),
    (
        r"softlockup: hung tasks|(?:Hard|hard) LOCKUP|hung_task: blocked|RCU Stall",
        frozenset({_HANG}),
    ),
    (r"Out of memory|System is deadlocked on memory", frozenset({_MEMORY})),
    (
        r"Fatal exception|Fatal machine check|Aiee, killing interrupt handler|Oops|BUG!|UBSAN"
        r"|Attempted to kill (?:init|the idle task)|(?:kernel )?stack overflow|corrupted stack end",
        _DIED,
    ),
)
_CONCLUDING_PATTERNS = tuple(
    (re.compile(f"Kernel panic - not syncing: (?:{reason})"), classes)
    for reason, classes in _CONCLUDING
)


def concluded_classes(panic_line: str) -> frozenset[EventClass]:
    """Of which classes an open report is concluded by this panic; empty: the panic is news."""
    for pattern, classes in _CONCLUDING_PATTERNS:
        if pattern.match(panic_line):
            return classes
    return frozenset()


CUT_HERE = re.compile(r"-{6,16}\[ cut here \]-{6,16}")
END_TRACE = re.compile(r"---\[ end (?P<what>trace|Kernel panic)")
BANNER = re.compile(r"Linux version \d+\.\d+")

COMPILED: dict[str, tuple[Signature, re.Pattern[str]]] = {
    f"row{number}": (signature, re.compile(signature.pattern))
    for number, signature in enumerate(SIGNATURES)
}
#: All rows as one anchored match: cheap on a flood, and its last group names the row.
_NAMED = re.compile(r"\?P<\w+>")
_ANY = re.compile(
    "|".join(
        f"(?P<{row}>{_NAMED.sub('?:', pattern.pattern)})" for row, (_, pattern) in COMPILED.items()
    )
)


def classify(text: str) -> tuple[Signature, re.Match[str]] | None:
    """The first row that a kernel message (without timestamp) matches."""
    found = _ANY.match(text)
    if found is None or found.lastgroup is None:
        return None
    signature, pattern = COMPILED[found.lastgroup]
    match = pattern.match(text)
    return None if match is None else (signature, match)
