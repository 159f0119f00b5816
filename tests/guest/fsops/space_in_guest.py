"""Space that is taken and comes back. Runs in the guest."""

import errno
import os

from tree_in_guest import (
    free_space,
    optional,
    pattern,
    remove,
    returned_space,
    sync_twice,
    write_all,
)

#: A directory may keep a block or two it grew by; a leak of a block a file is far beyond that.
SLACK_BLOCKS = 4


def space(path):
    return free_space(path)


def space_in_the_end(path, before):
    """Free space when as much is free as `before`, or when that was waited for in vain."""
    return returned_space(path, before, SLACK_BLOCKS * before["block"])


def fill_some(root, size, count):
    """`count` files of `size` bytes; returns free space before and after."""
    if not os.path.isdir(root):
        os.mkdir(root)
    before = free_space(root)
    for number in range(count):
        fd = os.open(f"{root}/q{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        write_all(fd, pattern(f"q{number}", 0, size))
        os.close(fd)
    return before, free_space(root)


def empty_again(root, count, before):
    for number in range(count):
        os.unlink(f"{root}/q{number}")
    return space_in_the_end(root, before)


def _record(after, root):
    """Append the free space: where less is free than after the first round, with patience."""
    after.append(space_in_the_end(root, after[0]) if after else free_space(root))


def cycle(root, rounds, count, size):
    """Create and remove the same files again and again; free space after each round."""
    if not os.path.isdir(root):
        os.mkdir(root)
    after = []
    for _ in range(rounds):
        for number in range(count):
            fd = os.open(f"{root}/y{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            write_all(fd, pattern(f"y{number}", 0, size))
            os.close(fd)
        os.sync()
        for number in range(count):
            os.unlink(f"{root}/y{number}")
        _record(after, root)
    return after


def cycle_of_directories(root, rounds, count):
    """The same with directories, renames over files, links cut by truncate."""
    os.path.isdir(root) or os.mkdir(root)
    after = []
    for _ in range(rounds):
        for number in range(count):
            os.mkdir(f"{root}/d{number}")
            fd = os.open(f"{root}/d{number}/f", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            write_all(fd, pattern("f", 0, 5000))
            os.close(fd)
        os.sync()
        for number in range(count):
            remove(f"{root}/d{number}")
        _record(after, root)
    return after


def cycle_of_replacements(root, rounds, count, size):
    """Rename over an existing file `count` times a round: the replaced ones' space comes back."""
    os.path.isdir(root) or os.mkdir(root)
    after = []
    for _ in range(rounds):
        for number in range(count):
            fd = os.open(f"{root}/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            write_all(fd, pattern(f"r{number}", 0, size))
            os.close(fd)
            os.rename(f"{root}/new", f"{root}/kept")
        _record(after, root)
    os.unlink(f"{root}/kept")
    return after


def cycle_of_replaced_directories(root, rounds, count):
    """Rename a directory over an empty one: the replaced ones' space comes back."""
    os.path.isdir(root) or os.mkdir(root)
    after = []
    for _ in range(rounds):
        for _ in range(count):
            os.path.isdir(f"{root}/kept") or os.mkdir(f"{root}/kept")
            os.mkdir(f"{root}/new")
            with optional("renaming a directory over an empty one", *_NOT_OVER_A_DIRECTORY):
                os.rename(f"{root}/new", f"{root}/kept")
        os.sync()
        _record(after, root)
    os.rmdir(f"{root}/kept")
    return after


#: Of filesystems that replace no directory.
_NOT_OVER_A_DIRECTORY = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR)


def cycle_of_truncates(root, rounds, size):
    """Grow a file by writing and truncate it again."""
    os.path.isdir(root) or os.mkdir(root)
    fd = os.open(f"{root}/t", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    after = []
    for number in range(rounds):
        write_all(fd, pattern(f"t{number}", 0, size), 0)
        os.fsync(fd)
        os.ftruncate(fd, 0)
        _record(after, root)
    os.close(fd)
    os.unlink(f"{root}/t")
    return after


def cycle_of_ghosts(root, rounds, size):
    """Write to a file, remove it while open, then close it."""
    os.path.isdir(root) or os.mkdir(root)
    after = []
    for number in range(rounds):
        fd = os.open(f"{root}/g", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        write_all(fd, pattern(f"g{number}", 0, size))
        os.sync()
        os.unlink(f"{root}/g")
        os.close(fd)
        _record(after, root)
    return after


def drop(root):
    """Remove the test's directory."""
    if os.path.isdir(root) and not os.path.ismount(root):
        remove(root)
    sync_twice()
