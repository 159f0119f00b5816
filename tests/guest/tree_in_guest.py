"""A directory tree with known content, and the proof that it is still there.

Runs in the guest (`in_guest`), so only the standard library, and little of it: importing costs
most under emulation. `Tree` does an operation on the filesystem and notes what must be true
afterwards; `verify` compares the filesystem with such a note, also after a remount.

Content makes every 512-byte sector unique by file label and offset, so that zeros, stale data,
another file's data and data at the wrong offset are told apart.
"""

import errno
import os
import stat
import time
import zlib

SECTOR = 512
_CHUNK = 256 * 1024
#: A cell says whose bytes these are and which sector of it: `<crc32 of label@sector number>`.
_CELL = 20
_ZEROS = bytes(_CHUNK)

#: What a filesystem says when it does not offer an operation at all.
_REFUSALS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


class Refused(Exception):  # noqa: N818
    """The filesystem does not offer this operation and says so; see `optional`."""


# -- content --------------------------------------------------------------------------------


def _tag(label):
    return b"%08x" % zlib.crc32(label.encode())


def _body(tag):
    """What follows the cell in every sector of this file: differs by position and by file."""
    pieces = b"".join(b"%s+%03d;" % (tag, place) for place in range(_CELL, SECTOR, 13))
    return pieces[: SECTOR - _CELL]


def pattern(label, offset, length):
    """The bytes [offset, offset + length) of the endless content named `label`."""
    if length <= 0:
        return b""
    tag = _tag(label)
    head, body = b"<%s@" % tag + b"%08x>\n", _body(tag)
    head = head.replace(b">\n", b">") + b"\n"
    first, last = offset // SECTOR, (offset + length - 1) // SECTOR
    skip = offset - first * SECTOR
    whole = b"".join([head % number + body for number in range(first, last + 1)])
    return whole[skip : skip + length] if skip or len(whole) != length else whole


def describe(data, labels):
    """What these bytes are: zeros, some file's content and from which offset of it, or noise."""
    if not data:
        return "nothing (end of file)"
    if data.count(0) == len(data):
        return "zeros"
    at = data.find(b"<")
    while 0 <= at <= len(data) - 19:
        if data[at + 9 : at + 10] == b"@" and data[at + 18 : at + 19] == b">":
            tag = data[at + 1 : at + 9]
            try:
                sector = int(data[at + 10 : at + 18], 16)
            except ValueError:
                break
            owner = labels.get(tag, "a file of another test")
            offset = sector * SECTOR - at
            zeros = "zeros, then " if at and data[:at].count(0) == at else ""
            return f"{zeros}content of {owner} from offset {max(offset, 0)}"
        at = data.find(b"<", at + 1)
    if data.count(data[0]) == len(data):
        return f"bytes 0x{data[0]:02x} only"
    return f"unknown bytes {data[:16].hex()}"


class Content:
    """What a file must hold: its size, and the labelled writes that made it, oldest first."""

    def __init__(self, size=0, writes=()):
        self.size = size
        self.writes = list(writes)

    def note(self):
        return self.size, self.writes

    def write(self, label, offset, length):
        if length:
            self.writes.append((label, offset, length))
            self.size = max(self.size, offset + length)

    def cut(self, size):
        kept = []
        for label, offset, length in self.writes:
            length = min(length, size - offset)
            if length > 0:
                kept.append((label, offset, length))
        self.writes = kept
        self.size = size

    def zero(self, offset, length):
        """What was written at [offset, offset + length) is zeros now; the size stays."""
        kept, end = [], offset + length
        for label, start, count in self.writes:
            for low, high in (
                (start, min(start + count, offset)),
                (max(start, end), start + count),
            ):
                if low < high:
                    kept.append((label, low, high - low))
        self.writes = kept

    def expected(self, start, length):
        """The bytes that must be at [start, start + length); holes are zeros."""
        end = start + length
        pieces = [w for w in self.writes if w[1] < end and w[1] + w[2] > start]
        if not pieces:
            return _ZEROS[:length] if length <= len(_ZEROS) else bytes(length)
        if len(pieces) == 1 and pieces[0][1] <= start and pieces[0][1] + pieces[0][2] >= end:
            return pattern(pieces[0][0], start, length)
        data = bytearray(length)
        for label, offset, count in pieces:
            low, high = max(offset, start), min(offset + count, end)
            data[low - start : high - start] = pattern(label, low, high - low)
        return bytes(data)

    def labels(self):
        return {_tag(label): f"'{label}'" for label, _, _ in self.writes}


def check_content(path, content, labels, shown=None):
    """Read a whole file and compare; the message says file, offset, what is there instead."""
    shown = shown or path
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        assert size == content.size, (
            f"{shown}: the size is {size}, {content.size} bytes were written"
        )
        for start in range(0, content.size, _CHUNK):
            length = min(_CHUNK, content.size - start)
            got = os.pread(fd, length, start)
            expected = content.expected(start, length)
            if got != expected:
                raise AssertionError(_difference(shown, start, got, expected, labels))
        rest = os.pread(fd, 1, content.size)
        assert not rest, f"{shown}: there are bytes to read beyond its size {content.size}"
    finally:
        os.close(fd)


def _kind(part, labels):
    """As `describe`; a part of a sector without its cell is known by the tags in its body."""
    kind = describe(part, labels)
    if kind.startswith("unknown"):
        places = {part.find(tag): name for tag, name in labels.items() if 0 <= part.find(tag) < 26}
        if places:
            return f"content of {places[min(places)]}"
    return kind


def _difference(path, start, got, expected, labels):
    wrong = [
        at
        for at in range(0, len(expected), SECTOR)
        if got[at : at + SECTOR] != expected[at : at + SECTOR]
    ]
    sector = wrong[0]
    have, want = got[sector : sector + SECTOR], expected[sector : sector + SECTOR]
    byte = next(
        (n for n in range(min(len(have), len(want))) if have[n] != want[n]),
        min(len(have), len(want)),
    )
    total = (len(expected) + SECTOR - 1) // SECTOR
    # A sector may be right at first and wrong in its tail: then say what the tails are.
    start_of_kind = byte if byte >= _CELL else 0
    want_kind = _kind(want[start_of_kind:], labels)
    have_kind = _kind(have[start_of_kind:], labels)
    if want_kind == have_kind:
        want_kind += f" ({want[byte : byte + 16].hex()} ...)"
        have_kind = f"{have[byte : byte + 16].hex()} ..."
    text = (
        f"{path}: wrong from byte {start + sector + byte} on: expected {want_kind}, "
        f"got {have_kind}; {len(wrong)} of {total} sectors from offset {start} differ"
    )
    if len(got) != len(expected):
        text += f" (short read: {len(got)} of {len(expected)} bytes)"
    return text


# -- operations -----------------------------------------------------------------------------


class offers:  # noqa: N801 - reads as a statement: with offers("hardlink"): os.link(...)
    """Inside, a refusal of a core operation becomes a message that names the word for `lacks`."""

    def __init__(self, word, what, *more):
        """`more`: errnos with which the kernel itself refuses where a module has no such method."""
        self.word = word
        self.what = what
        self.refusals = (*_REFUSALS, *more)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, OSError) and error.errno in self.refusals:
            said = errno.errorcode[error.errno]
            raise AssertionError(
                f"{self.what} is refused with {said}; if the filesystem does not offer "
                f'it on purpose, add "{self.word}" to filesystem.lacks'
            ) from error
        return False


class optional:  # noqa: N801
    """Inside, a clean refusal of an operation that filesystems need not offer raises Refused."""

    def __init__(self, what, *more):
        self.what = what
        self.refusals = (*_REFUSALS, errno.EINVAL, *more)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, OSError) and error.errno in self.refusals:
            raise Refused(
                f"the filesystem does not offer {self.what} "
                f"(it says {errno.errorcode[error.errno]})"
            ) from error
        return False


def fails_with(expected, what, function, *arguments, **keywords):
    """`function` must fail with one of the errnos (names) in `expected`."""
    names = expected.split("|")
    try:
        function(*arguments, **keywords)
    except OSError as error:
        said = errno.errorcode.get(error.errno, str(error.errno))
        assert said in names, f"{what} must fail with {' or '.join(names)}, but says {said}"
    else:
        raise AssertionError(f"{what} must fail with {' or '.join(names)}, but it worked")


class Tree:
    """A directory and what must be in it. Names are relative to `root`; labels are names.

    Where the subject lacks mkdir `root` is the mount point itself: `flat`.
    """

    def __init__(self, root):
        self.root = root
        self.names = {}  # name -> ("file", id) | ("dir",) | ("symlink", target) | ("node", mode)
        self.files = {}  # id -> Content
        self.generations = {}
        self._next = 0
        if not os.path.ismount(root):
            if _exists(root):  # left by a test that failed
                remove(root)
            with offers("mkdir", "mkdir"):
                os.mkdir(root)
        self.strangers = set(os.listdir(root))

    def path(self, name):
        return f"{self.root}/{name}"

    # files

    def create(self, name, size=0, piece=1 << 20, flags=os.O_CREAT | os.O_EXCL | os.O_WRONLY):
        """A new file with `size` bytes of its own content, written in pieces."""
        label = self.fresh_label(name)
        with offers("create", "creating a file", errno.EACCES):
            fd = os.open(self.path(name), flags, 0o644)
        try:
            for start in range(0, size, piece):
                write_all(fd, pattern(label, start, min(piece, size - start)), start)
        finally:
            os.close(fd)
        self.know(name, Content(size, [(label, 0, size)] if size else []))

    def know(self, name, content):
        """Note a file that was made by other means."""
        self._next += 1
        self.files[self._next] = content
        self.names[name] = ("file", self._next)

    def fresh_label(self, name):
        """A label no earlier content of this name had, so that stale data is recognised."""
        number = self.generations[name] = self.generations.get(name, 0) + 1
        return f"{name}#{number}" if number > 1 else name

    def content(self, name):
        return self.files[self.names[name][1]]

    def write(self, name, offset, length, flags=0):
        label = self.fresh_label(name)
        fd = os.open(self.path(name), os.O_WRONLY | flags)
        try:
            write_all(fd, pattern(label, offset, length), offset)
        finally:
            os.close(fd)
        self.content(name).write(label, offset, length)

    def append(self, name, length):
        label = self.fresh_label(name)
        offset = self.content(name).size
        with offers("append", "opening with O_APPEND"):
            fd = os.open(self.path(name), os.O_WRONLY | os.O_APPEND)
        try:
            write_all(fd, pattern(label, offset, length))
        finally:
            os.close(fd)
        self.content(name).write(label, offset, length)

    def truncate(self, name, size):
        with offers("truncate", "truncate"):
            os.truncate(self.path(name), size)
        self.content(name).cut(size)

    # names

    def mkdir(self, name):
        with offers("mkdir", "mkdir"):
            os.mkdir(self.path(name))
        self.names[name] = ("dir",)

    def rmdir(self, name):
        os.rmdir(self.path(name))
        del self.names[name]

    def unlink(self, name, spelling=None):
        """Remove a file; `spelling` is how a listing has its name, where that differs."""
        with offers("unlink", "unlink"):
            os.unlink(self.path(spelling or name))
        kind = self.names.pop(name)
        if kind[0] == "file" and kind not in self.names.values():
            del self.files[kind[1]]

    def link(self, name, new):
        with offers("hardlink", "a hard link"):
            os.link(self.path(name), self.path(new), follow_symlinks=False)
        self.names[new] = self.names[name]

    def symlink(self, target, name):
        with offers("symlink", "a symbolic link"):
            os.symlink(target, self.path(name))
        self.names[name] = ("symlink", target)

    def rename(self, old, new):
        with offers("rename", "rename"):
            os.rename(self.path(old), self.path(new))
        if old == new or (new in self.names and self.names[old] == self.names[new] != ("dir",)):
            return  # POSIX: two names of one file, nothing happens
        replaced = self.names.get(new)
        moved = [name for name in self.names if name == old or name.startswith(old + "/")]
        for name in moved:
            self.names[new + name[len(old) :]] = self.names.pop(name)
        if replaced and replaced[0] == "file" and replaced not in self.names.values():
            del self.files[replaced[1]]

    def note(self):
        """What must be there, as plain data for `verify`."""
        files = {number: content.note() for number, content in self.files.items()}
        return {"names": self.names, "files": files, "strangers": sorted(self.strangers)}

    def settle(self, **options):
        """Verify now, and return the note for a later `verify`."""
        note = self.note()
        verify(self.root, note, **options)
        return note


def known(root, note):
    """The Tree that made `note`, to go on with."""
    tree = Tree.__new__(Tree)
    tree.root = root
    tree.names = dict(note["names"])
    tree.files = {number: Content(*made) for number, made in note["files"].items()}
    tree.generations = dict.fromkeys(tree.names, 7)
    tree.strangers = set(note["strangers"])
    tree._next = max(tree.files, default=0)
    return tree


def write_all(fd, data, offset=None):
    """Write at `offset`, or where the descriptor stands: write(2) may take less than it gets."""
    view = memoryview(data)
    while view:
        count = os.write(fd, view) if offset is None else os.pwrite(fd, view, offset)
        assert count > 0, f"write returned {count}"
        view, offset = view[count:], None if offset is None else offset + count


def remove(path):
    """Remove a file or a whole tree."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    for name in os.listdir(path):
        remove(f"{path}/{name}")
    os.rmdir(path)


# -- proof ----------------------------------------------------------------------------------


def _walk(root, directory, found, strangers):
    """Fill `found` with name -> lstat; a name listed twice or listed but gone is a failure."""
    where = f"{root}/{directory}" if directory else root
    with os.scandir(where) as listing:
        entries = list(listing)
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise AssertionError(
            f"reading the directory '{directory or '.'}' lists {len(twice)} names twice: "
            f"{_some(twice)}"
        )
    for entry in entries:
        name = entry.name
        if not directory and name in strangers:
            continue
        relative = f"{directory}/{name}" if directory else name
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            raise AssertionError(
                f"reading the directory lists '{relative}', but there is no such file (ENOENT)"
            ) from None
        _check_listed_type(entry, relative, status)
        found[relative] = status
        if stat.S_ISDIR(status.st_mode):
            _walk(root, relative, found, strangers)


def _check_listed_type(entry, relative, status):
    """The type in the listing (d_type), which find(1) and rm(1) believe; DT_UNKNOWN is honest."""
    rows = (
        ("a directory", entry.is_dir(follow_symlinks=False), stat.S_ISDIR),
        ("a symbolic link", entry.is_symlink(), stat.S_ISLNK),
        ("a regular file", entry.is_file(follow_symlinks=False), stat.S_ISREG),
    )
    for what, listed, is_really in rows:
        assert listed == is_really(status.st_mode), (
            f"reading the directory says that '{relative}' is {'' if listed else 'not '}{what}, "
            f"and its mode says {stat.filemode(status.st_mode)} (d_type of getdents64)"
        )


def _some(names, count=8):
    names = sorted(names)
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(f"'{name}'" for name in names[:count]) + more


def verify(root, note, inodes=True, content=True, cleanup=False):
    """Compare everything below `root` with a Tree's note: names, types, links, and `content`.

    With `cleanup` remove it all afterwards and make sure it is gone. Raises AssertionError.
    """
    names = note["names"]
    contents = {number: Content(*made) for number, made in note["files"].items()}
    found = {}
    _walk(root, "", found, set(note["strangers"]))
    missing, extra = set(names) - set(found), set(found) - set(names)
    if missing:
        there = [name for name in missing if _exists(f"{root}/{name}")]
        hint = f" (of these, {_some(there)} can be opened by name)" if there else ""
        raise AssertionError(
            f"{len(missing)} of {len(names)} names are gone from their directories: "
            f"{_some(missing)}{hint}"
        )
    assert not extra, f"there are names nobody created: {_some(extra)}"
    for name, made in names.items():
        _check_kind(root, name, made, found[name])
    _check_links(names, found)
    if inodes:
        _check_inodes(names, found)
    if content:
        _check_contents(root, names, contents)
    if cleanup:
        _clean(root, note["strangers"])


def _check_contents(root, names, contents):
    labels = {}
    for content in contents.values():
        labels.update(content.labels())
    seen = set()
    for name, made in names.items():
        if made[0] == "file" and made[1] not in seen:
            seen.add(made[1])
            check_content(f"{root}/{name}", contents[made[1]], labels, name)


def _clean(root, strangers):
    for name in os.listdir(root):
        if name not in strangers:
            remove(f"{root}/{name}")
    left = set(os.listdir(root)) - set(strangers)
    assert not left, f"everything was removed, but the directory still lists {_some(left)}"
    if not os.path.ismount(root):
        os.rmdir(root)
        assert not _exists(root), "rmdir said it worked, but the directory is still there"


def _exists(path):
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


_TYPES = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK}


def _check_kind(root, name, made, status):
    wanted = made[1] if made[0] == "node" else _TYPES[made[0]]
    got = stat.S_IFMT(status.st_mode)
    assert got == wanted, (
        f"'{name}' was made as {stat.filemode(wanted)[0]} and is now "
        f"{stat.filemode(status.st_mode)[0]} (types as in ls -l)"
    )
    if made[0] == "symlink":
        target = os.readlink(f"{root}/{name}")
        assert target == made[1], (
            f"the symbolic link '{name}' points to '{target}', not to '{made[1]}'"
        )
        # 0 is what file systems say that do not know, such as apfs and all of /proc.
        assert status.st_size in (0, len(os.fsencode(made[1]))), (
            f"the symbolic link '{name}' has size {status.st_size}, its target has "
            f"{len(os.fsencode(made[1]))} bytes"
        )


def _check_links(names, found):
    linked, subdirectories = {}, {}
    for name, made in names.items():
        if made[0] == "file":
            linked.setdefault(made[1], []).append(name)
        elif made[0] == "dir":
            parent = name.rpartition("/")[0]
            subdirectories[parent] = subdirectories.get(parent, 0) + 1
    for aliases in linked.values():
        inodes = {found[name].st_ino for name in aliases}
        assert len(inodes) == 1, (
            f"{_some(aliases)} are names of one file, but have the inodes {sorted(inodes)}"
        )
        for name in aliases:
            count = found[name].st_nlink
            assert count == len(aliases), (
                f"'{name}' has {len(aliases)} names and a link count of {count}"
            )
    for name, made in names.items():
        if made[0] == "dir":
            below = subdirectories.get(name, 0)
            count = found[name].st_nlink
            # 1 is the convention of filesystems that do not count (btrfs, hfsplus).
            assert count in (1, 2 + below), (
                f"the directory '{name}' has {below} subdirectories and a link count of {count}; "
                f"it must be {2 + below}, or 1 where directories are not counted"
            )


def _check_inodes(names, found):
    owner = {}
    for name, made in names.items():
        key = made if made[0] == "file" else name
        number = found[name].st_ino
        assert number, f"'{name}' has the inode number 0"
        other = owner.setdefault(number, (key, name))
        assert other[0] == key, f"'{other[1]}' and '{name}' have the same inode number {number}"


def sync_twice():
    """Some filesystems free space only in the checkpoint after the next (f2fs)."""
    os.sync()
    time.sleep(0.01)
    os.sync()


def name_limit(root, lacks):
    """Bytes of the longest name: what statfs says, or what works where statfs is not to be asked.

    A character of exfat and vfat can have 6 bytes; the names of our tests have one for each.
    """
    if not {"statfs", "longnames"} & set(lacks):
        limit = os.statvfs(root).f_namemax
        assert limit > 0, f"statfs says that names have up to {limit} bytes"
        return min(limit, 255)
    if "unlink" in lacks:
        raise Refused("how long a name may be cannot be found out without statfs and unlink")
    low, high = 1, 255
    while low < high:
        middle = (low + high + 1) // 2
        path = f"{root}/{'l' * middle}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            high = middle - 1
        else:
            os.unlink(path)
            low = middle
    return low


#: What was removed may be freed later, by a thread (JFS) or with a transaction (APFS).
_PATIENCE_S = 15.0


def returned_space(path, before, slack):
    """free_space, once as much is free as `before` but for `slack` bytes, or after a while."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        space = free_space(path)
        if space["free"] >= before["free"] - slack or time.monotonic() > until:
            return space
        time.sleep(0.5)


def free_space(path):
    """Free bytes, free inodes, block size and the other numbers of statfs."""
    sync_twice()
    s = os.statvfs(path)
    return {
        "free": s.f_bfree * s.f_frsize,
        "avail": s.f_bavail * s.f_frsize,
        "total": s.f_blocks * s.f_frsize,
        "block": s.f_bsize,
        "files": s.f_files,
        "ffree": s.f_ffree,
        "namemax": s.f_namemax,
    }
