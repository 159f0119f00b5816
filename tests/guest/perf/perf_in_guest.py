"""Timed metadata work and the kernel's memory for it; runs in the guest."""

import os
import time


def _seconds(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _create(paths):
    for path in paths:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def metadata_rates(root, count, renames):
    """Operations a second: {'create': …, 'stat': …, 'rename': …, 'unlink': …}."""
    directory = f"{root}/metadata"
    os.mkdir(directory)
    paths = [f"{directory}/f{number:04d}" for number in range(count)]
    rates = {"create": count / _seconds(lambda: _create(paths))}
    rates["stat"] = count / _seconds(lambda: [os.stat(path) for path in paths])
    if renames:
        renamed = [f"{directory}/r{number:04d}" for number in range(count)]
        pairs = list(zip(paths, renamed, strict=True))
        rates["rename"] = count / _seconds(lambda: [os.rename(old, new) for old, new in pairs])
        paths = renamed
    rates["unlink"] = count / _seconds(lambda: [os.unlink(path) for path in paths])
    os.rmdir(directory)
    return rates


def _slab_kib():
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))


def _drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def slab_of_files(root, count):
    """KiB of slab that `count` new files hold in caches, for a thousand of them."""
    directory = f"{root}/slab"
    os.mkdir(directory)
    paths = [f"{directory}/f{number:04d}" for number in range(count)]
    _drop_caches()
    before = _slab_kib()
    _create(paths)
    grown = _slab_kib() - before
    for path in paths:
        os.unlink(path)
    os.rmdir(directory)
    return grown * 1000 / count


def room(roots):
    """Bytes and inodes that all of these have free, as far as they count them; 0: none does."""
    found = [os.statvfs(root) for root in roots]
    sizes = [space.f_bavail * space.f_frsize for space in found if space.f_blocks]
    inodes = [space.f_favail for space in found if space.f_files]
    return min(sizes, default=0), min(inodes, default=0)
