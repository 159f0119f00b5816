"""Directories as getdents64(2) gives them, with the positions a listing can go on from.

Runs in the guest. glibc's readdir hides the position of each entry, and asks for 32 KiB at once.
"""

import os

_GETDENTS64 = {"x86_64": 217, "aarch64": 61}


def entries(fd, size=32768):
    """(name, inode number, position behind it) of each entry from here on, '.' and '..' too.

    `size` is that of the buffer: a small one has the listing stopped and resumed again and again.
    """
    import ctypes

    libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(size)
    number, found = _GETDENTS64[os.uname().machine], []
    while count := libc.syscall(number, fd, buffer, size):
        if count < 0:
            raise OSError(ctypes.get_errno(), f"getdents64 with {size} bytes is refused")
        data, at = buffer.raw[:count], 0
        while at < count:
            length = int.from_bytes(data[at + 16 : at + 18], "little")
            name = os.fsdecode(data[at + 19 : at + length].split(b"\0", 1)[0])
            inode = int.from_bytes(data[at : at + 8], "little")
            position = int.from_bytes(data[at + 8 : at + 16], "little", signed=True)
            found.append((name, inode, position))
            at += length
    return found
