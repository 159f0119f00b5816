"""Modes, owners, times, special files and attributes. Runs in the guest."""

import os
import stat

from tree_in_guest import Tree, optional


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
