"""Renames, links, and names of every kind. Runs in the guest."""

import contextlib
import errno
import os
import stat

from getdents_in_guest import entries

from tree_in_guest import (
    Content,
    Refused,
    Tree,
    fails_with,
    name_limit,
    optional,
    pattern,
    write_all,
)


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


_EXCHANGE, _WHITEOUT = 2, 4


def exchanged(root, lacks):
    """renameat2(2): a filesystem swaps two names, or refuses; it must not take it for a rename.

    The kernel asks the filesystem with the target in place, so one that ignores the flags replaces
    what it should have swapped.
    """
    tree = Tree(root)
    tree.create("a", 3000)
    tree.create("b", 20_000)
    if _renamed_with(_EXCHANGE, tree, "a", "b"):
        tree.names["a"], tree.names["b"] = tree.names["b"], tree.names["a"]
    if "mkdir" not in lacks:
        tree.mkdir("dir")
        tree.create("dir/f", 700)
        if _renamed_with(_EXCHANGE, tree, "dir", "b"):
            tree.names["b"], tree.names["dir"] = tree.names["dir"], tree.names["b"]
            tree.names["b/f"] = tree.names.pop("dir/f")
            os.sync()  # vfat writes the new type into the directory with the inode
    tree.create("white", 100)
    if _renamed_with(_WHITEOUT, tree, "white", "out"):
        tree.names["out"] = tree.names["white"]
        tree.names["white"] = ("node", stat.S_IFCHR)
    return tree.settle()


def _renamed_with(flag, tree, old, new):
    """Whether renameat2 with this flag worked; a clean refusal is as good."""
    with contextlib.suppress(Refused), optional("renameat2 with flags"):
        _at_twice("renameat2", tree.path(old), tree.path(new), flag)
        return True
    return False


def _at_twice(call, old, new, flags):
    """renameat2 and linkat, which Python offers without their flags; raises OSError."""
    import ctypes

    libc, here = ctypes.CDLL(None, use_errno=True), -100  # AT_FDCWD
    if getattr(libc, call)(here, old.encode(), here, new.encode(), ctypes.c_uint(flags)):
        raise OSError(ctypes.get_errno(), f"{call} with the flags {flags} is refused")


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
        own = os.fstat(fd).st_ino
        listed = {entry: number for entry, number, _ in entries(fd)}
        above = os.stat("..", dir_fd=fd).st_ino
        os.close(fd)
        parent = os.stat(path.rpartition("/")[0]).st_ino
        assert above == parent, f"'{name}/..' is not its parent directory"
        # Some filesystems invent numbers for readdir (vfat, exfat): then '.' differs as well.
        if listed.get(".") == own and ".." in listed:
            assert listed[".."] == parent, (
                f"the entry '..' of '{name}' has the inode number {listed['..']}, its parent "
                f"directory is {parent}"
            )


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


def named_later(root):
    """O_TMPFILE: a file without a name gets one by linkat, and another one never does."""
    tree = Tree(root)
    content = Content()
    with optional("O_TMPFILE", errno.EISDIR):  # EISDIR: the kernel's word before Linux 3.11
        fd = os.open(root, os.O_TMPFILE | os.O_RDWR, 0o644)
    assert os.fstat(fd).st_nlink == 0, f"a file without a name has {os.fstat(fd).st_nlink} links"
    write_all(fd, pattern("late", 0, 30_000))
    content.write("late", 0, 30_000)
    nameless = os.open(root, os.O_TMPFILE | os.O_WRONLY, 0o644)
    write_all(nameless, pattern("never", 0, 9000))
    assert set(os.listdir(root)) == tree.strangers, "a file without a name is in the listing"
    _at_twice("linkat", f"/proc/self/fd/{fd}", tree.path("late"), 0x400)  # AT_SYMLINK_FOLLOW
    os.close(nameless)
    os.close(fd)
    tree.know("late", content)
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


def symlinked(root, lengths, lacks):
    """Targets of many lengths: in the inode, in a block, up to nearly a block.

    Returns the note, the length that was refused or None, and whether links have no size.
    """
    tree, limit = Tree(root), None
    tree.create("target", 4000)
    tree.symlink("target", "good")
    tree.symlink("nowhere/at/all", "dangling")
    for length in lengths:
        target = ("/" + "".join(chr(97 + n % 26) for n in range(length)))[:length]
        try:
            tree.symlink(target, f"l{length}")
        except OSError as error:
            # A limit is a limit, and the test says where; any other refusal is a failure.
            if error.errno != errno.ENAMETOOLONG:
                raise
            limit = length
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
    if "rename" not in lacks:
        tree.rename("good", "better")
    sizes = {os.lstat(tree.path(name)).st_size for name in ("dangling", "self")}
    return tree.settle(), limit, sizes == {0}


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


def longest_names(root, lacks):
    """Names of every length near the longest one."""
    tree = Tree(root)
    namemax = name_limit(root, lacks)
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


#: In UTF-8, two and three bytes a character; vfat without utf8 refuses them.
FOREIGN_NAMES = ("gr\u00f6\u00dfe", "na\u00efve", "\u6f22\u5b57")
_NOT_IN_CHARSET = (errno.EINVAL, errno.EILSEQ, errno.EOPNOTSUPP)


def foreign_names(root):
    """As `odd_names`, with bytes above 127; a character set may lack them, and then says so."""
    tree = Tree(root)
    for number, name in enumerate(FOREIGN_NAMES):
        try:
            tree.create(name, 100 + number)
        except OSError as error:
            if error.errno not in _NOT_IN_CHARSET:
                raise
    if not tree.names:
        raise Refused("the filesystem does not offer names with bytes above 127")
    return _settled_with_respelled(tree)


def odd_names(root):
    """The tree, and {name: the spelling under which a listing has it, which opens it as well}.

    UDF lists '..x' as '.#41DC.x', and takes only that for an unlink. A listed spelling that opens
    nothing, or something else, is no translation: the listing's own check says so.
    """
    tree = Tree(root)
    for number, name in enumerate(ODD_NAMES):
        tree.create(name, 100 + number)
    return _settled_with_respelled(tree)


def _settled_with_respelled(tree):
    respelled = _respelled(tree)
    for name, spelling in respelled.items():
        tree.unlink(name, spelling)
    return tree.settle(), respelled


def _respelled(tree):
    listed = set(os.listdir(tree.root))
    by_inode = {}
    for spelling in listed - set(tree.names):
        with contextlib.suppress(FileNotFoundError):
            by_inode.setdefault(os.lstat(tree.path(spelling)).st_ino, spelling)
    respelled = {}
    for name in sorted(set(tree.names) - listed):
        with contextlib.suppress(FileNotFoundError):
            spelling = by_inode.get(os.lstat(tree.path(name)).st_ino)
            if spelling:
                respelled[name] = spelling
    return respelled


def names_by_case(root):
    tree = Tree(root)
    tree.create("name", 100)
    assert not os.path.lexists(tree.path("NAME")), (
        "'name' was made, and 'NAME' opens it; if names are the same in capitals on purpose, add "
        '"casesensitive" to filesystem.lacks'
    )
    tree.create("NAME", 200)
    tree.create("Name", 300)
    tree.unlink("NAME")
    return tree.settle()
