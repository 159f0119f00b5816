"""Unmount and mount through the system calls. Runs in the guest: only the standard library."""

from __future__ import annotations

import ctypes
import errno
import os

try:
    from vexrun.guest import disks_in_guest
except ImportError:  # in the guest they lie side by side
    import disks_in_guest  # type: ignore[import-not-found,no-redef]

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
        disks_in_guest.flush(device)
    if fsck is not None:
        _check(fsck)
    mount(device, path, kind, options)


def umount(path: str) -> None:
    said = try_umount(path)
    assert not said, f"umount of {path} fails with {said}"
    with open("/proc/self/mounts") as mounts:  # noqa: PTH123 - pathlib costs too much here
        left = [line for line in mounts if line.split()[1] == path]
    assert not left, f"umount said it worked, but {path} is mounted: {left[-1].strip()}"


def try_umount(path: str) -> str:
    """umount(2): '' or the name of the errno."""
    return "" if _libc.umount2(path.encode(), 0) == 0 else _errno()


def mount(device: str, path: str, kind: str, options: str) -> None:
    said = try_mount(device, path, kind, options)
    assert not said, (
        f"mounting again after a clean umount fails with {said} (type {kind}, options '{options}')"
    )


def try_mount(device: str, path: str, kind: str, options: str) -> str:
    """mount(2): '' or the name of the errno. `path` is made if it is not there."""
    if not os.path.isdir(path):  # noqa: PTH112
        os.makedirs(path)  # noqa: PTH103
    if device.startswith("/"):
        device = os.path.realpath(device)
    flags, data = 0, []
    for option in filter(None, options.split(",")):
        if option in _FLAGS:
            flags |= _FLAGS[option]
        else:
            data.append(option)
    names = [text.encode() for text in (device, path, kind)]
    status = _libc.mount(*names, ctypes.c_ulong(flags), ",".join(data).encode())
    return "" if status == 0 else _errno()


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
