"""The kdump-compressed file format (makedumpfile's, which QEMU, crash and drgn speak).

QEMU 7.2 writes it "flattened": as records of an offset and bytes, for a stream. `unflatten`
makes the file proper. Layout: a header block, a sub-header, two bitmaps of page frames (the second
one says which are in the file), a descriptor of 24 bytes for each, and the pages.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PAGE_SIZE = 4096
_FLAT_SIGNATURE = b"makedumpfile\0\0\0\0"
_FLAT_HEADER_SIZE = 4096
_SIGNATURE = b"KDUMP   "
_RECORD = struct.Struct(">qq")
#: status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr (the rest is of no use here).
_HEADER, _HEADER_AT = struct.Struct("<IiIII"), 424
#: phys_base, dump_level, split, start_pfn, end_pfn, offset and size of vmcoreinfo, and of notes.
_SUB_HEADER = struct.Struct("<QIIQQQQQQ")
_DESCRIPTOR = struct.Struct("<QIIQ")
_UTSNAME_AT, _UTSNAME_SIZE = 12, 65
_ZLIB = 1
_NOTE = struct.Struct("<III")
_NT_PRSTATUS = 1
#: In struct elf_prstatus of x86-64.
_REGISTERS_AT, REGISTERS_SIZE = 112, 8 * 21


class BadImageError(Exception):
    """The memory image is not what it should be; the text says how."""


#: What reading can come to where a dead kernel's memory is damaged: any number may be anything.
DAMAGE = (
    BadImageError,
    struct.error,
    ValueError,
    LookupError,
    OverflowError,
    RecursionError,
    MemoryError,
)


def unflatten(source: Path, destination: Path) -> None:
    """Write the file that the records of `source` describe. Raises BadImageError."""
    with source.open("rb") as records, destination.open("wb") as file:
        if not records.read(_FLAT_HEADER_SIZE).startswith(_FLAT_SIGNATURE):
            raise BadImageError("QEMU wrote no flattened kdump file")
        while True:
            head = records.read(_RECORD.size)
            if len(head) < _RECORD.size:
                raise BadImageError("the file QEMU wrote ends in the middle")
            offset, size = _RECORD.unpack(head)
            if offset < 0:
                return
            file.seek(offset)
            left = size
            while left:
                data = records.read(min(left, 1 << 20))
                if not data:
                    raise BadImageError("the file QEMU wrote ends in the middle")
                file.write(data)
                left -= len(data)


@dataclass(frozen=True)
class _Run:
    """Page frames in a row that are all in the file."""

    first: int
    count: int
    index: int  # of the first one's descriptor


class KdumpFile:
    """The physical memory in a kdump-compressed file with zlib or plain pages."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        try:
            self._data = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_layout()
        except (ValueError, struct.error, OSError) as error:
            self._stream.close()
            raise BadImageError(f"not a kdump file: {error}") from error
        self._cache: dict[int, bytes] = {}

    def _read_layout(self) -> None:
        data = self._data
        if data[:8] != _SIGNATURE:
            raise ValueError(f"its first bytes are {data[:8]!r}")
        _, block, sub_blocks, bitmap_blocks, _ = _HEADER.unpack_from(data, _HEADER_AT)
        if block != PAGE_SIZE:
            raise ValueError(f"its blocks have {block} bytes")
        self.sub_header_at = block
        fields = _SUB_HEADER.unpack_from(data, block)
        self.phys_base: int = fields[0]
        self._vmcoreinfo = (fields[5], fields[6])
        self._notes = (fields[7], fields[8])
        bitmaps_at = block * (1 + sub_blocks)
        half = bitmap_blocks * block // 2
        self._descriptors_at = bitmaps_at + bitmap_blocks * block
        self._runs = list(_runs(data[bitmaps_at + half : bitmaps_at + 2 * half]))
        self._firsts = [run.first for run in self._runs]

    # -- pages ------------------------------------------------------------------------------

    def page(self, frame: int) -> bytes:
        """4096 bytes. Raises BadImageError for a frame that is not in the file."""
        known = self._cache.get(frame)
        if known is None:
            if len(self._cache) > 4096:
                self._cache.clear()
            known = self._cache[frame] = self._page_at(self._descriptor(frame))
        return known

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a physical address."""
        parts = []
        while size > 0:
            inside = address % PAGE_SIZE
            part = self.page(address // PAGE_SIZE)[inside : inside + size]
            parts.append(part)
            address, size = address + len(part), size - len(part)
        return b"".join(parts)

    def find_page(self, beginning: bytes) -> bytes | None:
        """The first page that begins so; all pages are looked at, seconds for a big guest."""
        seen: set[int] = set()
        count = sum(run.count for run in self._runs)
        for index in range(count):
            offset, size, flags, _ = self._descriptor_at(index)
            if offset in seen:  # pages of zeros are one in the file
                continue
            seen.add(offset)
            packed = self._data[offset : offset + size]
            if flags & _ZLIB:
                head = zlib.decompressobj().decompress(packed, len(beginning))
            else:
                head = packed[: len(beginning)]
            if head == beginning:
                return self._page_at((offset, size, flags, 0))
        return None

    def _descriptor(self, frame: int) -> tuple[int, int, int, int]:
        at = bisect_right(self._firsts, frame) - 1
        if at < 0 or frame >= self._runs[at].first + self._runs[at].count:
            raise BadImageError(f"the page at {frame * PAGE_SIZE:#x} is not in the image")
        return self._descriptor_at(self._runs[at].index + frame - self._runs[at].first)

    def _descriptor_at(self, index: int) -> tuple[int, int, int, int]:
        try:
            offset, size, flags, rest = _DESCRIPTOR.unpack_from(
                self._data, self._descriptors_at + index * _DESCRIPTOR.size
            )
        except struct.error as error:
            raise BadImageError(f"the image is cut off: {error}") from error
        return offset, size, flags, rest

    def _page_at(self, descriptor: tuple[int, int, int, int]) -> bytes:
        offset, size, flags, _ = descriptor
        packed = self._data[offset : offset + size]
        try:
            page = zlib.decompress(packed) if flags & _ZLIB else packed
        except zlib.error as error:
            raise BadImageError(f"a page cannot be unpacked: {error}") from error
        if len(page) != PAGE_SIZE:
            raise BadImageError(f"a page has {len(page)} bytes (compression {flags:#x})")
        return page

    # -- what else is in it -----------------------------------------------------------------

    @property
    def vmcoreinfo(self) -> bytes:
        """The kernel's description of itself, b'' when whoever wrote the file had none."""
        offset, size = self._vmcoreinfo
        return self._data[offset : offset + size]

    def registers(self) -> Iterator[bytes]:
        """Of each processor the 21 registers of the kernel's `struct pt_regs`, r15 to ss."""
        at, end = self._notes[0], sum(self._notes)
        while at + _NOTE.size <= end:
            name_size, size, kind = _NOTE.unpack_from(self._data, at)
            content_at = at + _NOTE.size + _aligned(name_size)
            if kind == _NT_PRSTATUS and size >= _REGISTERS_AT + REGISTERS_SIZE:
                registers_at = content_at + _REGISTERS_AT
                yield self._data[registers_at : registers_at + REGISTERS_SIZE]
            at = content_at + _aligned(size)

    def close(self) -> None:
        self._data.close()
        self._stream.close()

    def __enter__(self) -> KdumpFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def complete(path: Path, vmcoreinfo: bytes, phys_base: int, release: str) -> None:
    """Add what QEMU did not know, so that crash and drgn can read the file by themselves.

    vmcoreinfo goes behind the other notes, where libkdumpfile 0.5 looks for it. It also believes
    the processor's name in the header only if all names of uname(2) are there.
    """
    name = b"VMCOREINFO\0"
    with path.open("r+b") as file:
        file.seek(PAGE_SIZE)
        fields = list(_SUB_HEADER.unpack(file.read(_SUB_HEADER.size)))
        file.seek(fields[7])
        notes = file.read(fields[8])
        inside = len(notes) + _NOTE.size + _aligned(len(name))
        notes += _note(name, 0, vmcoreinfo)
        end = file.seek(0, 2)
        at = end + -end % PAGE_SIZE
        file.seek(at)
        file.write(notes)
        fields[0] = phys_base & (1 << 64) - 1
        fields[5:] = [at + inside, len(vmcoreinfo), at, len(notes)]
        file.seek(PAGE_SIZE)
        file.write(_SUB_HEADER.pack(*fields))
        for index, value in enumerate(("Linux", "vexrun-vm", release, "#1")):
            file.seek(_UTSNAME_AT + index * _UTSNAME_SIZE)
            file.write(value.encode()[: _UTSNAME_SIZE - 1].ljust(_UTSNAME_SIZE, b"\0"))


def _note(name: bytes, kind: int, content: bytes) -> bytes:
    parts = (part.ljust(_aligned(len(part)), b"\0") for part in (name, content))
    return _NOTE.pack(len(name), len(content), kind) + b"".join(parts)


def _runs(bitmap: bytes) -> Iterator[_Run]:
    """Rows of set bits; the lowest bit of a byte is the first."""
    first, index, frame = None, 0, 0
    for byte in bitmap:
        whole = byte in (0, 0xFF)
        for bit in range(1 if whole else 8):
            present = bool(byte >> bit & 1)
            here = frame + bit
            if present and first is None:
                first = here
            elif not present and first is not None:
                yield _Run(first, here - first, index)
                index += here - first
                first = None
        frame += 8
    if first is not None:
        yield _Run(first, frame - first, index)


def _aligned(size: int) -> int:
    return (size + 3) & ~3
