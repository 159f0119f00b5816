"""Where the members of kernel structures are, from the BTF that the kernel carries in itself."""

from __future__ import annotations

import struct

_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_MAGIC = 0xEB9F
_STRUCT, _UNION = 4, 5
#: Bytes behind a type, by its kind: a fixed number, and so many for each of its elements.
_BEHIND = {
    1: (4, 0),
    3: (12, 0),
    4: (0, 12),
    5: (0, 12),
    6: (0, 8),
    13: (0, 8),
    14: (4, 0),
    15: (0, 12),
    17: (4, 0),
    19: (0, 12),
}


class Btf:
    """The structures of one kernel, by name."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError or struct.error for what is no BTF."""
        magic, _, _, header, types_at, types_size, strings_at, _ = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError(f"it begins with {magic:#x}")
        self._data = data
        self._strings = header + strings_at
        self._at = [0]  # of each type, by its number; 0 is void
        self._structures: dict[str, int] = {}
        at, end = header + types_at, header + types_at + types_size
        while at < end:
            name, info, _ = _TYPE.unpack_from(data, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            if kind == _STRUCT and name:
                self._structures.setdefault(self._string(name), len(self._at))
            self._at.append(at)
            fixed, each = _BEHIND.get(kind, (0, 0))
            at += _TYPE.size + fixed + each * count

    def offset(self, structure: str, path: str) -> int:
        """Bytes from the beginning of a structure to a member: `mem_base`, or `thread.sp`.

        Members of unnamed structures inside count as its own. Raises KeyError.
        """
        number, total = self._structures[structure], 0
        for member in path.split("."):
            found = self._member(number, member)
            if found is None:
                raise KeyError(f"{structure}.{path}")
            total, number = total + found[0], found[1]
        return total

    def size(self, structure: str) -> int:
        size: int = _TYPE.unpack_from(self._data, self._at[self._structures[structure]])[2]
        return size

    def has(self, structure: str, path: str) -> bool:
        try:
            self.offset(structure, path)
        except KeyError:
            return False
        return True

    def _member(self, number: int, wanted: str) -> tuple[int, int] | None:
        """Byte offset and type number."""
        at = self._at[self._behind_names(number)]
        _, info, _ = _TYPE.unpack_from(self._data, at)
        if info >> 24 & 0x1F not in (_STRUCT, _UNION):
            return None
        for index in range(info & 0xFFFF):
            name, kind, bits = _MEMBER.unpack_from(
                self._data, at + _TYPE.size + index * _MEMBER.size
            )
            offset = (bits & 0xFFFFFF if info >> 31 else bits) // 8
            if name:
                if self._string(name) == wanted:
                    return offset, kind
            elif found := self._member(kind, wanted):
                return offset + found[0], found[1]
        return None

    def _behind_names(self, number: int) -> int:
        """Through typedef, volatile, const, restrict and type tags."""
        while number:
            _, info, kind = _TYPE.unpack_from(self._data, self._at[number])
            if info >> 24 & 0x1F not in (8, 9, 10, 11, 18):
                break
            number = kind
        return number

    def _string(self, at: int) -> str:
        begin = self._strings + at
        return self._data[begin : self._data.index(b"\0", begin)].decode(errors="replace")
