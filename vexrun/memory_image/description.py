"""What a memory image says, in a page: processors, stacks, modules, the last log lines.

Read with nothing but what the kernel carries in itself (vexrun.memory_image.kernel). Local
variables, lines of the kernel's source and what structures hold need its debug symbols.
"""

from __future__ import annotations

import struct
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from vexrun.memory_image.kdump import DAMAGE, BadImageError, KdumpFile, complete
from vexrun.memory_image.kernel import (
    Kernel,
    Memory,
    Task,
    Vmcoreinfo,
    find_vmcoreinfo,
    log_lines,
)

_LOG_LINES = 60
_BLOCKED_TASKS = 8
_RIP, _RSP = 16, 19  # among the registers
WITHOUT_SYMBOLS = (
    "Read without debug symbols: functions and stacks are found by the names that the kernel "
    "carries itself. Stacks are not unwound (a place may be left over from an earlier call), and "
    "local variables, lines of the kernel's source and the contents of structures need symbols."
)


def describe(path: Path) -> str:
    """The page. Raises BadImageError when not even the kernel's release can be found.

    What the kernel knows of itself is written into the file on the way, for crash and drgn.
    """
    try:
        with KdumpFile(path) as image:
            info = find_vmcoreinfo(image)
            bare = not image.vmcoreinfo
            lines = list(_description(image, info))
        if bare:
            complete(path, info.text, info.number("phys_base"), info.release)
    except DAMAGE as error:
        raise BadImageError(str(error) or type(error).__name__) from error
    return "\n".join(lines) + "\n"


def _description(image: KdumpFile, info: Vmcoreinfo) -> Iterator[str]:
    yield f"kernel {info.release}"
    memory = Memory(image, info)
    try:
        kernel = Kernel(memory)
    except DAMAGE as error:
        yield f"processors, tasks and modules cannot be read: {error}"
    else:
        yield from _part("processors", lambda: _processors(kernel, image))
        yield from _part("tasks that are blocked (D state)", lambda: _blocked(kernel))
        yield from _part("modules, the youngest first (references)", lambda: _modules(kernel))
    yield from _part(f"the last {_LOG_LINES} lines of the log", lambda: _log(memory))
    yield ""
    yield WITHOUT_SYMBOLS


def _part(heading: str, lines: Callable[[], Iterator[str]]) -> Iterator[str]:
    """One part; a kernel that died may have damaged what the next line needs."""
    yield ""
    yield f"== {heading}"
    try:
        yield from lines()
    except DAMAGE as error:
        yield f"   this cannot be read: {error}"


def _processors(kernel: Kernel, image: KdumpFile) -> Iterator[str]:
    for cpu, registers in enumerate(image.registers()):
        values = struct.unpack("<21Q", registers)
        instruction, pointer = values[_RIP], values[_RSP]
        task = kernel.current(cpu)
        yield f"CPU {cpu}: {_named(task)} at {kernel.place(instruction) or hex(instruction)}"
        yield from (f"    {place}" for place in kernel.stack(pointer))


def _blocked(kernel: Kernel) -> Iterator[str]:
    blocked = [task for task in kernel.tasks() if task.letter == "D"]
    if not blocked:
        yield "none"
    for task in blocked[:_BLOCKED_TASKS]:
        yield _named(task)
        yield from (f"    {place}" for place in kernel.stack(kernel.sleeping_at(task), 20))
    if len(blocked) > _BLOCKED_TASKS:
        yield f"… and {len(blocked) - _BLOCKED_TASKS} more"


def _modules(kernel: Kernel) -> Iterator[str]:
    named = (f"{module.name} ({module.references})" for module in kernel.modules)
    yield from textwrap.wrap(", ".join(named), 100, break_on_hyphens=False)


def _log(memory: Memory) -> Iterator[str]:
    yield from log_lines(memory)[-_LOG_LINES:]


def _named(task: Task) -> str:
    return f"'{task.name}' (pid {task.pid}, state {task.letter})"
