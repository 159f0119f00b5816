"""Fill a filesystem up to ENOSPC, and empty it again. Runs in the guest."""

import errno
import os

from tree_in_guest import Content, Tree, free_space, pattern, remove, returned_space

MIB = 1 << 20
#: What may still be free, or reserved, when a filesystem says that it is full.
_RESERVE = 0.15
BALLAST = "ballast"
#: More small files than this prove nothing more and take long under emulation.
_MOST_FILES = 2500


def capacity(mount):
    """Bytes statfs says are available on an empty filesystem, and the memory of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return free_space(mount)["avail"], memory


def by_large_files(root):
    """Write until nothing more fits; every byte that write(2) claimed must be there.

    Returns (note, free space before).
    """
    tree = Tree(root)
    before = free_space(root)
    tree.create("witness", 20_000)
    os.sync()
    files, said = 0, ""
    while said != "ENOSPC" and files < 64:
        files += 1
        said = _grow(tree, f"large{files}", before["total"])
    assert said == "ENOSPC", f"after {files} files of the largest size there is still no ENOSPC"
    _assert_full(root, before)
    _another_is_refused(tree)
    # The content is compared from a cold cache; it is as much as the disk holds.
    return tree.settle(content=False), before


def _grow(tree, name, total):
    """Write `name` in pieces of up to 1 MiB until it is refused; returns the errno's name."""
    tree.create(name)
    content, at = tree.content(name), 0
    fd = os.open(tree.path(name), os.O_WRONLY)
    try:
        while True:
            # The last MiB in small pieces, so that the end is found exactly.
            piece = MIB if at % MIB == 0 else 64 * 1024
            try:
                count = os.pwrite(fd, pattern(name, at, piece), at)
            except OSError as error:
                said = errno.errorcode.get(error.errno, str(error.errno))
                if said == "ENOSPC" and piece == MIB:
                    small = _small_pieces(fd, name, at)
                    at += small
                break
            assert count > 0, f"{name}: writing at {at} returned {count} and no error"
            at += count
            assert at <= total, f"{name}: {at} bytes were accepted on a filesystem of {total} bytes"
        assert said in ("ENOSPC", "EFBIG"), f"writing {name} at {at} says {said}, not ENOSPC"
        _synced(fd, name)
    finally:
        os.close(fd)
    content.write(name, 0, at)
    size = os.stat(tree.path(name)).st_size
    assert size == at, f"{name}: {at} bytes were accepted, and its size is {size}"
    return said


def _small_pieces(fd, name, start):
    """After a refused MiB: what still fits in pieces of 4 KiB. Returns how much that was."""
    at = start
    while True:
        try:
            at += os.pwrite(fd, pattern(name, at, 4096), at)
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EFBIG), (
                f"writing {name} at {at} says {errno.errorcode.get(error.errno)}, not ENOSPC"
            )
            return at - start


def _synced(fd, name):
    """Space that write(2) promised must be there when the data goes out."""
    try:
        os.fsync(fd)
    except OSError as error:
        said = errno.errorcode.get(error.errno)
        if said in ("EINVAL", "ENOSYS", "ENOTSUP"):
            return  # no fsync at all; the remount tells
        raise AssertionError(
            f"{name}: write said that it worked, and fsync says {said}: the space was not reserved"
        ) from error


def _assert_full(root, before):
    now = free_space(root)
    most = int(before["total"] * _RESERVE) + MIB
    assert now["avail"] <= most, (
        f"ENOSPC was said while statfs shows {now['avail']} of {now['total']} bytes available"
    )


def _another_is_refused(tree):
    """A new file on a full filesystem: refused with ENOSPC, or made; never anything else."""
    try:
        fd = os.open(tree.path("late"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except OSError as error:
        assert error.errno == errno.ENOSPC, (
            f"creating a file on a full filesystem says {errno.errorcode.get(error.errno)}"
        )
        return
    count = 0
    try:
        count = os.write(fd, pattern("late", 0, 200))
    except OSError as error:
        assert error.errno == errno.ENOSPC, (
            f"writing on a full filesystem says {errno.errorcode.get(error.errno)}"
        )
    os.close(fd)
    tree.know("late", Content(count, [("late", 0, count)] if count else []))


def by_small_files(root, lacks):
    """Files as large as they may be, then small ones and directories until nothing more fits.

    Returns (note, free space before).
    """
    tree = Tree(root)
    before = free_space(root)
    ballast = max(0, before["avail"] - max(MIB, before["avail"] // 32))
    _write_ballast(tree, ballast // 4096 * 4096, _free_inodes(before))
    directory, number, said = "", 0, ""
    full = _words_for_full(lacks)
    while not said and number < _MOST_FILES:
        if number % 40 == 0 and "mkdir" not in lacks:
            said = _try_mkdir(tree, f"d{number}")
            directory = directory if said else f"d{number}/"
        if not said:
            said = _try_create(tree, f"{directory}s{number}", 200 + number % 5 * 1000, full)
        number += 1
    os.sync()
    return tree.settle(), before, said


#: So many names without content fill a block of a directory; and how far behind its end a write
#: needs blocks for the map of a file's blocks as well.
_NAMES = 300
_FAR = 6 * MIB
_ROUNDS = 4


def to_the_last_block(root, lacks):
    """Names until no directory grows any more, then far writes with one, two, three blocks free.

    Whatever is refused says ENOSPC, and takes nothing. Returns (note, free space before).
    """
    tree = Tree(root)
    before = free_space(root)
    full = _words_for_full(lacks)
    rounds = _ROUNDS if not before["files"] or before["ffree"] >= 64 else 1
    spare = [f"b{number}" for number in range(sum(range(rounds + 1)))]
    for name in spare:
        tree.create(name, min(before["block"], 4096))
    _write_ballast(tree, before["avail"], _free_inodes(before))
    length = min(before["namemax"], 100)
    for number in range(_NAMES):
        if _try_create(tree, f"e{number}-".ljust(length, "x"), 0, full):
            break
    if not {"sparse", "truncate"} & set(lacks):
        for free in range(1, rounds + 1):
            for _ in range(free):
                tree.unlink(spare.pop())
            os.sync()
            _write_far(tree, f"far{free}", full)
    os.sync()
    return tree.settle(), before


def _write_far(tree, name, full):
    """A file of one byte at the end of a hole, or refused, or cut short by it."""
    if _try_create(tree, name, 0, full):
        return
    fd = os.open(tree.path(name), os.O_WRONLY)
    try:
        os.pwrite(fd, pattern(name, _FAR, 1), _FAR)
    except OSError as error:
        said = errno.errorcode.get(error.errno, str(error.errno))
        assert said in ("ENOSPC", "EFBIG"), (
            f"a write far behind the end of '{name}' on a nearly full volume says {said}, not "
            "ENOSPC"
        )
    else:
        tree.content(name).write(name, _FAR, 1)
    finally:
        os.close(fd)


def _words_for_full(lacks):
    """What a directory may say that takes no more names."""
    return {"ENOSPC", "EMLINK", "EFBIG"} if "manyfiles" in lacks else {"ENOSPC"}


def _free_inodes(space):
    """Of filesystems that do not count them, more than any test here needs."""
    return space["ffree"] if space["files"] else 2000


def _write_ballast(tree, size, inodes):
    """What only takes space; its content is not looked at, by_large_files does that.

    One file, or several where a file has a largest size, but never a quarter of all `inodes`.
    """
    number, said = 0, "EFBIG"
    while said == "EFBIG" and number <= min(inodes // 4, 100):
        name = f"{BALLAST}{number}"
        written, said = _ballast(tree.path(name), size)
        tree.strangers.add(name)
        number, size = number + 1, size - written


def _ballast(path, size):
    """Returns how much was written, and the errno's name that ended it early, or ''."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EMLINK):  # a directory may be full as well
            raise
        return 0, errno.errorcode[error.errno]
    block, at = b"\xb5" * MIB, 0
    try:
        while at < size:
            at += os.write(fd, block[: size - at])
    except OSError as error:
        # statfs may count what metadata needs, and a file may have a largest size.
        if error.errno not in (errno.ENOSPC, errno.EFBIG):
            raise
        return at, errno.errorcode[error.errno]
    finally:
        os.close(fd)
    return at, ""


def _try_mkdir(tree, name):
    try:
        tree.mkdir(name)
    except OSError as error:
        assert error.errno == errno.ENOSPC, (
            f"mkdir on a full filesystem says {errno.errorcode.get(error.errno)}, not ENOSPC"
        )
        return "ENOSPC"
    return ""


def _try_create(tree, name, size, full):
    """A file of `size` bytes, or of what fits; ENOSPC is the way to refuse.

    `full` has what else a directory may say that takes no more names.
    """
    count = 0
    try:
        fd = os.open(tree.path(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except OSError as error:
        said = errno.errorcode.get(error.errno, str(error.errno))
        assert said in full, f"creating '{name}' says {said}, not ENOSPC"
        return said
    said = ""
    try:
        while count < size and not said:
            count += os.pwrite(fd, pattern(name, count, size - count), count)
    except OSError as error:
        said = errno.errorcode.get(error.errno, str(error.errno))
    finally:
        os.close(fd)
    assert said in ("", "ENOSPC"), f"writing '{name}' says {said}, not ENOSPC"
    tree.know(name, Content(count, [(name, 0, count)] if count else []))
    return said


def emptied(root, note, before):
    """Remove everything: removing works on a full filesystem, and the space comes back.

    Returns the note of a new file, as large as fits a tenth of the space.
    """
    remove_all(root, note)
    slack = 16 * before["block"] + before["total"] // 200
    after = returned_space(root if os.path.isdir(root) else os.path.dirname(root), before, slack)
    tree = Tree(root)
    lost = before["free"] - after["free"]
    assert lost <= slack, (
        f"after everything was removed {lost} bytes less are free than before "
        f"({before['free']} before, {after['free']} after; {slack} are tolerated)"
    )
    tree.create("anew", before["avail"] // 10)
    return tree.settle()


def remove_all(root, note):
    if not os.path.ismount(root):
        remove(root)
        return
    for name in os.listdir(root):
        if name.startswith(BALLAST) or name not in note["strangers"]:
            remove(f"{root}/{name}")
