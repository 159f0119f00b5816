"""Licences of kernel modules: which the kernel takes for free, and what a source tree declares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

#: license_is_gpl_compatible() of include/linux/license.h: the only strings it accepts.
GPL_COMPATIBLE = (
    "GPL",
    "GPL v2",
    "GPL and additional rights",
    "Dual BSD/GPL",
    "Dual MIT/GPL",
    "Dual MPL/GPL",
)
_C_LICENCE = re.compile(r'\bMODULE_LICENSE\s*\(\s*(?:"([^"]*)"|(\w+))\s*\)')
_RUST_LICENCE = re.compile(r'\blicense\s*:\s*b?"([^"]*)"')


def declared_licences(directory: Path) -> dict[Path, str]:
    """Source file below `directory` to the licence it declares.

    '' where a macro stands for the licence that no file there defines as a string: only the
    built module tells then.
    """
    texts = {path: path.read_text(errors="replace") for path in _sources(directory)}
    return {
        path: licence
        for path, text in texts.items()
        for licence in _declared(path, text, list(texts.values()))
    }


def _sources(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        written = path.suffix in (".c", ".h", ".rs") and not path.name.endswith(".mod.c")
        if written and path.is_file():
            yield path


def _declared(path: Path, text: str, texts: list[str]) -> Iterator[str]:
    if path.suffix == ".rs":
        yield from _RUST_LICENCE.findall(text)
        return
    for literal, macro in _C_LICENCE.findall(text):
        yield _definition(macro, texts) if macro else literal


def _definition(macro: str, texts: list[str]) -> str:
    pattern = re.compile(rf'^\s*#\s*define\s+{macro}\s+\(?\s*"([^"]*)"', re.MULTILINE)
    return next((found[1] for text in texts if (found := pattern.search(text))), "")
