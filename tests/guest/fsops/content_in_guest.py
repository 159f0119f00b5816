"""What is written into files, in every way. Runs in the guest."""

import contextlib
import errno
import mmap
import os

from amounts_in_guest import room

from tree_in_guest import (
    Content,
    Refused,
    Tree,
    check_content,
    known,
    offers,
    optional,
    pattern,
    write_all,
)

KIB = 1024


def files_of_sizes(root, sizes):
    """A file of each size, written in one go."""
    tree = Tree(root)
    for size in sizes:
        tree.create(f"s{size}", size)
    return tree.settle()


def written_in_odd_pieces(root, piece, size):
    """Pieces that never fit a block: each write begins and ends inside one."""
    tree = Tree(root)
    tree.create("pieces", size, piece=piece)
    tree.create("other", size, piece=piece * 3)
    return tree.settle()


def overwritten_in_the_middle(root):
    """New content at aligned and unaligned places; what surrounds it must stay."""
    tree = Tree(root)
    tree.create("aligned", 40 * KIB)
    tree.write("aligned", 8192, 4096)
    tree.write("aligned", 20480, 512)
    tree.create("odd", 40 * KIB)
    tree.write("odd", 1, 1)
    tree.write("odd", 4095, 2)
    tree.write("odd", 10_000, 7001)
    tree.write("odd", 40 * KIB - 100, 300)  # across the end
    return tree.settle()


def overwritten_backwards(root):
    """A file written from its end to its start, then each block again in random order."""
    tree = Tree(root)
    tree.create("back")
    for start in range(28 * KIB, -1, -4 * KIB):
        tree.write("back", start, 4 * KIB)
    for turn in range(16):
        tree.write("back", turn * 7 % 16 * 2 * KIB, 2 * KIB)
    return tree.settle()


def appended(root):
    """O_APPEND in odd pieces, two files by turns so that their blocks interleave."""
    tree = Tree(root)
    tree.create("left")
    tree.create("right", 100)
    for number in range(30):
        tree.append("left", 701 + number)
        tree.append("right", 1300 - number)
    # O_APPEND ignores the position: pwrite on Linux appends as well (pwrite(2), BUGS).
    label = tree.fresh_label("left")
    end = tree.content("left").size
    fd = os.open(tree.path("left"), os.O_WRONLY | os.O_APPEND)
    os.lseek(fd, 0, os.SEEK_SET)
    write_all(fd, pattern(label, end, 100))
    os.close(fd)
    tree.content("left").write(label, end, 100)
    return tree.settle()


def appended_by_two_descriptors(root):
    """Two descriptors with O_APPEND on one file: each write lands behind the other's."""
    tree = Tree(root)
    tree.create("log")
    content = tree.content("log")
    with offers("append", "opening with O_APPEND"):
        fds = [os.open(tree.path("log"), os.O_WRONLY | os.O_APPEND) for _ in range(2)]
    for number in range(24):
        label = tree.fresh_label("log")
        length = 333 + 31 * number
        write_all(fds[number % 2], pattern(label, content.size, length))
        content.write(label, content.size, length)
    for fd in fds:
        os.close(fd)
    return tree.settle()


def shrunk_and_grown(root, sizes):
    """truncate down and up through `sizes`: what comes back must be zeros, never old data."""
    tree = Tree(root)
    tree.create("t", sizes[0])
    for size in sizes[1:]:
        tree.truncate("t", size)
        check_content(tree.path("t"), tree.content("t"), tree.content("t").labels(), "t")
    tree.create("after", 24 * KIB)  # takes blocks the file gave back
    return tree.settle()


def shrunk_then_written_beyond(root):
    """truncate into a block, then write past the end: the gap between must read as zeros."""
    tree = Tree(root)
    for name, cut, start in (("a", 100, 300), ("b", 4000, 5000), ("c", 5000, 20_000)):
        tree.create(name, 16 * KIB)
        os.sync()
        tree.truncate(name, cut)
        tree.write(name, start, 1000)
    return tree.settle()


def rewritten_shorter(root):
    """Truncated to nothing and written again; and O_TRUNC."""
    tree = Tree(root)
    tree.create("zero", 30 * KIB)
    tree.truncate("zero", 0)
    tree.write("zero", 0, 1000)
    tree.create("otrunc", 30 * KIB)
    label = tree.fresh_label("otrunc")
    with offers("truncate", "opening with O_TRUNC"):
        fd = os.open(tree.path("otrunc"), os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(fd).st_size == 0, "the size after O_TRUNC is not 0"
    write_all(fd, pattern(label, 0, 6000))
    os.close(fd)
    content = tree.content("otrunc")
    content.cut(0)
    content.write(label, 0, 6000)
    tree.create("empty", 9000)
    tree.truncate("empty", 0)
    return tree.settle()


def grown_from_nothing(root):
    """A file that only ever was extended by truncate, on a medium full of old data."""
    tree = Tree(root)
    for size in (1, 511, 4097, 100_001):
        tree.create(f"g{size}")
        tree.truncate(f"g{size}", size)
    tree.create("tail", 700)
    tree.truncate("tail", 12_000)
    return tree.settle()


def holes(root, offsets):
    """Islands of data in a file of holes."""
    tree = Tree(root)
    tree.create("holes")
    for offset in offsets:
        with offers("sparse", "writing beyond the end of a file"):
            tree.write("holes", offset, 700)
    tree.truncate("holes", offsets[-1] + 5000)
    # Fill one hole: its neighbours stay holes.
    tree.write("holes", offsets[0] + 4096, 512)
    return tree.settle()


def in_pieces(root, wanted):
    """Every second block of a file: no two of them are neighbours on the disk of a block map."""
    tree = Tree(root)
    tree.create("pieces")
    count = room(root, wanted * 2 * _PIECE) // (2 * _PIECE)
    label = tree.fresh_label("pieces")
    fd = os.open(tree.path("pieces"), os.O_WRONLY)
    for number in range(count):
        offset = number * 2 * _PIECE
        with offers("sparse", "writing beyond the end of a file"):
            write_all(fd, pattern(label, offset, _PIECE), offset)
        tree.content("pieces").write(label, offset, _PIECE)
    os.close(fd)
    return tree.settle()


def between_the_pieces(root, note):
    """From a cold cache: the blocks between them, from the end to the beginning."""
    tree = known(root, note)
    size = tree.content("pieces").size
    for offset in range(size - 2 * _PIECE, 0, -8 * _PIECE):
        tree.write("pieces", offset, _PIECE)
    return tree.settle()


_PIECE = 4096


def up_to_the_largest_size(root, most, lacks):
    """A file grows until the filesystem says EFBIG; every place below that size can be written."""
    tree = Tree(root)
    tree.create("grown")
    label = tree.fresh_label("grown")
    fd = os.open(tree.path("grown"), os.O_WRONLY)
    size, said = 0, ""
    try:
        while size < most:
            size += os.pwrite(fd, pattern(label, size, 4096), size)
    except OSError as error:
        said = errno.errorcode.get(error.errno)
        assert said in ("EFBIG", "ENOSPC"), f"writing at offset {size} says {said}, not EFBIG"
    finally:
        os.close(fd)
    assert size, "not one byte can be written into a file"
    tree.content("grown").write(label, 0, size)
    if said == "EFBIG":
        tree.create("beyond")
        _nothing_beyond(tree.path("beyond"), size, most)
    if "sparse" not in lacks:
        tree.create("thin")
        for start in (size - 1, size // 2, 0):
            tree.write("thin", start, min(100, size - start))
    return tree.settle()


def _nothing_beyond(path, largest, most):
    """A write beyond the largest size has to be refused: otherwise it was not the largest."""
    fd = os.open(path, os.O_WRONLY)
    offset = largest + 4096
    while offset < 2 * most:
        try:
            os.pwrite(fd, b"beyond", offset)
        except OSError:
            offset = largest + 2 * (offset - largest)
        else:
            raise AssertionError(
                f"writing at offset {largest} says EFBIG, but writing at {offset} works"
            )
    os.close(fd)


def far_offset(root, offset):
    """A few bytes at a far offset: through every level of the block map."""
    tree = Tree(root)
    tree.create("far", 100)
    try:
        with offers("largefile", f"writing at offset {offset}"):
            tree.write("far", offset, 5000)
    except OSError as error:
        # That files of several MiB work is for other tests to prove.
        if error.errno != errno.EFBIG or offset < 1 << 30:
            raise
        raise Refused(f"files of {offset} bytes are too large for the filesystem (EFBIG)") from None
    content = tree.content("far")
    tree.write("far", offset // 2, 100)
    size = os.stat(tree.path("far")).st_size
    assert size == content.size, f"the size is {size}, it must be {content.size}"
    # Reading hundreds of MiB of zeros would only heat the room: check what matters.
    note = [(start, 9000) for start in (0, offset // 2 - 4096, offset - 4000)]
    check_places(root, content.note(), note)
    return content.note(), note


def check_places(root, made, places, cleanup=False):
    """The far file's second look: its size, and its content around `places`."""
    content, path = Content(*made), f"{root}/far"
    assert os.stat(path).st_size == content.size, (
        f"far: the size is {os.stat(path).st_size}, it must be {content.size}"
    )
    with open(path, "rb", buffering=0) as file:
        for start, length in places:
            length = min(length, content.size - start)
            got = os.pread(file.fileno(), length, start)
            if got != content.expected(start, length):
                from tree_in_guest import _difference

                expected = content.expected(start, length)
                raise AssertionError(_difference("far", start, got, expected, content.labels()))
    if cleanup:
        os.unlink(path)
        if not os.path.ismount(root):
            os.rmdir(root)


def large_file(root, wanted):
    """One file of `wanted` bytes or as much as the free space allows, in two generations."""
    tree = Tree(root)
    size = room(root, wanted)
    tree.create("large", size)
    tree.write("large", size // 2 - 777, 70_001)
    return tree.settle()


def read_in_every_way(root, note):
    """A cold file: read backwards, at odd offsets, across its end, and through two descriptors."""
    (size, writes) = note["files"][note["names"]["mix"][1]]
    content = Content(size, writes)
    path = f"{root}/mix"
    fds = [os.open(path, os.O_RDONLY) for _ in range(2)]
    places = [(start, 4096) for start in range(size - size % 4096, -1, -4096)]
    places += [(turn * 48_271 % size, turn * 7919 % 9000 + 1) for turn in range(40)]
    places += [(size - 1, 10), (size, 10), (size + 100_000, 10)]
    for number, (start, length) in enumerate(places):
        got = os.pread(fds[number % 2], length, start)
        expected = content.expected(start, max(0, min(length, size - start)))
        assert got == expected, (
            f"mix: pread of {length} bytes at {start} returned {len(got)} bytes that differ from "
            f"the {len(expected)} expected"
        )
    for fd in fds:
        os.close(fd)


def one_mixed_file(root):
    tree = Tree(root)
    tree.create("mix", 70_001)
    tree.write("mix", 12_345, 9_999)
    return tree.settle()


def kept_through_fsync(root):
    """fsync and fdatasync of files must succeed, and of the directory where it is offered."""
    tree = Tree(root)
    tree.create("synced", 9000)
    tree.create("data", 9000)
    for name, flush in (("synced", os.fsync), ("data", os.fdatasync)):
        fd = os.open(tree.path(name), os.O_RDWR)
        with offers("fsync", f"{flush.__name__} of a file", errno.EINVAL):
            flush(fd)
        os.close(fd)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(Refused), optional("fsync of a directory"):
        os.fsync(fd)
    os.close(fd)
    fd = os.open(tree.path("synced"), os.O_WRONLY | os.O_SYNC)
    label = tree.fresh_label("synced")
    write_all(fd, pattern(label, 100, 5000), 100)
    os.close(fd)
    tree.content("synced").write(label, 100, 5000)
    return tree.settle()


def mapped(root):
    """A shared mapping: its stores are seen by read, and reads see stores of write."""
    tree = Tree(root)
    tree.create("map", 20_000)
    content = tree.content("map")
    fd = os.open(tree.path("map"), os.O_RDWR)
    with offers("mmap", "a shared writable mapping", errno.ENODEV, errno.EINVAL):
        memory = mmap.mmap(fd, 20_000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    assert memory[:] == content.expected(0, 20_000), "the mapping does not show the file's content"
    label = tree.fresh_label("map")
    memory[3000:12_000] = pattern(label, 3000, 9000)
    content.write(label, 3000, 9000)
    assert os.pread(fd, 20_000, 0) == content.expected(0, 20_000), (
        "read does not see what was stored through the mapping"
    )
    label = tree.fresh_label("map")
    write_all(fd, pattern(label, 15_000, 100), 15_000)
    content.write(label, 15_000, 100)
    assert memory[15_000:15_100] == pattern(label, 15_000, 100), (
        "the mapping does not see what was written"
    )
    memory.flush()
    memory.close()
    os.close(fd)
    return tree.settle()


def mapped_hole(root):
    """Stores through a mapping into a hole must allocate blocks."""
    tree = Tree(root)
    tree.create("hole")
    tree.truncate("hole", 64 * KIB)
    fd = os.open(tree.path("hole"), os.O_RDWR)
    with offers("mmap", "a shared writable mapping", errno.ENODEV, errno.EINVAL):
        memory = mmap.mmap(fd, 64 * KIB, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    for start in (8192, 40_000):
        label = tree.fresh_label("hole")
        memory[start : start + 6000] = pattern(label, start, 6000)
        tree.content("hole").write(label, start, 6000)
    memory.close()
    os.close(fd)
    return tree.settle()
