"""What a .ko file says about itself: srcversion, build id, vermagic, licence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from vexrun.errors import BuildFailedError
from vexrun.image.manifest import sha256_of


@dataclass(frozen=True)
class ModuleFile:
    """A built module. `modinfo` keeps the last value of repeated keys, as modinfo -F shows."""

    path: Path
    sha256: str
    build_id: str | None
    modinfo: dict[str, str]

    @property
    def srcversion(self) -> str | None:
        return self.modinfo.get("srcversion")

    @property
    def vermagic(self) -> str | None:
        return self.modinfo.get("vermagic")

    @property
    def internal_name(self) -> str | None:
        """The name the module will have in /sys/module."""
        return self.modinfo.get("name")

    @property
    def depends(self) -> list[str]:
        return [name for name in self.modinfo.get("depends", "").split(",") if name]


def read_module_file(path: Path) -> ModuleFile:
    """Read a .ko. Raises BuildFailedError when it is not a kernel module."""
    try:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            section = elf.get_section_by_name(".modinfo")
            if section is None:
                raise BuildFailedError(f"'{path.name}' has no .modinfo section: not a module.")
            entries = section.data().split(b"\0")
            build_id = _build_id(elf)
    except ELFError as error:
        raise BuildFailedError(f"'{path.name}' is not an ELF file: {error}.") from error
    pairs = (entry.decode(errors="replace").partition("=") for entry in entries if b"=" in entry)
    return ModuleFile(path, sha256_of(path), build_id, {key: value for key, _, value in pairs})


def _build_id(elf: ELFFile) -> str | None:
    section = elf.get_section_by_name(".note.gnu.build-id")
    if section is None:
        return None
    for note in section.iter_notes():
        if note["n_type"] == "NT_GNU_BUILD_ID":
            return str(note["n_desc"])
    return None
