"""The memory of a dead kernel: taken within limits, read without symbols, never a verdict."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import InfrastructureError
from vexrun.memory_image import keeping
from vexrun.memory_image.btf import Btf
from vexrun.memory_image.description import WITHOUT_SYMBOLS, describe
from vexrun.memory_image.kdump import PAGE_SIZE, BadImageError, KdumpFile, unflatten
from vexrun.memory_image.keeping import MemoryImages
from vexrun.memory_image.kernel import Kernel, Vmcoreinfo
from vexrun.settings import CoreSettings

IMAGES = Path(__file__).parents[1] / "data" / "memory_images"
RELEASES = {"6.1": "6.1.0-56-amd64", "6.12": "6.12.117+deb13-amd64"}


def flat(tmp_path: Path, kernel: str = "6.12") -> Path:
    path = tmp_path / "core.flat"
    path.write_bytes(gzip.decompress((IMAGES / f"panic-{kernel}.flat.gz").read_bytes()))
    return path


def image(tmp_path: Path, kernel: str = "6.12") -> Path:
    path = tmp_path / "core.kdump"
    unflatten(flat(tmp_path, kernel), path)
    return path


# -- real images, of which only the log is left -----------------------------------------------


@pytest.mark.parametrize(("kernel", "release"), RELEASES.items())
def test_release_and_log_are_read_without_symbols(
    kernel: str, release: str, tmp_path: Path
) -> None:
    text = describe(image(tmp_path, kernel))
    assert text.startswith(f"kernel {release}\n")
    assert "] Kernel panic - not syncing: sysrq triggered crash\n" in text
    assert "]  sysrq_handle_crash+" in text
    assert "---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n" in text
    assert WITHOUT_SYMBOLS in text


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    text = describe(image(tmp_path))
    assert "processors, tasks and modules cannot be read: the page at 0x" in text


def test_the_file_gets_what_drgn_and_crash_need(tmp_path: Path) -> None:
    path = image(tmp_path)
    with KdumpFile(path) as bare:
        assert bare.vmcoreinfo == b""
        registers = list(bare.registers())
    first = describe(path)
    with KdumpFile(path) as whole:
        assert whole.vmcoreinfo.startswith(b"OSRELEASE=6.12.117+deb13-amd64\n")
        assert whole.phys_base == Vmcoreinfo(whole.vmcoreinfo).number("phys_base")
        assert list(whole.registers()) == registers, "each processor is still there"
        assert len(registers) == 2
    assert describe(path) == first, "and it reads the same"
    assert b"Linux\0" in path.read_bytes()[:PAGE_SIZE]


def test_a_kernel_loaded_below_its_link_address_has_a_negative_base(tmp_path: Path) -> None:
    path = image(tmp_path, "6.1")
    describe(path)
    with KdumpFile(path) as whole:
        negative = Vmcoreinfo(whole.vmcoreinfo).number("phys_base")
        assert negative < 0
        assert whole.phys_base == negative + (1 << 64)


# -- files that are no image -------------------------------------------------------------------


def test_a_file_that_was_cut_is_no_image(tmp_path: Path) -> None:
    source = flat(tmp_path)
    whole = source.read_bytes()
    for size in (0, 100, PAGE_SIZE + 8, len(whole) // 2, len(whole) - 20):
        source.write_bytes(whole[:size])
        with pytest.raises(BadImageError):
            unflatten(source, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"KDUMP", b"KDUMP   " + b"\0" * 5000, b"x" * 9000])
def test_a_file_of_another_kind_is_no_image(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(content)
    with pytest.raises(BadImageError):
        describe(path)


def test_damage_anywhere_is_told_and_breaks_nothing(tmp_path: Path) -> None:
    path = image(tmp_path)
    whole = path.read_bytes()
    for at in range(PAGE_SIZE, len(whole), 3001):
        path.write_bytes(
            whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 64]) + whole[at + 64 :]
        )
        try:
            assert describe(path).startswith("kernel ")
        except BadImageError as error:
            assert str(error)


# -- a kernel made by hand: names, structures, tasks, modules ----------------------------------

BASE = 0xFFFFFFFF81000000


@dataclass
class FakeMemory:
    """Enough of a kernel in one piece of memory, at BASE."""

    data: bytearray = field(default_factory=lambda: bytearray(0x20000))
    info: Any = None

    def read(self, address: int, size: int) -> bytes:
        at = address - BASE
        if at < 0 or at + size > len(self.data):
            raise BadImageError(f"nothing is mapped at {address:#x}")
        return bytes(self.data[at : at + size])

    def put(self, at: int, data: bytes) -> int:
        self.data[at : at + len(data)] = data
        return BASE + at

    def u16(self, address: int) -> int:
        return int.from_bytes(self.read(address, 2), "little")

    def u32(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def u64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def text(self, address: int, limit: int) -> str:
        return self.read(address, limit).split(b"\0", 1)[0].decode()


def u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def btf(**structures: dict[str, int]) -> bytes:
    """BTF of structures whose members are integers at the given offsets."""
    strings = bytearray(b"\0")

    def string(text: str) -> int:
        at = len(strings)
        strings.extend(text.encode() + b"\0")
        return at

    types = struct.pack("<IIII", string("u64"), 1 << 24, 8, 64)  # type 1: an integer
    for name, members in structures.items():
        types += struct.pack("<III", string(name), 4 << 24 | len(members), 4096)
        for member, offset in members.items():
            types += struct.pack("<III", string(member), 1, offset * 8)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + bytes(strings)


def kallsyms(symbols: dict[str, int]) -> tuple[bytes, bytes, bytes, bytes]:
    """Names, token table, token index, offsets from BASE: one token a byte, as itself."""
    table, index = b"", []
    for byte in range(256):
        index.append(len(table))
        table += (bytes([byte]) if byte else b"?") + b"\0"
    names = b"".join(bytes([len(name) + 1]) + b"T" + name.encode() for name in symbols)
    offsets = struct.pack(f"<{len(symbols)}i", *(value - BASE for value in symbols.values()))
    return names, table, struct.pack("<256H", *index), offsets


STRUCTURES = {
    "task_struct": {"pid": 0, "comm": 8, "__state": 24, "stack": 32, "tasks": 40},
    "module": {"list": 0, "name": 16, "refcnt": 72, "kallsyms": 80, "mem": 96},
    "module_memory": {"base": 0, "size": 8},
    "mod_kallsyms": {"symtab": 0, "num_symtab": 8, "strtab": 16},
}


def fake_kernel(**changes: dict[str, int]) -> tuple[FakeMemory, dict[str, int]]:
    """Two tasks (`mount` in D state runs on CPU 0) and the module demo with one function."""
    memory = FakeMemory()
    symbols = {
        "_stext": BASE,
        "do_mount": BASE + 0x100,
        "_etext": BASE + 0x1000,
        "init_task": BASE + 0x2000,
        "__per_cpu_offset": BASE + 0x2200,
        "pcpu_hot": BASE + 0x2300,
        "modules": BASE + 0x2400,
        "__start_BTF": BASE + 0x3000,
    }
    blob = btf(**{**STRUCTURES, **changes})
    symbols["__stop_BTF"] = memory.put(0x3000, blob) + len(blob)
    mount = 0x2100
    tasks = [BASE + 0x2000 + 40, BASE + mount + 40]
    memory.put(0x2000, struct.pack("<Q16sQQQQ", 0, b"swapper/0", 0, 0, tasks[1], tasks[1]))
    memory.put(mount, struct.pack("<Q16sQQQQ", 503, b"mount", 2, BASE + 0x8000, tasks[0], tasks[0]))
    memory.put(0x2200, u64(0))
    memory.put(0x2300, u64(BASE + mount))
    module = memory.put(0x2500, b"")
    memory.put(0x2400, u64(module, module))
    memory.put(0x2500, u64(BASE + 0x2400, BASE + 0x2400) + b"demo\0")
    memory.put(0x2500 + 72, struct.pack("<QQ", 3, BASE + 0x2600))
    memory.put(0x2500 + 96, u64(BASE + 0x10000, 0x1000))
    strings = memory.put(0x2700, b"\0demo_spin\0")
    table = memory.put(0x2680, struct.pack("<IBBHQQ", 1, 2, 0, 1, BASE + 0x10040, 16))
    memory.put(0x2600, u64(table, 1, strings))
    names, tokens, index, offsets = kallsyms(symbols)
    places = {
        "kallsyms_num_syms": memory.put(0x4000, struct.pack("<I", len(symbols))),
        "kallsyms_relative_base": memory.put(0x4010, u64(BASE)),
        "kallsyms_token_table": memory.put(0x4100, tokens),
        "kallsyms_token_index": memory.put(0x4800, index),
        "kallsyms_offsets": memory.put(0x4C00, offsets),
        "kallsyms_names": memory.put(0x5000, names),
        "_stext": BASE,
    }
    lines = [f"SYMBOL({name})={address:x}" for name, address in places.items()]
    memory.info = Vmcoreinfo("\n".join(["OSRELEASE=6.12.0", *lines]).encode())
    return memory, symbols


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(fake_kernel()[0])  # type: ignore[arg-type]


def test_names_of_the_kernel_itself(kernel: Kernel) -> None:
    assert kernel.symbols.address["do_mount"] == BASE + 0x100
    assert kernel.place(BASE + 0x11C) == "do_mount+0x1c"
    assert kernel.place(BASE + 0x1800) == "", "behind the text"


def test_tasks_and_who_runs(kernel: Kernel) -> None:
    assert [(task.pid, task.name, task.letter) for task in kernel.tasks()] == [(503, "mount", "D")]
    assert kernel.current(0).name == "mount"


@pytest.mark.parametrize(("state", "letter"), [(0, "R"), (1, "S"), (2, "D"), (0x402, "I")])
def test_an_idle_kernel_thread_is_not_blocked(state: int, letter: str, kernel: Kernel) -> None:
    memory: Any = kernel.memory
    memory.put(0x2100 + 24, u64(state))
    assert kernel.current(0).letter == letter


def test_modules_and_their_functions(kernel: Kernel) -> None:
    (module,) = kernel.modules
    assert (module.name, module.references, module.size) == ("demo", 2, 0x1000)
    assert kernel.place(BASE + 0x10047) == "demo_spin+0x7 [demo]"


def test_a_stack_has_what_stands_behind_a_call(kernel: Kernel) -> None:
    memory: Any = kernel.memory
    memory.put(0x10050 - 5, b"\xe8")  # a call, before the first address
    memory.put(0x8000, u64(BASE + 0x10050, BASE + 0x10060, 0x1234, BASE + 0x130))
    assert kernel.stack(BASE + 0x8000) == ["demo_spin+0x10 [demo]"]


def test_a_call_that_never_comes_back_may_end_its_function(kernel: Kernel) -> None:
    """Linux 6.1, panic() at mount: the stack had `cleanup_module+0x0`, which was never called."""
    memory: Any = kernel.memory
    memory.put(0x2700, b"\0demo_spin\0cleanup_module\0")
    functions = struct.pack("<IBBHQQ", 1, 2, 0, 1, BASE + 0x10040, 16)
    functions += struct.pack("<IBBHQQ", 11, 2, 0, 1, BASE + 0x10050, 16)
    memory.put(0x2900, functions)
    memory.put(0x2600, u64(BASE + 0x2900, 2))
    memory.put(0x10050 - 5, b"\xe8")
    memory.put(0x100 - 5, b"\xe8")
    memory.put(0x8000, u64(BASE + 0x10050, BASE + 0x100))
    again = Kernel(memory)
    assert again.stack(BASE + 0x8000) == ["demo_spin+0x10 [demo]", "_stext+0x100"]
    assert again.place(BASE + 0x10050) == "cleanup_module+0x0 [demo]", "where a processor is"


def test_a_list_that_was_damaged_ends(kernel: Kernel) -> None:
    memory: Any = kernel.memory
    memory.put(0x2500, u64(BASE + 0x2500))  # the module follows itself
    with pytest.raises(BadImageError, match="no end"):
        list(kernel._list(BASE + 0x2400, 0))


def test_a_structure_that_has_changed_is_told() -> None:
    memory, _ = fake_kernel(task_struct={"pid": 0})
    with pytest.raises(BadImageError, match=r"this kernel has no task_struct\.comm"):
        Kernel(memory).current(0)  # type: ignore[arg-type]


def test_members_of_unnamed_structures_count_as_their_own() -> None:
    strings = b"\0outer\0inner\0"
    types = struct.pack("<IIII", 0, 1 << 24, 8, 64)
    types += struct.pack("<III", 0, 5 << 24 | 1, 8) + struct.pack("<III", 7, 1, 32)
    types += struct.pack("<III", 1, 4 << 24 | 1, 16) + struct.pack("<III", 0, 2, 64)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    found = Btf(header + types + strings)
    assert found.offset("outer", "inner") == 12
    assert not found.has("outer", "missing")


# -- taking one --------------------------------------------------------------------------------


class FakeMonitor:
    """A QEMU that writes an image, a piece each time it is asked how far it is."""

    def __init__(self, content: bytes, *, pieces: int = 2, fails: bool = False) -> None:
        self.content, self.pieces, self.fails = content, pieces, fails
        self.commands: list[str] = []
        self.file = Path()
        self.asked = 0

    def execute(self, command: str, **arguments: Any) -> Any:
        self.commands.append(command)
        if command == "dump-guest-memory":
            assert arguments["format"] == "kdump-zlib"
            assert arguments["detach"] is True
            self.file = Path(arguments["protocol"].removeprefix("file:"))
        if command == "query-dump":
            self.asked += 1
            end = len(self.content) * self.asked // self.pieces
            self.file.write_bytes(self.content[:end])
            if self.fails:
                return {"status": "failed"}
            return {"status": "completed" if self.asked >= self.pieces else "active"}
        return None


@dataclass
class FakeMachine:
    monitor: FakeMonitor


Take = Callable[..., tuple[MemoryImages, FakeMonitor]]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Take]:
    monkeypatch.setattr(keeping, "_POLL_S", 0.001)
    (tmp_path / "run").mkdir()
    content = flat(tmp_path).read_bytes()

    def make(settings: CoreSettings | None = None, **how: Any) -> tuple[MemoryImages, FakeMonitor]:
        images = MemoryImages(tmp_path / "run", settings or CoreSettings(), tmp_path / "rootfs")
        return images, FakeMonitor(how.pop("content", content), **how)

    yield make


def taken(images: MemoryImages, monitor: FakeMonitor) -> Any:
    return images.take(FakeMachine(monitor), "the guest kernel panicked", "mount/t.py::t")  # type: ignore[arg-type]


def test_an_image_is_kept_with_what_it_says(prepare: Take, tmp_path: Path) -> None:
    images, monitor = prepare()
    kept = taken(images, monitor)
    assert monitor.commands[:2] == ["stop", "dump-guest-memory"], "first the guest stands still"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "core-1.kdump",
        "core-1.txt",
    ]
    assert kept.file == "core-1.kdump"
    assert kept.test == "mount/t.py::t"
    assert kept.report == (tmp_path / "run" / "core-1.txt").read_text()
    assert "sysrq triggered crash" in kept.report
    assert "There is no debug symbols for 6.12.117" in kept.report
    assert "linux-image-6.12.117+deb13-amd64-dbg" in kept.report
    assert taken(images, FakeMonitor(monitor.content)).file == "core-2.kdump"


@pytest.mark.parametrize(
    ("settings", "how", "words"),
    [
        (None, {"fails": True}, "QEMU could not write it"),
        (CoreSettings(limit_s=0.05), {"pieces": 10_000}, "had not written it after 0 s"),
        (CoreSettings(limit_mib=1), {"content": bytes(3 << 20)}, "grew beyond 1 MiB"),
        (CoreSettings(limit_mib=1 << 40), {}, "too little space"),
    ],
)
def test_an_image_that_cannot_be_had_leaves_nothing(
    settings: CoreSettings | None, how: dict[str, Any], words: str, prepare: Take, tmp_path: Path
) -> None:
    images, monitor = prepare(settings, **how)
    with pytest.raises(InfrastructureError, match=words):
        taken(images, monitor)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_that_is_no_image_is_not_kept(prepare: Take, tmp_path: Path) -> None:
    images, monitor = prepare(content=b"not an image")
    with pytest.raises(BadImageError):
        taken(images, monitor)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    prepare: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    images, monitor = prepare()
    with pytest.raises(OSError, match="No space left"):
        taken(images, monitor)
    assert list((tmp_path / "run").iterdir()) == []
    assert images.taken == []


def test_all_images_of_a_run_share_one_limit(prepare: Take) -> None:
    images, monitor = prepare(CoreSettings(limit_mib=1))
    first = taken(images, monitor)
    images.taken[0] = first.model_copy(update={"size_mib": 1.0})
    with pytest.raises(InfrastructureError, match=r"the 1 that were kept have 1 MiB, of 1 allowed"):
        taken(images, FakeMonitor(monitor.content))


def test_with_symbols_drgn_is_asked(
    prepare: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rootfs/usr/bin").mkdir(parents=True)
    (tmp_path / "rootfs/usr/bin/drgn").touch()
    (tmp_path / "vmlinux").touch()
    (tmp_path / "run" / "demo.ko").touch()
    asked = []

    def ask(rootfs: Path, core: Path, symbols: Path, modules: list[Path]) -> str:
        asked.append((rootfs, core.name, symbols, [each.name for each in modules]))
        return "CPU 1 panicked: 'bash' (pid 491)"

    monkeypatch.setattr(keeping, "ask_drgn", ask)
    images, monitor = prepare(CoreSettings(vmlinux=tmp_path / "vmlinux"))
    kept = taken(images, monitor)
    assert asked == [(tmp_path / "rootfs", "core-1.kdump", tmp_path / "vmlinux", ["demo.ko"])]
    assert kept.report.endswith("from drgn\nCPU 1 panicked: 'bash' (pid 491)\n")


def test_a_drgn_that_fails_costs_its_part_only(
    prepare: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debug = tmp_path / "rootfs/usr/lib/debug/boot"
    debug.mkdir(parents=True)
    (debug / "vmlinux-6.12.117+deb13-amd64").touch()
    (tmp_path / "rootfs/usr/bin").mkdir(parents=True)
    (tmp_path / "rootfs/usr/bin/drgn").touch()

    def ask(*_: object) -> str:
        raise InfrastructureError("it ended with 1: no debug information")

    monkeypatch.setattr(keeping, "ask_drgn", ask)
    kept = taken(*prepare())
    assert "sysrq triggered crash" in kept.report
    assert "drgn could not be asked: it ended with 1" in kept.report
