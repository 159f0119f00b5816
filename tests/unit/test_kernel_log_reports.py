"""Real and composed kernel logs: each names its condition, each has its expected events."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vexrun.kernel_log import KernelLogParser, confirm, dmesg_covers_from, events_in_dmesg
from vexrun.results.model import KernelEvent

LOGS = Path(__file__).parent.parent / "data" / "logs"

Expected = list[tuple[str, str, str | None]]  # class, title, function of the module frame

#: Captured on 6.12 (trixie) and 6.1 (bookworm): what both kernels say is the same event.
CAPTURED: dict[str, Expected] = {
    "bad_return": [("warning", "bad_return: init suspiciously returned 1", None)],
    "bug_on": [("oops", "kernel BUG at bug_on.c:13 in bug_on_check", "bug_on_check")],
    "busy_dentry": [
        ("unload", "dentry still in use at unmount of busy_dentry", None),
        ("unload", "busy inodes after unmount of busy_dentry", None),
    ],
    "busy_inodes": [("unload", "busy inodes after unmount of busy_inodes", None)],
    "complaints_bad_parameter": [("load", "complaints: invalid parameter number", None)],
    "complaints_brelse": [("warning", "WARNING at fs/buffer.c:1239 __brelse", "complaints_init")],
    "complaints_debugfs_twice": [
        ("unload", "duplicate debugfs entry complaints", None),
        ("unload", "duplicate debugfs entry twice", None),
    ],
    "complaints_fortify": [
        ("memory", "detected buffer overflow in complaints_fortify", "complaints_fortify.cold")
    ],
    "complaints_field": [
        ("memory", "field-spanning write in complaints_field", "complaints_field")
    ],
    "complaints_getblk": [
        (
            "memory",
            "buffer of an invalid block size in complaints_getblk",
            "complaints_getblk",
        )
    ],
    "complaints_kfree": [
        ("warning", "WARNING at mm/slub.c:4799 free_large_kmalloc", "complaints_init")
    ],
    "complaints_kobject_never": [
        (
            "unload",
            "kobject (null): is not initialized, yet kobject_put() is being called",
            "complaints_init",
        ),
        ("memory", "refcount_t: underflow in complaints_init", "complaints_init"),
    ],
    "complaints_kobject_twice": [
        (
            "unload",
            "kobject: tried to init an initialized object in complaints_init",
            "complaints_init",
        )
    ],
    "complaints_kobject_typeless": [
        (
            "unload",
            "kobject: must have a ktype to be initialized properly in complaints_init",
            "complaints_init",
        )
    ],
    "complaints_list_del": [
        ("memory", "list_del corruption in complaints_list_del", "complaints_list_del")
    ],
    "complaints_list_twice": [
        ("memory", "list_add corruption in complaints_list_twice", "complaints_list_twice")
    ],
    "complaints_pages": [
        ("memory", "page allocation failure of order 9 in complaints_pages", "complaints_pages")
    ],
    "complaints_proc_busy": [
        (
            "unload",
            "/proc directory /proc/complaints_busy removed while not empty",
            "complaints_init",
        )
    ],
    "complaints_proc_twice": [
        ("unload", "duplicate /proc entry /proc/complaints_twice", "complaints_proc_twice")
    ],
    "complaints_rcu_sleep": [
        (
            "locking",
            "context switch within RCU read-side critical section in complaints_rcu_sleep",
            "complaints_rcu_sleep",
        )
    ],
    "complaints_stack": [
        (
            "panic",
            "panic: stack-protector: Kernel stack is corrupted in: "
            "complaints_stack+N/N [complaints]",
            "complaints_stack",
        )
    ],
    "complaints_sysctl_twice": [("unload", "duplicate sysctl entry /fs/complaints/twice", None)],
    "complaints_tasklet_leak": [("atomic", "softirq TASKLET leaked atomic context", None)],
    "complaints_vmalloc": [
        ("memory", "vmalloc: exceeds total pages in complaints_vmalloc", "complaints_vmalloc")
    ],
    "divide": [("oops", "division by zero in divide_by_zero", "divide_by_zero")],
    "double_free": [
        ("memory", "slab kmalloc-64: Object already free in double_free_it", "double_free_it")
    ],
    "dup_name": [("unload", "duplicate sysfs name /kernel/dup_name_canary", "dup_name_init")],
    "exec_data": [("oops", "execution of a non-executable page in code", "code")],
    "forged": [  # on the console alone they are believed; dmesg refutes them
        ("panic", "panic: forged with a timestamp", None),
        ("panic", "panic: forged through kmsg", None),
        ("oops", "NULL pointer dereference", None),
    ],
    "gp_fault": [("oops", "general protection fault in gp_fault_read", "gp_fault_read")],
    "harmless": [],
    "hung_task": [("hang", "task hung_task_wait blocked in hung_task_wait", "hung_task_wait")],
    "init_exit": [("panic", "panic: Attempted to kill init! exitcode=N", None)],
    "kfence_oob": [
        ("sanitizer", "KFENCE: out-of-bounds read in kfence_oob_read", "kfence_oob_read")
    ],
    "list_corrupt": [("memory", "list_add corruption in list_corrupt_add", "list_corrupt_add")],
    "memory_hog": [("memory", "out of memory", "memory_hog_eat")],
    "no_rootfs": [
        ("panic", "panic: VFS: Unable to mount root fs on unknown-block(0,0)", None),
    ],
    "null_call": [("oops", "NULL pointer dereference in null_call_jump", "null_call_jump")],
    "null_init": [("oops", "NULL pointer dereference in null_init_touch", "null_init_touch")],
    "null_init_oops_panic": [
        ("panic", "NULL pointer dereference in null_init_touch", "null_init_touch")
    ],
    "null_timer": [("panic", "NULL pointer dereference in null_timer_fire", "null_timer_fire")],
    "panic_call": [("panic", "panic: canary: superblock ate itself", "panic_call_now")],
    "panic_on_warn": [("panic", "WARNING at warn_on.c:11 warn_on_check", "warn_on_check")],
    "panic_sysrq": [("panic", "panic: sysrq triggered crash", None)],
    "rcu_stall": [("hang", "RCU stall in soft_lockup_spin", "soft_lockup_spin")] * 4,
    "refcount": [("memory", "refcount_t: addition on 0 in refcount_init", "refcount_init")],
    "sched_atomic": [
        ("atomic", "scheduling while atomic in sched_atomic_sleep", "sched_atomic_sleep"),
        (
            "atomic",
            "sched_atomic_init returned with preemption imbalance",
            "sched_atomic_init",
        ),
    ],
    "slab_leak": [("unload", "objects remaining in slab cache slab_leak_cache", None)],
    "soft_lockup": [
        ("hang", "soft lockup in soft_lockup_spin", "soft_lockup_spin"),
        ("hang", "soft lockup in soft_lockup_spin", "soft_lockup_spin"),
        ("hang", "soft lockup in soft_lockup_spin", "soft_lockup_spin"),
        ("hang", "RCU stall in soft_lockup_spin", "soft_lockup_spin"),
    ],
    "stack_overflow": [
        ("panic", "stack overflow in stack_overflow_recurse", "stack_overflow_recurse")
    ],
    "use_after_free": [
        ("memory", "slab: Poison overwritten in use_after_free_write", "use_after_free_write")
    ],
    "usercopy": [
        ("oops", "usercopy: kernel memory exposure attempt in usercopy_leak", "usercopy_leak")
    ],
    "warn_on": [("warning", "WARNING at warn_on.c:11 warn_on_check", "warn_on_check")],
    "warn_text": [("warning", "WARNING at warn_text.c:11 warn_text_check", "warn_text_check")],
}
#: Where the two kernels differ, or only one was captured, by full name.
CAPTURED_ONE: dict[str, Expected] = {
    # 6.1's freelist does not survive the double free: init (PID 1) oopses a second later.
    "double_free-6.1": [
        ("memory", "slab kmalloc-64: Object already free in double_free_it", "double_free_it"),
        ("panic", "NULL pointer dereference in get_partial_node", None),
    ],
    # busybox insmod tries finit_module, then init_module: each refusal is printed twice.
    "all_load-6.1": [
        ("load", title, None)
        for title in (
            "harmless: version magic of another kernel",
            "harmless: disagrees about version of symbol module_layout",
            "missing_symbol: unknown symbol vexrun_symbol_that_nobody_exports",
            "damaged module file",
        )
        for _ in range(2)
    ],
    "all_load-6.12": [
        ("load", title, None)
        for title in (
            "harmless: version magic of another kernel",
            "harmless: built for another kernel",
            "missing_symbol: unknown symbol vexrun_symbol_that_nobody_exports",
            "damaged module file",
        )
        for _ in range(2)
    ],
    "rcu_stall-6.1": [("hang", "RCU stall in soft_lockup_spin", "soft_lockup_spin")],
    "use_after_free-6.1": [  # names cache and damage in one line, 6.12.y in two
        (
            "memory",
            "slab kmalloc-4k: Poison overwritten in use_after_free_write",
            "use_after_free_write",
        )
    ],
    "memory_hog-6.1": [
        ("memory", "out of memory", "memory_hog_eat"),
        ("panic", "out of memory", None),
    ],
}

COMPOSED: dict[str, Expected] = {
    "arm64_null_deref-6.12": [("oops", "NULL pointer dereference in minix_lookup", "minix_lookup")],
    "bad_page_state-6.12": [("memory", "bad page state in minix_mkdir", "minix_mkdir")],
    "bad_rss-6.12": [("memory", "bad rss-counter state", None)],
    "busy_inodes-5.15": [("unload", "busy inodes after unmount of minix", None)],
    "double_fault-6.1": [("panic", "double fault in minix_recurse", "minix_recurse")],
    "hard_lockup-6.1": [("hang", "hard lockup in minix_spin", "minix_spin")],
    "hard_lockup-6.12": [("hang", "hard lockup in minix_spin", "minix_spin")],
    "harmless": [],
    "kasan_use_after_free-6.12": [
        ("sanitizer", "KASAN: slab-use-after-free in minix_find_entry", "minix_find_entry")
    ],
    "kcsan-6.12": [("sanitizer", "KCSAN: data-race in minix_count_free", "minix_new_block")],
    "kmemleak-6.12": [("memory", "suspected memory leaks", None)],
    "kmsan-6.12": [("sanitizer", "KMSAN: uninit-value in minix_write_inode", "minix_write_inode")],
    "list_del-6.1": [("memory", "list_del corruption in minix_mkdir", "minix_mkdir")],
    "lockdep_circular-6.12": [
        ("locking", "possible circular locking dependency in minix_new_inode", "minix_new_inode")
    ],
    "lockdep_inconsistent-6.1": [
        ("locking", "inconsistent lock state in minix_mkdir", "minix_mkdir")
    ],
    "lockdep_rcu-6.1": [("locking", "suspicious RCU usage in minix_mkdir", "minix_mkdir")],
    "lockdep_recursive-6.1": [
        ("locking", "possible recursive locking in minix_mkdir", "minix_mkdir")
    ],
    "lockdep_return_to_user-6.1": [
        ("locking", "lock held when returning to user space in minix_mkdir", "minix_mkdir")
    ],
    "lockdep_unbalanced-6.1": [("locking", "bad unlock balance in minix_mkdir", "minix_mkdir")],
    "preemptible-6.12": [
        ("atomic", "smp_processor_id() in preemptible code in minix_mkdir", "minix_mkdir")
    ],
    "rcu_tasks_stall-6.1": [("hang", "RCU stall in minix_spin", "minix_spin")],
    "rust_panic-6.1": [("rust", "Rust panic at rust_fs.rs:12", None)],
    "rust_panic-6.12": [("rust", "Rust panic at rust_fs.rs:41", "_RNvMCs99_7rust_fs4Node4read")],
    "sleeping_in_atomic-6.12": [
        ("atomic", "sleeping function called from invalid context in minix_mkdir", "minix_mkdir")
    ],
    "spinlock_recursion-6.12": [("locking", "spinlock recursion in minix_mkdir", "minix_mkdir")],
    "two_reports-6.12": [
        ("warning", "WARNING at fs/inode.c:407 drop_nlink", "minix_mkdir"),
        ("oops", "NULL pointer dereference in minix_lookup", "minix_lookup"),
    ],
    "ubsan-6.12": [
        (
            "sanitizer",
            "UBSAN: array-index-out-of-bounds at fs/minix/itree_common.c:31",
            "minix_mkdir",
        )
    ],
    "wait_context-6.12": [("locking", "invalid wait context in minix_mkdir", "minix_mkdir")],
    "warning_caller_prefix-6.12": [
        ("warning", "WARNING at fs/inode.c:407 drop_nlink", "minix_mkdir")
    ],
    "warning_reordered-6.19": [("warning", "WARNING at fs/inode.c:417 drop_nlink", "minix_mkdir")],
    "workqueue_lockup-6.12": [("hang", "workqueue lockup", None)],
}

SOURCE_MODULE = {
    "rcu_stall": "soft_lockup",
    "panic_on_warn": "warn_on",
    "null_init_oops_panic": "null_init",
    **{name: "complaints" for name in CAPTURED if name.startswith("complaints_")},
}
CAPTURED_LOGS = sorted((LOGS / "captured").glob("*.log"))


def parse(data: bytes, *modules: str) -> list[KernelEvent]:
    parser = KernelLogParser(modules)
    return [*parser.feed(data), *parser.finish()]


def summary(events: list[KernelEvent]) -> Expected:
    return [
        (
            event.event_class,
            event.title,
            event.module_frame.partition("+")[0] if event.module_frame else None,
        )
        for event in events
    ]


@pytest.mark.parametrize("log", CAPTURED_LOGS, ids=lambda log: log.stem)
def test_captured_log_gives_its_events(log: Path) -> None:
    condition, _, _ = log.stem.rpartition("-")
    expected = CAPTURED_ONE.get(log.stem, CAPTURED.get(condition))
    assert expected is not None, f"say in this file what '{log.name}' should give"
    events = parse(log.read_bytes(), SOURCE_MODULE.get(condition, condition))
    assert summary(events) == expected
    for event in events:
        assert event.console_offset is not None
        assert log.read_bytes()[event.console_offset :].startswith(b"[")
        assert 0 < len(event.excerpt) <= 60
        assert event.key


@pytest.mark.parametrize("name", sorted(COMPOSED))
def test_composed_log_gives_its_events(name: str) -> None:
    data = (LOGS / "composed" / f"{name}.log").read_bytes()
    assert summary(parse(data, "minix", "rust-fs")) == COMPOSED[name]


def test_every_composed_log_is_expected() -> None:
    assert {log.stem for log in (LOGS / "composed").glob("*.log")} == set(COMPOSED)


@pytest.mark.parametrize(
    "log",
    [log for log in CAPTURED_LOGS if log.with_suffix(".dmesg").exists()],
    ids=lambda p: p.stem,
)
def test_console_and_dmesg_of_one_boot_tell_the_same(log: Path) -> None:
    condition, _, _ = log.stem.rpartition("-")
    modules = [SOURCE_MODULE.get(condition, condition)]
    console = parse(log.read_bytes(), *modules)
    dmesg = log.with_suffix(".dmesg").read_bytes()
    merged = confirm(
        console, events_in_dmesg(dmesg, modules), True, covered_from=dmesg_covers_from(dmesg)
    )
    if condition == "forged":
        assert merged.events == []
        assert len(merged.unconfirmed) == 3
        return
    assert merged.unconfirmed == []
    assert summary(merged.events) == summary(console)
    assert [e.console_offset for e in merged.events] == [e.console_offset for e in console]


@pytest.mark.parametrize("condition", sorted(CAPTURED))
def test_both_kernels_give_the_same_keys(condition: str) -> None:
    logs = sorted((LOGS / "captured").glob(f"{condition}-*.log"))
    keys = [
        [event.key for event in parse(log.read_bytes(), SOURCE_MODULE.get(condition, condition))]
        for log in logs
        if log.stem not in CAPTURED_ONE
    ]
    assert all(key == keys[0] for key in keys)


def captured_on(series: str) -> set[str]:
    return {log.stem.rpartition("-")[0] for log in CAPTURED_LOGS if log.stem.endswith(f"-{series}")}


def events_of(condition: str, series: str) -> list[KernelEvent]:
    log = LOGS / "captured" / f"{condition}-{series}.log"
    return parse(log.read_bytes(), SOURCE_MODULE.get(condition, condition))


@pytest.mark.parametrize("condition", sorted(captured_on("6.1") & captured_on("6.12")))
def test_the_first_event_is_recognised_on_the_other_kernel(condition: str) -> None:
    """Also where the kernels put it in other words, or one of them says more afterwards."""
    old, new = events_of(condition, "6.1"), events_of(condition, "6.12")
    assert [event.key for event in old[:1]] == [event.key for event in new[:1]]


#: Logs of one and the same bug, told with and without a panic.
SAME_BUG = {"null_init_oops_panic": "null_init", "panic_on_warn": "warn_on"}


def test_no_two_bugs_have_the_same_key() -> None:
    keys: dict[str, set[str]] = {}
    for log in CAPTURED_LOGS:
        condition, _, series = log.stem.rpartition("-")
        for event in events_of(condition, series)[:1]:
            keys.setdefault(event.key, set()).add(SAME_BUG.get(condition, condition))
    assert {key: names for key, names in keys.items() if len(names) > 1} == {}
    assert len(keys) > 20


def another_run(log: bytes) -> bytes:
    """The same report with what differs from run to run, and after an edit elsewhere, changed."""
    log = re.sub(rb"(?<=\[) *(\d+)(?=\.\d{6}\])", lambda m: b"%5d" % (int(m[1]) + 400), log)
    log = re.sub(rb"\bff[0-9a-f]{14}\b", b"ff1122334455667f", log)
    log = re.sub(rb"(?<=PID: )\d+", b"31337", log)
    log = re.sub(rb"(?<=CPU: )\d+", b"7", log)
    log = re.sub(rb"(?<=CPU#)\d+", b"7", log)
    log = re.sub(rb"(?<=\.c:)\d+", b"4242", log)
    return re.sub(rb"\+0x[0-9a-f]+/0x[0-9a-f]+", b"+0xabc/0xdef", log)


@pytest.mark.parametrize("log", CAPTURED_LOGS, ids=lambda log: log.stem)
def test_another_run_gives_the_same_keys(log: Path) -> None:
    condition, _, _ = log.stem.rpartition("-")
    module = SOURCE_MODULE.get(condition, condition)
    data = log.read_bytes()
    data = data[data.index(b"Run /init") :] if b"Run /init" in data else data
    keys = [event.key for event in parse(data, module)]
    assert [event.key for event in parse(another_run(data), module)] == keys


def test_a_rust_panic_of_a_program_is_no_kernel_event() -> None:
    """vexctl's panic is its test's failure; on the console it is userspace's line."""
    said = (
        b"thread 'main' panicked at src/main.rs:41:9:\nindex out of bounds: the len is 4\n"
        b"note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n"
    )
    assert parse(said + b"[   30.000137] " + said, "rust-fs") == []


@pytest.mark.parametrize(
    ("said", "title", "line"),
    [
        ("/b/rust_fs.rs:41:9:", "Rust panic at rust_fs.rs:41", "/b/rust_fs.rs:41"),
        ("rust_fs.rs:41:9:", "Rust panic at rust_fs.rs:41", "rust_fs.rs:41"),
        ("'oh: no', rust_fs.rs:12:5", "Rust panic at rust_fs.rs:12", "rust_fs.rs:12"),
        ("'no place'", "Rust panic", None),
    ],
    ids=["absolute", "relative", "before-1.73", "no-place"],
)
def test_a_rust_panic_in_the_kernel_names_its_line(said: str, title: str, line: str | None) -> None:
    (event,) = parse(f"[    1.000000] rust_kernel: panicked at {said}\n".encode(), "rust_fs")
    assert (event.event_class, event.title, event.source_line) == ("rust", title, line)


def test_a_panic_keeps_the_key_of_its_oops() -> None:
    oops, panic = (
        parse((LOGS / "captured" / f"{name}-6.12.log").read_bytes(), "null_init")[0]
        for name in ("null_init", "null_init_oops_panic")
    )
    assert (oops.event_class, panic.event_class) == ("oops", "panic")
    assert oops.key == panic.key


def test_blocked_task_is_not_blamed_on_what_other_cpus_do() -> None:
    """vexrun asked for all stacks (SysRq l) while khungtaskd was printing once more."""
    log = LOGS.parent / "hangs" / "blocked-while-asked-6.12.log"
    titles = {event.title for event in parse(log.read_bytes(), "burrow_main")}
    assert titles == {"task python3 blocked in burrow_put_super", "task python3 blocked"}


@pytest.mark.parametrize(
    ("said", "event_class", "title"),
    [
        (
            "kobject (00000000c0ffee00): tried to init an initialized object, something is "
            "seriously wrong.",
            "unload",
            "kobject: tried to init an initialized object",
        ),
        (
            "kobject: kobject (00000000c0ffee00): must have a ktype to be initialized properly!",
            "unload",
            "kobject: must have a ktype to be initialized properly",
        ),
        (
            "softirq: huh, entered softirq 6 TASKLET 00000000c0ffee00 with preempt_count 00000100, "
            "exited with 00000101?",
            "atomic",
            "softirq TASKLET leaked atomic context",
        ),
        (
            "mount: vmalloc error: size 4398046511104, exceeds total pages, mode:0xcc0(GFP_KERNEL)",
            "memory",
            "vmalloc: exceeds total pages",
        ),
        (
            "getblk(): invalid block size 300 requested",
            "memory",
            "buffer of an invalid block size",
        ),
        (
            "EXT4-fs error (device vda): ext4_readdir:258: inode #12: block 34: comm ls: path "
            "/var/tmp/victim: bad entry in directory: rec_len % 4 != 0",
            "memory",
            "the guest's root filesystem is damaged: ext4_readdir",
        ),
    ],
)
def test_what_the_kernel_says_without_a_warning_is_an_event(
    said: str, event_class: str, title: str
) -> None:
    """None of these sets a taint or prints WARNING: nothing else would tell."""
    (event,) = parse(f"[   31.415926] {said}\n".encode(), "minix")
    assert (event.event_class, event.title) == (event_class, title)


def test_another_disk_than_the_root_disk_may_be_damaged() -> None:
    """The tests damage media themselves."""
    said = "EXT4-fs error (device vdb): ext4_readdir:258: inode #12: bad entry in directory"
    assert parse(f"[   31.415926] {said}\n".encode(), "minix") == []


def test_the_first_frame_is_one_that_is_certain() -> None:
    """Linux 6.1.192, panic() as the last instruction of canaryfs_fill_super."""
    stamp = "[  112.233077] "
    said = (
        "Kernel panic - not syncing: canaryfs: planted panic",
        "Call Trace:",
        " <TASK>",
        " dump_stack_lvl+0x44/0x5c",
        " panic+0x118/0x2f4",
        " ? canaryfs_get_tree+0x11/0x11 [canaryfs]",
        " canaryfs_fill_super+0x11/0x11 [canaryfs]",
        " get_tree_nodev+0x62/0xa0",
        " </TASK>",
    )
    (event,) = parse("".join(f"{stamp}{line}\n" for line in said).encode(), "canaryfs")
    functions = [frame.function for frame in event.frames]
    assert functions == ["canaryfs_fill_super", "canaryfs_get_tree"]
    assert event.module_frame == "canaryfs_fill_super+0x11/0x11 [canaryfs]"
