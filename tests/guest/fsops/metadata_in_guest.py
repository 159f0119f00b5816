"""Modes, owners, times, special files and attributes. Runs in the guest."""

import errno
import os
import stat

from tree_in_guest import Content, Tree, fails_with, known, optional


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


def made_with_modes(root, with_directory):
    """The mode a file is made with, cut by the umask: nobody has called chmod."""
    tree, wanted = Tree(root), {}
    before = os.umask(0)
    try:
        for mode in (0o600, 0o644, 0o640, 0o444, 0o711):
            name = f"m{mode:o}"
            os.close(os.open(tree.path(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
            wanted[name] = mode
        if with_directory:
            os.mkdir(tree.path("d750"), 0o750)
            tree.names["d750"] = ("dir",)
            wanted["d750"] = 0o750
        os.umask(0o027)
        os.close(os.open(tree.path("masked"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        wanted["masked"] = 0o640
    finally:
        os.umask(before)
    for name in wanted:
        if name not in tree.names:
            tree.know(name, Content())
    check_modes(root, wanted)
    return tree.settle(), wanted


#: Of the group that a directory gives to what is made in it (S_ISGID).
_GROUP = 42


def open_to(root, user):
    """Two directories of an ordinary user, the second one with a group for what is made there."""
    import pwd

    tree = Tree(root)
    entry = pwd.getpwnam(user)
    for name, group, mode in (("own", entry.pw_gid, 0o755), ("shared", _GROUP, 0o2775)):
        tree.mkdir(name)
        with optional("chown"):
            os.chown(tree.path(name), entry.pw_uid, group)
        with optional("chmod"):
            os.chmod(tree.path(name), mode)
    os.chmod(root, 0o755)
    return tree.settle()


def make_things(root):
    """As an ordinary user: a file and a directory in each."""
    assert os.getuid() != 0, "this must not run as root"
    for where in ("own", "shared"):
        os.close(os.open(f"{root}/{where}/f", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        os.mkdir(f"{root}/{where}/d", 0o755)
    return os.getuid(), os.getgid()


def made_by(root, note, maker):
    """Everything of `make_things` belongs to its maker and, in 'shared', to that one's group."""
    tree, wanted = known(root, note), {}
    user, group = maker
    for where, whose in (("own", group), ("shared", _GROUP)):
        tree.know(f"{where}/f", Content())
        tree.names[f"{where}/d"] = ("dir",)
        wanted[f"{where}/f"] = wanted[f"{where}/d"] = (user, whose)
    check_makers(root, wanted)
    return tree.settle(), wanted


def check_makers(root, wanted):
    for name, (owner, group) in wanted.items():
        status = os.lstat(f"{root}/{name}")
        assert (status.st_uid, status.st_gid) == (owner, group), (
            f"'{name}' was made by user {owner} where the group {group} is due, and belongs to "
            f"{status.st_uid}:{status.st_gid}"
        )
    mode = os.lstat(f"{root}/shared/d").st_mode
    assert mode & stat.S_ISGID, (
        f"a directory made in one of mode 2775 has mode {stat.S_IMODE(mode):04o}, not setgid"
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


#: Beyond 16 bits; cut to them they are ids of ordinary users, and 65536 would be root.
_LARGE = 65_536 + 1000, 65_536 + 42
#: What the kernel puts where an id has no room (fs_high2lowuid).
_NOBODY = 65_534


def owned_by_large_ids(root):
    tree = Tree(root)
    tree.create("far", 10)
    with optional("chown", errno.EOVERFLOW):
        os.chown(tree.path("far"), *_LARGE)
    return tree.settle()


def large_ids(root):
    """What there is of them after a remount; nobody's is a format without room for them."""
    status = os.lstat(f"{root}/far")
    for was, now in zip(_LARGE, (status.st_uid, status.st_gid), strict=True):
        assert now in (was, _NOBODY), (
            f"a file was given to the id {was} and belongs to {now} after a remount, to somebody "
            "else: ids that do not fit have to be refused, or become 65534 (fs_high2lowuid)"
        )
    return status.st_uid, status.st_gid


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
    moved = os.stat(tree.path("now")).st_mtime
    assert moved > 1_600_000_000, f"writing left the modification time at {moved:.0f}"
    wanted["now"] = moved
    return tree.settle(), wanted


def finely_timed(root):
    """Modification times with nanoseconds, and access times with others, as stat shows them."""
    tree, wanted = Tree(root), {}
    for number, fine in enumerate((123_456_789, 1000, 999_999_999)):
        name = f"n{number}"
        tree.create(name, 10)
        with optional("setting times"):
            os.utime(tree.path(name), ns=(1_500_000_000_111_222_333, 1_600_000_000 * _S + fine))
        wanted[name] = os.lstat(tree.path(name)).st_mtime_ns
    return tree.settle(), wanted


_S = 10**9
#: What times are counted in, in nanoseconds; a filesystem may show less than it was told to keep.
_STEPS = (1, 100, 1000, 10**6, 10**7, _S, 2 * _S)


def check_fine_times(root, wanted):
    for name, was in wanted.items():
        got = os.lstat(f"{root}/{name}").st_mtime_ns
        assert got in {was - was % step for step in _STEPS}, (
            f"'{name}' had the modification time {was} ns and has {got} ns; if times are not "
            'kept on purpose, add "timestamps" to filesystem.lacks'
        )


def timed_far_away(root):
    """Times before 1970 and after 2038 and 2106, as stat shows them."""
    tree, shown = Tree(root), {}
    for when in (-86_400, 2**31 + 10, 2**32 + 10):
        name = f"t{when}"
        tree.create(name, 10)
        with optional("setting times"):
            os.utime(tree.path(name), (when, when))
        shown[name] = int(os.lstat(tree.path(name)).st_mtime)
    return tree.settle(), shown


def times_now(root, names):
    return {name: int(os.lstat(f"{root}/{name}").st_mtime) for name in names}


def timed_directory(root):
    """What changes a directory's names without moving its modification time on, and the note."""
    tree, left = Tree(root), []
    tree.mkdir("d")
    tree.create("d/old", 10)
    steps = [
        ("creating a file", lambda: tree.create("d/new", 10)),
        ("removing a file", lambda: tree.unlink("d/old")),
        ("making a directory", lambda: tree.mkdir("d/sub")),
        ("removing a directory", lambda: tree.rmdir("d/sub")),
    ]
    for what, step in steps:
        with optional("setting times"):
            os.utime(tree.path("d"), (1_000_000_000, 1_000_000_000))
        step()
        if os.stat(tree.path("d")).st_mtime < 1_600_000_000:
            left.append(what)
    return tree.settle(), left


def check_times(root, wanted):
    for name, when in wanted.items():
        got = os.lstat(f"{root}/{name}").st_mtime
        assert abs(got - when) < 2, (
            f"'{name}' had the modification time {when:.0f} and has {got:.0f}; if times are "
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


_CREATE, _REPLACE = 1, 2  # XATTR_CREATE, XATTR_REPLACE
_NO_ROOM = (errno.ENOSPC, errno.E2BIG, errno.ERANGE)


def attributed_richly(root, with_directory):
    """Attributes of many sizes, replaced by longer and shorter ones, until there is no room."""
    tree, wanted = Tree(root), {}
    tree.create("rich", 5000)
    names = ["rich"]
    if with_directory:
        tree.mkdir("dir")
        names.append("dir")
    for name in names:
        wanted[name] = _enriched(tree.path(name))
    check_rich(root, wanted)
    return tree.settle(), wanted


def _enriched(path):
    kept = {}

    def put(name, value, flags=0):
        """Set it; where there is no room for it, what was there must stay."""
        try:
            with optional("extended attributes"):
                os.setxattr(path, name, value, flags)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
        else:
            kept[name] = value

    for number, size in enumerate((1, 100, 255, 256, 700)):
        put(f"user.size{number}", bytes(byte * 7 % 256 for byte in range(size)))
    for name, value in (("size1", b"short"), ("size0", b"longer" * 30), ("size4", b"\0\xff\0")):
        put(f"user.{name}", value)
    for number in range(8):
        put(f"user.many-{number}-{'n' * number * 5}", b"%d" % number * 9)
    first = next(iter(kept), None)
    if first is not None:
        there = (path, first, b"x", _CREATE)
        fails_with("EEXIST|ENOTSUP", "XATTR_CREATE of what is there", os.setxattr, *there)
        os.removexattr(path, first)
        del kept[first]
    nothing = (path, "user.nothing")
    replaced = (*nothing, b"x", _REPLACE)
    fails_with("ENODATA|ENOTSUP", "XATTR_REPLACE of nothing", os.setxattr, *replaced)  # hfsplus
    fails_with("ENODATA", "getxattr of nothing", os.getxattr, *nothing)
    return kept


def check_rich(root, wanted):
    for name, kept in wanted.items():
        path = f"{root}/{name}"
        listed = {each for each in os.listxattr(path) if each.startswith("user.")}
        assert listed == set(kept), (
            f"attributes of '{name}': {sorted(listed ^ set(kept))} are listed and should not be, "
            "or the other way round"
        )
        for each, value in kept.items():
            got = os.getxattr(path, each)
            assert got == value, (
                f"the attribute '{each}' of '{name}' holds {len(got)} bytes {got[:16].hex()}…, it "
                f"was set to {len(value)} bytes {value[:16].hex()}…"
            )
