"""Where in a .ko a frame of a call trace is: `function+0x1f/0xa0` to section and address.

A .ko is a relocatable file: every section begins at address 0, and only the kernel decides where
each one goes. So a place is a section and an address in it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from vexrun.errors import VexrunError


class UndecodableError(VexrunError):
    """A frame cannot be decoded; the message, a clause without a full stop, says why."""


@dataclass(frozen=True, order=True)
class Place:
    """An address in a section of a .ko."""

    ko: Path
    section: str
    address: int


@dataclass(frozen=True)
class _Symbol:
    section: str
    address: int
    size: int
    to_next: int | None  # distance to the next symbol of its section; None: it is the last one


def _is_known_to_kallsyms(name: str) -> bool:
    """Whether the kernel counts it as a symbol: no section, no local label, no mapping symbol."""
    return bool(name) and not name.startswith((".L", "L0", "$"))


class ModuleSymbols:
    """The functions of one .ko, and whether it can name source lines."""

    def __init__(self, ko: Path) -> None:
        """Read `ko`. Raises UndecodableError when it is no ELF file with symbols."""
        self.ko = ko
        self._functions: dict[str, list[_Symbol]] = defaultdict(list)
        try:
            with ko.open("rb") as stream:
                elf = ELFFile(stream)
                names = [section.name for section in elf.iter_sections()]
                self._read_symbols(elf)
        except (OSError, ELFError) as error:
            raise UndecodableError(f"'{ko.name}' cannot be read: {error}") from error
        self.has_lines = any(name in (".debug_line", ".zdebug_line") for name in names)

    def _read_symbols(self, elf: ELFFile) -> None:
        table = elf.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise UndecodableError(f"'{self.ko.name}' has no symbol table: it was stripped")
        code = {
            index: section.name
            for index, section in enumerate(elf.iter_sections())
            if section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR
        }
        symbols = [
            (symbol.name, symbol["st_shndx"], symbol["st_value"], symbol["st_size"])
            for symbol in table.iter_symbols()
            if symbol["st_shndx"] in code and _is_known_to_kallsyms(symbol.name)
        ]
        starts: dict[int, list[int]] = defaultdict(list)
        for _, section, address, _ in symbols:
            starts[section].append(address)
        for addresses in starts.values():
            addresses.sort()
        for name, section, address, size in symbols:
            later = bisect_right(starts[section], address)
            to_next = None
            if later < len(starts[section]):
                to_next = starts[section][later] - address
            self._functions[name].append(_Symbol(code[section], address, size, to_next))

    def place(self, function: str, offset: int, size: int) -> Place:
        """Where `function+offset/size` of a trace is.

        `size` is what kallsyms prints: the distance to the next symbol in memory, whatever the
        symbol table says (padding counts). It tells static functions of one name apart. The
        last symbol of a section has its neighbour in another one, so there it proves nothing.
        Raises UndecodableError when no function fits, or more than one.
        """
        named = self._functions.get(function, [])
        fitting = [symbol for symbol in named if symbol.to_next == size]
        if not fitting:
            fitting = [symbol for symbol in named if symbol.to_next is None and symbol.size <= size]
        if not named:
            raise UndecodableError(f"'{self.ko.name}' has no function '{function}'")
        if not fitting:
            raise UndecodableError(f"'{function}' of '{self.ko.name}' is not {size:#x} bytes long")
        places = {Place(self.ko, symbol.section, symbol.address + offset) for symbol in fitting}
        if len(places) > 1:
            raise UndecodableError(
                f"'{self.ko.name}' has {len(places)} functions '{function}' of the same size"
            )
        return places.pop()
