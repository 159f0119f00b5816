"""Would this kernel load this module? Its symbols and versions against the kernel's, before a boot.

The kernel refuses a module for what can be read from files: another vermagic, symbols nobody
exports, versions (CRCs) of another build, GPL-only symbols under another licence, namespaces that
were not imported. kernel/module/main.c and version.c hold the rules that are followed here.
"""

from __future__ import annotations

import fnmatch
import lzma
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from vexrun.errors import InfrastructureError
from vexrun.licence import GPL_COMPATIBLE

#: ignore_undef_symbol() of modpost: no module exports them.
_NOT_IMPORTED = frozenset({"__this_module", "_GLOBAL_OFFSET_TABLE_"})
#: struct modversion_info of a 64-bit kernel: unsigned long crc, char name[64 - 8].
_MODVERSION = struct.Struct("<Q56s")


@dataclass(frozen=True)
class Export:
    """A symbol somebody exports. `crc` is None where it is not known."""

    name: str
    owner: str  # 'vmlinux', or the module's name
    crc: int | None = None
    gpl_only: bool = False
    namespace: str = ""


@dataclass(frozen=True)
class ModuleLinkage:
    """What a .ko needs and offers. `versions` maps the names in `__versions` to CRCs."""

    name: str
    undefined: frozenset[str]
    versions: Mapping[str, int] | None  # None: built without modversions
    exports: Mapping[str, Export]
    modinfo: Mapping[str, Sequence[str]]  # all values of each key, in order

    def first(self, key: str) -> str | None:
        values = self.modinfo.get(key, ())
        return values[0] if values else None

    @property
    def module_name(self) -> str:
        """As in /sys/module and in `depends=`."""
        return (self.first("name") or Path(self.name).stem).replace("-", "_")

    @property
    def gpl_compatible(self) -> bool:
        """As modpost sees it: every MODULE_LICENSE counts."""
        licences = self.modinfo.get("license", ())
        return bool(licences) and all(licence in GPL_COMPATIBLE for licence in licences)


@dataclass(frozen=True)
class KernelLinkage:
    """What the guest's kernel and its modules export, and what it asks of a module."""

    release: str
    exports: Mapping[str, Export]
    modversions: bool
    #: The whole vermagic of the kernel's own modules; None where none could be read.
    vermagic: str | None = None


@dataclass
class Verdicts:
    """What was found, by check: sentences that name the symbol. Remarks do not fail."""

    found: dict[str, list[str]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)


def read_linkage(path: Path) -> ModuleLinkage:
    """Read a .ko. Raises InfrastructureError when it is no ELF file."""
    with path.open("rb") as stream:
        return _linkage(stream, path.name)


def _linkage(stream: object, name: str) -> ModuleLinkage:
    try:
        elf = ELFFile(stream)
        modinfo = _modinfo(elf)
        undefined, exports = _symbols(elf, modinfo.get("name", [Path(name).stem])[0])
        versions = _versions(elf)
    except (ELFError, struct.error) as error:
        raise InfrastructureError(f"'{name}' cannot be read as a module: {error}.") from error
    return ModuleLinkage(name, undefined, versions, exports, modinfo)


def _modinfo(elf: ELFFile) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    section = elf.get_section_by_name(".modinfo")
    for entry in section.data().split(b"\0") if section is not None else ():
        key, equals, value = entry.decode(errors="replace").partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return found


def _symbols(elf: ELFFile, owner: str) -> tuple[frozenset[str], dict[str, Export]]:
    undefined = set()
    sections: dict[str, str] = {}
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise ELFError("it has no symbol table")
    for symbol in table.iter_symbols():
        where = symbol["st_shndx"]
        if where == "SHN_UNDEF":
            # The kernel lets a weak symbol be absent.
            if symbol.name and symbol["st_info"]["bind"] == "STB_GLOBAL":
                undefined.add(symbol.name)
        elif isinstance(where, int) and symbol.name.startswith("__ksymtab_"):
            name = symbol.name.removeprefix("__ksymtab_")
            sections[name] = elf.get_section(where).name
    exports = {
        name: Export(name, owner, gpl_only=section.startswith("__ksymtab_gpl"))
        for name, section in sections.items()
    }
    return frozenset(undefined - _NOT_IMPORTED), exports


def _versions(elf: ELFFile) -> dict[str, int] | None:
    section = elf.get_section_by_name("__versions")
    if section is None:
        return None
    data = section.data()
    whole = len(data) - len(data) % _MODVERSION.size
    return {
        name.split(b"\0", 1)[0].decode(errors="replace"): crc
        for crc, name in _MODVERSION.iter_unpack(data[:whole])
    }


def parse_symvers(text: str) -> dict[str, Export]:
    """Module.symvers: CRC, symbol, owner, kind of export, namespace; separated by tabs."""
    exports = {}
    for line in text.splitlines():
        crc, name, owner, kind, *namespace = line.split("\t")
        exports[name] = Export(
            name,
            owner.rsplit("/", 1)[-1],
            int(crc, 16) or None,
            kind.startswith("EXPORT_SYMBOL_GPL"),
            namespace[0] if namespace else "",
        )
    return exports


def read_kernel(rootfs: Path, release: str) -> KernelLinkage:
    """What the kernel `release` in an image's root filesystem exports.

    Raises InfrastructureError where the headers in the image have no list of symbols.
    """
    headers = rootfs / "usr" / "src" / f"linux-headers-{release}"
    symvers, config = headers / "Module.symvers", headers / ".config"
    try:
        exports = parse_symvers(symvers.read_text())
        modversions = "\nCONFIG_MODVERSIONS=y\n" in config.read_text()
    except (OSError, ValueError) as error:
        raise InfrastructureError(
            f"The kernel's list of exported symbols cannot be read: {error}.",
            hint="The role 'kernel_headers' installs it; build the image again.",
        ) from error
    if not exports:
        raise InfrastructureError(f"'{symvers}' lists no symbol.")
    own = rootfs / "usr" / "lib" / "modules" / release / "kernel"
    return KernelLinkage(release, exports, modversions, _vermagic_of(own))


def _vermagic_of(directory: Path) -> str | None:
    """The vermagic of some module the kernel came with."""
    for path in sorted((directory / "fs").rglob("*.ko*")):
        if path.suffix == ".ko":
            return read_linkage(path).first("vermagic")
        if path.suffix == ".xz":
            with lzma.open(path, "rb") as stream:
                return _linkage(stream, path.name).first("vermagic")
    return None


# -- the checks ---------------------------------------------------------------------------


def check_vermagic(module: ModuleLinkage, kernel: KernelLinkage) -> list[str]:
    vermagic = module.first("vermagic")
    if vermagic is None:
        return [f"{module.name} has no vermagic: no kernel loads it"]
    expected, found = kernel.vermagic or kernel.release, vermagic
    if kernel.vermagic is None:
        found = vermagic.split(" ", 1)[0]
    if found.strip() == expected.strip():
        return []
    return [
        f"{module.name} has the vermagic '{vermagic.strip()}', the kernel '{expected.strip()}': "
        "the kernel refuses it with 'version magic … should be …'"
    ]


def check_symbols(module: ModuleLinkage, providers: Mapping[str, Export]) -> list[str]:
    return [
        f"{module.name} needs '{name}', which neither the kernel, nor its modules, nor the modules "
        "of this build export"
        for name in sorted(module.undefined)
        if name not in providers
    ]


def check_versions(
    module: ModuleLinkage, kernel: KernelLinkage, providers: Mapping[str, Export]
) -> list[str]:
    if not kernel.modversions:
        return []
    if module.versions is None:
        return [
            f"{module.name} was built without symbol versions (no __versions), and the kernel has "
            "CONFIG_MODVERSIONS: it refuses the module"
        ]
    found = []
    for name, crc in sorted(module.versions.items()):
        provider = providers.get(name)
        if provider is not None and provider.crc is not None and provider.crc != crc:
            found.append(
                f"{module.name} was built for another '{name}': version 0x{crc:08x}, "
                f"{provider.owner} has 0x{provider.crc:08x} ('disagrees about version of symbol')"
            )
    return found


def unversioned(
    module: ModuleLinkage, kernel: KernelLinkage, providers: Mapping[str, Export]
) -> list[str]:
    """Needed symbols without a version; the kernel warns and takes them as they are."""
    if not kernel.modversions or module.versions is None:
        return []
    return [
        f"{module.name} has no version for '{name}', so a change of it goes unnoticed"
        for name in sorted(module.undefined)
        if name in providers and providers[name].crc is not None and name not in module.versions
    ]


def check_licence(module: ModuleLinkage, providers: Mapping[str, Export]) -> list[str]:
    if module.gpl_compatible:
        return []
    licences = ", ".join(f"'{each}'" for each in module.modinfo.get("license", ())) or "none"
    return [
        f"{module.name} (licence: {licences}) uses '{name}', which {providers[name].owner} "
        "exports to GPL-compatible modules only"
        for name in sorted(module.undefined)
        if name in providers and providers[name].gpl_only
    ]


def check_namespaces(module: ModuleLinkage, providers: Mapping[str, Export]) -> list[str]:
    imported = set(module.modinfo.get("import_ns", ()))
    own = module.module_name
    found = []
    for name in sorted(module.undefined):
        provider = providers.get(name)
        if provider is None or not provider.namespace or provider.namespace in imported:
            continue
        # EXPORT_SYMBOL_FOR_MODULES: the namespace lists the modules that may use it.
        listed = provider.namespace.removeprefix("module:")
        if listed != provider.namespace and any(
            fnmatch.fnmatchcase(own, each.strip().replace("-", "_")) for each in listed.split(",")
        ):
            continue
        found.append(
            f"{module.name} uses '{name}' of the namespace {provider.namespace} and has no "
            f'MODULE_IMPORT_NS("{provider.namespace}")'
        )
    return found


def check_exports(module: ModuleLinkage, kernel: KernelLinkage) -> tuple[list[str], list[str]]:
    """What it exports and the kernel has already; and what some other module exports too."""
    found, remarks = [], []
    own = module.module_name
    for name in sorted(module.exports):
        other = kernel.exports.get(name)
        if other is None or other.owner.replace("-", "_") == own:
            continue
        if other.owner == "vmlinux":
            found.append(
                f"{module.name} exports '{name}', which the kernel exports itself: it refuses the "
                "module with 'exports duplicate symbol'"
            )
        else:
            remarks.append(
                f"{module.name} exports '{name}' as the kernel's module '{other.owner}' does: only "
                "one of them can be loaded"
            )
    return found, remarks


#: The checks, by name, in the order of the report.
LINKAGE_CHECKS = ("vermagic", "symbols", "versions", "licence", "namespaces", "exports")


def check_linkage(
    modules: Sequence[ModuleLinkage], siblings: Iterable[ModuleLinkage], kernel: KernelLinkage
) -> Verdicts:
    """All of it, for `modules`; `siblings` are the other modules of the build."""
    verdicts = Verdicts(
        {name: [] for name in LINKAGE_CHECKS}, {name: [] for name in LINKAGE_CHECKS}
    )
    providers = dict(kernel.exports)
    for each in [*siblings, *modules]:
        # What the build exports itself replaces the kernel's own copy of the same module.
        providers.update(each.exports)
    for module in modules:
        found, remarks = verdicts.found, verdicts.remarks
        found["vermagic"] += check_vermagic(module, kernel)
        found["symbols"] += check_symbols(module, providers)
        found["versions"] += check_versions(module, kernel, providers)
        remarks["versions"] += unversioned(module, kernel, providers)
        found["licence"] += check_licence(module, providers)
        found["namespaces"] += check_namespaces(module, providers)
        conflicts, shared = check_exports(module, kernel)
        found["exports"] += conflicts
        remarks["exports"] += shared
        for key in ("license", "description", "author"):
            if not module.first(key):
                remarks["licence"].append(f"{module.name} has no MODULE_{key.upper()}()")
    return verdicts
