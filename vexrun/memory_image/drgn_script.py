"""Run by drgn, inside an image's root filesystem: nothing of vexrun can be imported here.

Prints what each processor ran, and the stacks of blocked tasks, with lines of the kernel's
source. The arguments are the registers of each processor as hexadecimal bytes of a struct
pt_regs: drgn 0.0.22 (Debian 12) does not find those that QEMU wrote.
"""
# ruff: noqa: F821 - `prog` is drgn's
# mypy: ignore-errors

import sys

from drgn import FaultError, Object
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.pid import for_each_task

_BLOCKED = 8
_UNINTERRUPTIBLE, _NOLOAD = 2, 0x400


def named(task):
    name = task.comm.string_().decode(errors="replace")
    return f"'{name}' (pid {task.pid.value_()})"


def show(whose):
    try:
        lines = str(prog.stack_trace(whose)).splitlines()
    except (FaultError, LookupError, ValueError) as error:
        lines = [f"no stack: {error}"]
    print("\n".join("    " + line for line in lines))


panicked = prog["panic_cpu"].counter.value_()
for cpu, registers in enumerate(sys.argv[1:]):
    task = per_cpu(prog["runqueues"], cpu).curr
    print(f"CPU {cpu}{' panicked' if cpu == panicked else ''}: {named(task)}")
    show(Object.from_bytes_(prog, "struct pt_regs", bytes.fromhex(registers)))
blocked = 0
for task in for_each_task(prog):
    state = task.__state.value_()
    if state & _UNINTERRUPTIBLE and not state & _NOLOAD:
        blocked += 1
        if blocked <= _BLOCKED:
            print(f"blocked: {named(task)}")
            show(task)
print(f"{blocked} tasks are blocked (D state)")
