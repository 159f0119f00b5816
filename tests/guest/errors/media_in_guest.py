"""What is done to a filesystem whose disk fails, and what may come of it. Runs in the guest.

Every operation may fail, or work; what is read must be right, and everything returns. After a
write has failed the filesystem is only read, synced and unmounted: the kernel marks a buffer that
could not be written as not up to date, and says WARN_ON_ONCE(!buffer_uptodate(bh)) in
mark_buffer_dirty (fs/buffer.c, Linux 6.1 to 6.12) when minix or ext2 change it once more, which is
nothing a module under test could help.
"""

import errno
import os
import stat

from census_in_guest import census, checksum
from tree_in_guest import Content, Tree, offers, optional, pattern, write_all

try:
    from vexrun.guest import disks_in_guest, faults_in_guest, mounting_in_guest
except ImportError:  # in the guest they lie side by side
    import disks_in_guest
    import faults_in_guest
    import mounting_in_guest

_PAGE = 4096


def tree(root, lacks):
    """Files that are on the medium when this returns; `victim` is the one that will suffer."""
    made = Tree(root)
    made.create("victim", (96 if "largefile" not in lacks else 40) * 1024)
    made.create("good", 40_000)
    if "mkdir" not in lacks:
        made.mkdir("d")
        made.create("d/deep", 30_000)
    note = made.settle()
    os.sync()
    return note


def tag(label):
    """How every sector of the content named `label` begins."""
    return pattern(label, 0, 10)


def read_around_errors(root, note):
    """Every file but `victim` is right; `victim` is right or EIO, and EIO at least once."""
    contents = {name: made for name, made in note["names"].items() if made[0] == "file"}
    failed = 0
    for name, made in contents.items():
        content = Content(*note["files"][made[1]])
        fd = os.open(f"{root}/{name}", os.O_RDONLY)
        try:
            for start in range(0, content.size, _PAGE):
                expected = content.expected(start, min(_PAGE, content.size - start))
                try:
                    got = os.pread(fd, _PAGE, start)
                except OSError as error:
                    said = errno.errorcode.get(error.errno)
                    assert name == "victim", f"{name}: reading at {start} says {said}"
                    assert error.errno == errno.EIO, f"{name}: a bad sector says {said}, not EIO"
                    failed += 1
                    continue
                # A read may stop before the bad place; what it gave must be right.
                short = name == "victim" and 0 < len(got) < len(expected)
                assert got == (expected[: len(got)] if short else expected), (
                    f"{name}: reading at {start} next to unreadable sectors gives {len(got)} "
                    f"bytes which are not what was written"
                )
        finally:
            os.close(fd)
    assert failed, "sectors of 'victim' cannot be read from the disk, and it reads without an error"


_ANEW = (8192, 16_384)  # where `victim` is overwritten: offset and length


def overwritten_while_writes_fail(root, disk):
    """Overwrite `victim` in place, with every write to the disk failing: fsync must say so."""
    assert not _overwritten(root, disk, [(0, 0, "unwritable")]), (
        "every write to the disk failed, and fsync said that the data is on it"
    )


def overwritten_while_its_sectors_fail(root, disk, sectors):
    """The same where only the file's own sectors fail, and all else can be written and flushed.

    Returns whether fsync said that the data is on the disk: it may be, elsewhere.
    """
    # Not 'unwritable', which fails a flush of the whole disk as well. Whole pages need no reading.
    return _overwritten(root, disk, [(sector, 1, "dead") for sector in sectors])


def _overwritten(root, disk, faults):
    offset, length = _ANEW
    fd = os.open(f"{root}/victim", os.O_RDWR)
    os.sync()  # what mounting changed goes out while it can
    faults_in_guest.set_faults(disk, faults)
    try:
        write_all(fd, pattern("anew", offset, length), offset)
        os.fsync(fd)
    except OSError:  # which error it names is its own affair
        return False
    finally:
        os.close(fd)
    return True


def is_overwritten(root):
    """After a remount, where fsync had said so."""
    offset, length = _ANEW
    fd = os.open(f"{root}/victim", os.O_RDONLY)
    got = os.pread(fd, length, offset)
    os.close(fd)
    assert got == pattern("anew", offset, length), (
        "the sectors of a file could not be written, fsync said that its data is on the disk, and "
        "it is not: the error was lost on the way to fsync"
    )


def old_or_new(root, note):
    """After lost writes: other files are whole, `victim` holds its old or its new sectors."""
    sector = 512
    for name, made in note["names"].items():
        if made[0] != "file":
            continue
        content = Content(*note["files"][made[1]])
        fd = os.open(f"{root}/{name}", os.O_RDONLY)
        data = os.pread(fd, content.size + 1, 0)
        os.close(fd)
        assert len(data) == content.size, f"{name}: its size is {len(data)}, not {content.size}"
        old = content.expected(0, content.size)
        for at in range(0, content.size, sector):
            piece = data[at : at + sector]
            new = pattern("anew", at, sector) if name == "victim" else old[at : at + sector]
            assert piece in (old[at : at + sector], new[: len(piece)]), (
                f"{name}: what was synced before the writes failed is gone at offset {at}"
            )


def synced_then_cut(root, disk, lacks):
    """Changes of every kind, then sync, and from then on nothing reaches the disk.

    Returns the note of what must be there when the power is back.
    """
    made = Tree(root)
    made.create("first", 50_000)
    made.create("old", 3000)
    if "mkdir" not in lacks:
        made.mkdir("d")
        made.create("d/deep", 30_000)
    made.settle()
    os.sync()
    made.write("first", 20_000, 9000)
    made.create("gone", 9000)
    made.unlink("gone")
    if "rename" not in lacks:
        made.rename("old", "new")
    if "mkdir" not in lacks:
        made.mkdir("d/e")
        made.create("d/e/last", 5000)
    note = made.settle()
    os.sync()
    faults_in_guest.set_faults(disk, [(0, 0, "cut")])
    return note


def fsynced_then_cut(root, disk, lacks):
    """Existing files are changed and each is fsynced; from then on nothing reaches the disk.

    Returns the note of what must be there when the power is back: nothing was done that was not
    fsynced. That is less than what fsync of a new file may be thought to promise.
    """
    made = Tree(root)
    made.create("inplace", 30_000)
    made.create("grown", 3000)
    made.create("bydata", 3000)
    if "truncate" not in lacks:
        made.create("cut", 30_000)
    made.settle()
    os.sync()
    growth = 30_000 if "largefile" in lacks else 90_000  # beyond the direct blocks
    made.write("inplace", 9000, 5000)
    _flushed(made, "inplace", os.fsync)
    made.write("grown", 3000, growth)
    _flushed(made, "grown", os.fsync)
    made.write("bydata", 3000, 20_000)  # fdatasync owes the size, without which data is lost
    _flushed(made, "bydata", os.fdatasync)
    if "truncate" not in lacks:
        made.truncate("cut", 1001)
        _flushed(made, "cut", os.fsync)
    note = made.settle()
    faults_in_guest.set_faults(disk, [(0, 0, "cut")])
    return note


def named_and_fsynced_then_cut(root, disk, lacks):
    """New files are fsynced, and so are the directories of their names; then nothing is written.

    fsync(2) has that be what makes a name durable. Returns the note; where directories have no
    fsync that is Refused.
    """
    made = Tree(root)
    made.create("old", 3000)
    directories = [root]
    if "mkdir" not in lacks:
        made.mkdir("d")
        directories.append(made.path("d"))
    made.settle()
    os.sync()
    for directory in directories:
        prefix = "" if directory == root else "d/"
        made.create(f"{prefix}new", 20_000)
        _flushed(made, f"{prefix}new", os.fsync)
        with optional("fsync of a directory"):
            _flush(directory, os.fsync)
    note = made.settle()
    faults_in_guest.set_faults(disk, [(0, 0, "cut")])
    return note


def _flushed(made, name, flush):
    with offers("fsync", f"{flush.__name__} of a file", errno.EINVAL):
        _flush(made.path(name), flush)


def _flush(path, flush):
    fd = os.open(path, os.O_RDONLY)
    try:
        flush(fd)
    finally:
        os.close(fd)


# -- the disk is gone -------------------------------------------------------------------------


class Attempts:
    """Operations that may work or fail, with whatever error; their results are looked at."""

    def __init__(self):
        self.said = {}

    def __call__(self, what, function, *arguments):
        try:
            result = function(*arguments)
        except OSError as error:
            name = errno.errorcode.get(error.errno, str(error.errno))
            self.said[what] = name
            return None
        self.said[what] = "worked"
        return result


def known(root):
    """What can be read from a sound disk, for `use_without_disk` and `mounted_with_holes`."""
    return census(root)


def read_or_refused(root, before, attempt):
    """Everything that was there is right, or an error."""
    attempt("listing the root", os.listdir, root)
    for name, row in before.items():
        path = f"{root}/{name}"
        status = attempt(f"stat of '{name}'", os.lstat, path)
        if status is None:
            continue
        assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(row[0]), f"'{name}' is something else now"
        if stat.S_ISREG(row[0]) and row[5]:
            read = attempt(f"reading '{name}'", checksum, path)
            assert read in (None, row[5]), (
                f"reading '{name}', with the disk gone, gives other content and no error"
            )
        elif stat.S_ISDIR(row[0]):
            attempt(f"listing '{name}'", os.listdir, path)
        elif stat.S_ISLNK(row[0]):
            attempt(f"reading the link '{name}'", os.readlink, path)


def use_without_disk(root, workdir, before, lacks, lose, disk):
    """Lose the disk with files open, then do everything a program might still do.

    `lose` is 'dead' (every access fails) or 'unplug'. Returns what each operation said, and what
    `plug_in` needs.
    """
    attempt = Attempts()
    files = [f"{root}/{name}" for name, row in before.items() if row[5] and stat.S_ISREG(row[0])]
    # The longest has the deepest map of its blocks, and that has to be read now as well.
    fd = os.open(max(files, key=os.path.getsize), os.O_RDONLY) if files else -1
    if "write" not in lacks:
        new = os.open(f"{workdir}/open", os.O_CREAT | os.O_RDWR, 0o644)
        write_all(new, pattern("open", 0, 5000))
        os.sync()
    if lose == "unplug":
        faults_in_guest.unplug(disk)
    else:
        faults_in_guest.set_faults(disk, [(0, 0, "dead")])
    # What was cached of the metadata would hide that it cannot be read any more.
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")
    read_or_refused(root, before, attempt)
    attempt("statfs", os.statvfs, root)
    if fd >= 0:
        for start in range(0, min(os.fstat(fd).st_size, 1 << 20), _PAGE):
            attempt("reading an open file", os.pread, fd, _PAGE, start)
        os.close(fd)
    if "write" not in lacks:
        change(workdir, attempt, lacks)
        attempt("writing to an open file", os.pwrite, new, pattern("open", 5000, 20_000), 5000)
        synced = attempt("fsync", _done, os.fsync, new)
        attempt("closing", os.close, new)
        lied = synced and attempt.said["writing to an open file"] == "worked"
        assert not lied or "fsync" in lacks, (
            "the disk is gone, data was written, and fsync said that it is on the disk"
        )
        before = {name: row for name, row in before.items() if not name.endswith(_CHANGED)}
    os.sync()
    read_or_refused(root, before, attempt)
    return attempt.said


def _done(function, *arguments):
    function(*arguments)
    return True


#: What `change` may take away or alter.
_CHANGED = ("victim", "good")


def change(root, attempt, lacks):
    """One burst of changes, all in memory: nothing is written before the next sync."""
    attempt("creating", _create, f"{root}/after", 9000)
    if "rename" not in lacks:
        attempt("renaming", os.rename, f"{root}/after", f"{root}/moved")
    if "mkdir" not in lacks:
        attempt("mkdir", os.mkdir, f"{root}/newdir")
    if "symlink" not in lacks:
        attempt("symlink", os.symlink, "x", f"{root}/newlink")
    if "hardlink" not in lacks:
        attempt("link", os.link, f"{root}/good", f"{root}/another")
    if "truncate" not in lacks:
        attempt("truncate", os.truncate, f"{root}/good", 100)
    if "unlink" not in lacks:
        attempt("unlink", os.unlink, f"{root}/victim")


def _create(path, size):
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        write_all(fd, pattern("after", 0, size))
    finally:
        os.close(fd)


# -- holes in the medium ----------------------------------------------------------------------


def mounted_with_holes(disk, device, mount, kind, options, before, places):
    """Make each place (first sector, sectors) unreadable in turn, mount, and read everything.

    Refusing the mount is right, and so is an error for what cannot be read; wrong content and
    staying mounted are not. Returns how many mounts worked.
    """
    worked = 0
    for start, length in places:
        faults_in_guest.set_faults(disk, [(start, length, "dead")])
        disks_in_guest.flush(device)
        if mounting_in_guest.try_mount(device, mount, kind, options):
            continue
        worked += 1
        attempt = Attempts()
        try:
            read_or_refused(mount, before, attempt)
            # vfat counts its free clusters only now, from a table that may be what is unreadable.
            attempt("statfs", os.statvfs, mount)
        except AssertionError as error:
            raise AssertionError(
                f"with the sectors {start} to {start + length - 1} unreadable: {error}"
            ) from None
        finally:
            mounting_in_guest.umount(mount)
    return worked
