"""Load and unload, mount and unmount, again and again. Runs in the guest."""

import ctypes
import os
import signal
import stat
import time

from parallel_in_guest import finish, start
from tree_in_guest import Tree, pattern, write_all

try:
    from vexrun.guest import memory_in_guest, mounting_in_guest
except ImportError:  # in the guest they lie side by side
    import memory_in_guest
    import mounting_in_guest

_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}
_DELETE_MODULE = {"x86_64": 176, "aarch64": 106}


def loads(path, parameters, name, kind, rounds, each):
    """Load and unload `each` times a round; returns what every load leaves in memory, or ''."""
    libc, machine = ctypes.CDLL(None, use_errno=True), os.uname().machine

    def cycle():
        fd = os.open(path, os.O_RDONLY)
        status = libc.syscall(_FINIT_MODULE[machine], fd, parameters.encode(), 0)
        os.close(fd)
        assert status == 0, f"loading it again fails: {os.strerror(ctypes.get_errno())}"
        assert _registered(kind), f"it is loaded, and '{kind}' is not registered"
        status = libc.syscall(_DELETE_MODULE[machine], name.encode(), os.O_NONBLOCK)
        assert status == 0, f"unloading it again fails: {os.strerror(ctypes.get_errno())}"
        assert not _registered(kind), f"it is unloaded, and '{kind}' is still registered"

    return memory_in_guest.growth(cycle, rounds, each)


def _registered(kind):
    with open("/proc/filesystems") as file:
        return any(line.split()[-1:] == [kind] for line in file)


def mounts(device, mount, kind, options, lacks, name, rounds, each):
    """Mount, use and unmount `each` times a round.

    Returns (what every mount leaves in memory, the module's references before and after).
    """
    before = _references(name)
    writable = not {"write", "create", "unlink"} & set(lacks)
    if writable and "persistence" not in lacks:
        _with_names(device, mount, kind, options, lacks)

    def cycle():
        said = mounting_in_guest.try_mount(device, mount, kind, options)
        assert not said, f"mounting it again fails with {said}"
        try:
            _look_around(mount)
            os.statvfs(mount)
            if writable:
                _used(mount, lacks)
        finally:
            mounting_in_guest.umount(mount)

    left = memory_in_guest.growth(cycle, rounds, each)
    return left, before, _references(name)


def _with_names(device, mount, kind, options, lacks):
    """Names to look up, in directories of their own: what a lookup keeps is kept for each."""
    said = mounting_in_guest.try_mount(device, mount, kind, options)
    assert not said, f"mounting it fails with {said}"
    try:
        for name in ["."] if "mkdir" in lacks else [".", "d1", "d2", "d3"]:
            if name != ".":
                os.mkdir(f"{mount}/{name}")
            os.close(os.open(f"{mount}/{name}/here", os.O_CREAT | os.O_WRONLY, 0o644))
    finally:
        mounting_in_guest.umount(mount)


def _look_around(mount):
    """Look up some names of the root, and some below each."""
    for name in os.listdir(mount)[:12]:
        path = f"{mount}/{name}"
        if stat.S_ISDIR(os.lstat(path).st_mode):
            for below in os.listdir(path)[:6]:
                os.lstat(f"{path}/{below}")


def refusals(device, mount, kind, options, rounds, each):
    """Have the mount of a disk without a filesystem refused `each` times a round.

    Returns what every refusal leaves in memory.
    """

    def cycle():
        said = mounting_in_guest.try_mount(device, mount, kind, options)
        if not said:
            mounting_in_guest.umount(mount)
        assert said, "a disk full of noise was mounted"

    return memory_in_guest.growth(cycle, rounds, each)


def _used(mount, lacks):
    path = f"{mount}/cycle"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    write_all(fd, pattern("cycle", 0, 6000))
    assert os.pread(fd, 6000, 0) == pattern("cycle", 0, 6000), "what was written reads differently"
    os.close(fd)
    if "mkdir" not in lacks:
        os.mkdir(f"{mount}/dir")
        os.rmdir(f"{mount}/dir")
    os.unlink(path)


def _references(name):
    until = time.monotonic() + 15
    while True:
        with open(f"/sys/module/{name}/refcnt") as file:
            count = int(file.read())
        if count == 0 or time.monotonic() > until:
            return count
        time.sleep(0.05)


# -- mounting while it is used ----------------------------------------------------------------

_SIZE = 20_000


def raced_tree(mount, lacks):
    tree = Tree(mount)
    tree.create("here", _SIZE)
    if "mkdir" not in lacks:
        tree.mkdir("dir")
        tree.create("dir/deep", _SIZE)
    return tree.settle()


#: So often is it mounted, however long that takes.
LEAST_MOUNTS = 4


def races(device, mount, second, kind, options, lacks, seconds):
    """Mount and unmount on two mount points while other processes use whatever they find there.

    That goes on for `seconds`, and longer where a mount takes long: a machine may be slow.
    Returns how often a process found it mounted.
    """
    files = not {"write", "create", "persistence"} & set(lacks)
    use = _rewrite if files else _look
    for path in (mount, second):
        os.makedirs(path, exist_ok=True)
    users = [start(use, path, lacks) for path in (mount, mount, second)]
    mounted = 0
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until or mounted < LEAST_MOUNTS:
            for path in (mount, second):
                said = mounting_in_guest.try_mount(device, path, kind, options)
                if path == second and said == "EBUSY":
                    break  # it takes its disk for one mount alone
                assert not said, f"mounting on {path} fails with {said} while it is being used"
                mounted += 1
            for path in (second, mount)[said == "EBUSY" :]:
                while said := mounting_in_guest.try_umount(path):
                    assert said == "EBUSY", f"umount of {path} fails with {said}"
                    time.sleep(0.001)
    finally:
        for pid, _ in users:
            os.kill(pid, signal.SIGTERM)
    return sum([finish(user) for user in users])


def _until_told(work):
    """Call work() until SIGTERM comes; returns how often it returned something true."""
    ended, count = [], 0
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    while not ended:
        count += bool(work())
        time.sleep(0.0005)
    return count


def _look(mount, _):
    """List the root and stat what is there."""

    def look():
        for name in os.listdir(mount):
            try:
                os.lstat(f"{mount}/{name}")
            except FileNotFoundError:  # unmounted meanwhile
                return False
        os.statvfs(mount)
        return True

    return _until_told(look)


def _rewrite(mount, lacks):
    """Read the files of `raced_tree` and write into them what is there already.

    Nothing is ever created: when nothing is mounted the guest's own root lies there.
    """
    names = ["here"] if "mkdir" in lacks else ["here", "dir/deep"]

    def rewrite():
        for name in names:
            try:
                os.listdir(mount)
                fd = os.open(f"{mount}/{name}", os.O_RDWR)
            except FileNotFoundError:
                return False
            try:
                data = pattern(name, 4000, 9000)
                got = os.pread(fd, 9000, 4000)
                assert got == data, f"{name} reads differently while it is mounted and unmounted"
                os.pwrite(fd, data, 4000)
            finally:
                os.close(fd)
        return True

    return _until_told(rewrite)
