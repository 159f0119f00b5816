"""Scenarios on a mounted filesystem: each makes a tree, checks it live and returns its note.

They run in the guest; tests call them through `survives` (see conftest.py), which remounts cold
and verifies the note again. `root` is a directory of the test's own.
"""

import errno
import mmap
import os
import stat

from tree_in_guest import (
    SECTOR,
    Content,
    Tree,
    check_content,
    fails_with,
    free_space,
    offers,
    optional,
    pattern,
    remove,
    sync_twice,
    verify,
)

KIB, MIB = 1024, 1024 * 1024


# -- content --------------------------------------------------------------------------------


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
    os.write(fd, pattern(label, end, 100))
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
        os.write(fds[number % 2], pattern(label, content.size, length))
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
    os.write(fd, pattern(label, 0, 6000))
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


def far_offset(root, offset):
    """A few bytes at a far offset: through every level of the block map."""
    tree = Tree(root)
    tree.create("far", 100)
    with offers("largefile", f"writing at offset {offset}"):
        tree.write("far", offset, 5000)
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


def room(root, wanted):
    """At most 60 % of the free space, where the filesystem counts it."""
    space = free_space(root)
    if not space["total"]:
        return wanted
    assert space["avail"], "statfs says that nothing is available on a fresh filesystem"
    return min(wanted, int(space["avail"] * 0.6) // SECTOR * SECTOR)


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
    """fsync and fdatasync of files and of the directory must succeed."""
    tree = Tree(root)
    tree.create("synced", 9000)
    tree.create("data", 9000)
    for name, flush in (("synced", os.fsync), ("data", os.fdatasync)):
        fd = os.open(tree.path(name), os.O_RDWR)
        with offers("fsync", f"{flush.__name__} of a file"):
            flush(fd)
        os.close(fd)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    with optional("fsync of a directory"):
        os.fsync(fd)
    os.close(fd)
    fd = os.open(tree.path("synced"), os.O_WRONLY | os.O_SYNC)
    label = tree.fresh_label("synced")
    os.pwrite(fd, pattern(label, 100, 5000), 100)
    os.close(fd)
    tree.content("synced").write(label, 100, 5000)
    return tree.settle()


def mapped(root):
    """A shared mapping: its stores are seen by read, and reads see stores of write."""
    tree = Tree(root)
    tree.create("map", 20_000)
    content = tree.content("map")
    fd = os.open(tree.path("map"), os.O_RDWR)
    with offers("mmap", "a shared writable mapping"):
        memory = mmap.mmap(fd, 20_000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    assert memory[:] == content.expected(0, 20_000), "the mapping does not show the file's content"
    label = tree.fresh_label("map")
    memory[3000:12_000] = pattern(label, 3000, 9000)
    content.write(label, 3000, 9000)
    assert os.pread(fd, 20_000, 0) == content.expected(0, 20_000), (
        "read does not see what was stored through the mapping"
    )
    label = tree.fresh_label("map")
    os.pwrite(fd, pattern(label, 15_000, 100), 15_000)
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
    with offers("mmap", "a shared writable mapping"):
        memory = mmap.mmap(fd, 64 * KIB, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    for start in (8192, 40_000):
        label = tree.fresh_label("hole")
        memory[start : start + 6000] = pattern(label, start, 6000)
        tree.content("hole").write(label, start, 6000)
    memory.close()
    os.close(fd)
    return tree.settle()


# -- names ----------------------------------------------------------------------------------


def renamed(root):
    """Within a directory: a file, back and forth, and onto itself."""
    tree = Tree(root)
    tree.create("a", 5000)
    tree.create("keep", 700)
    before = os.stat(tree.path("a")).st_ino
    tree.rename("a", "b")
    assert os.stat(tree.path("b")).st_ino == before, "rename changed the inode number"
    tree.rename("b", "longer-name")
    tree.rename("longer-name", "c")
    tree.rename("c", "c")
    fails_with("ENOENT", "opening the old name", os.stat, tree.path("a"))
    fails_with("ENOENT", "renaming what is not there", os.rename, tree.path("a"), tree.path("x"))
    return tree.settle()


def renamed_over_files(root):
    """Replacing files: the target's old content and name are gone, its open descriptor lives."""
    tree = Tree(root)
    tree.create("short", 3000)
    tree.create("long", 20_000)
    tree.create("empty")
    tree.create("x", 8000)
    doomed = os.open(tree.path("long"), os.O_RDONLY)
    old = tree.content("long")
    tree.rename("short", "long")
    assert os.pread(doomed, 20_000, 0) == old.expected(0, 20_000), (
        "a replaced file lost its content while it was open"
    )
    assert os.fstat(doomed).st_nlink == 0, (
        f"a replaced file has a link count of {os.fstat(doomed).st_nlink}, it must be 0"
    )
    os.close(doomed)
    tree.rename("empty", "x")
    for number in range(12):  # the way every editor and package manager saves
        tree.create("new", 1000 + number)
        tree.rename("new", "saved")
    return tree.settle()


def renamed_across_directories(root):
    """Files move between directories, also over a file that is there."""
    tree = Tree(root)
    for name in ("d1", "d2", "d1/sub"):
        tree.mkdir(name)
    tree.create("d1/f", 6000)
    tree.create("d2/g", 9000)
    tree.create("d1/sub/h", 300)
    tree.rename("d1/f", "d2/f")
    tree.rename("d1/sub/h", "d2/g")
    tree.rename("d2/f", "f")
    tree.rename("f", "d1/sub/f")
    return tree.settle()


def renamed_directories(root):
    """A directory with content moves; '..' and the link counts of both parents follow."""
    tree = Tree(root)
    for name in ("from", "to", "from/dir", "from/dir/deep", "empty", "onto"):
        tree.mkdir(name)
    tree.create("from/dir/f", 5000)
    tree.create("from/dir/deep/g", 700)
    tree.rename("from/dir", "to/moved")
    _dot_dot(tree, "to/moved", "to")
    tree.rename("to/moved", "to/again")
    tree.rename("empty", "onto")  # an empty directory may be replaced
    tree.create("onto/h", 100)
    fails_with(
        "EINVAL",
        "moving a directory into itself",
        os.rename,
        tree.path("to"),
        tree.path("to/again/x"),
    )
    fails_with(
        "ENOTEMPTY|EEXIST",
        "replacing a directory that is not empty",
        os.rename,
        tree.path("from"),
        tree.path("to"),
    )
    fails_with(
        "ENOTDIR",
        "replacing a file by a directory",
        os.rename,
        tree.path("from"),
        tree.path("onto/h"),
    )
    fails_with(
        "EISDIR", "replacing a directory by a file", os.rename, tree.path("onto/h"), tree.path("to")
    )
    return tree.settle()


def _dot_dot(tree, name, parent):
    above = os.stat(tree.path(f"{name}/..")).st_ino
    assert above == os.stat(tree.path(parent)).st_ino, f"'{name}/..' is not '{parent}'"


def dot_dot_is_parent(root, note):
    """Every directory's '..' leads to its parent, also the entry '..' that is on the medium.

    A path walk takes '..' from the dentry cache, so only reading the directory shows the entry.
    """
    for name, made in note["names"].items():
        if made[0] != "dir":
            continue
        path = f"{root}/{name}"
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        own, entries = os.fstat(fd).st_ino, raw_entries(fd)
        above = os.stat("..", dir_fd=fd).st_ino
        os.close(fd)
        parent = os.stat(path.rpartition("/")[0]).st_ino
        assert above == parent, f"'{name}/..' is not its parent directory"
        # Some filesystems invent numbers for readdir (vfat, exfat): then '.' differs as well.
        if entries.get(".") == own and ".." in entries:
            assert entries[".."] == parent, (
                f"the entry '..' of '{name}' has the inode number {entries['..']}, its parent "
                f"directory is {parent}"
            )


def raw_entries(fd):
    """Name -> inode number as getdents64(2) gives them, '.' and '..' included."""
    import ctypes

    number = {"x86_64": 217, "aarch64": 61}[os.uname().machine]
    libc, buffer, found = ctypes.CDLL(None), ctypes.create_string_buffer(32768), {}
    while (count := libc.syscall(number, fd, buffer, 32768)) > 0:
        data, at = buffer.raw[:count], 0
        while at < count:
            length = int.from_bytes(data[at + 16 : at + 18], "little")
            name = data[at + 19 : at + length].split(b"\0", 1)[0]
            found[os.fsdecode(name)] = int.from_bytes(data[at : at + 8], "little")
            at += length
    return found


def unlinked(root):
    """Every third file goes; the others stay whole, and the names can be used again."""
    tree = Tree(root)
    for number in range(18):
        tree.create(f"u{number}", 2000 + number)
    for number in range(0, 18, 3):
        tree.unlink(f"u{number}")
        fails_with("ENOENT", "opening a removed name", os.stat, tree.path(f"u{number}"))
    fails_with("ENOENT", "removing a name twice", os.unlink, tree.path("u0"))
    tree.create("u3", 5000)
    return tree.settle()


def unlinked_while_open(root):
    """The data of an open file without a name stays readable and writable until close."""
    tree = Tree(root)
    tree.create("ghost", 50_000)
    tree.create("stays", 5000)
    content = tree.content("ghost")
    expected = content.expected(0, 50_000)
    number = os.stat(tree.path("ghost")).st_ino
    fd = os.open(tree.path("ghost"), os.O_RDWR)
    tree.unlink("ghost")
    assert os.fstat(fd).st_nlink == 0, f"link count {os.fstat(fd).st_nlink} without a name"
    tree.create("ghost", 30_000)  # takes blocks and an inode while the old ones are in use
    for extra in range(6):
        tree.create(f"n{extra}", 4000)
        same = os.stat(tree.path(f"n{extra}")).st_ino == number
        assert not same, f"the inode number {number} is given away while its file is open"
    assert os.pread(fd, 50_000, 0) == expected, (
        "an open file without a name lost its content to a new file"
    )
    data = pattern("afterlife", 0, 3000)
    assert os.pwrite(fd, data, 60_000) == 3000
    assert os.pread(fd, 3000, 60_000) == data, "writing to an open file without a name is lost"
    os.close(fd)
    return tree.settle()


def hard_linked(root, in_directories):
    """Link counts, one inode under several names, and content that outlives its first name."""
    tree = Tree(root)
    tree.create("first", 6000)
    tree.link("first", "second")
    if in_directories:
        tree.mkdir("sub")
        tree.link("first", "sub/third")
    tree.create("alone", 100)
    tree.link("alone", "alone2")
    tree.unlink("alone2")
    tree.write("second", 1000, 2000)
    fails_with("EEXIST", "linking over a name", os.link, tree.path("alone"), tree.path("second"))
    tree.rename("first", "second")  # names of one file: nothing happens
    assert os.path.exists(tree.path("first")), "renaming over another name of the file removed it"
    tree.unlink("first")
    tree.create("first", 300)  # a new file under the old name is another file
    if in_directories:
        fails_with(
            "EPERM|EACCES|EISDIR", "linking a directory", os.link, tree.path("sub"), tree.path("x")
        )
        tree.rename("alone", "sub/third")
    return tree.settle()


def many_links(root, count):
    """One file with many names; then most of them go."""
    tree = Tree(root)
    tree.create("one", 1500)
    for number in range(count):
        tree.link("one", f"l{number}")
    for number in range(count - 3):
        tree.unlink(f"l{number}")
    tree.unlink("one")
    return tree.settle()


def symlinked(root, lengths):
    """Targets of many lengths: in the inode, in a block, up to nearly a block."""
    tree = Tree(root)
    tree.create("target", 4000)
    tree.symlink("target", "good")
    tree.symlink("nowhere/at/all", "dangling")
    for length in lengths:
        target = ("/" + "".join(chr(97 + n % 26) for n in range(length)))[:length]
        try:
            tree.symlink(target, f"l{length}")
        except OSError as error:
            # Shorter ones worked; a limit is a limit, any other refusal is a failure.
            if error.errno != errno.ENAMETOOLONG or length < 255:
                raise
            break
    with open(tree.path("good"), "rb") as file:
        assert file.read() == tree.content("target").expected(0, 4000), (
            "reading through a symbolic link gives other content"
        )
    fails_with("ENOENT", "following a dangling link", os.stat, tree.path("dangling"))
    tree.symlink("a", "gone")
    tree.unlink("gone")
    tree.symlink("self", "self")
    fails_with("ELOOP", "following a link to itself", os.stat, tree.path("self"))
    tree.rename("good", "better")
    return tree.settle()


def symlinked_directories(root):
    tree = Tree(root)
    for name in ("real", "real/sub"):
        tree.mkdir(name)
    tree.create("real/f", 700)
    tree.symlink("real", "alias")
    tree.symlink("../../real/f", "real/sub/up")
    for name in ("alias/f", "real/sub/up"):
        with open(tree.path(name), "rb") as file:
            assert len(file.read()) == 700, f"'{name}' does not lead to the file"
    return tree.settle()


def longest_names(root, namemax):
    """Names of every length near the longest one that statfs promises."""
    tree = Tree(root)
    lengths = sorted({1, 2, 7, 8, 11, 12, 13, 14, 15, 26, 27, namemax - 1, namemax})
    for length in (n for n in lengths if 0 < n <= namemax):
        tree.create("".join("abcdefghij"[n % 10] for n in range(length)), 600 + length)
    long = "z" * (namemax - 1)
    tree.create(long + "1", 1001)  # differ in the last byte only
    tree.create(long + "2", 1002)
    fails_with(
        "ENAMETOOLONG",
        f"a name of {namemax + 1} bytes, one more than there may be,",
        os.open,
        tree.path("n" * (namemax + 1)),
        os.O_CREAT | os.O_WRONLY,
    )
    return tree.settle()


ODD_NAMES = (".hid", "..x", "...x", "-d", "a b", "x~", "#1#", "%41", "a.b.c", "a'b", "(x)", "$HOME")


def odd_names(root):
    tree = Tree(root)
    for number, name in enumerate(ODD_NAMES):
        tree.create(name, 100 + number)
    return tree.settle()


def names_by_case(root):
    tree = Tree(root)
    tree.create("name", 100)
    tree.create("NAME", 200)
    tree.create("Name", 300)
    tree.unlink("NAME")
    return tree.settle()


# -- directories ----------------------------------------------------------------------------


def directories(root):
    """mkdir and rmdir, what they refuse, and the parent's link count on the way."""
    tree = Tree(root)
    tree.mkdir("d")
    counts = [os.stat(root).st_nlink]
    tree.mkdir("e")
    counts.append(os.stat(root).st_nlink)
    tree.mkdir("d/sub")
    tree.create("d/f", 100)
    fails_with("EEXIST", "mkdir over a directory", os.mkdir, tree.path("e"))
    fails_with("EEXIST", "mkdir over a file", os.mkdir, tree.path("d/f"))
    fails_with("ENOTEMPTY|EEXIST", "rmdir of a full directory", os.rmdir, tree.path("d"))
    fails_with("ENOTDIR", "rmdir of a file", os.rmdir, tree.path("d/f"))
    fails_with("EISDIR|EPERM", "unlink of a directory", os.unlink, tree.path("e"))
    fails_with("ENOENT", "rmdir of nothing", os.rmdir, tree.path("nothing"))
    fails_with("ENOENT", "mkdir below nothing", os.mkdir, tree.path("nothing/x"))
    tree.rmdir("e")
    counts.append(os.stat(root).st_nlink)
    grown = counts[1] - counts[0]
    assert grown in (0, 1), f"mkdir changed the parent's link count by {grown}"
    assert counts[2] == counts[0], (
        f"mkdir and rmdir took the parent's link count from {counts[0]} to {counts[2]}"
    )
    tree.mkdir("e")  # the same name again
    tree.create("e/f", 3000)
    tree.unlink("d/f")
    tree.rmdir("d/sub")
    tree.rmdir("d")
    return tree.settle()


def nested(root, depth):
    """Directories in directories, with files at every level."""
    tree = Tree(root)
    where = ""
    for level in range(depth):
        where = f"{where}/l{level}" if where else f"l{level}"
        tree.mkdir(where)
        tree.create(f"{where}/f{level}", 4097 + 512 * level)
        tree.create(f"{where}/g{level}", level)
    return tree.settle()


def many_directories(root, count):
    tree = Tree(root)
    tree.mkdir("many")
    for number in range(count):
        tree.mkdir(f"many/d{number}")
        if number % 7 == 0:
            tree.create(f"many/d{number}/f", 100 + number)
    for number in range(1, count, 4):
        if number % 7:
            tree.rmdir(f"many/d{number}")
    return tree.settle()


def crowded(root, directory, wanted):
    """Hundreds of files in one directory."""
    tree = Tree(root)
    if directory:
        tree.mkdir(directory)
    prefix = f"{directory}/" if directory else ""
    for number in range(how_many(root, wanted)):
        tree.create(f"{prefix}f{number:04d}", number % 3 * 300)
    return tree.settle(content=False)


def how_many(root, wanted):
    """Files to create: at most 60 % of the free inodes, where the filesystem counts them."""
    space = free_space(root)
    files = int(space["ffree"] * 0.6) if space["files"] else wanted
    if not space["total"]:
        return max(8, min(wanted, files))
    assert space["avail"], "statfs says that nothing is available on a fresh filesystem"
    blocks = int(space["avail"] * 0.4) // max(space["block"], 1)
    return max(8, min(wanted, files, blocks))


def thinned(root, note, directory):
    """From a cold cache: all are there; remove every second file of a crowded directory."""
    tree = known(root, note)
    verify(root, note)
    prefix = f"{directory}/" if directory else ""
    for name in sorted(name for name in tree.names if name.startswith(f"{prefix}f"))[::2]:
        tree.unlink(name)
    return tree.settle(content=False)


def refilled(root, note, directory):
    """From a cold cache: new files take the places of the removed ones."""
    tree = known(root, note)
    prefix = f"{directory}/" if directory else ""
    count = sum(1 for name in tree.names if name.startswith(f"{prefix}f"))
    for number in range(count):
        tree.create(f"{prefix}r{number:04d}", number % 4 * 200)
    # And shorter and longer names, which fit other gaps.
    for number in range(5):
        tree.create(f"{prefix}{number}", 10)
        tree.create(f"{prefix}longer-{number:04d}", 10)
    return tree.settle(content=False)


def known(root, note):
    """The Tree that made `note`, to go on with."""
    tree = Tree.__new__(Tree)
    tree.root = root
    tree.names = dict(note["names"])
    tree.files = {number: Content(*made) for number, made in note["files"].items()}
    tree.generations = dict.fromkeys(tree.names, 7)
    tree.strangers = set(note["strangers"])
    tree._next = max(tree.files, default=0)
    return tree


def emptied_while_read(root, wanted):
    """Remove entries while reading the directory: every name is listed exactly once."""
    tree = Tree(root)
    count = how_many(root, wanted)
    # 14 bytes make entries of 40: 900 of them do not fit one buffer of 32 KiB.
    names = [f"entry-{number:08d}" for number in range(count)]
    for name in names:
        with offers("create", "creating a file"):
            os.mknod(tree.path(name), stat.S_IFREG | 0o644)
        tree.know(name, Content())
    listed = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name in tree.strangers:
                continue
            listed.append(entry.name)
            if len(listed) % 3:
                tree.unlink(entry.name)
    twice = (
        sorted({name for name in listed if listed.count(name) > 1})[:5]
        if (len(set(listed)) != len(listed))
        else []
    )
    assert not twice, f"listed twice while entries were removed: {twice}"
    lost = sorted(set(names) - set(listed))
    assert not lost, (
        f"{len(lost)} of {count} names were never listed while others were removed: {lost[:5]}"
    )
    return tree.settle()


def reread_from_positions(root, wanted):
    """A second descriptor that rewinds sees the same names, and new ones (rewinddir)."""
    tree = Tree(root)
    for number in range(how_many(root, wanted)):
        tree.create(f"p{number:03d}", 1)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    first = sorted(os.listdir(fd))
    tree.create("later", 10)
    os.lseek(fd, 0, os.SEEK_SET)
    second = sorted(os.listdir(fd))
    os.close(fd)
    assert set(second) - set(first) == {"later"}, (
        f"after a rewind the directory shows {sorted(set(second) ^ set(first))[:5]} differently"
    )
    return tree.settle()


# -- inodes and processes -------------------------------------------------------------------


def created_in_parallel(root, workers, each, own_directories):
    """`workers` processes create files at once; each verifies its own, then all together."""
    tree = Tree(root)
    if own_directories:
        for worker in range(workers):
            tree.mkdir(f"w{worker}")
    each = max(2, how_many(root, workers * each) // workers)

    def work(worker):
        numbers = {}
        for number in range(each):
            name, size = _parallel_file(worker, number, own_directories)
            fd = os.open(tree.path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            os.write(fd, pattern(name, 0, size))
            inode = os.fstat(fd).st_ino
            os.close(fd)
            assert inode not in numbers, (
                f"'{name}' and '{numbers[inode]}' have the same inode number {inode}"
            )
            numbers[inode] = name
        for number in range(each):
            name, size = _parallel_file(worker, number, own_directories)
            content = Content(size, [(name, 0, size)])
            check_content(tree.path(name), content, content.labels(), name)

    in_parallel(workers, work)
    for worker in range(workers):
        for number in range(each):
            name, size = _parallel_file(worker, number, own_directories)
            tree.know(name, Content(size, [(name, 0, size)] if size else []))
    return tree.settle()


def _parallel_file(worker, number, own_directories):
    return (f"w{worker}/" if own_directories else "") + f"p{worker}n{number}", 200 + 700 * (
        number % 3
    )


def written_in_parallel(root, workers, size):
    """Each process writes a file of its own in small pieces, all at once."""
    tree = Tree(root)
    size = room(root, workers * size) // workers // SECTOR * SECTOR

    def work(worker):
        name = f"big{worker}"
        fd = os.open(tree.path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        for start in range(0, size, 24 * KIB):
            os.pwrite(fd, pattern(name, start, min(24 * KIB, size - start)), start)
        os.close(fd)
        content = Content(size, [(name, 0, size)])
        check_content(tree.path(name), content, content.labels(), name)

    in_parallel(workers, work)
    for worker in range(workers):
        tree.know(f"big{worker}", Content(size, [(f"big{worker}", 0, size)]))
    return tree.settle()


def shared_file_in_parallel(root, workers, size):
    """All processes write into one file, each into its own pieces."""
    tree = Tree(root)
    tree.create("shared", size)
    piece = 1536  # never a whole block, so neighbours meet inside blocks
    content = tree.content("shared")

    def work(worker):
        fd = os.open(tree.path("shared"), os.O_RDWR)
        for start in range(worker * piece, size - piece, workers * piece):
            os.pwrite(fd, pattern(f"by{worker}", start, piece), start)
        os.close(fd)

    in_parallel(workers, work)
    for worker in range(workers):
        for start in range(worker * piece, size - piece, workers * piece):
            content.write(f"by{worker}", start, piece)
    return tree.settle()


def churned_in_parallel(root, workers, rounds):
    """Create, rename and remove from several processes in one directory; a known rest remains."""
    tree = Tree(root)

    def work(worker):
        for number in range(rounds):
            path = tree.path(f"c{worker}-{number}")
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, pattern(f"c{worker}-{number}", 0, 900))
            os.close(fd)
            os.rename(path, tree.path(f"r{worker}-{number}"))
            if number % 4:
                os.unlink(tree.path(f"r{worker}-{number}"))

    in_parallel(workers, work)
    for worker in range(workers):
        for number in range(0, rounds, 4):
            tree.know(f"r{worker}-{number}", Content(900, [(f"c{worker}-{number}", 0, 900)]))
    return tree.settle()


def in_parallel(workers, work):
    """Run work(n) in that many processes; the first failure is raised here with its message."""
    children = []
    for worker in range(workers):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reader)
                work(worker)
                code = 0
            except BaseException as error:  # noqa: BLE001 - reported to the parent
                os.write(writer, f"{type(error).__name__}: {error}".encode()[:4000])
            finally:
                os._exit(code)
        os.close(writer)
        children.append((worker, pid, reader))
    failures = []
    for worker, pid, reader in children:
        said = b""
        while piece := os.read(reader, 4096):
            said += piece
        os.close(reader)
        _, status = os.waitpid(pid, 0)
        if status:
            text = said.decode(errors="replace") or f"ended with wait status {status}"
            failures.append(f"process {worker}: {text.removeprefix('AssertionError: ')}")
    assert not failures, "; ".join(failures)


# -- errors ---------------------------------------------------------------------------------


def error_cases(root):
    """What path errors must look like; each entry is (errnos, function, arguments)."""
    file, directory, nothing = f"{root}/file", f"{root}/dir", f"{root}/nothing"
    write, create = os.O_WRONLY, os.O_CREAT | os.O_EXCL | os.O_WRONLY
    return {
        "create-existing": ("EEXIST", os.open, (file, create)),
        "open-missing": ("ENOENT", os.open, (nothing, os.O_RDONLY)),
        "open-below-missing": ("ENOENT", os.open, (f"{nothing}/x", os.O_CREAT | write)),
        "open-below-file": ("ENOTDIR", os.open, (f"{file}/x", os.O_RDONLY)),
        "create-below-file": ("ENOTDIR", os.open, (f"{file}/x", os.O_CREAT | write)),
        "list-file": ("ENOTDIR", os.listdir, (file,)),
        "write-directory": ("EISDIR", os.open, (directory, write)),
        "truncate-directory": ("EISDIR", os.truncate, (directory, 0)),
        "unlink-missing": ("ENOENT", os.unlink, (nothing,)),
        "rename-missing": ("ENOENT", os.rename, (nothing, f"{root}/x")),
        "truncate-negative": ("EINVAL", os.truncate, (file, -1)),
        "read-directory": ("EISDIR", _read_directory, (directory,)),
        "name-of-4000": ("ENAMETOOLONG", os.open, (f"{root}/{'n' * 4000}", os.O_CREAT | write)),
    }


def _read_directory(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.read(fd, 10)
    finally:
        os.close(fd)


def error_of(root, case, with_directory):
    """Set the scene, then check one case of `error_cases`."""
    tree = Tree(root)
    tree.create("file", 100)
    if with_directory:
        tree.mkdir("dir")
    names, function, arguments = error_cases(root)[case]
    fails_with(names, case, function, *arguments)
    tree.settle(cleanup=True)


# -- space ----------------------------------------------------------------------------------


def space(path):
    return free_space(path)


def fill_some(root, size, count):
    """`count` files of `size` bytes; returns free space before and after."""
    if not os.path.isdir(root):
        os.mkdir(root)
    before = free_space(root)
    for number in range(count):
        fd = os.open(f"{root}/q{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(fd, pattern(f"q{number}", 0, size))
        os.close(fd)
    return before, free_space(root)


def empty_again(root, count):
    for number in range(count):
        os.unlink(f"{root}/q{number}")
    return free_space(root)


def cycle(root, rounds, count, size):
    """Create and remove the same files again and again; free space after each round."""
    if not os.path.isdir(root):
        os.mkdir(root)
    after = []
    for _ in range(rounds):
        for number in range(count):
            fd = os.open(f"{root}/y{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, pattern(f"y{number}", 0, size))
            os.close(fd)
        os.sync()
        for number in range(count):
            os.unlink(f"{root}/y{number}")
        after.append(free_space(root))
    return after


def cycle_of_directories(root, rounds, count):
    """The same with directories, renames over files, links cut by truncate."""
    os.path.isdir(root) or os.mkdir(root)
    after = []
    for _ in range(rounds):
        for number in range(count):
            os.mkdir(f"{root}/d{number}")
            fd = os.open(f"{root}/d{number}/f", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, pattern("f", 0, 5000))
            os.close(fd)
        os.sync()
        for number in range(count):
            remove(f"{root}/d{number}")
        after.append(free_space(root))
    return after


def cycle_of_replacements(root, rounds, count, size):
    """Rename over an existing file `count` times a round: the replaced ones' space comes back."""
    os.path.isdir(root) or os.mkdir(root)
    after = []
    for _ in range(rounds):
        for number in range(count):
            fd = os.open(f"{root}/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            os.write(fd, pattern(f"r{number}", 0, size))
            os.close(fd)
            os.rename(f"{root}/new", f"{root}/kept")
        after.append(free_space(root))
    os.unlink(f"{root}/kept")
    return after


def cycle_of_truncates(root, rounds, size):
    """Grow a file by writing and truncate it again."""
    os.path.isdir(root) or os.mkdir(root)
    fd = os.open(f"{root}/t", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    after = []
    for number in range(rounds):
        os.pwrite(fd, pattern(f"t{number}", 0, size), 0)
        os.fsync(fd)
        os.ftruncate(fd, 0)
        after.append(free_space(root))
    os.close(fd)
    os.unlink(f"{root}/t")
    return after


def cycle_of_ghosts(root, rounds, size):
    """Write to a file, remove it while open, then close it."""
    os.path.isdir(root) or os.mkdir(root)
    after = []
    for number in range(rounds):
        fd = os.open(f"{root}/g", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        os.write(fd, pattern(f"g{number}", 0, size))
        os.sync()
        os.unlink(f"{root}/g")
        os.close(fd)
        after.append(free_space(root))
    return after


def drop(root):
    """Remove the test's directory."""
    if os.path.isdir(root) and not os.path.ismount(root):
        remove(root)
    sync_twice()


# -- metadata -------------------------------------------------------------------------------


def moded(root, with_directory):
    """Permission bits: files, directories, and special bits where they are accepted."""
    tree = Tree(root)
    wanted = {}
    for mode in (0o600, 0o644, 0o755, 0o400, 0o111, 0o777, 0o4755):
        name = f"m{mode:o}"
        tree.create(name, 10)
        with optional("chmod"):
            os.chmod(tree.path(name), mode)
        wanted[name] = mode
    if with_directory:
        tree.mkdir("d")
        os.chmod(tree.path("d"), 0o2750)
        wanted["d"] = 0o2750
    check_modes(root, wanted)
    return tree.settle(), wanted


def check_modes(root, wanted):
    for name, mode in wanted.items():
        got = stat.S_IMODE(os.lstat(f"{root}/{name}").st_mode)
        assert got == mode, (
            f"'{name}' was given mode {mode:04o} and has {got:04o}; if permission bits are not "
            'kept on purpose, add "chmod" to filesystem.lacks'
        )


def owned(root):
    tree = Tree(root)
    wanted = {}
    for owner, group in ((1000, 1000), (0, 42), (65_000, 60_000), (1, 0)):
        name = f"o{owner}"
        tree.create(name, 10)
        with optional("chown"):
            os.chown(tree.path(name), owner, group)
        wanted[name] = owner, group
    check_owners(root, wanted)
    return tree.settle(), wanted


def check_owners(root, wanted):
    for name, (owner, group) in wanted.items():
        status = os.lstat(f"{root}/{name}")
        assert (status.st_uid, status.st_gid) == (owner, group), (
            f"'{name}' was given to {owner}:{group} and belongs to "
            f'{status.st_uid}:{status.st_gid}; if owners are not kept on purpose, add "chown" '
            "to filesystem.lacks"
        )


def timed(root):
    """Modification times: whole even seconds, because some filesystems count in twos."""
    tree = Tree(root)
    wanted = {}
    for when in (1_000_000_000, 1_600_000_002, 2_000_000_000):
        name = f"t{when}"
        tree.create(name, 10)
        with optional("setting times"):
            os.utime(tree.path(name), (when, when))
        wanted[name] = when
    check_times(root, wanted)
    # Writing moves it on.
    tree.create("now", 10)
    os.utime(tree.path("now"), (1_000_000_000, 1_000_000_000))
    tree.write("now", 5, 100)
    moved = int(os.stat(tree.path("now")).st_mtime)
    assert moved > 1_600_000_000, f"writing left the modification time at {moved}"
    return tree.settle(), wanted


def check_times(root, wanted):
    for name, when in wanted.items():
        got = os.lstat(f"{root}/{name}").st_mtime
        assert abs(got - when) < 2, (
            f"'{name}' was given the modification time {when} and has {got:.0f}; if times are "
            'not kept on purpose, add "timestamps" to filesystem.lacks'
        )


def noded(root, kinds):
    """Fifos, sockets and device nodes: type and number."""
    tree = Tree(root)
    numbers = {}
    for kind in kinds:
        mode = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}[kind]
        device = os.makedev(1, 3) if kind != "fifo" else 0
        with optional("special files"):
            os.mknod(tree.path(kind), mode | 0o600, device)
        tree.names[kind] = ("node", mode)
        numbers[kind] = device
    check_nodes(root, numbers)
    return tree.settle(), numbers


def check_nodes(root, numbers):
    for kind, device in numbers.items():
        got = os.lstat(f"{root}/{kind}").st_rdev
        assert got == device, f"the node '{kind}' has device number {got}, it must be {device}"


def attributed(root):
    """user. extended attributes: set, replace, list, remove."""
    tree = Tree(root)
    tree.create("x", 100)
    path = tree.path("x")
    with optional("extended attributes"):
        os.setxattr(path, "user.one", b"1" * 40)
    os.setxattr(path, "user.two", b"second")
    os.setxattr(path, "user.two", b"replaced")
    os.setxattr(path, "user.gone", b"x")
    os.removexattr(path, "user.gone")
    wanted = {"user.one": b"1" * 40, "user.two": b"replaced"}
    check_attributes(root, wanted)
    return tree.settle(), wanted


def check_attributes(root, wanted):
    path = f"{root}/x"
    listed = {name for name in os.listxattr(path) if name.startswith("user.")}
    assert listed == set(wanted), f"attributes listed: {sorted(listed)}, set: {sorted(wanted)}"
    for name, value in wanted.items():
        got = os.getxattr(path, name)
        assert got == value, f"the attribute '{name}' holds {got!r}, it was set to {value!r}"


# -- everything together --------------------------------------------------------------------


def whole_tree(root, lacks):
    """A tree like a small project: three levels, many sizes, links where there are links."""
    tree = Tree(root)
    where = [""]
    if "mkdir" not in lacks:
        for name in ("src", "src/lib", "src/lib/deep", "doc", "empty"):
            tree.mkdir(name)
        where += ["src/", "src/lib/", "src/lib/deep/", "doc/"]
    for number, prefix in enumerate(where):
        for index, size in enumerate((0, 13, 4096, 9000, 33_000)):
            tree.create(f"{prefix}f{index}", size + number)
        if "symlink" not in lacks:
            tree.symlink("f1", f"{prefix}sl")
        if "hardlink" not in lacks:
            tree.link(f"{prefix}f3", f"{prefix}hl")
    if "mkdir" not in lacks and "hardlink" not in lacks:
        tree.link("src/lib/deep/f4", "doc/far")
    return tree.settle()


def changed_tree(root, note, lacks):
    """Change a tree after a remount: everything once more, on what came from disk."""
    tree = known(root, note)
    prefix = "src/lib/" if "mkdir" not in lacks else ""
    if "unlink" not in lacks:
        tree.unlink(f"{prefix}f0")
        tree.unlink(f"{prefix}f4")
    if "append" not in lacks:
        tree.append(f"{prefix}f1", 7000)
    if "truncate" not in lacks:
        tree.truncate(f"{prefix}f2", 100)
    tree.write(f"{prefix}f3", 4000, 3000)
    if "rename" not in lacks:
        tree.rename(f"{prefix}f3", f"{prefix}moved")
        if "mkdir" not in lacks:
            tree.rename("doc", "src/lib/deep/doc")
    tree.create(f"{prefix}fresh", 12_345)
    return tree.settle()
