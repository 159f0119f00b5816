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


def parameters(directory):
    """Every parameter that is shown: name -> text."""
    if not os.path.isdir(directory):
        return {}
    found = {}
    for name in os.listdir(directory):
        if os.stat(f"{directory}/{name}").st_mode & 0o444:
            with open(f"{directory}/{name}") as file:
                found[name] = file.read().strip()
    return found


def references_after(name, seconds):
    """The module's reference count, once it is 0 or `seconds` have passed."""
    until = time.monotonic() + seconds
    while True:
        with open(f"/sys/module/{name}/refcnt") as file:
            count = int(file.read())
        if count == 0 or time.monotonic() > until:
            return count
        time.sleep(0.05)


_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_DELETE_MODULE = {"x86_64": 176, "aarch64": 106}


def load_cycles(path, parameters, name, kind, count):
    """finit_module(2) and delete_module(2) by turns; the type must come and go with them."""
    import ctypes

    libc, machine = ctypes.CDLL(None, use_errno=True), os.uname().machine
    for cycle in range(1, count + 1):
        fd = os.open(path, os.O_RDONLY)
        status = libc.syscall(_FINIT_MODULE[machine], fd, parameters.encode(), 0)
        os.close(fd)
        assert status == 0, f"loading it for the {cycle}. time fails: {_error(ctypes)}"
        assert kind in _types(), f"after load number {cycle} '{kind}' is not registered"
        status = libc.syscall(_DELETE_MODULE[machine], name.encode(), os.O_NONBLOCK)
        assert status == 0, f"unloading it for the {cycle}. time fails: {_error(ctypes)}"
        assert kind not in _types(), f"after unload number {cycle} '{kind}' is still registered"
        assert not os.path.isdir(f"/sys/module/{name}"), f"/sys/module/{name} stayed"


def _types():
    return [line.split()[-1] for line in _lines("/proc/filesystems") if line]


def _error(ctypes):
    return os.strerror(ctypes.get_errno())
