#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""ADD_VECTORS and SEARCH: right results, right errors, and nothing changed by what failed.

usage: vector_ioctls.py MOUNT

Works in a directory of its own on a mounted vexfs-ref, and removes it.
"""

# ruff: noqa: PTH103, PTH108, PTH120, PTH123
import array
import ctypes
import errno
import mmap
import os
import random
import shutil
import struct
import sys

ADD, SEARCH, STATUS = 0xC020E702, 0xC028E703, 0x8030E701
ADD_FORMAT, SEARCH_FORMAT = "=IIQQII", "=IIQQIIQ"
HEADER = 64
MAX_DIMENSION, MAX_K, MAX_BYTES = 4096, 1024, 16 << 20

libc = ctypes.CDLL(None, use_errno=True)
checks = 0


def check(got, wanted, what):
    global checks
    if got != wanted:
        raise SystemExit(f"{what}: got {got!r}, expected {wanted!r}")
    checks += 1


def ioctl(fd, request, address):
    """'OK' or the name of the errno."""
    done = libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_void_p(address))
    return "OK" if done == 0 else errno.errorcode[ctypes.get_errno()]


def add(fd, dimension, elements, *, count=None, address=None, flags=0, reserved=0):
    """(answer, first row) of ADD_VECTORS."""
    rows = array.array("h", elements)
    memory = rows.buffer_info()[0] if address is None else address
    if count is None:
        count = len(rows) // dimension
    request = ctypes.create_string_buffer(
        struct.pack(ADD_FORMAT, dimension, count, memory, 77, flags, reserved)
    )
    answer = ioctl(fd, ADD, ctypes.addressof(request))
    return answer, struct.unpack_from(ADD_FORMAT, request)[3]


def search(fd, query, k, *, dimension=None, address=None, hits_address=None, flags=0):
    """The answer of SEARCH: an errno's name, or the hits as (row, distance)."""
    elements = array.array("h", query)
    hits = ctypes.create_string_buffer(16 * max(1, min(k, MAX_K)))
    request = ctypes.create_string_buffer(
        struct.pack(
            SEARCH_FORMAT,
            len(query) if dimension is None else dimension,
            k,
            elements.buffer_info()[0] if address is None else address,
            ctypes.addressof(hits) if hits_address is None else hits_address,
            0,
            flags,
            0,
        )
    )
    answer = ioctl(fd, SEARCH, ctypes.addressof(request))
    if answer != "OK":
        return answer
    found = struct.unpack_from(SEARCH_FORMAT, request)[4]
    return [struct.unpack_from("=QQ", hits, 16 * number) for number in range(found)]


def nearest(rows, query, k):
    """What must be found, by comparing all rows here."""
    found = [
        (sum((a - b) ** 2 for a, b in zip(row, query, strict=True)), number)
        for number, row in enumerate(rows)
    ]
    return [(number, distance) for distance, number in sorted(found)[:k]]


def opened(path, flags=os.O_RDWR | os.O_CREAT):
    return os.open(path, flags, 0o644)


def vectors(chance, count, dimension, low=-50, high=50):
    return [[chance.randint(low, high) for _ in range(dimension)] for _ in range(count)]


def flat(rows):
    return [element for row in rows for element in row]


def results_are_right(path):
    chance, dimension = random.Random(1), 24
    rows = vectors(chance, 300, dimension)
    fd = opened(path)
    for first in (0, 100, 200):
        got = add(fd, dimension, flat(rows[first : first + 100]))
        check(got, ("OK", first), f"adding rows from {first} on")
    check(os.fstat(fd).st_size, HEADER + 300 * dimension * 2, "size of the file")
    for k in (1, 2, 10, 300, MAX_K):
        query = vectors(chance, 1, dimension)[0]
        check(search(fd, query, k), nearest(rows, query, k), f"the {k} nearest")
    check(search(fd, rows[123], 1), [(123, 0)], "a row itself")
    os.fsync(fd)
    os.close(fd)
    # Many rows at one distance: the earlier ones win.
    fd = opened(path + "-ties")
    check(add(fd, 1, [5, -5] * 40)[0], "OK", "adding ties")
    check(search(fd, [0], 7), [(row, 25) for row in range(7)], "ties go by row")
    os.close(fd)


def extremes_do_not_overflow(path):
    fd = opened(path)
    check(add(fd, MAX_DIMENSION, [-32768] * MAX_DIMENSION)[0], "OK", "adding the largest row")
    found = search(fd, [32767] * MAX_DIMENSION, 3)
    check(found, [(0, MAX_DIMENSION * 65535**2)], "the largest distance")
    os.close(fd)


def wrong_arguments_change_nothing(path):
    fd = opened(path)
    bad = 8  # an address in the first page, which nobody can map
    for wanted, got, what in (
        ("EINVAL", add(fd, 0, [], count=1), "no dimension"),
        ("E2BIG", add(fd, MAX_DIMENSION + 1, [1], count=1), "too many dimensions"),
        ("E2BIG", add(fd, 0xFFFFFFFF, [1], count=1), "2^32 dimensions"),
        ("EINVAL", add(fd, 3, [], count=0), "no rows"),
        ("E2BIG", add(fd, 4, [1], count=MAX_BYTES // 8 + 1), "too many rows"),
        ("E2BIG", add(fd, MAX_DIMENSION, [1], count=0xFFFFFFFF), "2^32 rows"),
        ("EINVAL", add(fd, 3, [1, 2, 3], flags=1), "unknown flags"),
        ("EINVAL", add(fd, 3, [1, 2, 3], reserved=1), "reserved bytes"),
        ("EFAULT", add(fd, 3, [1, 2, 3], address=bad), "rows at a bad address"),
        ("EFAULT", (ioctl(fd, ADD, bad), 0), "a request at a bad address"),
    ):
        check(got[0], wanted, what)
    check(os.fstat(fd).st_size, 0, "size after errors on a new file")

    check(add(fd, 3, [1, 2, 3, 4, 5, 6]), ("OK", 0), "two rows")
    # Whole pages of good rows before a bad address: what was written goes again.
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 64 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc.mprotect(ctypes.c_void_p(start + 60 * page), 4 * page, 0)
    got = add(fd, 3, [], count=64 * page // 6, address=start)[0]
    check(got, "EFAULT", "rows that end at a bad address")
    libc.mprotect(ctypes.c_void_p(start + 60 * page), 4 * page, 3)
    check(os.fstat(fd).st_size, HEADER + 12, "size after rows that end at a bad address")
    # A request that can be read and not answered.
    request = struct.pack(ADD_FORMAT, 3, 1, start, 0, 0, 0)
    memory[: len(request)] = request
    libc.mprotect(ctypes.c_void_p(start), page, mmap.PROT_READ)
    check(ioctl(fd, ADD, start), "EFAULT", "a request in read-only memory")
    libc.mprotect(ctypes.c_void_p(start), page, 3)
    check(os.fstat(fd).st_size, HEADER + 12, "size after a request in read-only memory")
    check(add(fd, 4, [1, 2, 3, 4])[0], "EINVAL", "another dimension")

    for wanted, got, what in (
        ("EINVAL", search(fd, [1, 2, 3], 0), "k of 0"),
        ("E2BIG", search(fd, [1, 2, 3], MAX_K + 1), "k too large"),
        ("EINVAL", search(fd, [1, 2], 1), "a query of another dimension"),
        ("E2BIG", search(fd, [1], 1, dimension=MAX_DIMENSION + 1), "too many dimensions"),
        ("EINVAL", search(fd, [1, 2, 3], 1, flags=1), "unknown flags"),
        ("EFAULT", search(fd, [1, 2, 3], 1, address=bad), "a query at a bad address"),
        ("EFAULT", search(fd, [1, 2, 3], 1, hits_address=bad), "hits at a bad address"),
        ("EFAULT", ioctl(fd, SEARCH, bad), "a request at a bad address"),
        ("EFAULT", ioctl(fd, STATUS, bad), "a status at a bad address"),
        ("ENOTTY", ioctl(fd, SEARCH + 1, bad), "an unknown request"),
    ):
        check(got, wanted, what)
    check(search(fd, [4, 5, 7], 5), [(1, 1), (0, 9 + 9 + 16)], "search after errors")
    os.close(fd)


def descriptors_must_fit(path):
    fd = opened(path)
    check(add(fd, 2, [1, 2])[0], "OK", "a row")
    os.close(fd)
    fd = opened(path, os.O_RDONLY)
    check(add(fd, 2, [3, 4])[0], "EBADF", "adding without having opened for writing")
    os.close(fd)
    fd = opened(path, os.O_WRONLY)
    check(search(fd, [1, 2], 1), "EBADF", "searching without having opened for reading")
    check(add(fd, 2, [3, 4]), ("OK", 1), "adding without having opened for reading")
    os.close(fd)
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    check(add(fd, 2, [1, 2])[0], "ENOTTY", "adding to a directory")
    check(search(fd, [1, 2], 1), "ENOTTY", "searching a directory")
    os.close(fd)


def other_files_are_refused(path):
    for number, content in enumerate((b"text", b"x" * 5000, bytes(64), b"VXV1" + bytes(60))):
        fd = opened(f"{path}-{number}")
        os.write(fd, content)
        check(add(fd, 2, [1, 2])[0], "EINVAL", f"adding to {content[:8]!r}")
        check(search(fd, [1, 2], 1), "EINVAL", f"searching {content[:8]!r}")
        check(os.pread(fd, 9000, 0), content, f"content of {content[:8]!r}")
        os.close(fd)


def parts_of_rows_do_not_count(path):
    fd = opened(path)
    check(add(fd, 4, range(12)), ("OK", 0), "three rows")
    os.ftruncate(fd, HEADER + 8 + 3)
    check(search(fd, [0, 1, 2, 3], 9), [(0, 0)], "rows of a cut file")
    check(add(fd, 4, [9, 9, 9, 9]), ("OK", 1), "a row in the place of a part of one")
    check(os.fstat(fd).st_size, HEADER + 16, "size of the mended file")
    check([hit[0] for hit in search(fd, [9, 9, 9, 9], 9)], [1, 0], "rows of the mended file")
    os.close(fd)


def full_volume_changes_nothing(path):
    fd = opened(path)
    row = [3] * 1024
    check(add(fd, 1024, row)[0], "OK", "a row")
    filler = opened(path + "-filler")
    try:
        while True:
            os.write(filler, bytes(1 << 20))
    except OSError as error:
        check(errno.errorcode[error.errno], "ENOSPC", "filling the volume")
    os.ftruncate(filler, os.fstat(filler).st_size - (2 << 20))
    os.sync()
    before = os.statvfs(path).f_bfree
    check(add(fd, 1024, row * 2048)[0], "ENOSPC", "4 MiB where there are 2")
    check(os.fstat(fd).st_size, HEADER + 2048, "size after ENOSPC")
    os.sync()
    check(os.statvfs(path).f_bfree, before, "free blocks after ENOSPC")
    check(add(fd, 1024, row), ("OK", 1), "a row that fits")
    os.close(filler)
    os.unlink(path + "-filler")
    os.close(fd)


def parallel_adders_lose_nothing(path):
    workers, each = 4, 15
    opened(path)
    children = []
    for worker in range(workers):
        pid = os.fork()
        if pid == 0:
            try:
                fd = os.open(path, os.O_WRONLY)
                rows = [[worker, number, 7] for number in range(each)]
                good = all(add(fd, 3, row * 5)[0] == "OK" for row in rows)
                os._exit(0 if good else 1)
            finally:
                os._exit(2)
        children.append(pid)
    for pid in children:
        check(os.waitpid(pid, 0)[1], 0, "a process that adds rows")
    with open(path, "rb") as file:
        elements = array.array("h", file.read()[HEADER:])
    rows = [tuple(elements[at : at + 15]) for at in range(0, len(elements), 15)]
    wanted = [(worker, number, 7) * 5 for worker in range(workers) for number in range(each)]
    check(sorted(rows), sorted(wanted), "rows of all processes, each batch in one piece")


def main():
    root = f"{sys.argv[1]}/vector-ioctls"
    os.makedirs(root)
    for number, test in enumerate(
        (
            results_are_right,
            extremes_do_not_overflow,
            wrong_arguments_change_nothing,
            descriptors_must_fit,
            other_files_are_refused,
            parts_of_rows_do_not_count,
            full_volume_changes_nothing,
            parallel_adders_lose_nothing,
        )
    ):
        test(f"{root}/file{number}")
    shutil.rmtree(root)
    print(f"vector ioctls: {checks} checks passed")


if __name__ == "__main__":
    main()
