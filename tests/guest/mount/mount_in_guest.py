"""What a mounted filesystem must say about itself. Runs in the guest."""

import errno
import os

from tree_in_guest import Tree, fails_with, pattern


def tree(mount, lacks, tag=""):
    """A small tree; `tag` makes its names and content differ from another one's."""
    made = Tree(mount)
    made.create(f"{tag}a", 10_000)
    made.create(f"{tag}b", 513)
    if "mkdir" not in lacks:
        made.mkdir(f"{tag}d")
        made.mkdir(f"{tag}d/e")
        made.create(f"{tag}d/c", 4097)
        made.create(f"{tag}d/e/f", 30_000)
    return made.settle()


def more(mount, name):
    """One more file, which is not in any note."""
    with open(f"{mount}/{name}", "wb") as file:
        file.write(pattern(name, 0, 2000))


def gone(mount, name):
    os.unlink(f"{mount}/{name}")


def assert_read_only(mount, lacks):
    """Every way to change something says EROFS."""
    file = f"{mount}/a"
    with open(file, "rb") as reader:
        reader.read()
    tries = {
        "opening a file for writing": (os.open, (file, os.O_WRONLY)),
        "creating a file": (os.open, (f"{mount}/new", os.O_CREAT | os.O_WRONLY)),
        "truncating": (os.truncate, (file, 1)),
        "unlinking": (os.unlink, (file,)),
        "renaming": (os.rename, (file, f"{mount}/z")),
        "mkdir": (os.mkdir, (f"{mount}/newdir",)),
        "symlink": (os.symlink, ("x", f"{mount}/newlink")),
        "link": (os.link, (file, f"{mount}/newname")),
        "setting times": (os.utime, (file, (1, 1))),
        "chmod": (os.chmod, (file, 0o600)),
    }
    for what, (function, arguments) in tries.items():
        fails_with("EROFS", f"{what} on a read-only mount", function, *arguments)


def is_one_filesystem(mount, other):
    """Whether both are mounts of the same superblock (get_tree_single, mount_single)."""
    return os.stat(mount).st_dev == os.stat(other).st_dev


def statfs(mount):
    """The numbers of statfs, checked against each other."""
    s = os.statvfs(mount)
    assert s.f_bsize > 0 and s.f_frsize > 0, f"block size {s.f_bsize}, fragment {s.f_frsize}"
    assert s.f_blocks > 0, "f_blocks is 0: df shows no such filesystem"
    assert s.f_bfree <= s.f_blocks, f"{s.f_bfree} of {s.f_blocks} blocks are free"
    assert s.f_bavail <= s.f_bfree, f"{s.f_bavail} available of {s.f_bfree} free blocks"
    assert s.f_files == 0 or s.f_ffree <= s.f_files, f"{s.f_ffree} of {s.f_files} inodes are free"
    # More than 255 where names are counted in characters: exfat says 255 * 6 bytes.
    assert 0 < s.f_namemax < 4096, f"f_namemax is {s.f_namemax}"
    return s.f_blocks * s.f_frsize


def busy(mount, action):
    """umount with an open file must fail with EBUSY; after close it must work."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"{mount}/a", os.O_RDONLY)
    before = os.pread(fd, 100, 0)
    assert libc.umount2(mount.encode(), 0) != 0, "umount worked while a file was open"
    number = ctypes.get_errno()
    assert number == errno.EBUSY, (
        f"umount with an open file says {errno.errorcode.get(number, number)}, not EBUSY"
    )
    assert os.pread(fd, 100, 0) == before, "after a refused umount the open file reads differently"
    os.close(fd)
    assert libc.umount2(mount.encode(), 0) == 0, (
        f"after close umount still says {errno.errorcode.get(ctypes.get_errno())}"
    )
