"""Processes that create and write at the same time. Runs in the guest."""

import os

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
