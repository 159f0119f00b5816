"""Ways to content besides read and write: direct, vectored, by the kernel itself. In the guest.

Filesystems need not offer most of them; the kernel then refuses them cleanly. What is offered
must give the same bytes as read(2) and write(2).
"""

import errno
import mmap
import os

from parallel_in_guest import in_parallel
from tree_in_guest import (
    Refused,
    Tree,
    check_content,
    describe,
    offers,
    optional,
    pattern,
    write_all,
)

KIB = 1024


# -- past the page cache ----------------------------------------------------------------------


class _Direct:
    """A file opened with O_DIRECT; offsets and lengths are multiples of 4 KiB."""

    def __init__(self, path):
        self.buffer = mmap.mmap(-1, 64 * KIB)  # page-aligned, as O_DIRECT wants it
        with optional("O_DIRECT"):
            self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)

    def read(self, length, offset):
        """Up to `length` bytes: a read ends where the file does."""
        got = b""
        while len(got) < length:
            window = memoryview(self.buffer)[: length - len(got)]
            with optional("O_DIRECT"):
                count = os.preadv(self.fd, [window], offset + len(got))
            got += bytes(window[:count])
            if count % 4096 or not count:
                break
        return got

    def write(self, data, offset):
        self.buffer[: len(data)] = data
        done = 0
        while done < len(data):
            window = memoryview(self.buffer)[done : len(data)]
            with optional("O_DIRECT"):
                count = os.pwritev(self.fd, [window], offset + done)
            assert count > 0, f"a direct write returned {count}"
            done += count

    def close(self):
        os.close(self.fd)


def direct(root, lacks):
    """O_DIRECT sees what is only in the page cache, and the page cache what went past it."""
    tree = Tree(root)
    tree.create("mixed", 40 * KIB)
    tree.create("past", 0)
    content = tree.content("mixed")
    file = _Direct(tree.path("mixed"))
    _direct_is(file, content, 0, 40 * KIB, "of what write has just written")
    label = tree.fresh_label("mixed")
    file.write(pattern(label, 8 * KIB, 12 * KIB), 8 * KIB)
    content.write(label, 8 * KIB, 12 * KIB)
    check_content(tree.path("mixed"), content, content.labels(), "mixed, written directly")
    tree.write("mixed", 9000, 700)
    _direct_is(file, content, 8 * KIB, 8 * KIB, "after a write")
    tree.write("mixed", 40 * KIB, 100)  # the end is no multiple of anything now
    _direct_is(file, content, 36 * KIB, 8 * KIB, "across the end")
    file.close()
    file = _Direct(tree.path("past"))  # a file that write(2) never saw
    for start in (0, 16 * KIB, 32 * KIB):
        file.write(pattern("past", start, 16 * KIB), start)
    tree.content("past").write("past", 0, 48 * KIB)
    if "truncate" not in lacks and "sparse" not in lacks:
        tree.truncate("past", 60 * KIB + 10)
        _direct_is(file, tree.content("past"), 44 * KIB, 16 * KIB, "into a hole")
        label = tree.fresh_label("past")
        file.write(pattern(label, 52 * KIB, 4 * KIB), 52 * KIB)
        tree.content("past").write(label, 52 * KIB, 4 * KIB)
    file.close()
    return tree.settle()


def _direct_is(file, content, offset, length, what):
    expected = content.expected(offset, min(length, content.size - offset))
    got = file.read(length, offset)
    pairs = enumerate(zip(got, expected, strict=False))
    at = next((n for n, (have, want) in pairs if have != want), min(len(got), len(expected)))
    assert got == expected, (
        f"a direct read {what} gives {len(got)} bytes, it must be {len(expected)}; they differ "
        f"from offset {offset + at} on: {describe(got[at:], content.labels())}"
    )


# -- many buffers -----------------------------------------------------------------------------


def vectored(root):
    """writev and readv with many buffers of odd sizes, some of them empty."""
    tree = Tree(root)
    tree.create("many")
    lengths = [1, 0, 4095, 700, 4096, 3, 9000, 0, 513, 5000]
    label, total = tree.fresh_label("many"), sum(lengths)
    fd = os.open(tree.path("many"), os.O_RDWR)
    written = 0
    while written < total:
        count = os.pwritev(fd, _pieces(label, lengths, written), written)
        assert count > 0, f"writev returned {count}"
        written += count
    tree.content("many").write(label, 0, total)
    buffers = [bytearray(length) for length in reversed(lengths)]
    count = os.preadv(fd, buffers, 0)
    os.close(fd)
    assert count == total, f"readv of {total} bytes of a file of {total} returned {count}"
    expected = pattern(label, 0, total)
    assert b"".join(buffers) == expected, (
        "readv into many buffers gives other bytes than were written"
    )
    return tree.settle()


def _pieces(label, lengths, start):
    """The buffers of a writev that goes on at `start`."""
    found, at = [], 0
    for length in lengths:
        low = max(at, start)
        if low <= at + length:
            found.append(pattern(label, low, at + length - low))
        at += length
    return found


# -- by the kernel ----------------------------------------------------------------------------

_FICLONE = 0x40049409


def copied_by_the_kernel(root):
    """sendfile, copy_file_range and a reflink copy what is there, also what is not on disk yet.

    Returns (the note, which of them are refused).
    """
    tree = Tree(root)
    size, refused = 50_001, []
    tree.create("source", size)
    tree.write("source", 12_345, 9_999)
    source = os.open(tree.path("source"), os.O_RDONLY)
    for number, (what, copy) in enumerate(_COPIES.items()):
        name = f"copy{number}"
        tree.create(name)
        target = os.open(tree.path(name), os.O_RDWR)
        try:
            with optional(what, errno.EXDEV, errno.EBADF):
                copy(source, target, size)
        except Refused:
            refused.append(what)
            if os.fstat(target).st_size:  # some of it was copied before
                os.ftruncate(target, 0)
        else:
            tree.content(name).writes += tree.content("source").writes
            tree.content(name).size = size
        os.close(target)
        if what not in refused:
            tree.write(name, 20_000, 500)  # of the copy alone
    os.close(source)
    return tree.settle(), refused


def _sent(source, target, size):
    """The descriptor's own position says where it is written."""
    at = 0
    while at < size:
        count = os.sendfile(target, source, at, min(7001, size - at))
        assert count > 0, f"sendfile at {at} of {size} returned {count}"
        at += count


def _range_copied(source, target, size):
    at = 0
    while at < size:
        count = os.copy_file_range(source, target, min(30_007, size - at), at, at)
        assert count > 0, f"copy_file_range at {at} of {size} returned {count}"
        at += count


def _cloned(source, target, _):
    import fcntl

    fcntl.ioctl(target, _FICLONE, source)


_COPIES = {"sendfile": _sent, "copy_file_range": _range_copied, "a reflink": _cloned}
WAYS_TO_COPY = len(_COPIES)


# -- where data is ----------------------------------------------------------------------------


def sought(root, lacks):
    """SEEK_DATA and SEEK_HOLE, which cp(1) and tar(1) believe: no data may lie in a hole."""
    tree = Tree(root)
    tree.create("dense", 30_000)
    tree.create("thin")
    islands = [(0, 700)] if "sparse" in lacks else [(9000, 700), (131_072, 4096), (300_000, 5)]
    for offset, length in islands:
        tree.write("thin", offset, length)
    if not {"truncate", "sparse"} & set(lacks):
        tree.truncate("thin", 400_000)
    check_holes(root, islands)  # dirty pages are data, too
    os.sync()
    check_holes(root, islands)
    return tree.settle(), islands


def check_holes(root, islands):
    for name, wanted in (("dense", [(0, 30_000)]), ("thin", islands)):
        segments, size = _segments(f"{root}/{name}")
        for offset, length in wanted:
            inside = any(low <= offset and offset + length <= high for low, high in segments)
            assert inside, (
                f"'{name}' has {length} bytes of data at {offset}, and by SEEK_DATA and SEEK_HOLE "
                f"its data is only at {segments} (of {size} bytes): cp --sparse would lose them"
            )


def _segments(path):
    """[begin, end) of each piece of data, and the file's size."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size, at, found = os.fstat(fd).st_size, 0, []
        while True:
            try:
                with optional("SEEK_DATA"):
                    data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO, (
                    f"SEEK_DATA from {at} says {errno.errorcode.get(error.errno)}, not ENXIO"
                )
                break
            hole = os.lseek(fd, data, os.SEEK_HOLE) if data < size else data
            assert at <= data < hole <= size, (
                f"{path.rpartition('/')[2]}, {size} bytes: SEEK_DATA from {at} says {data}, "
                f"SEEK_HOLE from there says {hole}"
            )
            found.append((data, hole))
            at = hole
        return found, size
    finally:
        os.close(fd)


# -- fallocate --------------------------------------------------------------------------------

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
WAYS_TO_ALLOCATE = 4


def preallocated(root, lacks):
    """fallocate reserves and punches without showing old media or touching other content.

    Returns (the note, which modes are refused).
    """
    tree, refused = Tree(root), []

    def done(what, name, mode, offset, length):
        fd = os.open(tree.path(name), os.O_RDWR)
        try:
            with optional(what):
                _fallocate(fd, mode, offset, length)
        except Refused:
            refused.append(what)
            return False
        finally:
            os.close(fd)
        return True

    tree.create("grown", 700)
    if done("fallocate", "grown", 0, 300, 50_001):
        tree.content("grown").size = 50_301
    tree.create("kept", 20_000)
    done("fallocate", "kept", 0, 5000, 9000)  # all of it is there already
    tree.create("reserved", 700)
    if done("FALLOC_FL_KEEP_SIZE", "reserved", _KEEP_SIZE, 0, 60_000):
        size = os.stat(tree.path("reserved")).st_size
        assert size == 700, f"FALLOC_FL_KEEP_SIZE made a file of 700 bytes one of {size}"
        if "truncate" not in lacks:
            tree.truncate("reserved", 40_000)  # what was reserved must not show old media
    for what, name, mode in (
        ("FALLOC_FL_PUNCH_HOLE", "punched", _PUNCH_HOLE | _KEEP_SIZE),
        ("FALLOC_FL_ZERO_RANGE", "zeroed", _ZERO_RANGE),
    ):
        tree.create(name, 50_000)
        os.sync()
        tree.write(name, 30_000, 100)  # some of it dirty
        if done(what, name, mode, 5001, 30_002):
            tree.content(name).zero(5001, 30_002)
            tree.write(name, 9000, 300)
    return tree.settle(), list(dict.fromkeys(refused))


def _fallocate(fd, mode, offset, length):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate is refused")


# -- a log of many writers --------------------------------------------------------------------

_RECORD = 347  # fits no block, so that each one ends inside another
LOG = "log"


def logged(root, workers, each, lacks):
    """Processes append records to one file at once: each is there, whole, and once.

    Returns (the note, without the log; the log's checksum, and whether it can be removed).
    """
    from census_in_guest import checksum

    tree = Tree(root)
    tree.create(LOG)

    def work(worker):
        with offers("append", "opening with O_APPEND"):
            fd = os.open(tree.path(LOG), os.O_WRONLY | os.O_APPEND)
        for number in range(each):
            write_all(fd, _record(worker, number))
        os.close(fd)

    in_parallel(workers, work)
    with open(tree.path(LOG), "rb") as file:
        data = file.read()
    wanted = {_record(worker, number) for worker in range(workers) for number in range(each)}
    found = [data[at : at + _RECORD] for at in range(0, len(data), _RECORD)]
    lost = sorted(record[:12].decode() for record in wanted - set(found))
    assert len(data) == len(wanted) * _RECORD and not lost, (
        f"{len(wanted)} records of {_RECORD} bytes were appended by {workers} processes; the file "
        f"has {len(data)} bytes, and {len(lost)} records are not in it whole: {lost[:5]}"
    )
    # What the order became is known now, and is no affair of a Tree's content.
    del tree.files[tree.names.pop(LOG)[1]]
    tree.strangers.add(LOG)
    return tree.settle(), (checksum(tree.path(LOG)), "unlink" not in lacks)


def _record(worker, number):
    head = b"<%02d:%04d>" % (worker, number)
    return (head * (_RECORD // len(head) + 1))[: _RECORD - 1] + b"\n"


def check_log(root, known):
    """After a remount: the same bytes; then the log is removed."""
    from census_in_guest import checksum

    path, (wanted, removable) = f"{root}/{LOG}", known
    assert checksum(path) == wanted, "the log that several processes wrote is another one now"
    if removable:
        os.unlink(path)
