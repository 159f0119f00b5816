"""Reading C without compiling it: comments, initialisers, macros, constant expressions.

Only what a file says plainly is understood; everything else is None, never a guess. Nothing of
the tree is executed: it is not known yet whether anybody trusts it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

#: A source file is not larger; what is, was generated.
SIZE_LIMIT = 4_000_000

_SKIPPED = re.compile(
    r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|(?P<comment>//[^\n]*|/\*.*?\*/)', re.DOTALL
)
_NEVER_COMPILED = re.compile(
    r"^[ \t]*#[ \t]*if[ \t]+0\b.*?^[ \t]*#[ \t]*(?:endif|else)", re.M | re.S
)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:.*\\\n)*.*$", re.MULTILINE)
_DEFINE = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+(\w+)(\([^)\n]*\))?[ \t]*((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE
)
_STRING = re.compile(r'"((?:\\.|[^"\\])*)"')


@dataclass(frozen=True)
class Place:
    """Where something stands; `file` is relative to the tree."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Initialiser:
    """`struct KIND name = { .field = value, … }`."""

    name: str
    fields: dict[str, str]
    place: Place


@dataclass(frozen=True)
class CFile:
    """A C file: `code` has blanks where comments and `#if 0` were, lines as in the file."""

    path: Path
    code: str

    @classmethod
    def read(cls, root: Path, path: Path) -> CFile | None:
        """None for what cannot be read, or is no source by its size."""
        try:
            if (root / path).stat().st_size > SIZE_LIMIT:
                return None
            text = (root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return cls(path, without_comments(text))

    def place(self, offset: int) -> Place:
        return Place(self.path, self.code.count("\n", 0, offset) + 1)

    def finditer(self, pattern: str | re.Pattern[str]) -> Iterator[tuple[re.Match[str], Place]]:
        for match in re.finditer(pattern, self.code):
            yield match, self.place(match.start())

    def initialisers(self, kind: str) -> Iterator[Initialiser]:
        """Those of one kind of structure, nested ones not included."""
        begins = re.compile(rf"\bstruct\s+{kind}\s+(\w+)\s*(?:__\w+\s*)*=\s*\{{")
        for match in begins.finditer(self.code):
            body = _DIRECTIVE.sub("", enclosed(self.code, match.end() - 1))
            yield Initialiser(match[1], _fields(body), self.place(match.start()))

    def function_body(self, name: str) -> str | None:
        """What stands between the braces of a function's definition."""
        for match in re.finditer(rf"\b{re.escape(name)}\s*\(", self.code):
            parameters = enclosed(self.code, match.end() - 1)
            rest = self.code[match.end() + len(parameters) + 1 :]
            if (opened := re.match(r"\s*(?:__\w+\s*)*\{", rest)) is not None:
                return enclosed(rest, opened.end() - 1)
        return None


def without_comments(text: str) -> str:
    """Comments and `#if 0` blocks as blanks, so that offsets and lines stay."""

    def blanked(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    text = _SKIPPED.sub(lambda match: blanked(match) if match["comment"] else match[0], text)
    return _NEVER_COMPILED.sub(blanked, text)


def enclosed(code: str, opening: int) -> str:
    """The text between the bracket at `opening` and the one that closes it."""
    depth = 0
    for match in re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|[{}()\[\]]').finditer(
        code, opening
    ):
        if match[0] in "{([":
            depth += 1
        elif match[0] in "})]":
            depth -= 1
            if depth == 0:
                return code[opening + 1 : match.start()]
    return code[opening + 1 :]


def split_arguments(text: str) -> list[str]:
    """At the commas that are in no bracket and no string."""
    parts, depth, begun = [], 0, 0
    for match in re.finditer(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[{}()\[\],]', text):
        if match[0] in "{([":
            depth += 1
        elif match[0] in "})]":
            depth -= 1
        elif match[0] == "," and depth == 0:
            parts.append(text[begun : match.start()])
            begun = match.end()
    return [part.strip() for part in [*parts, text[begun:]] if part.strip()]


def _fields(body: str) -> dict[str, str]:
    fields = {}
    for part in split_arguments(body):
        match = re.match(r"\.\s*(\w+)\s*=\s*(.*)\Z", part, re.DOTALL)
        if match is not None:
            fields[match[1]] = " ".join(match[2].split())
    return fields


# -- macros and constants ------------------------------------------------------------------------

_SIZES = {
    **dict.fromkeys(("char", "bool", "_Bool", "u8", "s8", "uint8_t", "int8_t"), 1),
    **dict.fromkeys(("short", "u16", "s16", "uint16_t", "int16_t", "le16", "be16"), 2),
    **dict.fromkeys(("int", "unsigned", "u32", "s32", "uint32_t", "int32_t", "float"), 4),
    **dict.fromkeys(("le32", "be32", "signed"), 4),
    **dict.fromkeys(("long", "u64", "s64", "uint64_t", "int64_t", "le64", "be64", "size_t"), 8),
    **dict.fromkeys(("double", "loff_t", "ssize_t", "uintptr_t", "time64_t"), 8),
}
_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.LShift: lambda left, right: left << min(right, 64),
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}
#: The size field of a request has 14 bits (include/uapi/asm-generic/ioctl.h).
_LARGEST = 0x3FFF
_DIRECTIONS = {"_IO": 0, "_IOW": 1, "_IOR": 2, "_IOWR": 3}


@dataclass(frozen=True)
class Macro:
    body: str
    place: Place


@dataclass
class Constants:
    """The macros and structures of some files, evaluated as on x86-64."""

    files: list[CFile]
    _open: set[str] = field(default_factory=set)

    @cached_property
    def macros(self) -> dict[str, Macro]:
        """Those without parameters; of several definitions the first."""
        found: dict[str, Macro] = {}
        for file in self.files:
            for match, place in file.finditer(_DEFINE):
                if match[2] is None and match[3].strip():
                    body = " ".join(match[3].replace("\\\n", " ").split())
                    found.setdefault(match[1], Macro(body, place))
        return found

    def text(self, expression: str) -> str | None:
        """A string constant: literals, macros of literals, and several in a row."""
        expression = expression.strip()
        found = _STRING.findall(expression)
        if found and not _STRING.sub("", expression).strip():
            return "".join(found)
        macro = self.macros.get(expression)
        if macro is None or expression in self._open:
            return None
        with _Opened(self._open, expression):
            return self.text(macro.body)

    def number(self, expression: str) -> int | None:
        """An integer constant expression."""
        expression = expression.strip()
        while expression.startswith("(") and enclosed(expression, 0) == expression[1:-1]:
            expression = expression[1:-1].strip()
        request = re.match(r"(_IO|_IOR|_IOW|_IOWR)\s*\(", expression)
        if request is not None:
            return self._request(request[1], enclosed(expression, request.end() - 1))
        expression = re.sub(r"'(\\.|[^'\\])'", _character, expression)
        expression = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", expression)
        expression = re.sub(r"\b0([0-7]+)\b", r"0o\1", expression).replace("/", "//")
        expression = re.sub(r"\bsizeof\s*\(([^()]*)\)", self._sizeof_text, expression)
        try:
            return self._value(ast.parse(expression, mode="eval").body)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
            return None

    def _value(self, node: ast.AST) -> int | None:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name):
            macro = self.macros.get(node.id)
            if macro is None or node.id in self._open:
                return None
            with _Opened(self._open, node.id):
                return self.number(macro.body)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._value(node.operand)
            return None if value is None else -value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = self._value(node.left), self._value(node.right)
            if left is not None and right is not None:
                return _OPERATORS[type(node.op)](left, right)
        return None

    def _sizeof_text(self, match: re.Match[str]) -> str:
        size = self.size(match[1])
        return "unknown" if size is None else str(size)

    def _request(self, kind: str, inside: str) -> int | None:
        arguments = split_arguments(inside)
        if len(arguments) != (2 if kind == "_IO" else 3):
            return None
        magic, number = self.number(arguments[0]), self.number(arguments[1])
        size = 0 if kind == "_IO" else self.size(arguments[2])
        if magic is None or number is None or size is None or size > _LARGEST:
            return None
        return _DIRECTIONS[kind] << 30 | size << 16 | (magic & 0xFF) << 8 | number & 0xFF

    # -- sizes ------------------------------------------------------------------------------

    def size(self, declared: str) -> int | None:
        """sizeof a type, in bytes."""
        laid_out = self._layout(declared.strip())
        return None if laid_out is None else laid_out[0]

    def _layout(self, declared: str) -> tuple[int, int] | None:
        """Size and alignment of a type, `TYPE [N]` and `TYPE *` included."""
        array = re.fullmatch(r"(.*?)\s*\[([^\]]*)\]", declared, re.DOTALL)
        if array is not None:
            element, count = self._layout(array[1]), self.number(array[2])
            return (
                None
                if element is None or count is None or count < 0
                else (element[0] * count, element[1])
            )
        if declared.endswith("*"):
            return 8, 8
        words = [word for word in declared.split() if word not in ("const", "volatile", "__user")]
        if len(words) == 2 and words[0] in ("struct", "union"):
            return self._record(words[0], words[1])
        names = [word.strip("_") if word not in _SIZES else word for word in words]
        if not names or any(name not in _SIZES for name in names):
            return None
        if "long" in names or "short" in names or "char" in names:
            names = [name for name in names if name in ("long", "short", "char")]
        size = _SIZES[names[-1]]
        return size, size

    def _record(self, kind: str, name: str) -> tuple[int, int] | None:
        key = f"{kind} {name}"
        if key in self._open:
            return None
        for file in self.files:
            match = re.search(rf"\b{kind}\s+{name}\s*\{{", file.code)
            if match is None:
                continue
            body = enclosed(file.code, match.end() - 1)
            attributes = file.code[match.end() + len(body) + 1 :].split(";", 1)[0]
            with _Opened(self._open, key):
                return self._members(kind, body, packed="packed" in attributes)
        return None

    def _members(self, kind: str, body: str, *, packed: bool) -> tuple[int, int] | None:
        if "{" in body or "#" in body or "(" in body:
            return None  # nested records, conditions, attributes, function pointers
        end, alignment, largest = 0, 1, 0
        for declaration in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(
                r"((?:(?:struct|union)\s+)?[\w\s]*?\w)\s*\b(\w+(?:\s*\[[^\]]*\])*"
                r"(?:\s*,\s*\w+(?:\s*\[[^\]]*\])*)*)|(.*\*)\s*\w+",
                declaration,
                re.DOTALL,
            )
            if match is None:
                return None
            names = split_arguments(match[2]) if match[2] else ["pointer"]
            for each in names:
                dimensions = "".join(re.findall(r"\[[^\]]*\]", each))
                laid_out = self._layout((match[1] or match[3]) + dimensions)
                if laid_out is None:
                    return None
                size, align = laid_out[0], 1 if packed else laid_out[1]
                alignment, largest = max(alignment, align), max(largest, size)
                end = -(-end // align) * align + size
        size = largest if kind == "union" else end
        return -(-size // alignment) * alignment, alignment


class _Opened:
    """Marks a name while it is looked into, so that a circle ends."""

    def __init__(self, names: set[str], name: str) -> None:
        self._names, self._name = names, name

    def __enter__(self) -> None:
        self._names.add(self._name)

    def __exit__(self, *_: object) -> None:
        self._names.discard(self._name)


def _character(match: re.Match[str]) -> str:
    text = match[1]
    escapes = {r"\0": 0, r"\n": 10, r"\t": 9}
    return str(escapes.get(text, ord(text[-1])))
