"""What a fresh filesystem must look like, and a tree to put on it. Runs in the guest."""

import os
import stat

from tree_in_guest import Tree, free_space

#: What filesystems make in their root by themselves.
_SYSTEM_NAMES = {"lost+found", ".Trash-0", "System Volume Information", ".snapshots", ".fsevents"}


def assert_empty(mount, lacks):
    """The root of a fresh filesystem: a directory with nothing of old media in it."""
    status = os.lstat(mount)
    assert stat.S_ISDIR(status.st_mode), "the root is not a directory"
    names = os.listdir(mount)
    strange = [name for name in names if name not in _SYSTEM_NAMES]
    assert not strange, (
        f"the root of a fresh filesystem lists {len(strange)} entries nobody made: "
        f"{', '.join(map(repr, strange[:5]))}"
    )
    for name in names:
        below = f"{mount}/{name}"
        if stat.S_ISDIR(os.lstat(below).st_mode):
            inside = os.listdir(below)
            assert not inside, f"'{name}' of a fresh filesystem lists {inside[:5]}"
    if "statfs" in lacks:
        return
    space = free_space(mount)
    assert 0 < space["free"] <= space["total"], (
        f"a fresh filesystem reports {space['free']} free of {space['total']} bytes"
    )


def space(mount):
    """Free bytes and inodes."""
    found = free_space(mount)
    return {"bytes": found["free"], "inodes": found["ffree"] if found["files"] else 0}


def tree(mount, lacks):
    """Files in the root and, where there are directories, two levels below it."""
    made = Tree(mount)
    for number, size in enumerate((0, 700, 5000, 40_000)):
        made.create(f"f{number}", size)
    if "mkdir" not in lacks:
        made.mkdir("dir")
        made.mkdir("dir/sub")
        for number in range(40):
            made.create(f"dir/n{number}", number * 50)
        made.create("dir/sub/deep", 9000)
        made.create("dir/sub/big", 40_000 if "largefile" in lacks else 400_000)
    return made.settle()
