"""Processes that change a filesystem at the same time, each knowing what its files must hold.

Runs in the guest. What a worker does follows from its number alone, so a failure comes again.
"""

import os
import zlib

from parallel_in_guest import in_parallel, until_left
from tree_in_guest import Content, Tree, check_content, free_space

#: Files a worker keeps at a time: the smallest filesystems have 48 inodes.
_KEPT = 5
_LARGEST = 24_000


def worked(root, lacks, workers, rounds, storm, own_directories):
    """`workers` processes create, change, rename and remove files; then all of it is verified.

    `storm` is what another process does all the time: see STORMS. Returns the note.
    """
    tree = Tree(root)
    if own_directories:
        for worker in range(workers):
            tree.mkdir(f"w{worker}")
    largest = _largest(root, workers)

    def work(worker):
        return _Worker(tree, worker, lacks, own_directories, largest).work(rounds)

    what, disturb = STORMS[storm]
    with until_left(lambda: disturb(tree.root), what):
        notes = in_parallel(workers, work)
    for note in notes:
        _adopt(tree, note)
    return tree.settle()


def _adopt(tree, note):
    """Take over what a worker left: its files, some of them under several names."""
    known = {}  # the worker's number of a file -> what the tree calls it
    for name, kind in note["names"].items():
        if kind[0] != "file":
            tree.names[name] = kind
        elif kind[1] in known:
            tree.names[name] = known[kind[1]]
        else:
            tree.know(name, Content(*note["files"][kind[1]]))
            known[kind[1]] = tree.names[name]


def _largest(root, workers):
    """The largest file a worker makes: all together take a fifth of the free space at most."""
    space = free_space(root)
    if not space["total"]:
        return _LARGEST
    return max(600, min(_LARGEST, space["avail"] // (5 * workers * _KEPT)))


class _Worker:
    """One process's files in a shared tree, or in a directory of its own there."""

    def __init__(self, tree, number, lacks, own_directory, largest):
        self.tree = tree
        self.number = number
        self.lacks = lacks
        self.prefix = f"w{number}/" if own_directory else ""
        self.largest = largest
        self.made = 0
        tree.names, tree.files = {}, {}  # of this process only: it is a fork

    def work(self, rounds):
        choices = [
            change
            for change, needs in (
                (self._create, ()),
                (self._rewrite, ()),
                (self._remove, ()),
                (self._append, ("append",)),
                (self._cut, ("truncate",)),
                (self._rename, ("rename",)),
                (self._replace, ("rename",)),
                (self._link, ("hardlink",)),
                (self._symlink, ("symlink",)),
                (self._directory, ("mkdir",)),
            )
            if not set(needs) & set(self.lacks)
        ]
        for turn in range(rounds):
            self.bits = zlib.crc32(b"%d of %d" % (turn, self.number))
            files = self._files()
            if not files:
                self._create()
            elif len(files) >= _KEPT:
                self._remove()
            else:
                choices[self._draw(len(choices))]()
        note = self.tree.note()
        self._check_own(note)
        return note

    def _draw(self, limit):
        """A number below `limit` that follows from worker and turn."""
        self.bits = zlib.crc32(b"%d" % self.bits)
        return (self.bits >> 8) % limit

    def _files(self):
        return sorted(name for name, kind in self.tree.names.items() if kind[0] == "file")

    def _any(self):
        files = self._files()
        return files[self._draw(len(files))]

    def _new(self):
        self.made += 1
        return f"{self.prefix}n{self.number}-{self.made}"

    def _create(self):
        self.tree.create(self._new(), self._draw(self.largest), piece=1 + self._draw(9000))

    def _rewrite(self):
        name = self._any()
        size = self.tree.content(name).size
        self.tree.write(name, self._draw(size + 1), 1 + self._draw(3000))

    def _append(self):
        self.tree.append(self._any(), 1 + self._draw(2000))

    def _cut(self):
        name = self._any()
        self.tree.truncate(name, self._draw(self.tree.content(name).size + 1))

    def _remove(self):
        self.tree.unlink(self._any())

    def _rename(self):
        self.tree.rename(self._any(), self._new())

    def _replace(self):
        files = self._files()
        if len(files) > 1:
            old, new = self._any(), self._any()
            self.tree.rename(old, new)

    def _link(self):
        self.tree.link(self._any(), self._new())

    def _symlink(self):
        name = self._new()
        self.tree.symlink(f"{name}-target", name)
        said = os.readlink(self.tree.path(name))
        assert said == f"{name}-target", f"'{name}' points to '{said}'"
        self.tree.unlink(name)

    def _directory(self):
        name = self._new()
        self.tree.mkdir(name)
        self.tree.create(f"{name}/in", 100)
        self.tree.unlink(f"{name}/in")
        self.tree.rmdir(name)

    def _check_own(self, note):
        """While the others go on: what this worker wrote is there and right."""
        for name, kind in note["names"].items():
            content = Content(*note["files"][kind[1]])
            check_content(self.tree.path(name), content, content.labels(), name)


# -- what goes on meanwhile -------------------------------------------------------------------


def _list(root):
    """Walk the whole tree; what is gone between readdir and stat was removed by a worker."""
    waiting = [root]
    while waiting:
        where = waiting.pop()
        try:
            with os.scandir(where) as entries:
                found = list(entries)
        except FileNotFoundError:
            continue
        for entry in found:
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue


def _sync(_):
    os.sync()


def _fsync(root):
    """fsync whatever is found, as a program that trusts nobody."""
    for name in os.listdir(root):
        try:
            fd = os.open(f"{root}/{name}", os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            os.fsync(fd)
        except OSError as error:
            import errno

            if error.errno not in (errno.EINVAL, errno.ENOSYS):  # directories, special files
                raise
        finally:
            os.close(fd)


def _drop(_):
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


#: What another process does while the workers work: (for people, one round of it).
STORMS = {
    "listings": ("a listing of the tree", _list),
    "sync": ("sync", _sync),
    "fsync": ("a round of fsync", _fsync),
    "dropped-caches": ("dropping the caches", _drop),
}


def to_be_read(root, lacks):
    """Files of some sizes, and a directory where there are any."""
    tree = Tree(root)
    for number, size in enumerate((700, 9000, 40_000)):
        tree.create(f"r{number}", size)
    if "mkdir" not in lacks:
        tree.mkdir("d")
        for number in range(8):
            tree.create(f"d/r{number}", 5000 * number)
    return tree.settle()


def read_in_parallel(mount, before, workers, rounds):
    """Many processes read a tree that nobody changes, with caches dropped all the time."""
    from census_in_guest import assert_unchanged

    def work(_):
        for number in range(rounds):
            assert_unchanged(mount, before, f"in round {number + 1} of parallel reading")
        return rounds

    with until_left(lambda: _drop(mount), "dropping the caches"):
        return sum(in_parallel(workers, work))
