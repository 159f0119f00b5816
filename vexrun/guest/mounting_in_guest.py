"""Unmount and mount through the system calls. Runs in the guest: only the standard library."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

#: include/uapi/linux/mount.h; every other option goes to the filesystem.
_FLAGS = {
    "defaults": 0,
    "rw": 0,
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}
_BLKFLSBUF = 0x1261

_libc = ctypes.CDLL(None, use_errno=True)


def remount_cold(
    device: str, path: str, kind: str, options: str, is_block: bool, fsck: str | None
) -> None:
    """umount, drop the device's buffers, run `fsck` if given, mount again.

    Raises AssertionError that says which step failed and why.
    """
    umount(path)
    os.sync()
    if is_block:
        flush_buffers(device)
    if fsck is not None:
        _check(fsck)
    mount(os.path.realpath(device) if is_block else device, path, kind, options)


def umount(path: str) -> None:
    if _libc.umount2(path.encode(), 0) != 0:
        raise AssertionError(f"umount of {path} fails with {_errno()}")
    with open("/proc/self/mounts") as mounts:  # noqa: PTH123 - not imported here
        left = [line for line in mounts if line.split()[1] == path]
    assert not left, f"umount said it worked, but {path} is mounted: {left[-1].strip()}"


def mount(device: str, path: str, kind: str, options: str) -> None:
    flags, data = 0, []
    for option in filter(None, options.split(",")):
        if option in _FLAGS:
            flags |= _FLAGS[option]
        else:
            data.append(option)
    names = [text.encode() for text in (device, path, kind)]
    if _libc.mount(*names, ctypes.c_ulong(flags), ",".join(data).encode()) != 0:
        raise AssertionError(
            f"mounting again after a clean umount fails with {_errno()} "
            f"(type {kind}, options '{options}')"
        )


def flush_buffers(device: str) -> None:
    """Write back and forget the block device's cached pages (blockdev --flushbufs)."""
    fd = os.open(device, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF, 0)
    finally:
        os.close(fd)


def _check(fsck: str) -> None:
    reader, writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", fsck], os.environ, file_actions=actions)
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        said = output.read().decode(errors="replace").strip()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, f"after a clean umount fsck finds problems (exit status {code}):\n{said}"


def _errno() -> str:
    number = ctypes.get_errno()
    return errno.errorcode.get(number, str(number))
