"""What must be refused, with which errno, and that refusing changed nothing. Runs in the guest.

A table's rows are (what, errnos, function, arguments). All rows of a table are tried, so that one
run shows everything that is wrong.
"""

import ctypes
import errno
import mmap
import os
import signal
import stat

from tree_in_guest import Tree, check_content, name_limit, optional, pattern

#: A row may also work where an operation is new or optional; it is then undone by the caller.
WORKS = "success"
_LIBC = ctypes.CDLL(None, use_errno=True)


def check(rows):
    """Try every row; raise one AssertionError that names all that went another way."""
    wrong = []
    for what, expected, function, *arguments in rows:
        said = outcome(function, *arguments)
        if said not in expected.split("|"):
            wrong.append(f"{what} must fail with {expected.replace('|', ' or ')}, but says {said}")
    assert not wrong, "; ".join(wrong)


def outcome(function, *arguments):
    """The errno's name, or WORKS."""
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return WORKS


def _syscall(function, *arguments):
    """A libc function that sets errno; raises OSError."""
    ctypes.set_errno(0)
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def _open(path, flags, mode=0o644):
    os.close(os.open(path, flags, mode))


def _with(path, flags, function, *arguments):
    """function(descriptor, *arguments) on a file that is closed afterwards."""
    fd = os.open(path, flags)
    try:
        return function(fd, *arguments)
    finally:
        os.close(fd)


def _rename2(old, new, flags):
    _syscall(_LIBC.renameat2, -100, old.encode(), -100, new.encode(), ctypes.c_uint(flags))


def _fallocate(fd, mode, offset, length):
    numbers = (ctypes.c_long(offset), ctypes.c_long(length))
    _syscall(_LIBC.fallocate, fd, mode, *numbers)


# -- kinds of names -------------------------------------------------------------------------


def wrong_kinds(root, lacks):
    """Files taken for directories and the other way round, descriptors for the wrong purpose."""
    tree = Tree(root)
    tree.create("file", 5000)
    tree.create("other", 700)
    file, nothing = tree.path("file"), tree.path("nothing")
    read, write = os.O_RDONLY, os.O_WRONLY
    rows = [
        ("opening a file as a directory", "ENOTDIR", _open, file, read | os.O_DIRECTORY),
        ("opening 'file/'", "ENOTDIR", _open, f"{file}/", read),
        ("stat of 'file/.'", "ENOTDIR", os.stat, f"{file}/."),
        (
            "creating what is there with O_EXCL",
            "EEXIST",
            _open,
            file,
            write | os.O_CREAT | os.O_EXCL,
        ),
        ("readlink of a file", "EINVAL", os.readlink, file),
        ("rmdir of a file", "ENOTDIR", os.rmdir, file),
        ("rmdir of nothing", "ENOENT", os.rmdir, nothing),
        ("rmdir of '.'", "EINVAL", os.rmdir, f"{root}/."),
        ("rmdir of the mount point", "EBUSY", os.rmdir, _mount_of(root)),
        ("unlink of a directory", "EISDIR|EPERM", os.unlink, root),
        ("writing through a descriptor for reading", "EBADF", _with, file, read, os.write, b"x"),
        ("reading through a descriptor for writing", "EBADF", _with, file, write, os.read, 1),
        (
            "ftruncate of a descriptor for reading",
            "EINVAL|EBADF",
            _with,
            file,
            read,
            os.ftruncate,
            1,
        ),
        ("reading a directory with read(2)", "EISDIR", _with, root, read, os.read, 10),
        ("mapping a directory", "ENODEV|EACCES", _with, root, read, _map_it),
        ("renaming nothing", "ENOENT", os.rename, nothing, tree.path("x")),
        ("renaming '.'", "EBUSY|EINVAL", os.rename, f"{root}/.", tree.path("x")),
        (
            "RENAME_NOREPLACE over a file",
            "EEXIST|EINVAL",
            _rename2,
            file,
            tree.path("other"),
            1,
        ),
        ("rename with unknown flags", "EINVAL", _rename2, file, tree.path("x"), 1 << 20),
    ]
    if "mkdir" not in lacks:
        tree.mkdir("full")
        tree.mkdir("full/sub")
        tree.mkdir("empty")
        tree.create("full/f", 100)
        full, empty = tree.path("full"), tree.path("empty")
        rows += [
            ("rmdir of a full directory", "ENOTEMPTY|EEXIST", os.rmdir, full),
            ("rmdir of 'full/sub/..'", "ENOTEMPTY", os.rmdir, f"{full}/sub/.."),
            ("mkdir over a file", "EEXIST", os.mkdir, file),
            ("mkdir over a directory", "EEXIST", os.mkdir, full),
            ("mkdir below a file", "ENOTDIR", os.mkdir, f"{file}/d"),
            ("mkdir below nothing", "ENOENT", os.mkdir, f"{nothing}/d"),
            ("opening a directory for writing", "EISDIR", _open, full, write),
            ("truncating a directory", "EISDIR", os.truncate, full, 0),
        ]
        if "rename" not in lacks:
            rows += [
                ("moving a directory into itself", "EINVAL", os.rename, full, f"{full}/sub/x"),
                ("moving a directory over its parent", "ENOTEMPTY", os.rename, f"{full}/sub", full),
                ("replacing a full directory", "ENOTEMPTY|EEXIST", os.rename, empty, full),
                ("replacing a file by a directory", "ENOTDIR", os.rename, full, file),
                ("replacing a directory by a file", "EISDIR", os.rename, file, empty),
            ]
    if "hardlink" not in lacks:
        rows += [
            ("linking over a name", "EEXIST", os.link, file, tree.path("other")),
            ("linking nothing", "ENOENT", os.link, nothing, tree.path("x")),
            ("linking a directory", "EPERM|EACCES|EISDIR", os.link, root, f"{root}/x"),
        ]
    if "symlink" not in lacks:
        rows += _symlink_rows(tree)
    check(rows)
    return tree.settle()


def _symlink_rows(tree):
    tree.symlink("loop-b", "loop-a")
    tree.symlink("loop-a", "loop-b")
    tree.symlink("file", "chain0")
    for number in range(1, 42):  # the kernel follows 40
        tree.symlink(f"chain{number - 1}", f"chain{number}")
    tree.symlink("nowhere", "dangling")
    path, create = tree.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY
    assert os.path.exists(path("chain39")), "a chain of 40 symbolic links cannot be followed"
    return [
        ("a loop of symbolic links", "ELOOP", os.stat, path("loop-a")),
        ("creating below a loop", "ELOOP", _open, path("loop-a/x"), os.O_CREAT | os.O_WRONLY),
        ("a chain of 42 symbolic links", "ELOOP", os.stat, path("chain41")),
        ("O_NOFOLLOW on a symbolic link", "ELOOP", _open, path("chain0"), os.O_NOFOLLOW),
        ("O_EXCL over a dangling symbolic link", "EEXIST", _open, path("dangling"), create),
        ("symlink over a name", "EEXIST", os.symlink, "x", path("file")),
        ("rmdir of a symbolic link", "ENOTDIR", os.rmdir, path("dangling")),
        ("stat below a link to a file", "ENOTDIR", os.stat, path("chain0/x")),
    ]


def _mount_of(path):
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def _map_it(fd):
    mmap.mmap(fd, 100, mmap.MAP_SHARED, mmap.PROT_READ).close()


# -- lengths of names -----------------------------------------------------------------------


def too_long(root, lacks):
    """Every operation with a name one byte too long, and with a path that is too long."""
    tree = Tree(root)
    tree.create("file", 100)
    limit = name_limit(root, lacks)
    name, longest = tree.path("n" * (limit + 1)), "m" * limit
    file, path = tree.path("file"), f"{root}{'/.' * 2100}/file"
    rows, lookup = [], "ENAMETOOLONG|ENOENT"  # there is no such file either
    for what, long in ((f"a name of {limit + 1} bytes", name), ("a path of 4200 bytes", path)):
        rows += [
            (f"opening {what}", lookup, _open, long, os.O_RDONLY),
            (f"creating {what}", "ENAMETOOLONG", _open, long, os.O_CREAT | os.O_WRONLY),
            (f"stat of {what}", lookup, os.stat, long),
            (f"unlinking {what}", lookup, os.unlink, long),
        ]
        if "rename" not in lacks:
            rows.append((f"renaming to {what}", "ENAMETOOLONG", os.rename, file, long))
            rows.append((f"renaming {what}", lookup, os.rename, long, file))
        if "mkdir" not in lacks:
            rows.append((f"mkdir of {what}", "ENAMETOOLONG", os.mkdir, long))
        if "hardlink" not in lacks:
            rows.append((f"linking to {what}", "ENAMETOOLONG", os.link, file, long))
        if "symlink" not in lacks:
            rows.append((f"symlink at {what}", "ENAMETOOLONG", os.symlink, "x", long))
    check(rows)
    # And one of the longest length is a name like any other, for every operation that makes one.
    tree.create(longest, 300)
    if "rename" not in lacks:
        tree.rename(longest, "k" * limit)
    if "mkdir" not in lacks:
        tree.mkdir("d" * limit)
        tree.create(f"{'d' * limit}/{longest}", 40)
    if "symlink" not in lacks:
        tree.symlink("file", "s" * limit)
    if "hardlink" not in lacks:
        tree.link("file", "h" * limit)
    return tree.settle()


# -- sizes ----------------------------------------------------------------------------------

_FAR = (1 << 63) - 1


def too_large(root, lacks):
    """Sizes and offsets no filesystem has: refused, or really there; never a wrapped size."""
    tree = Tree(root)
    tree.create("file", 5000)
    file, large = tree.path("file"), "EFBIG|EINVAL|ENOSPC|EOVERFLOW"
    rows = [
        ("truncating to -1", "EINVAL", os.truncate, file, -1),
        ("seeking to -1", "EINVAL", _with, file, os.O_RDONLY, os.lseek, -1, os.SEEK_SET),
        ("seeking with an unknown whence", "EINVAL", _with, file, os.O_RDONLY, os.lseek, 0, 99),
        ("reading at -1", "EINVAL", _with, file, os.O_RDONLY, os.pread, 10, -1),
        ("writing at -1", "EINVAL", _with, file, os.O_WRONLY, os.pwrite, b"x", -1),
        ("writing at 2^63-1", large, _with, file, os.O_WRONLY, os.pwrite, b"xy", _FAR),
        ("a negative fallocate", "EINVAL", _with, file, os.O_WRONLY, _fallocate, 0, 0, -5),
        (
            "fallocate with an unknown mode",
            "ENOTSUP|EINVAL",
            _with,
            file,
            os.O_WRONLY,
            _fallocate,
            1 << 30,
            0,
            5,
        ),
        (
            "fallocate beyond 2^63",
            f"{large}|ENOTSUP",
            _with,
            file,
            os.O_WRONLY,
            _fallocate,
            0,
            _FAR - 10,
            4096,
        ),
    ]
    check(rows)
    if "truncate" not in lacks and "sparse" not in lacks:
        for size in (_FAR, _FAR - 4096, 1 << 62):
            said = outcome(os.truncate, file, size)
            now = os.stat(file).st_size
            if said == WORKS:
                assert now == size, f"truncate to {size} said it worked, and the size is {now}"
                os.truncate(file, 5000)
            else:
                assert said in large.split("|"), f"truncate to {size} says {said}, not {large}"
                assert now == 5000, f"truncate to {size} said {said}, and the size is {now}"
    assert os.stat(file).st_size == 5000, "a refused write changed the size"
    _file_size_limit(tree, lacks)
    return tree.settle()


def _file_size_limit(tree, lacks):
    """RLIMIT_FSIZE: a write is cut at the limit, the next one says EFBIG."""
    import resource

    tree.create("limited")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        fd = os.open(tree.path("limited"), os.O_WRONLY)
        count = os.write(fd, pattern("limited", 0, 9000))
        said = outcome(os.write, fd, b"x")
        longer = outcome(os.ftruncate, fd, 7000) if "truncate" not in lacks else "EFBIG"
        os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert count == 6000, f"with a limit of 6000 bytes, a write of 9000 wrote {count}"
    assert said == "EFBIG", f"a write beyond the file size limit says {said}, not EFBIG"
    assert longer == "EFBIG", f"ftruncate beyond the file size limit says {longer}, not EFBIG"
    tree.content("limited").write("limited", 0, 6000)


# -- addresses ------------------------------------------------------------------------------


def bad_addresses(root):
    """read and write with memory that is not there: EFAULT or less, and the file stays right."""
    tree = Tree(root)
    tree.create("file", 20_000)
    content = tree.content("file")
    page = mmap.PAGESIZE
    _LIBC.mmap.restype = ctypes.c_void_p
    _LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    _LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    for name in ("pread", "pwrite"):
        call = getattr(_LIBC, name)
        call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
        call.restype = ctypes.c_ssize_t
    both, private = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = _LIBC.mmap(None, 3 * page, both, private, -1, 0)
    _LIBC.munmap(memory + 2 * page, page)
    hole, kernel = memory + 2 * page, 0xFFFF888000100000
    fd = os.open(tree.path("file"), os.O_RDWR)
    for what, address in (("unmapped memory", hole), ("kernel memory", kernel), ("NULL", 0)):
        for name, call in (("reading into", _LIBC.pread), ("writing from", _LIBC.pwrite)):
            # Inside the file only: Linux 6.18's simple_write_end grows a file by such a write.
            for offset in (0, 100, 19_000):
                said = outcome(_syscall, call, fd, address, 5000, offset)
                assert said == "EFAULT", f"{name} {what} at offset {offset} says {said}"
    assert os.fstat(fd).st_size == 20_000, "a write from nowhere changed the size"
    # A buffer that ends early: what fits is transferred, or nothing.
    good = pattern("half", 3000, 2 * page)
    ctypes.memmove(memory, good, 2 * page)
    start = hole - 5000
    ctypes.memmove(start, good, 5000)
    try:
        count = _syscall(_LIBC.pwrite, fd, start, 9000, 3000)
    except OSError as error:
        assert error.errno == errno.EFAULT, f"a half-mapped buffer says {error.errno}"
        count = 0
    assert count <= 5000, f"5000 bytes of the buffer exist, and the write says it wrote {count}"
    if count:
        content.write("half", 3000, count)
    os.close(fd)
    check_content(tree.path("file"), content, content.labels())
    return tree.settle()


# -- rights ---------------------------------------------------------------------------------


def guarded(root, lacks):
    """Make what an ordinary user may not touch: modes and owners as in any home directory."""
    tree = Tree(root)
    tree.create("secret", 900)
    tree.create("public", 900)
    with optional("chmod"):
        os.chmod(tree.path("secret"), 0o600)
    os.chmod(tree.path("public"), 0o644)
    if "mkdir" not in lacks:
        for name, mode in (("closed", 0o700), ("blind", 0o711), ("sticky", 0o1777)):
            tree.mkdir(name)
            os.chmod(tree.path(name), mode)
        tree.create("closed/f", 10)
        tree.create("blind/f", 10)
        tree.create("sticky/roots", 10)
        os.chmod(tree.path("sticky/roots"), 0o666)
        if "rename" not in lacks:
            tree.create("sticky/another", 10)
    return tree.settle()


def forbidden(root, lacks):
    """As an ordinary user: everything of `guarded` is refused."""
    assert os.getuid() != 0, "this must not run as root"
    secret, public, denied = f"{root}/secret", f"{root}/public", "EACCES|EPERM"
    read, write = os.O_RDONLY, os.O_WRONLY
    rows = [
        ("reading a file of mode 0600", "EACCES", _open, secret, read),
        ("writing a file of mode 0644", "EACCES", _open, public, write),
        ("opening it with O_TRUNC", "EACCES", _open, public, write | os.O_TRUNC),
        ("truncating it", "EACCES", os.truncate, public, 1),
        ("creating in root's directory", "EACCES", _open, f"{root}/new", write | os.O_CREAT),
        ("unlinking from root's directory", "EACCES", os.unlink, public),
        ("renaming in root's directory", "EACCES", os.rename, public, f"{root}/new"),
        ("chmod of root's file", "EPERM", os.chmod, public, 0o777),
        ("setting times of root's file", denied, os.utime, public, (1, 1)),
    ]
    if "chown" not in lacks:
        rows.append(("chown of root's file", "EPERM", os.chown, public, os.getuid(), -1))
    if "mkdir" not in lacks:
        sticky = f"{root}/sticky"
        rows += [
            ("mkdir in root's directory", "EACCES", os.mkdir, f"{root}/new"),
            ("rmdir in root's directory", "EACCES", os.rmdir, sticky),
            ("listing a directory of mode 0700", "EACCES", os.listdir, f"{root}/closed"),
            ("stat below a directory of mode 0700", "EACCES", os.stat, f"{root}/closed/f"),
            ("listing a directory of mode 0711", "EACCES", os.listdir, f"{root}/blind"),
            ("unlinking root's file in a sticky directory", "EPERM", os.unlink, f"{sticky}/roots"),
            ("a device node", "EPERM", os.mknod, f"{sticky}/n", 0o644 | stat.S_IFCHR, 0x103),
        ]
        if "rename" not in lacks:
            own = f"{sticky}/mine"
            _open(own, write | os.O_CREAT)
            taken = (own, f"{sticky}/another")
            rows.append(("renaming over root's file, sticky", "EPERM", os.rename, *taken))
    try:
        check(rows)
        if "mkdir" not in lacks:
            os.stat(f"{root}/blind/f")  # searching it is allowed
    finally:
        if os.path.exists(f"{root}/sticky/mine"):
            os.unlink(f"{root}/sticky/mine")


def handed_over(root, user):
    """A directory of the user's own, in which everything works."""
    import pwd

    tree = Tree(root)
    tree.mkdir("home")
    entry = pwd.getpwnam(user)
    with optional("chown"):
        os.chown(tree.path("home"), entry.pw_uid, entry.pw_gid)
    return tree.settle()


def at_home(root, lacks):
    """As an ordinary user, in a directory of one's own. Returns the note of what is there now."""
    tree = Tree(f"{root}/home/own")
    tree.create("f", 5000)
    tree.write("f", 100, 50)
    tree.mkdir("d")
    if "rename" not in lacks:
        tree.rename("f", "d/g")
    if "truncate" not in lacks:
        tree.create("cut", 9000)
        tree.truncate("cut", 10)
    if "hardlink" not in lacks:
        tree.create("one", 10)
        tree.link("one", "two")
    status = os.stat(tree.path("d"))
    assert status.st_uid == os.getuid(), (
        f"a directory that user {os.getuid()} made belongs to user {status.st_uid}"
    )
    return tree.settle(cleanup=True)


# -- links ----------------------------------------------------------------------------------


def many_links(root, wanted):
    """Up to `wanted` names of one file. EMLINK is an answer too; the count is right in any case."""
    tree = Tree(root)
    tree.create("first", 2000)
    for number in range(wanted):
        try:
            tree.link("first", f"l{number}")
        except OSError as error:
            assert error.errno in (errno.EMLINK, errno.ENOSPC), (
                f"link number {number + 2} of a file is refused with "
                f"{errno.errorcode.get(error.errno)}, not EMLINK"
            )
            break
    return tree.settle()


# -- read-only ------------------------------------------------------------------------------


def read_only_tree(root, lacks):
    tree = Tree(root)
    tree.create("file", 3000)
    if "mkdir" not in lacks:
        tree.mkdir("dir")
        tree.create("dir/f", 100)
    return tree.settle()


def changes(root, file, directory):
    """Every way to change something, on names that exist. Rows of (what, errnos, ...)."""
    write = os.O_WRONLY
    rows = [
        ("creating a file", "EROFS", _open, f"{root}/new", write | os.O_CREAT),
        ("creating with O_EXCL", "EROFS", _open, f"{root}/new", write | os.O_CREAT | os.O_EXCL),
        ("O_TMPFILE", "EROFS|ENOTSUP", _open, root, write | os.O_TMPFILE),
        ("mkdir", "EROFS", os.mkdir, f"{root}/new"),
        ("symlink", "EROFS", os.symlink, "x", f"{root}/new"),
        ("a fifo", "EROFS", os.mknod, f"{root}/new", 0o644 | stat.S_IFIFO),
        ("a device node", "EROFS", os.mknod, f"{root}/new", 0o644 | stat.S_IFCHR, 0x103),
        ("chmod of the root", "EROFS", os.chmod, root, 0o700),
        ("chown of the root", "EROFS", os.chown, root, 1, 1),
        ("setting times of the root", "EROFS", os.utime, root, (1, 1)),
        ("an attribute of the root", "EROFS|ENOTSUP", os.setxattr, root, "user.x", b"1"),
    ]
    if file:
        rows += [
            ("opening for writing", "EROFS", _open, file, write),
            ("opening for both", "EROFS", _open, file, os.O_RDWR),
            ("opening with O_APPEND", "EROFS", _open, file, write | os.O_APPEND),
            ("opening with O_TRUNC", "EROFS", _open, file, os.O_RDONLY | os.O_TRUNC),
            ("truncate", "EROFS", os.truncate, file, 1),
            ("unlink", "EROFS", os.unlink, file),
            ("rename", "EROFS", os.rename, file, f"{root}/new"),
            ("rename over itself", f"EROFS|{WORKS}", os.rename, file, file),
            ("link", "EROFS", os.link, file, f"{root}/new"),
            ("chmod", "EROFS", os.chmod, file, 0o600),
            ("chown", "EROFS", os.chown, file, 1, 1),
            ("setting times", "EROFS", os.utime, file, (1, 1)),
            ("removing an attribute", "EROFS|ENOTSUP", os.removexattr, file, "user.x"),
            ("access for writing", "EROFS", _access, file, os.W_OK),
        ]
    if directory:
        rows += [
            ("rmdir", "EROFS|ENOTEMPTY|EBUSY", os.rmdir, directory),
            ("renaming a directory", "EROFS", os.rename, directory, f"{root}/new"),
            ("mkdir in a directory", "EROFS", os.mkdir, f"{directory}/new"),
        ]
    return rows


def _access(path, mode):
    _syscall(_LIBC.access, path.encode(), mode)


def all_changes_refused(root, file, directory):
    check(changes(root, file, directory))
