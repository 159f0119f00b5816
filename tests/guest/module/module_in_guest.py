"""What a module may leave behind in a running kernel."""

import os
import time

#: Directories whose entries a module can add to; deeper ones are found through their parents.
_DIRECTORIES = (
    "/dev",
    "/proc",
    "/proc/fs",
    "/proc/sys/fs",
    "/sys/block",
    "/sys/bus",
    "/sys/class",
    "/sys/devices/virtual",
    "/sys/fs",
    "/sys/kernel",
    "/sys/kernel/debug",
    "/sys/module",
)


def traces():
    """Everything a module could have added to, as area -> names."""
    found = {}
    for directory in _DIRECTORIES:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        found[directory] = sorted(name for name in names if not name.isdigit())
    found["/proc/filesystems"] = _lines("/proc/filesystems")
    found["slab caches"] = _slab_caches()
    found["kernel threads"] = _kernel_threads()
    return found


def _lines(path):
    with open(path) as file:
        return [line.strip() for line in file]


def _slab_caches():
    """Named caches and aliases; SLUB's own names of merged caches start with a colon."""
    names = {line.split()[0] for line in _lines("/proc/slabinfo")[2:]}
    if os.path.isdir("/sys/kernel/slab"):
        names.update(os.listdir("/sys/kernel/slab"))
    return sorted(name for name in names if not name.startswith(":"))


def _kernel_threads():
    """Names of kernel threads; of the workers only the rescuers, which are named after a queue."""
    names = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                text = file.read()
            with open(f"/proc/{entry}/comm") as file:
                name = file.read().strip()
        except OSError:
            continue
        parent = text.rpartition(")")[2].split()[1]
        if parent == "2" and (not name.startswith("kworker/") or name.startswith("kworker/R-")):
            names.append(name)
    return sorted(names)


def left_behind(before, seconds):
    """What is there now and was not in `before`, after waiting up to `seconds` for it to go."""
    until = time.monotonic() + seconds
    while True:
        now = traces()
        new = {}
        for area, names in now.items():
            added = [name for name in set(names) if names.count(name) > before[area].count(name)]
            if area in before and added:
                new[area] = sorted(added)
        if not new or time.monotonic() > until:
            return new
        time.sleep(0.1)


def one_file(mount):
    """A few files in the root of a fresh filesystem."""
    from tree_in_guest import Tree

    tree = Tree(mount)
    tree.create("here", 20_000)
    tree.create("empty")
    return tree.settle()
