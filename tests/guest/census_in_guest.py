"""Everything below a directory as plain data, to be compared with itself later.

For what nobody of us made: the content of a read-only filesystem, or of one that a call must not
have changed. Runs in the guest: only the standard library.
"""

import os
import stat
import zlib

_CHUNK = 256 * 1024
#: A read-only filesystem may be big; a sample of it is as good.
_ENTRIES = 400
_BYTES = 8 << 20


def census(root, content=True):
    """Name -> (mode, links, owner, group, size or device, checksum or target), root included."""
    found, budget = {".": _row(root, os.lstat(root), 0)}, _BYTES
    waiting = [""]
    while waiting and len(found) < _ENTRIES:
        directory = waiting.pop(0)
        names = os.listdir(f"{root}/{directory}")
        assert len(set(names)) == len(names), f"'{directory or '.'}' lists a name twice"
        for name in sorted(names):
            relative = f"{directory}/{name}" if directory else name
            status = os.lstat(f"{root}/{relative}")
            wanted = content and status.st_size <= budget
            found[relative] = _row(f"{root}/{relative}", status, budget if wanted else 0)
            if stat.S_ISREG(status.st_mode) and wanted:
                budget -= status.st_size
            if stat.S_ISDIR(status.st_mode):
                waiting.append(relative)
    return found


def _row(path, status, budget):
    size, extra = status.st_size, ""
    if stat.S_ISREG(status.st_mode):
        extra = checksum(path) if budget else ""
    elif stat.S_ISLNK(status.st_mode):
        extra = os.readlink(path)
    elif stat.S_ISDIR(status.st_mode):
        size = 0  # grows with what is created below it, and may stay grown
    else:
        size = status.st_rdev
    return (status.st_mode, status.st_nlink, status.st_uid, status.st_gid, size, extra)


def checksum(path):
    """Of a regular file; '' of one whose content is made when it is read, as below /proc."""
    value, total = 0, 0
    fd = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        size = status.st_size
        while piece := os.read(fd, _CHUNK):
            value, total = zlib.crc32(piece, value), total + len(piece)
            # No disk is behind it (an anonymous device number), so no size can be wrong.
            if not size and not os.major(status.st_dev):
                return ""
        assert total == size, f"'{path}' has the size {size}, and {total} bytes can be read"
    finally:
        os.close(fd)
    return f"{value:08x}"


_COLUMNS = ("mode", "link count", "owner", "group", "size", "content")


def assert_unchanged(root, before, why, ignored=()):
    """The census of `root` is still `before`; the message names what differs, and `why`.

    Names in `ignored` must be there, but may be different.
    """
    now = census(root)
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    assert not gone, f"{why}, these are gone: {gone[:5]}"
    assert not new, f"{why}, these are there and were not before: {new[:5]}"
    for name, row in before.items():
        if name in ignored:
            continue
        for column, was, now_is in zip(_COLUMNS, row, now[name], strict=True):
            assert was == now_is, f"{why}, the {column} of '{name}' is {now_is!r}, it was {was!r}"


def first_file(root):
    """The first regular file with content in a census of `root`, None when there is none."""
    for name, row in sorted(census(root, content=False).items()):
        if stat.S_ISREG(row[0]) and row[4]:
            return f"{root}/{name}"
    return None


def first_directory(root):
    """The first directory below the root in a census of it, None when there is none."""
    for name, row in sorted(census(root, content=False).items()):
        if stat.S_ISDIR(row[0]) and name != ".":
            return f"{root}/{name}"
    return None


def read_in_pieces(path, mapped):
    """One file backwards, at odd offsets, across its end and, if `mapped`, through a mapping."""
    import mmap

    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        size = min(os.fstat(fd).st_size, _BYTES)
        whole = b""
        while len(whole) < size and (piece := os.pread(fd, _CHUNK, len(whole))):
            whole += piece
        assert len(whole) >= size, f"'{path}' has the size {size}, and {len(whole)} can be read"
        places = [(start, 4096) for start in range(size - size % 4096, -1, -4096)]
        places += [(turn * 48_271 % size, turn * 7919 % 9000 + 1) for turn in range(40)]
        if size == os.fstat(fd).st_size:
            places += [(size - 1, 10), (size, 10), (size + 100_000, 10)]
        for start, length in places:
            got = os.pread(fd, length, start)
            assert got[: size - start if start < size else 0] == whole[start : start + length], (
                f"'{path}' reads differently at offset {start}, length {length}"
            )
        if not mapped:
            return
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
            assert memory[:size] == whole[:size], f"'{path}' reads differently through a mapping"
