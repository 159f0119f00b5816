"""Processes that create and write at the same time. Runs in the guest."""

import os
import time

from amounts_in_guest import how_many, room

from parallel_in_guest import in_parallel
from tree_in_guest import SECTOR, Content, Tree, check_content, pattern, write_all

KIB = 1024


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
            write_all(fd, pattern(name, 0, size))
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
            write_all(fd, pattern(name, start, min(24 * KIB, size - start)), start)
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
            write_all(fd, pattern(f"by{worker}", start, piece), start)
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
            write_all(fd, pattern(f"c{worker}-{number}", 0, 900))
            os.close(fd)
            os.rename(path, tree.path(f"r{worker}-{number}"))
            if number % 4:
                os.unlink(tree.path(f"r{worker}-{number}"))

    in_parallel(workers, work)
    for worker in range(workers):
        for number in range(0, rounds, 4):
            tree.know(f"r{worker}-{number}", Content(900, [(f"c{worker}-{number}", 0, 900)]))
    return tree.settle()


def each_at_its_own(root, lacks, seconds):
    """One process for each kind of change, in a directory of its own, for so many seconds.

    The kernel locks directories. Here no two processes use the same one, so that what is between
    them are the filesystem's own locks: one taken in two orders is a deadlock within a second.
    """
    tree = Tree(root)
    chosen = [kind for kind, (words, _, _) in _KINDS.items() if not words & set(lacks)]
    for kind in chosen:
        tree.mkdir(kind)
        for name in _KINDS[kind][1]:
            tree.mkdir(f"{kind}/{name}")
        tree.create(f"{kind}/f", 3000)

    def work(number):
        _, _, change = _KINDS[chosen[number]]
        where, until = tree.path(chosen[number]), time.monotonic() + seconds
        change(where)
        while time.monotonic() < until:
            change(where)

    in_parallel(len(chosen), work)
    return tree.settle()


def _makes_directories(where):
    os.mkdir(f"{where}/x")
    os.rmdir(f"{where}/x")


def _makes_files(where):
    fd = os.open(f"{where}/x", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    write_all(fd, b"x" * 5000)
    os.close(fd)
    os.unlink(f"{where}/x")


def _renames(where):
    os.rename(f"{where}/f", f"{where}/x")
    os.rename(f"{where}/x", f"{where}/f")


def _moves(where):
    os.rename(f"{where}/f", f"{where}/one/x")
    os.rename(f"{where}/one/x", f"{where}/two/y")
    os.rename(f"{where}/two/y", f"{where}/f")


def _links(where):
    os.link(f"{where}/f", f"{where}/x")
    os.unlink(f"{where}/x")


def _makes_symlinks(where):
    os.symlink("f", f"{where}/x")
    os.unlink(f"{where}/x")


def _truncates(where):
    with open(f"{where}/x", "wb", buffering=0) as file:
        file.write(b"x" * 20_000)
        file.truncate(100)
    os.unlink(f"{where}/x")


def _looks(where):
    assert "f" in os.listdir(where)
    os.statvfs(where)
    os.stat(f"{where}/f")


def _flushes(where):
    fd = os.open(f"{where}/x", os.O_CREAT | os.O_WRONLY, 0o644)
    write_all(fd, b"x" * 3000)
    os.fsync(fd)
    os.close(fd)
    os.unlink(f"{where}/x")


#: Of each kind of change: words of `lacks` that rule it out, directories it needs, one round.
_KINDS = {
    "directories": ({"mkdir"}, (), _makes_directories),
    "files": ({"unlink"}, (), _makes_files),
    "renames": ({"rename"}, (), _renames),
    "moves": ({"rename"}, ("one", "two"), _moves),
    "links": ({"hardlink", "unlink"}, (), _links),
    "symlinks": ({"symlink", "unlink"}, (), _makes_symlinks),
    "truncates": ({"truncate", "unlink"}, (), _truncates),
    "looks": ({"statfs"}, (), _looks),
    "flushes": ({"fsync", "unlink"}, (), _flushes),
}
