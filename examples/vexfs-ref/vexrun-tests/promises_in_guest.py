"""The half of test_promises.py that runs in the guest: plain Python, no other package."""

# ruff: noqa: PTH102, PTH106, PTH108, PTH116, PTH123
import ctypes
import errno
import mmap
import os
import signal

#: s_state of the superblock, and the bit that says that nothing needs to be checked.
_STATE_AT = 60
CLEAN = 1


def state(device):
    """What the medium says about itself."""
    with open(device, "rb") as file:
        return int.from_bytes(file.read(4096)[_STATE_AT : _STATE_AT + 4], "little")


def grown_over_mapped_bytes(directory):
    """Store behind the end through a mapping, then write further on: zeros must be between."""
    os.mkdir(directory)
    for number, size in enumerate((100, 4000, 5000)):
        path = f"{directory}/f{number}"
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        os.write(fd, b"c" * size)
        page = size // mmap.PAGESIZE * mmap.PAGESIZE
        memory = mmap.mmap(fd, size - page, offset=page)
        inside = size - page
        # Python checks indices against the length it was given; the page has more bytes.
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ctypes.memset(start + inside, ord("m"), mmap.PAGESIZE - inside)
        os.pwrite(fd, b"w" * 10, size + 10_000)
        got = os.pread(fd, 20_000, 0)
        expected = b"c" * size + bytes(10_000) + b"w" * 10
        assert got == expected, (
            f"a file of {size} bytes grew, and bytes stored behind its end through a mapping "
            f"became content: {got[size : size + 20]!r}"
        )
        os.close(fd)
        os.unlink(path)
    os.rmdir(directory)


#: Far enough for a block of the map.
_FAR = 100_000


def fsynced(root):
    """A file below a new directory, and nothing but an fsync of the file."""
    os.mkdir(f"{root}/dir")
    fd = os.open(f"{root}/dir/file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.pwrite(fd, b"near" * 1000, 0)
    os.pwrite(fd, b"far!" * 1000, _FAR)
    os.fsync(fd)
    os.close(fd)


def fsynced_is_there(root):
    with open(f"{root}/dir/file", "rb") as file:
        got = file.read()
    expected = b"near" * 1000 + bytes(_FAR - 4000) + b"far!" * 1000
    assert got == expected, f"{len(got)} bytes, which are not what was synced"


def timed(directory):
    """A file, changed by the clock of the kernel; its times, in nanoseconds."""
    os.mkdir(directory)
    os.utime(directory, (1_000_000_000, 1_000_000_000))
    with open(f"{directory}/file", "wb") as file:
        file.write(b"x")
    assert os.stat(directory).st_mtime > 1_600_000_000, "a new name left the directory's time"
    return times(directory)


def times(directory):
    found = [os.stat(f"{directory}/{name}") for name in ("file", ".")]
    return [(each.st_mtime_ns, each.st_ctime_ns) for each in found]


def mapped_store_on_a_full_volume(directory):
    os.mkdir(directory)
    hole = os.open(f"{directory}/hole", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.ftruncate(hole, 16 * mmap.PAGESIZE)
    filler = os.open(f"{directory}/filler", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        for piece in (1 << 20, mmap.PAGESIZE):
            try:
                while True:
                    os.write(filler, bytes(piece))
            except OSError as error:
                assert error.errno == errno.ENOSPC
        pid = os.fork()
        if pid == 0:
            memory = mmap.mmap(hole, 16 * mmap.PAGESIZE)
            memory[5 * mmap.PAGESIZE] = 1
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == -signal.SIGBUS, f"the store ended with {code}, not by SIGBUS"
    finally:
        os.close(filler)
        os.close(hole)
        os.unlink(f"{directory}/filler")
        os.unlink(f"{directory}/hole")
        os.rmdir(directory)
