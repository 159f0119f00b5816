"""A dead kernel's own view of its memory, without debug symbols (x86-64, Linux 6.0 and newer).

What is needed to read it, it carries along: vmcoreinfo (addresses of a few symbols and the layout
of the log buffer), kallsyms (names of all functions and variables), BTF (layout of structures).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from vexrun.memory_image.btf import Btf
from vexrun.memory_image.kdump import PAGE_SIZE, BadImageError, KdumpFile

#: Where the kernel's text is mapped, less what KASLR adds.
_TEXT_MAP = 0xFFFFFFFF80000000
_PRESENT, _HUGE = 1, 0x80
_FRAME_BITS = 0x000FFFFFFFFFF000
_STACK_SIZE = 16384
_VMCOREINFO_BEGINS = b"OSRELEASE="
#: A list of the kernel's that is longer than this is damaged.
_MANY = 100_000
#: No table of the kernel's is bigger than this, and no ring buffer has more entries.
_MUCH = 1 << 26


class Vmcoreinfo:
    """`SYMBOL(name)=…`, `OFFSET(struct.member)=…` and so on, as the kernel wrote them."""

    def __init__(self, text: bytes) -> None:
        lines = text.rstrip(b"\0").decode(errors="replace").splitlines()
        self.text = text.rstrip(b"\0")
        self._values = dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def release(self) -> str:
        return self._values.get("OSRELEASE", "not known")

    def symbol(self, name: str) -> int:
        return int(self._value(f"SYMBOL({name})"), 16)

    def offset(self, member: str) -> int:
        return int(self._value(f"OFFSET({member})"))

    def size(self, name: str) -> int:
        return int(self._value(f"SIZE({name})"))

    def number(self, name: str, default: int | None = None) -> int:
        key = f"NUMBER({name})"
        return default if default is not None and key not in self._values else self._number(key)

    def _number(self, key: str) -> int:
        return int(self._value(key), 0)

    def _value(self, key: str) -> str:
        if key not in self._values:
            raise BadImageError(f"the kernel's vmcoreinfo has no {key}")
        return self._values[key]


def find_vmcoreinfo(image: KdumpFile) -> Vmcoreinfo:
    """From the file, or from the guest's memory, where it is a page of its own."""
    text = image.vmcoreinfo or image.find_page(_VMCOREINFO_BEGINS)
    if not text:
        raise BadImageError("the kernel's vmcoreinfo is nowhere in its memory")
    return Vmcoreinfo(text)


class Memory:
    """The kernel's virtual memory."""

    def __init__(self, image: KdumpFile, info: Vmcoreinfo) -> None:
        self.image = image
        self.info = info
        self._levels = 5 if info.number("pgtable_l5_enabled", 0) else 4
        self._top = info.symbol("swapper_pg_dir") - _TEXT_MAP + info.number("phys_base")
        self._known: dict[int, int] = {}

    def read(self, address: int, size: int) -> bytes:
        """Raises BadImageError where nothing is mapped or in the image."""
        if size > _MUCH:
            raise BadImageError(f"{size} bytes at {address:#x} cannot be meant")
        parts = []
        while size > 0:
            inside = address % PAGE_SIZE
            count = min(size, PAGE_SIZE - inside)
            parts.append(self.image.read(self._physical(address), count))
            address, size = address + count, size - count
        return b"".join(parts)

    def _physical(self, address: int) -> int:
        page = address // PAGE_SIZE
        if page not in self._known:
            self._known[page] = self._walk(address & ~(PAGE_SIZE - 1))
        return self._known[page] + address % PAGE_SIZE

    def _walk(self, address: int) -> int:
        table = self._top
        for level in range(self._levels - 1, -1, -1):
            shift = 12 + 9 * level
            at = table + 8 * (address >> shift & 0x1FF)
            (entry,) = struct.unpack("<Q", self.image.read(at, 8))
            if not entry & _PRESENT:
                raise BadImageError(f"nothing is mapped at {address:#x}")
            if level == 0:
                return int(entry & _FRAME_BITS)
            if entry & _HUGE and level < 3:
                mask = (1 << shift) - 1
                return int((entry & _FRAME_BITS & ~mask) | (address & mask))
            table = entry & _FRAME_BITS
        raise AssertionError("the last level has returned")

    def u16(self, address: int) -> int:
        return int.from_bytes(self.read(address, 2), "little")

    def u32(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def u64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def text(self, address: int, limit: int) -> str:
        """A string that ends with NUL, or at the limit."""
        return self.read(address, limit).split(b"\0", 1)[0].decode(errors="replace")


# -- the log buffer -------------------------------------------------------------------------


def log_lines(memory: Memory) -> list[str]:
    """The kernel's log buffer as `dmesg` prints it, oldest line first."""
    info = memory.info
    ring = memory.u64(info.symbol("prb"))
    descriptors = ring + info.offset("printk_ringbuffer.desc_ring")
    texts = ring + info.offset("printk_ringbuffer.text_data_ring")
    counter = info.offset("atomic_long_t.counter")
    count = _power(memory.u32(descriptors + info.offset("prb_desc_ring.count_bits")))
    table = memory.u64(descriptors + info.offset("prb_desc_ring.descs"))
    infos = memory.u64(descriptors + info.offset("prb_desc_ring.infos"))
    head = memory.u64(descriptors + info.offset("prb_desc_ring.head_id") + counter)
    tail = memory.u64(descriptors + info.offset("prb_desc_ring.tail_id") + counter)
    size = _power(memory.u32(texts + info.offset("prb_data_ring.size_bits")))
    data = memory.u64(texts + info.offset("prb_data_ring.data"))
    position = info.offset("prb_desc.text_blk_lpos")
    begin_at = position + info.offset("prb_data_blk_lpos.begin")
    next_at = position + info.offset("prb_data_blk_lpos.next")
    state_at = info.offset("prb_desc.state_var") + counter
    each, info_size = info.size("prb_desc"), info.size("printk_info")
    lines = []
    for number in range(tail, min(head, tail + count) + 1):
        descriptor = table + number % count * each
        state = memory.u64(descriptor + state_at)
        # The upper two bits: 1 committed, 2 finalized; others are being written or reused.
        if state >> 62 not in (1, 2) or state & (1 << 62) - 1 != number & (1 << 62) - 1:
            continue
        begin, after = memory.u64(descriptor + begin_at), memory.u64(descriptor + next_at)
        if begin & 1:  # a line without text
            continue
        start = begin % size if begin // size == after // size or after % size == 0 else 0
        record = infos + number % count * info_size
        length = memory.u16(record + info.offset("printk_info.text_len"))
        nanoseconds = memory.u64(record + info.offset("printk_info.ts_nsec"))
        text = memory.read(data + start + 8, length).decode(errors="replace")
        stamp = f"[{nanoseconds // 10**9:5d}.{nanoseconds % 10**9 // 1000:06d}] "
        lines += [stamp + line for line in text.split("\n")]
    return lines


def _power(bits: int) -> int:
    if bits > _MUCH.bit_length():
        raise BadImageError(f"a ring buffer has 2^{bits} entries")
    return 1 << bits


# -- names ----------------------------------------------------------------------------------


class Kallsyms:
    """The names of the kernel's own functions and variables."""

    def __init__(self, memory: Memory) -> None:
        info = memory.info
        count = memory.u32(info.symbol("kallsyms_num_syms"))
        names = _names(memory, count)
        offsets = struct.unpack(
            f"<{count}i", memory.read(info.symbol("kallsyms_offsets"), 4 * count)
        )
        base = memory.u64(info.symbol("kallsyms_relative_base"))
        start = info.symbol("_stext")
        values = [base + (offset & 0xFFFFFFFF) for offset in offsets]
        at = names.index("_stext") if "_stext" in names else 0
        if values[at] != start:  # CONFIG_KALLSYMS_ABSOLUTE_PERCPU
            values = [offset if offset >= 0 else base - 1 - offset for offset in offsets]
            if values[at] != start:
                raise BadImageError("kallsyms and vmcoreinfo do not agree about _stext")
        self._sorted = sorted(zip(values, names, strict=True))
        self._values = [value for value, _ in self._sorted]
        #: Of a name that several static functions have, the last one.
        self.address: dict[str, int] = dict(zip(names, values, strict=True))
        self.text = range(start, self.address.get("_etext", start))

    def name(self, address: int, inside: int | None = None) -> str:
        """`function+0x1c`; of the function that holds the address `inside`, when it is given."""
        at = bisect_right(self._values, address if inside is None else inside) - 1
        value, name = self._sorted[max(at, 0)]
        return f"{name}+{address - value:#x}"


def _names(memory: Memory, count: int) -> list[str]:
    """Expanded from their tokens, without the letter of their kind."""
    info = memory.info
    table, index = info.symbol("kallsyms_token_table"), info.symbol("kallsyms_token_index")
    starts = struct.unpack("<256H", memory.read(index, 512))
    tokens_data = memory.read(table, starts[255] + 256)
    tokens = [
        tokens_data[start : tokens_data.index(b"\0", start)].decode("latin-1") for start in starts
    ]
    stream = _Stream(memory, info.symbol("kallsyms_names"))
    names = []
    for _ in range(count):
        length = stream.take(1)[0]
        if length & 0x80:  # since Linux 6.1 names may be longer than 127 tokens
            length = length & 0x7F | stream.take(1)[0] << 7
        names.append("".join([tokens[token] for token in stream.take(length)])[1:])
    return names


class _Stream:
    """Bytes from an address on, read a page at a time."""

    def __init__(self, memory: Memory, address: int) -> None:
        self._memory, self._address = memory, address
        self._data, self._at = b"", 0

    def take(self, count: int) -> bytes:
        while len(self._data) - self._at < count:
            size = PAGE_SIZE - self._address % PAGE_SIZE
            self._data = self._data[self._at :] + self._memory.read(self._address, size)
            self._address, self._at = self._address + size, 0
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken


# -- what it was doing ----------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """A loaded module; its functions as (address, name), sorted."""

    name: str
    references: int
    base: int
    size: int
    functions: list[tuple[int, str]]

    def function(self, address: int, inside: int | None = None) -> str:
        at = bisect_right(self.functions, (address if inside is None else inside, "\x7f")) - 1
        if at < 0:
            return f"{address:#x} [{self.name}]"
        value, name = self.functions[at]
        return f"{name}+{address - value:#x} [{self.name}]"


@dataclass(frozen=True)
class Task:
    """A process or thread; `stack` is the lowest address of its kernel stack."""

    address: int
    pid: int
    name: str
    state: int
    stack: int

    @property
    def letter(self) -> str:
        if not self.state:
            return "R"
        if self.state & 2:
            return "I" if self.state & 0x400 else "D"  # TASK_NOLOAD: a kernel thread without work
        return "S" if self.state & 1 else "?"


class Kernel:
    """Modules, tasks and stacks. Raises BadImageError where the memory makes no sense."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.symbols = Kallsyms(memory)
        begin, end = (self._symbol(name) for name in ("__start_BTF", "__stop_BTF"))
        try:
            self.btf = Btf(memory.read(begin, end - begin))
        except (ValueError, struct.error) as error:
            raise BadImageError(f"the kernel's BTF cannot be read: {error}") from error

    def _symbol(self, name: str) -> int:
        if name not in self.symbols.address:
            raise BadImageError(f"the kernel has no symbol {name}")
        return self.symbols.address[name]

    def _list(self, head: int, member: int) -> Iterator[int]:
        """Addresses of the structures in one of the kernel's lists, without its head."""
        at = self.memory.u64(head)
        for _ in range(_MANY):
            if at == head:
                return
            yield at - member
            at = self.memory.u64(at)
        raise BadImageError("a list of the kernel's has no end")

    @cached_property
    def modules(self) -> list[Module]:
        where = self._member("module")
        found = []
        for at in self._list(self._symbol("modules"), where("list")):
            if self.btf.has("module", "mem"):  # Linux 6.4; MOD_TEXT is the first of them
                base_at = where("mem") + self.btf.offset("module_memory", "base")
                size_at = where("mem") + self.btf.offset("module_memory", "size")
            else:
                base_at, size_at = where("core_layout.base"), where("core_layout.text_size")
            base, size = self.memory.u64(at + base_at), self.memory.u32(at + size_at)
            found.append(
                Module(
                    self.memory.text(at + where("name"), 56),
                    self.memory.u32(at + where("refcnt")) - 1,  # MODULE_REF_BASE
                    base,
                    size,
                    self._functions(
                        self.memory.u64(at + where("kallsyms")), range(base, base + size)
                    ),
                )
            )
        return found

    def _functions(self, kallsyms: int, text: range) -> list[tuple[int, str]]:
        """From the symbol table the kernel keeps of a module."""
        where = self._member("mod_kallsyms")
        if not kallsyms:
            return []
        symbols = self.memory.u64(kallsyms + where("symtab"))
        strings = self.memory.u64(kallsyms + where("strtab"))
        count = min(self.memory.u32(kallsyms + where("num_symtab")), _MANY)
        table = self.memory.read(symbols, 24 * count)
        found = []
        for name, _, _, _, value, _ in struct.iter_unpack("<IBBHQQ", table):
            if value in text and (text_of := self.memory.text(strings + name, 64)):
                found.append((value, text_of))
        return sorted(found)

    def _member(self, structure: str) -> Callable[[str], int]:
        """Offsets of a structure's members."""

        def offset(path: str) -> int:
            try:
                return self.btf.offset(structure, path)
            except KeyError as error:
                raise BadImageError(f"this kernel has no {structure}.{path}") from error

        return offset

    def task(self, at: int) -> Task:
        where = self._member("task_struct")
        return Task(
            at,
            self.memory.u32(at + where("pid")),
            self.memory.text(at + where("comm"), 16),
            self.memory.u32(at + where("__state")),
            self.memory.u64(at + where("stack")),
        )

    def tasks(self) -> Iterator[Task]:
        """Every process (its first thread)."""
        first = self._symbol("init_task")
        where = self._member("task_struct")
        for at in self._list(first + where("tasks"), where("tasks")):
            yield self.task(at)

    def current(self, cpu: int) -> Task:
        """What a processor runs."""
        base = self.memory.u64(self._symbol("__per_cpu_offset") + 8 * cpu)
        symbols = self.symbols.address
        # Linux 6.2 to 6.14 have it at the beginning of pcpu_hot.
        variable = symbols.get("pcpu_hot", symbols.get("current_task"))
        if variable is None:
            raise BadImageError("the kernel has no symbol current_task")
        return self.task(self.memory.u64(base + variable & (1 << 64) - 1))

    def sleeping_at(self, task: Task) -> int:
        """The stack pointer of a task that does not run."""
        return self.memory.u64(task.address + self._member("task_struct")("thread.sp"))

    # -- stacks -----------------------------------------------------------------------------

    def place(self, address: int, *, returned_to: bool = False) -> str:
        """`function+0x1c [module]`, '' when no code is there.

        A call that never comes back, such as panic(), may be the last instruction of its
        function: what it would return to belongs to the next one, and is looked up one byte lower.
        """
        inside = address - 1 if returned_to else address
        if inside in self.symbols.text:
            return self.symbols.name(address, inside)
        for module in self.modules:
            if module.base <= inside < module.base + module.size:
                return module.function(address, inside)
        return ""

    def stack(self, pointer: int, limit: int = 40) -> list[str]:
        """Places to return to that lie on a stack from `pointer` up: some may be left over.

        There is no unwinding here: what stands behind a call instruction counts.
        """
        top = (pointer | (_STACK_SIZE - 1)) + 1
        places: list[str] = []
        for at in range(pointer & ~7, top, 8):
            try:
                value = self.memory.u64(at)
            except BadImageError:
                break
            place = self.place(value, returned_to=True)
            if place and self._behind_a_call(value):
                places.append(place)
                if len(places) == limit:
                    break
        return places

    def _behind_a_call(self, address: int) -> bool:
        try:
            before = self.memory.read(address - 7, 7)
        except BadImageError:
            return False
        direct, indirect = before[2] == 0xE8, (before[5] == 0xFF and before[6] & 0xF8 == 0xD0)
        through_memory = before[1] == 0xFF and before[2] == 0x15
        return direct or indirect or through_memory
