"""A disk that fails on demand: a device-mapper device over a scratch disk. Runs in the guest.

Through the control device's ioctls rather than dmsetup(8): a table can be exchanged in the middle
of a function, within a millisecond, and no package is needed. include/uapi/linux/dm-ioctl.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

try:
    from vexrun.guest import disks_in_guest
except ImportError:  # in the guest they lie side by side
    import disks_in_guest  # type: ignore[import-not-found,no-redef]

_NAME = "vexrun-faulty"
_SECTOR = 512
_CONTROL = "/dev/mapper/control"

# struct dm_ioctl: version[3], data_size, data_start, target_count, open_count, flags, event_nr,
# padding, dev, name[128], uuid[129], data[7]; then struct dm_target_spec and its parameters.
_HEADER = 312
_SPEC = 40
_CREATE, _REMOVE, _SUSPEND, _LOAD = 3, 4, 6, 9
_FLAG_SUSPEND, _FLAG_SKIP_LOCKFS, _FLAG_NOFLUSH = 1 << 1, 1 << 10, 1 << 11

#: Features of dm-flakey, by what they are called here.
_FLAKEY = {"unwritable": "error_writes", "cut": "drop_writes"}
#: What a piece of the disk may be: first sector, sectors, target, parameters.
_Piece = tuple[int, int, str, str]


def _command(
    number: int, flags: int = 0, table: list[_Piece] | None = None, name: str = _NAME
) -> int:
    """One device-mapper ioctl; returns the device number it answers with."""
    body = b""
    for start, length, target, parameters in table or []:
        text = parameters.encode() + b"\0"
        text += b"\0" * (-len(text) % 8)
        words = start.to_bytes(8, "little") + length.to_bytes(8, "little") + bytes(4)
        words += (_SPEC + len(text)).to_bytes(4, "little") + target.encode().ljust(16, b"\0")
        body += words + text
    size = max(_HEADER + len(body), 1024)
    numbers = [4, 0, 0, size, _HEADER, len(table or []), 0, flags, 0, 0]
    request = b"".join(each.to_bytes(4, "little") for each in numbers)
    request += bytes(8) + name.encode().ljust(128, b"\0") + bytes(136)
    buffer = bytearray((request + body).ljust(size, b"\0"))
    control = os.open(_CONTROL, os.O_RDWR)
    try:
        fcntl.ioctl(control, 0xC0000000 | _HEADER << 16 | 0xFD << 8 | number, buffer)
    finally:
        os.close(control)
    return int.from_bytes(buffer[40:48], "little")


def make(disk: str) -> str:
    """A device over the whole `disk`, sound so far; returns its path."""
    remove()
    device = _command(_CREATE)
    set_faults(disk, [])
    return _node_of(device)


def make_mapped(name: str, table: list[_Piece]) -> str:
    """A device called `name` with this table; returns its path."""
    device = _command(_CREATE, name=name)
    _command(_LOAD, 0, table, name)
    _command(_SUSPEND, name=name)
    return _node_of(device)


def _node_of(device: int) -> str:
    """Path of a device-mapper device, once udev has made it."""
    # new_encode_dev of include/linux/kdev_t.h
    major, minor = device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00
    path = f"/dev/dm-{minor}"
    _wait_for(lambda: os.path.exists(path), path)  # noqa: PTH110
    found = os.stat(path).st_rdev  # noqa: PTH116
    assert found == os.makedev(major, minor), f"{path} is not the device that was made"
    return path


def set_faults(disk: str, faults: list[tuple[int, int, str]]) -> None:
    """Exchange the table: each fault is (first sector, sectors, kind), the rest is sound.

    `dead` fails every access, `unwritable` every write; `cut` forgets every write and says that it
    was done, as if the power had been cut. A length of 0 means up to the end. What is in flight
    is not waited for and nothing is frozen, as with a disk that dies.
    """
    device = os.path.realpath(disk)
    end = disks_in_guest.size(disk) // _SECTOR
    table: list[_Piece] = []
    at = 0
    for start, length, kind in [*sorted(faults), (end, 0, "")]:
        if start > at:
            table.append((at, start - at, "linear", f"{device} {at}"))
        length = length or end - start
        if kind == "dead":
            table.append((start, length, "error", ""))
        elif kind in _FLAKEY:
            # Up for 0 s, down for an hour; reads pass.
            parameters = f"{device} {start} 0 3600 1 {_FLAKEY[kind]}"
            table.append((start, length, "flakey", parameters))
        at = start + length
    _command(_LOAD, 0, table)
    _command(_SUSPEND, _FLAG_SUSPEND | _FLAG_SKIP_LOCKFS | _FLAG_NOFLUSH)
    _command(_SUSPEND)  # without the flag it is a resume, with the new table


def remove(name: str = _NAME) -> None:
    """Remove the device if it is there; udev may have it open for a moment."""
    until = time.monotonic() + 20
    while True:
        try:
            _command(_REMOVE, name=name)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


# -- a disk that is pulled out ----------------------------------------------------------------


def unplug(disk: str) -> str:
    """Remove the disk's PCI device, as the kernel does when one is pulled out.

    Returns what `plug_in` needs. Only for virtual disks: a rescan does not bring every real
    controller back.
    """
    name = os.path.realpath(disk).rpartition("/")[2]
    device = os.path.realpath(f"/sys/class/block/{name}/device")
    assert "/virtio" in device, f"'{disk}' is not a virtio disk: {device}"
    slot = device.rpartition("/virtio")[0]
    _write(f"{slot}/remove", "1")
    assert not os.path.exists(f"/sys/class/block/{name}"), (  # noqa: PTH110
        f"the disk was removed, but /sys/class/block/{name} is still there"
    )
    return slot


def plug_in(disk: str) -> None:
    """Let the kernel find it again, and wait until udev has given it its name."""
    _write("/sys/bus/pci/rescan", "1")
    _wait_for(lambda: os.path.exists(disk) and _is_block(disk), disk)  # noqa: PTH110


def _is_block(disk: str) -> bool:
    import stat

    return stat.S_ISBLK(os.stat(disk).st_mode)  # noqa: PTH116


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)


def _wait_for(condition, what: str) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"{what} did not appear within 60 s"
        time.sleep(0.02)


# -- where content lies -----------------------------------------------------------------------


def sectors_with(disk: str, tag: bytes) -> list[int]:
    """The sectors of the medium that begin with `tag`, in order."""
    import mmap

    disks_in_guest.flush(disk)
    buffer, found, start = mmap.mmap(-1, disks_in_guest.MIB), [], 0
    fd = os.open(disk, os.O_RDONLY | os.O_DIRECT)
    try:
        while count := os.readv(fd, [buffer]):
            at = buffer.find(tag, 0, count)
            while at >= 0:
                if at % _SECTOR == 0:
                    found.append((start + at) // _SECTOR)
                at = buffer.find(tag, at + 1, count)
            start += count
    finally:
        os.close(fd)
    return found
