"""How much a filesystem can take. Runs in the guest."""

from tree_in_guest import SECTOR, free_space


def room(root, wanted):
    """At most 60 % of the free space, where the filesystem counts it."""
    space = free_space(root)
    if not space["total"]:
        return wanted
    assert space["avail"], "statfs says that nothing is available on a fresh filesystem"
    return min(wanted, int(space["avail"] * 0.6) // SECTOR * SECTOR)


def how_many(root, wanted):
    """Files to create: at most 60 % of the free inodes, where the filesystem counts them."""
    space = free_space(root)
    files = int(space["ffree"] * 0.6) if space["files"] else wanted
    if not space["total"]:
        return max(8, min(wanted, files))
    assert space["avail"], "statfs says that nothing is available on a fresh filesystem"
    blocks = int(space["avail"] * 0.4) // max(space["block"], 1)
    return max(8, min(wanted, files, blocks))
