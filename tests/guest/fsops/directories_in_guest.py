"""Directories, crowded, thinned and read while they change. Runs in the guest."""

import errno
import os
import stat

from amounts_in_guest import how_many
from getdents_in_guest import entries

from tree_in_guest import Content, Tree, fails_with, known, name_limit, offers, optional, verify


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
    for level in range(min(depth, how_many(root, 3 * depth) // 3)):
        where = f"{where}/l{level}" if where else f"l{level}"
        tree.mkdir(where)
        tree.create(f"{where}/f{level}", 4097 + 512 * level)
        tree.create(f"{where}/g{level}", level)
    return tree.settle()


def many_directories(root, wanted):
    """As many subdirectories as there may be, up to `wanted`; then some of them go."""
    tree = Tree(root)
    tree.mkdir("many")
    count = how_many(root, wanted)
    for number in range(count):
        try:
            tree.mkdir(f"many/d{number}")
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            count = number
            break
        if number % 7 == 0:
            tree.create(f"many/d{number}/f", 100 + number)
    for number in range(1, count, 4):
        if number % 7:
            tree.rmdir(f"many/d{number}")
    return tree.settle()


def up_to_its_limit(root, most):
    """Files in one directory until it takes no more, up to `most`; each name is there."""
    tree = Tree(root)
    try:
        for number in range(how_many(root, most)):
            tree.create(f"f{number:04d}", number % 2 * 100)
    except OSError as error:
        said = errno.errorcode.get(error.errno)
        full = ("ENOSPC", "EMLINK", "EFBIG", "EDQUOT")
        assert said in full, f"creating file {number + 1} of a directory says {said}"
        tree.names.pop(f"f{number:04d}", None)
    return tree.settle(content=False)


def emptied_and_filled_again(root, note):
    """From a cold cache: all go, and as many come."""
    tree = known(root, note)
    names = sorted(tree.names)
    for name in names:
        tree.unlink(name)
    verify(root, tree.note())
    for name in names:
        tree.create(f"again-{name}", 10)
    return tree.settle(content=False)


def crowded(root, directory, wanted):
    """Hundreds of files in one directory."""
    tree = Tree(root)
    if directory:
        tree.mkdir(directory)
    prefix = f"{directory}/" if directory else ""
    for number in range(how_many(root, wanted)):
        tree.create(f"{prefix}f{number:04d}", number % 3 * 300)
    return tree.settle(content=False)


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
    with optional(_REWINDING, errno.ESPIPE):
        os.lseek(fd, 0, os.SEEK_SET)
    second = sorted(os.listdir(fd))
    os.close(fd)
    assert set(second) - set(first) == {"later"}, (
        f"after a rewind the directory shows {sorted(set(second) ^ set(first))[:5]} differently"
    )
    return tree.settle()


#: Since Linux 6.0 a directory without .llseek cannot be rewound, and rewinddir(3) says nothing.
_REWINDING = "going back in a listing"


def found_again_by_position(root, wanted):
    """seekdir(3): from the position behind each entry a listing goes on with the next one."""
    tree = Tree(root)
    for number in range(how_many(root, wanted)):
        tree.create(f"pos{number:03d}", 1)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # A small buffer, so that nearly each entry is one at which the listing was stopped.
        whole = entries(fd, 1024)
        names = [name for name, _, _ in whole]
        missing = sorted(set(tree.names) - set(names))
        assert not missing, f"a listing in small pieces leaves out {missing[:5]}"
        twice = sorted({name for name in names if names.count(name) > 1})
        assert not twice, f"a listing in small pieces has twice: {twice[:5]}"
        for index in (*range(0, len(names), 7), len(names) - 2, len(names) - 1):
            with optional(_REWINDING, errno.ESPIPE):
                os.lseek(fd, whole[index][2], os.SEEK_SET)
            rest = [name for name, _, _ in entries(fd)]
            assert sorted(rest) == sorted(names[index + 1 :]), (
                f"a listing of {len(names)} entries that goes on behind number {index + 1}, "
                f"'{names[index]}', has {len(rest)} more, it must have "
                f"{len(names) - index - 1}: {sorted(set(rest) ^ set(names[index + 1 :]))[:5]}"
            )
    finally:
        os.close(fd)
    return tree.settle()


def long_names(root, wanted, lacks):
    """Names as long as they may be, up to 200 bytes: the directory outgrows its first blocks."""
    tree = Tree(root)
    length = min(name_limit(root, lacks), 200)
    for number in range(how_many(root, wanted)):
        name = f"n{number:04d}".ljust(length, "abcdefghij"[number % 10])[:length]
        with offers("create", "creating a file"):
            os.mknod(tree.path(name), stat.S_IFREG | 0o644)
        tree.know(name, Content())
    return tree.settle()


def thinned_long_names(root, note):
    """From a cold cache: every third of the long names goes, and short ones come."""
    tree = known(root, note)
    verify(root, note)
    for number, name in enumerate(sorted(tree.names)):
        if number % 3 == 0:
            tree.unlink(name)
    for number in range(20):
        tree.create(f"short{number}", 10 * number)
    return tree.settle()
