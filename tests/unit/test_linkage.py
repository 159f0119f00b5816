"""Whether the guest's kernel will take a module, from files alone."""

from __future__ import annotations

import lzma
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from vexrun.errors import InfrastructureError
from vexrun.static.linkage import (
    LINKAGE_CHECKS,
    Export,
    KernelLinkage,
    ModuleLinkage,
    check_linkage,
    parse_symvers,
    read_kernel,
    read_linkage,
)

VERMAGIC = "6.12.1-amd64 SMP preempt mod_unload modversions "
SYMVERS = (
    "0x11111111\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n"
    "0x22222222\tiget_locked\tvmlinux\tEXPORT_SYMBOL_GPL\t\n"
    "0x33333333\tkernel_read\tvmlinux\tEXPORT_SYMBOL\tVFS_internal\n"
    "0x44444444\tfat_attach\tfs/fat/fat\tEXPORT_SYMBOL_GPL\t\n"
    "0x55555555\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n"
    "0x66666666\tkvm_thing\tvmlinux\tEXPORT_SYMBOL_GPL\tmodule:kvm,demo-*\n"
)
KERNEL = KernelLinkage("6.12.1-amd64", parse_symvers(SYMVERS), True, VERMAGIC)
GOOD = ModuleLinkage(
    "demo.ko",
    frozenset({"printk", "iget_locked"}),
    {"module_layout": 0x55555555, "printk": 0x11111111, "iget_locked": 0x22222222},
    {},
    {
        "name": ["demo"],
        "vermagic": [VERMAGIC],
        "license": ["GPL"],
        "description": ["d"],
        "author": ["a"],
    },
)


def modinfo(**changed: list[str]) -> dict[str, list[str]]:
    return {**{key: list(value) for key, value in GOOD.modinfo.items()}, **changed}


def found(module: ModuleLinkage, *siblings: ModuleLinkage) -> dict[str, list[str]]:
    """What the checks found, without those that found nothing."""
    verdicts = check_linkage([module], siblings, KERNEL)
    assert tuple(verdicts.found) == LINKAGE_CHECKS
    return {name: each for name, each in verdicts.found.items() if each}


def remarks(module: ModuleLinkage) -> list[str]:
    return [each for more in check_linkage([module], [], KERNEL).remarks.values() for each in more]


def test_good_module_is_taken_without_a_remark() -> None:
    assert found(GOOD) == {}
    assert remarks(GOOD) == []


#: A module the kernel refuses: what differs from the good one, which check, what it says.
REFUSED = {
    "another release": (
        {"modinfo": modinfo(vermagic=["6.12.0-amd64 SMP preempt mod_unload modversions "])},
        "vermagic",
        "'6.12.0-amd64 SMP",
    ),
    "another configuration": (
        {"modinfo": modinfo(vermagic=["6.12.1-amd64 SMP mod_unload modversions "])},
        "vermagic",
        "version magic",
    ),
    "no vermagic": ({"modinfo": modinfo(vermagic=[])}, "vermagic", "has no vermagic"),
    "unknown symbol": (
        {"undefined": GOOD.undefined | {"no_such_function"}},
        "symbols",
        "'no_such_function'",
    ),
    "another version": (
        {"versions": {**(GOOD.versions or {}), "printk": 0x99999999}},
        "versions",
        "'printk': version 0x99999999, vmlinux has 0x11111111",
    ),
    "another struct module": (
        {"versions": {**(GOOD.versions or {}), "module_layout": 1}},
        "versions",
        "'module_layout'",
    ),
    "no versions": ({"versions": None}, "versions", "CONFIG_MODVERSIONS"),
    "proprietary": (
        {"modinfo": modinfo(license=["Proprietary"])},
        "licence",
        "(licence: 'Proprietary') uses 'iget_locked'",
    ),
    "no licence": ({"modinfo": modinfo(license=[])}, "licence", "(licence: none)"),
    "one licence of two": (
        {"modinfo": modinfo(license=["GPL", "Proprietary"])},
        "licence",
        "'iget_locked'",
    ),
    "namespace": (
        {"undefined": GOOD.undefined | {"kernel_read"}},
        "namespaces",
        'MODULE_IMPORT_NS("VFS_internal")',
    ),
    "namespace of other modules": (
        {"undefined": GOOD.undefined | {"kvm_thing"}},
        "namespaces",
        "'kvm_thing'",
    ),
    "exported by the kernel": (
        {"exports": {"printk": Export("printk", "demo")}},
        "exports",
        "'printk', which the kernel exports itself",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_module_is_known_and_the_symbol_named(case: str) -> None:
    changed, check, says = REFUSED[case]
    result = found(replace(GOOD, **changed))  # type: ignore[arg-type]
    assert list(result) == [check]
    assert len(result[check]) == 1
    assert says in result[check][0]
    assert result[check][0].startswith("demo.ko")


def test_imported_namespaces_may_be_used() -> None:
    module = replace(
        GOOD,
        undefined=GOOD.undefined | {"kernel_read"},
        modinfo=modinfo(import_ns=["OTHER", "VFS_internal"]),
    )
    assert found(module) == {}


def test_symbols_for_named_modules_are_for_those() -> None:
    module = replace(
        GOOD, undefined=GOOD.undefined | {"kvm_thing"}, modinfo=modinfo(name=["demo_fs"])
    )
    assert found(module) == {}


def test_proprietary_module_may_use_what_is_for_all() -> None:
    module = replace(
        GOOD, undefined=frozenset({"printk"}), modinfo=modinfo(license=["Proprietary"])
    )
    assert found(module) == {}


def test_sibling_of_the_build_provides_its_symbols() -> None:
    module = replace(GOOD, undefined=GOOD.undefined | {"demo_core"})
    core = replace(GOOD, name="core.ko", exports={"demo_core": Export("demo_core", "core")})
    assert list(found(module)) == ["symbols"]
    assert found(module, core) == {}


def test_gpl_only_symbol_of_a_sibling_is_gpl_only_too() -> None:
    module = replace(
        GOOD, undefined=frozenset({"demo_core"}), modinfo=modinfo(license=["Proprietary"])
    )
    core = replace(GOOD, exports={"demo_core": Export("demo_core", "core", gpl_only=True)})
    assert "which core exports" in found(module, core)["licence"][0]


def test_replacing_a_module_of_the_kernel_is_no_conflict() -> None:
    fat = replace(
        GOOD,
        exports={"fat_attach": Export("fat_attach", "fat")},
        modinfo=modinfo(name=["fat"]),
    )
    assert found(fat) == {}
    assert remarks(fat) == []
    other = replace(fat, modinfo=modinfo(name=["newfat"]))
    assert found(other) == {}
    assert "only one of them can be loaded" in remarks(other)[0]


def test_symbol_without_a_version_is_a_remark_as_the_kernel_takes_it() -> None:
    module = replace(GOOD, versions={"module_layout": 0x55555555, "iget_locked": 0x22222222})
    assert found(module) == {}
    assert remarks(module) == [
        "demo.ko has no version for 'printk', so a change of it goes unnoticed"
    ]


@pytest.mark.parametrize("key", ["description", "author"])
def test_missing_modinfo_is_a_remark(key: str) -> None:
    module = replace(GOOD, modinfo=modinfo(**{key: []}))
    assert found(module) == {}
    assert remarks(module) == [f"demo.ko has no MODULE_{key.upper()}()"]


def test_kernel_without_modversions_asks_for_none() -> None:
    kernel = replace(KERNEL, modversions=False)
    verdicts = check_linkage([replace(GOOD, versions=None)], [], kernel)
    assert verdicts.found["versions"] == []


# -- reading files -------------------------------------------------------------------------------


def elf(undefined: dict[str, int], exported: dict[str, str], versions: bytes, info: bytes) -> bytes:
    """A relocatable x86-64 ELF file; `undefined` maps names to bindings (1 global, 2 weak)."""
    names = [*undefined, *(f"__ksymtab_{name}" for name in exported)]
    strings, offsets = b"\0", []
    for name in names:
        offsets.append(len(strings))
        strings += name.encode() + b"\0"
    content = {
        "": (0, b""),
        ".modinfo": (1, info),
        "__versions": (1, versions),
        "__ksymtab": (1, b"\0" * 8),
        "__ksymtab_gpl": (1, b"\0" * 8),
    }
    places = list(content)
    symbols = b"\0" * 24
    for offset, (name, binding) in zip(offsets, undefined.items(), strict=False):
        assert name
        symbols += struct.pack("<IBBHQQ", offset, binding << 4, 0, 0, 0, 0)
    for offset, where in zip(offsets[len(undefined) :], exported.values(), strict=True):
        symbols += struct.pack("<IBBHQQ", offset, 0, 0, places.index(where), 0, 0)
    content[".symtab"] = (2, symbols)
    content[".strtab"] = (3, strings)
    content[".shstrtab"] = (3, b"\0".join(name.encode() for name in [*content, ".shstrtab", ""]))
    data, headers, at = b"", b"", 64
    listed = content[".shstrtab"][1]
    for name, (kind, body) in content.items():
        link = list(content).index(".strtab") if name == ".symtab" else 0
        entry = 24 if name == ".symtab" else 0
        label = listed.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
        headers += struct.pack(
            "<IIQQQQIIQQ", label, kind, 0, 0, at + len(data), len(body), link, 0, 1, entry
        )
        data += body
    header = b"\x7fELF\2\1\1" + b"\0" * 9
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(data), 0, 64, 0, 0, 64, 8, 7)
    return header + data + headers


def test_module_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "demo.ko"
    versions = struct.pack("<Q56s", 0x11111111, b"printk") + struct.pack("<Q56s", 7, b"iget")
    path.write_bytes(
        elf(
            {"printk": 1, "iget": 1, "maybe": 2, "__this_module": 1, "_GLOBAL_OFFSET_TABLE_": 1},
            {"demo_a": "__ksymtab", "demo_b": "__ksymtab_gpl"},
            versions,
            b"name=demo_fs\0import_ns=A\0import_ns=B\0license=GPL\0vermagic=6.12 SMP \0",
        )
    )
    module = read_linkage(path)
    assert module.undefined == {"printk", "iget"}
    assert module.versions == {"printk": 0x11111111, "iget": 7}
    assert module.exports == {
        "demo_a": Export("demo_a", "demo_fs"),
        "demo_b": Export("demo_b", "demo_fs", gpl_only=True),
    }
    assert module.modinfo["import_ns"] == ["A", "B"]
    assert module.module_name == "demo_fs"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no ELF at all"])
def test_what_is_no_module_is_not_read_as_an_empty_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "demo.ko"
    path.write_bytes(content)
    with pytest.raises(InfrastructureError, match=r"'demo\.ko' cannot be read"):
        read_linkage(path)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """An image's root filesystem with a kernel's headers and one module of its own."""
    headers = tmp_path / "usr/src/linux-headers-6.12.1-amd64"
    headers.mkdir(parents=True)
    (headers / "Module.symvers").write_text(SYMVERS)
    (headers / ".config").write_text("# a\nCONFIG_MODVERSIONS=y\n")
    own = tmp_path / "usr/lib/modules/6.12.1-amd64/kernel/fs/minix"
    own.mkdir(parents=True)
    module = elf({}, {}, b"", b"vermagic=" + VERMAGIC.encode() + b"\0")
    (own / "minix.ko.xz").write_bytes(lzma.compress(module))
    return tmp_path


def test_kernel_is_read(rootfs: Path) -> None:
    kernel = read_kernel(rootfs, "6.12.1-amd64")
    assert kernel == KERNEL
    assert kernel.exports["fat_attach"] == Export("fat_attach", "fat", 0x44444444, True)
    assert kernel.exports["kernel_read"].namespace == "VFS_internal"


def test_unreadable_list_of_symbols_is_no_empty_one(rootfs: Path) -> None:
    symvers = rootfs / "usr/src/linux-headers-6.12.1-amd64/Module.symvers"
    for content in ("", "nonsense\n"):
        symvers.write_text(content)
        with pytest.raises(InfrastructureError, match="symbol"):
            read_kernel(rootfs, "6.12.1-amd64")
    symvers.unlink()
    with pytest.raises(InfrastructureError, match="exported symbols cannot be read"):
        read_kernel(rootfs, "6.12.1-amd64")


def test_without_a_module_to_compare_with_the_release_is_compared() -> None:
    kernel = replace(KERNEL, vermagic=None)
    assert check_linkage([GOOD], [], kernel).found["vermagic"] == []
    other = replace(GOOD, modinfo=modinfo(vermagic=["6.12.2-amd64 SMP"]))
    assert "6.12.2-amd64" in check_linkage([other], [], kernel).found["vermagic"][0]
