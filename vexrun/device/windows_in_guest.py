"""Windows onto the scratch disk of a device: device-mapper devices of a bounded size.

While they stand, the kernel itself holds the disk exclusively: nobody can mount it, format it or
put it into a RAID behind our back, and nothing written to a window reaches beyond it. Runs on the
device: only the standard library.
"""

from __future__ import annotations

import os

try:
    from vexrun.guest import disks_in_guest, faults_in_guest
except ImportError:  # on the device they lie side by side
    import disks_in_guest  # type: ignore[import-not-found,no-redef]
    import faults_in_guest  # type: ignore[import-not-found,no-redef]

_SECTOR = 512


def open_windows(disk: str, dev: str, sizes: list[tuple[str, int]]) -> dict[str, str]:
    """Windows one after the other from the disk's beginning; `sizes` are (name, bytes).

    `dev` is what the disk's major:minor has to be. Returns {name: path}. One that is there already
    is another run's, which may go on, or stands over another disk: it is left alone.
    """
    _is_still(disk, dev)
    for name, _ in sizes:
        assert not _exists(name), (
            f"the device has a '{name}' already, of another run or of one that was lost; if no run "
            "goes on there, reboot it"
        )
    paths: dict[str, str] = {}
    start = 0
    try:
        for name, size in sizes:
            length = size // _SECTOR
            table = [(0, length, "linear", f"{dev} {start}")]
            paths[name] = faults_in_guest.make_mapped(name, table)
            start += length
    except BaseException:
        close_windows(list(paths))
        raise
    return paths


def _exists(name: str) -> bool:
    return any(
        _name_of(each) == name for each in os.listdir("/sys/class/block") if each.startswith("dm-")
    )


def _name_of(block: str) -> str:
    try:
        with open(f"/sys/class/block/{block}/dm/name") as file:
            return file.read().strip()
    except OSError:
        return ""  # gone meanwhile


def close_windows(names: list[str]) -> None:
    """Remove what is there of them, and what a test has put on top."""
    faults_in_guest.remove()
    for name in names:
        faults_in_guest.remove(name)


def blank(disk: str, dev: str, length: int) -> None:
    """Zeros over the first and the last `length` bytes, where signatures are."""
    _is_still(disk, dev)
    size = disks_in_guest.size(disk)
    fd = os.open(disk, os.O_WRONLY | os.O_EXCL)
    try:
        for offset in (0, max(0, size - length)):
            os.pwrite(fd, bytes(min(length, size)), offset)
        os.fsync(fd)
    finally:
        os.close(fd)
    disks_in_guest.flush(disk)


def _is_still(disk: str, dev: str) -> None:
    number = os.stat(disk).st_rdev
    found = f"{os.major(number)}:{os.minor(number)}"
    assert found == dev, f"'{disk}' is the device {found} now, and was {dev}"
