"""How much memory the kernel holds, and whether repeating something makes it hold more.

Runs in the guest. A leak grows with every repetition; caches, lists of free pages and lazily freed
areas grow for a while and stop, or go up and down.
"""

from __future__ import annotations

import itertools
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing would cost more than all the rest
    from collections.abc import Callable

    #: KiB the kernel holds for itself, and slab cache -> (objects, bytes of one).
    Reading = tuple[int, dict[str, tuple[int, int]]]

_KIB = 1024
#: Growth a repetition below this is not told from noise by its pages; objects are counted too.
PAGES_LIMIT_KIB = 8.0
#: Not what the module allocates: areas the kernel gives back later, user space's own objects.
_OF_OTHERS = {
    "vmap_area",
    "pid",
    "task_struct",
    "cred_jar",
    "filp",
    "vm_area_struct",
    "anon_vma",
    "anon_vma_chain",
    "maple_node",
    "mm_struct",
    "signal_cache",
    "sighand_cache",
    "files_cache",
    "fs_cache",
    "radix_tree_node",
    "buffer_head",
    "bdev_cache",
    "skbuff_head_cache",
    "skbuff_small_head",
    "sock_inode_cache",
    "pool_workqueue",
}


def settle() -> None:
    """Give back what can be given back."""
    os.sync()
    for _ in range(2):
        with open("/proc/sys/vm/drop_caches", "w") as file:  # noqa: PTH123
            file.write("3")
        time.sleep(0.05)  # RCU's turn
    try:
        with open("/proc/sys/vm/stat_refresh", "rb") as file:  # noqa: PTH123
            file.read()
    except OSError:
        pass  # not readable with some hardening; the counters are then a little behind


def reading() -> Reading:
    """(KiB the kernel holds for itself, {slab cache: (objects, size)}), after `settle`."""
    settle()
    numbers: dict[str, int] = {}
    for line in _lines("/proc/meminfo"):
        name, _, rest = line.partition(":")
        numbers[name] = int(rest.split()[0])
    given = ("MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "SReclaimable")
    user = ("PageTables", "KernelStack")
    used = numbers["MemTotal"] - sum(numbers[name] for name in (*given, *user))
    used -= _on_cpu_lists() * (os.sysconf("SC_PAGE_SIZE") // _KIB)
    return used, _caches()


def _on_cpu_lists() -> int:
    """Free pages that wait on the CPUs' own lists and are not in MemFree."""
    return sum(
        int(line.split()[1]) for line in _lines("/proc/zoneinfo") if line.split()[:1] == ["count:"]
    )


def _caches() -> dict[str, tuple[int, int]]:
    found = {}
    for line in _lines("/proc/slabinfo")[2:]:
        name, objects, _, size = line.split()[:4]
        if name not in _OF_OTHERS and not name.startswith(":"):
            found[name] = (int(objects), int(size))
    return found


def _lines(path: str) -> list[str]:
    with open(path) as file:  # noqa: PTH123
        return file.read().splitlines()


def growth(repeat: Callable[[], object], rounds: int, each: int) -> str:
    """Call repeat() `each` times a round; what every round leaves behind, '' for nothing.

    The first round warms up and is not counted. What looks like a leak is looked at once more,
    for twice as long: only what goes on growing is one.
    """
    _rounds(repeat, 1, each)
    suspicion = judge(_rounds(repeat, rounds, each), each)
    if suspicion:
        suspicion = judge(_rounds(repeat, rounds, 2 * each), 2 * each)
    return suspicion


def _rounds(repeat: Callable[[], object], rounds: int, each: int) -> list[Reading]:
    readings = [reading()]
    for _ in range(rounds):
        for _ in range(each):
            repeat()
        readings.append(reading())
    return readings


def judge(readings: list[Reading], each: int) -> str:
    """What grew in every round, as a sentence; '' when nothing did. `each`: repetitions a round."""
    rounds = len(readings) - 1
    found = []
    pages = [used for used, _ in readings]
    steps = [after - before for before, after in itertools.pairwise(pages)]
    mean = (pages[-1] - pages[0]) / (rounds * each)
    if mean >= PAGES_LIMIT_KIB and min(steps) >= 0.5 * mean * each:
        found.append(f"{mean:.0f} KiB of memory ({', '.join(f'{s} KiB' for s in steps)} a round)")
    for name, (objects, size) in readings[-1][1].items():
        counts = [caches.get(name, (0, size))[0] for _, caches in readings]
        steps = [after - before for before, after in itertools.pairwise(counts)]
        grown = objects - counts[0]
        if grown >= 0.9 * each * rounds and min(steps) >= 0.7 * each:
            found.append(
                f"{grown / (rounds * each):.1f} objects of {size} bytes in the slab cache "
                f"'{name}' ({', '.join(map(str, steps))} a round)"
            )
    return " and ".join(found)
