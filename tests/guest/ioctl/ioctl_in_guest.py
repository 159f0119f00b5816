"""ioctl(2) with numbers and arguments that nobody means. Runs in the guest.

The calls are made by a child, which notes in shared memory what it is about to do: a call that
kills it, or never returns, is known by its number and argument.
"""

import ctypes
import errno
import mmap
import os
import signal
import time
import zlib

from tree_in_guest import Tree

PAGE = 4096
_AREA = 16 * PAGE

#: Requests the kernel or a filesystem of its own answers, which do lasting things when they are
#: valid, and which filesystems share. As garbage among random numbers they would prove nothing
#: and could freeze or change what is tested; from include/uapi/linux/fs.h and Linux 6.12.
NOT_GARBAGE = {
    0x0001: "FIBMAP: a block number, as root",
    0x0002: "FIGETBSZ",
    0x541B: "FIONREAD",
    0x5421: "FIONBIO: changes the descriptor",
    0x5450: "FIONCLEX: changes the descriptor",
    0x5451: "FIOCLEX: changes the descriptor",
    0x5452: "FIOASYNC: changes the descriptor",
    0x5460: "FIOQSIZE",
    0xC0045877: "FIFREEZE: freezes the filesystem, and every writer with it",
    0xC0045878: "FITHAW",
    0xC0185879: "FITRIM: discards free blocks",
    0x8004587D: "FS_IOC_SHUTDOWN: ends the filesystem",
    0xC020660B: "FS_IOC_FIEMAP",
    0x40049409: "FICLONE: replaces content",
    0x4020940D: "FICLONERANGE: replaces content",
    0xC0189436: "FIDEDUPERANGE",
    0x40305828: "FS_IOC_RESVSP: allocates",
    0x4030582A: "FS_IOC_RESVSP64: allocates",
    0x40305829: "FS_IOC_UNRESVSP: punches a hole",
    0x4030582B: "FS_IOC_UNRESVSP64: punches a hole",
    0x40305839: "FS_IOC_ZERO_RANGE: zeroes content",
    0x80086601: "FS_IOC_GETFLAGS",
    0x40086602: "FS_IOC_SETFLAGS: immutable, append-only",
    0x80046601: "FS_IOC32_GETFLAGS",
    0x40046602: "FS_IOC32_SETFLAGS: immutable, append-only",
    0x801C581F: "FS_IOC_FSGETXATTR",
    0x401C5820: "FS_IOC_FSSETXATTR: immutable, append-only, quota projects",
    0x81009431: "FS_IOC_GETFSLABEL",
    0x41009432: "FS_IOC_SETFSLABEL: renames the volume",
    0x80047210: "FAT_IOCTL_GET_ATTRIBUTES",
    0x40047211: "FAT_IOCTL_SET_ATTRIBUTES: read-only, hidden, system",
    0x40086607: "EXT4_IOC_GROUP_EXTEND: resizes",
    0x40086610: "EXT4_IOC_RESIZE_FS: resizes",
    0x6609: "EXT4_IOC_MIGRATE: changes the file's format",
    0x660C: "EXT4_IOC_ALLOC_DA_BLKS: allocates",
    0x6611: "EXT4_IOC_SWAP_BOOT: swaps a file with the boot loader's inode",
    0x40806685: "FS_IOC_ENABLE_VERITY: makes a file read-only for good",
    0x800C6613: "FS_IOC_SET_ENCRYPTION_POLICY: encrypts a directory",
    0x4004F506: "F2FS_IOC_GARBAGE_COLLECT",
    0xF507: "F2FS_IOC_WRITE_CHECKPOINT",
    0x4008F510: "F2FS_IOC_RESIZE_FS: resizes",
}


def type_of(number):
    return number >> 8 & 0xFF


def encode(direction, size, kind, number):
    """_IOC of include/uapi/asm-generic/ioctl.h."""
    return direction << 30 | (size & 0x3FFF) << 16 | kind << 8 | number


def random_numbers(count, without_types):
    """The same `count` request numbers each time; half of them of the usual shape."""
    found, step = [], 0
    while len(found) < count:
        step += 1
        bits = zlib.crc32(b"vexrun ioctl %d" % step)
        if step % 2:
            bits = encode(bits >> 30, bits >> 8 & 0xFF, 0x40 + (bits & 0x7F), bits >> 20 & 0xFF)
        if bits not in NOT_GARBAGE and type_of(bits) not in without_types:
            found.append(bits)
    return found


def relatives(number):
    """Numbers like this one with another direction or a wrong size, and its neighbours."""
    size, kind, nr = number >> 16 & 0x3FFF, type_of(number), number & 0xFF
    found = {encode(number >> 30, wrong, kind, nr) for wrong in (0, 1, size - 1, size + 1, 0x3FFF)}
    for direction in range(4):
        for each in (0, 4, 8, 64, size, 0x3FFF):
            found.add(encode(direction, each, kind, nr))
            found.update(encode(direction, each, kind, near) for near in (0, nr - 1 & 0xFF, 255))
            found.add(encode(direction, each, kind, nr + 1 & 0xFF))
    return sorted(found - {number} - set(NOT_GARBAGE))


# -- arguments ------------------------------------------------------------------------------


class Arguments:
    """Addresses nobody should pass; each use of `prepare` restores what earlier calls wrote."""

    def __init__(self):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = (
            [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        )
        self._libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.area = self._map(_AREA + PAGE)  # and an unreachable page behind it
        self._protect(self.area + _AREA, PAGE, 0)
        self.readonly = self._map(_AREA)
        self._protect(self.readonly, _AREA, mmap.PROT_READ)
        self.unmapped = self._map(PAGE)
        self._libc.munmap(self.unmapped, PAGE)
        pointer, kernel = self.unmapped.to_bytes(8, "little"), 0xFFFF888000100000
        good = self.area.to_bytes(8, "little")
        self._fills = {
            "zeros": bytes(8),
            "0xff bytes": b"\xff" * 8,
            "huge counts": b"\xff\xff\xff\x7f\x00\x00\x00\x80",
            "huge counts with unmapped pointers": b"\xff\xff\xff\x7f" * 2 + pointer,
            "huge 64-bit counts with good pointers": (1 << 40).to_bytes(8, "little") + good,
            "small counts with kernel pointers": b"\1\0\0\0" * 2 + kernel.to_bytes(8, "little"),
            "random bytes": zlib.compress(b"vexrun") * 3,
        }
        self._plain = {
            "NULL": 0,
            "1": 1,
            "-1": (1 << 64) - 1,
            "an unmapped address": self.unmapped,
            "an address of the kernel's memory": kernel,
            "an address of the kernel's code": 0xFFFFFFFF81000000,
            "a non-canonical address": 1 << 63,
            "read-only memory": self.readonly,
            "a buffer of 1 byte before an unmapped page": self.area + _AREA - 1,
            "a buffer of 12 bytes before an unmapped page": self.area + _AREA - 12,
        }
        self.names = [*self._plain, *(f"a buffer of {name}" for name in self._fills)]

    def _map(self, length):
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        address = self._libc.mmap(None, length, prot, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert address and address != ctypes.c_void_p(-1).value, "no memory for arguments"
        return address

    def _protect(self, address, length, protection):
        assert self._libc.mprotect(address, length, protection) == 0

    def prepare(self, name):
        """The argument of this name, as a number."""
        if name in self._plain:
            return self._plain[name]
        fill = self._fills[name.removeprefix("a buffer of ")]
        ctypes.memmove(self.area, fill * (_AREA // len(fill)), _AREA // len(fill) * len(fill))
        return self.area

    def call(self, fd, number, argument):
        """ioctl(2): '' when it succeeded, else the name of the errno."""
        ctypes.set_errno(0)
        status = self._libc.ioctl(
            ctypes.c_int(fd), ctypes.c_ulong(number), ctypes.c_void_p(argument)
        )
        if status != -1:
            return ""
        return errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))


#: What random numbers are called with; more would be more of the same VFS code.
_FEW = ("NULL", "an unmapped address", "a buffer of zeros", "a buffer of 0xff bytes")
EACH = len(_FEW)


def may_open(path, flags):
    try:
        os.close(os.open(path, flags))
    except PermissionError:
        return False
    return True


def call_unknown(path, flags, count, types, seconds):
    """Call `count` random request numbers, none of `types`. Each must be refused.

    Returns (number of calls, "" or the description of a call that never returned).
    """

    def work(note):
        arguments, accepted, calls = Arguments(), {}, 0
        fd = os.open(path, flags)
        for number in random_numbers(count, types):
            for name in _FEW:
                note(f"request 0x{number:08x} with {name}")
                calls += 1
                if not arguments.call(fd, number, arguments.prepare(name)):
                    accepted[number] = name
        os.close(fd)
        shown = ", ".join(f"0x{n:08x} with {name}" for n, name in list(accepted.items())[:4])
        assert not accepted, (
            f"{len(accepted)} of {count} request numbers that nobody defined are answered with "
            f"success, such as {shown}; an unknown request must fail with ENOTTY"
        )
        return calls

    return _watched(work, seconds)


#: Addresses that nothing can be copied from or to, and that nobody means as a number.
_NOWHERE = (
    "an unmapped address",
    "an address of the kernel's memory",
    "a non-canonical address",
)
#: Of numbers nobody counts up to; that a module has all of them is out of the question.
_UNCOUNTED = (0x8B, 0x9D, 0xA6, 0xB9, 0xC7, 0xD2, 0xE5, 0xFB)


def unknown_of_type(number):
    """Requests of the same type that nobody defined, each in two shapes."""
    shapes = [(0, 0), (3, number >> 16 & 0x3FFF or 8)]
    kind = type_of(number)
    found = {encode(way, size, kind, nr) for nr in _UNCOUNTED for way, size in shapes}
    return sorted(found - {number} - set(NOT_GARBAGE))


def call_declared(path, flags, number, seconds):
    """A declared request with every garbage argument, and its relatives with some.

    Not all numbers of its type may be answered with success; nor may a request that moves a
    structure, when it is given addresses where there is none.

    Returns ([number of calls, answers of the request itself], "" or what never returned).
    """

    def work(note):
        arguments, answers, calls = Arguments(), {}, 0
        fd = os.open(path, flags)
        for name in arguments.names:
            note(f"request 0x{number:08x} with {name}")
            answers[name] = arguments.call(fd, number, arguments.prepare(name))
            calls += 1
        for relative in relatives(number):
            for name in ("NULL", "an unmapped address", "a buffer of 0xff bytes"):
                note(f"request 0x{relative:08x} with {name}")
                arguments.call(fd, relative, arguments.prepare(name))
                calls += 1
        unknown, accepted = unknown_of_type(number), 0
        for each in unknown:
            note(f"request 0x{each:08x} with an unmapped address")
            accepted += not arguments.call(fd, each, arguments.prepare("an unmapped address"))
            calls += 1
        os.close(fd)
        _assert_refusing(number, answers, accepted, unknown)
        return calls, answers

    return _watched(work, seconds)


def _assert_refusing(number, answers, accepted, unknown):
    assert accepted < len(unknown), (
        f"all {accepted} request numbers of type 0x{type_of(number):02x} that were tried and that "
        f"nobody defined are answered with success, such as 0x{unknown[0]:08x}; an unknown "
        "request must fail with ENOTTY"
    )
    size = number >> 16 & 0x3FFF
    # Up to 8 bytes may be the argument itself, whatever the number says.
    moves = number >> 30 and size > 8
    assert not moves or any(answers[name] for name in _NOWHERE), (
        f"request 0x{number:08x} moves {size} bytes from or to its argument, and says success when "
        f"that is {', '.join(_NOWHERE)}: what copy_from_user() or copy_to_user() returns is not "
        "looked at"
    )


def _watched(work, seconds):
    """Run work(note) in a child; (its result, "") or (None, the call that did not return)."""
    shared = mmap.mmap(-1, PAGE)
    reader, writer = os.pipe()

    def note(text):
        shared[:128] = text.encode()[:128].ljust(128)

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            os.write(writer, repr(work(note)).encode())
            code = 0
        except BaseException as error:  # noqa: BLE001 - reported to the parent
            os.write(writer, str(error).encode()[:3000])
        finally:
            os._exit(code)
    os.close(writer)
    until = time.monotonic() + seconds
    while not (done := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.005)
    doing = bytes(shared[:128]).decode().strip()
    if not done[0]:
        os.kill(pid, signal.SIGKILL)
        return None, doing
    said = os.read(reader, 1 << 16).decode(errors="replace")
    os.close(reader)
    if os.WIFSIGNALED(done[1]):
        name = signal.Signals(os.WTERMSIG(done[1])).name
        raise AssertionError(f"the calling process was killed by {name} in {doing}")
    assert done[1] == 0, said
    import ast

    return ast.literal_eval(said), ""


#: Files of a test in its directory: the one that is called upon, and one that is not.
VICTIMS = {"victim": 9000, "other": 30_000}


def victims(root, lacks):
    """Make VICTIMS and, where there are directories, a file in one. Returns the victim's path."""
    tree = Tree(root)
    for name, size in VICTIMS.items():
        tree.create(name, size)
    if "mkdir" not in lacks:
        tree.mkdir("d")
        tree.create("d/below", 5000)
    tree.settle()
    return tree.path("victim")


def frozen(root, seconds):
    """FIFREEZE, a writer that has to wait, FITHAW, and the writer goes on.

    Returns False where the filesystem cannot be frozen.
    """
    import fcntl

    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, 0xC0045877, 0)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
            return False
        raise
    pid = 0
    try:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                new = os.open(f"{root}/thawed", os.O_CREAT | os.O_WRONLY, 0o644)
                os.write(new, b"written after the thaw")
                os.close(new)
                code = 0
            finally:
                os._exit(code)
        time.sleep(0.2)
        early = os.waitpid(pid, os.WNOHANG)[0]
    finally:
        fcntl.ioctl(fd, 0xC0045878, 0)
        os.close(fd)
    assert not early, "a file could be created while the filesystem was frozen"
    until = time.monotonic() + seconds
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        assert time.monotonic() < until, f"{seconds:.0f} s after the thaw the writer still waits"
        time.sleep(0.01)
    assert done[1] == 0, f"after the thaw the writer ended with wait status {done[1]}"
    os.unlink(f"{root}/thawed")
    return True
