"""Reading a Kbuild or Makefile without running it: assignments, conditions, targets.

`make -p` would run `$(shell …)` of a tree that nobody has looked at yet. What is not understood
here (`foreach`, `eval`, included files) expands to nothing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vexrun.scaffold.csource import Place

#: What the kernel's build and make itself define, or users set for reasons of their own.
_ENVIRONMENT = {
    **dict.fromkeys(("src", "obj", "M", "PWD", "CURDIR", "KBUILD_EXTMOD"), "."),
    "KERNELRELEASE": "6.12",
    "VERSION": "6",
    "PATCHLEVEL": "12",
    "SUBLEVEL": "0",
    "CC": "cc",
    "MAKE": "make",
    "ARCH": "x86",
    "SRCARCH": "x86",
}
_NO_SWITCH = re.compile(
    r"(KDIR|KDIRS|KERNEL\w*|KVER|KVERSION|KSRC|KBUILD\w*|LINUX\w*|ARCH|CROSS_COMPILE|LLVM|V|W|C|CC|LD"
    r"|MAKECMDGOALS|MAKEFLAGS|MAKELEVEL|INSTALL\w*|DESTDIR|PREFIX|prefix|O|HOSTCC|CFLAGS|LDFLAGS"
    r"|EXTRA_CFLAGS|SUDO|USER|HOME|OS|UNAME\w*|srctree|objtree|NPROC|JOBS|GIT\w*|PACKAGE\w*)\Z"
)
_ASSIGNMENT = re.compile(
    r"(?:export\s+|override\s+)*((?:[\w.\-/@%+]|\$\([^()]*(?:\([^()]*\)[^()]*)*\)|\$\{[^{}]*\})+)"
    r"\s*(:=|::=|\+=|\?=|=)\s*(.*)",
    re.DOTALL,
)
_TARGET = re.compile(r"([^=:#\t][^=:#]*?)\s*::?(?!=)(.*)", re.DOTALL)
_CONDITION = re.compile(r"(ifdef|ifndef|ifeq|ifneq)\b\s*(.*)", re.DOTALL)
#: Stands for the value of a CONFIG_ variable on the left of an assignment.
UNSET_CONFIG = "@"
_DEPTH = 20
_OPPOSITE = {"1": "0", "0": "1", "y": "n", "n": "y", "yes": "no", "no": "yes"}


@dataclass(frozen=True)
class Switch:
    """A variable that a make file asks for, so that `make VARIABLE=value` builds otherwise."""

    variable: str
    value: str
    place: Place


@dataclass
class Makefile:
    """One evaluated file. Keys of `variables` keep an unset CONFIG_X as `obj-@CONFIG_X`."""

    root: Path
    path: Path  # relative to root
    given: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    targets: dict[str, Place] = field(default_factory=dict)
    switches: dict[str, Switch] = field(default_factory=dict)
    _defaults: set[str] = field(default_factory=set)
    _line: int = 0

    @classmethod
    def read(cls, root: Path, path: Path, given: dict[str, str] | None = None) -> Makefile:
        made = cls(root, path, given or {})
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        made._evaluate(text)
        return made

    @property
    def directory(self) -> Path:
        return self.path.parent

    def words(self, variable: str) -> list[str]:
        return self._lookup(variable, 0).split()

    # -- lines ------------------------------------------------------------------------------

    def _evaluate(self, text: str) -> None:
        holds: list[tuple[bool, bool]] = []  # this branch is taken; one before it was
        in_rule = in_define = False
        for self._line, line in _joined(text):
            stripped = line.split("#", 1)[0].strip() if not line.startswith("\t#") else ""
            taken = all(branch for branch, _ in holds)
            if in_define or stripped.startswith("define "):
                in_define = not stripped.startswith("endef")
                continue
            condition = _CONDITION.match(stripped)
            if condition is not None:
                value = self._condition(condition) if taken else False
                holds.append((value, value))
            elif stripped.startswith("else") and holds:
                outer = all(branch for branch, _ in holds[:-1])
                before = holds[-1][1]
                again = _CONDITION.match(stripped[4:].strip())
                value = outer and not before and (again is None or self._condition(again))
                holds[-1] = (value, before or value)
            elif re.match(r"endif\b", stripped) and holds:
                holds.pop()
            elif line.startswith("\t") and in_rule:
                continue
            elif taken and stripped:
                in_rule = self._statement(stripped, in_rule)

    def _statement(self, line: str, in_rule: bool) -> bool:
        """Returns whether lines that begin with a tab belong to a rule from here on."""
        assignment = _ASSIGNMENT.fullmatch(line)
        if assignment is not None:
            self._assign(*assignment.groups())
            return False
        target = _TARGET.fullmatch(line)
        if target is None:
            return in_rule
        for name in self.expand(target[1]).split():
            self.targets.setdefault(name, self._place())
        return True

    def _place(self) -> Place:
        return Place(self.path, self._line)

    def _assign(self, left: str, sign: str, right: str) -> None:
        config = re.fullmatch(r"(.+)-\$[({](\w+)[)}]", left)
        if config is not None and not self._known(config[2]):
            if config[2].startswith("CONFIG_"):
                name = f"{self.expand(config[1])}-{UNSET_CONFIG}{config[2]}"
            else:
                self._asked_for(config[2], "y")
                return
        else:
            name = self.expand(left)
        if name in self.given:
            return  # the command line goes before the file
        if sign == "?=":
            self._defaults.add(name)
            if name in self.variables:
                return
        value = right if sign in ("=", "?=") else self.expand(right)
        if sign == "+=" and name in self.variables:
            value = f"{self.variables[name]} {value}"
        self.variables[name] = value
        self.places.setdefault(name, self._place())

    # -- conditions -------------------------------------------------------------------------

    def _condition(self, match: re.Match[str]) -> bool:
        word, rest = match[1], match[2].strip()
        if word in ("ifdef", "ifndef"):
            name = self.expand(rest)
            defined = bool(self._lookup(name, 0))
            self._asked_for(name, "1")
            return defined == (word == "ifdef")
        left, right = _compared(rest)
        values = self.expand(left), self.expand(right)
        equal = values[0] == values[1]
        for side, other in ((left, values[1]), (right, values[0])):
            variable = re.fullmatch(r"\$[({](?:strip\s+\$[({])?(\w+)[)}]+", side.strip())
            if variable is not None:
                self._asked_for(variable[1], other or "1")
        return equal == (word == "ifeq")

    def _known(self, name: str) -> bool:
        return name in self.given or name in self.variables or name in _ENVIRONMENT

    def _asked_for(self, name: str, value: str) -> None:
        """Note a switch: unset, or with a default that the command line may replace."""
        if name in self.given or name.startswith("CONFIG_") or _NO_SWITCH.match(name):
            return
        if name in _ENVIRONMENT or (name in self.variables and name not in self._defaults):
            return
        default = self._lookup(name, 0)
        if value == default:
            value = {"1": "0", "y": "n", "yes": "no", "0": "1", "n": "y", "no": "yes"}.get(
                value, ""
            )
        if value:
            self.switches.setdefault(name, Switch(name, value, self._place()))

    # -- expansion --------------------------------------------------------------------------

    def _lookup(self, name: str, depth: int) -> str:
        if name in self.given:
            return self.given[name]
        if name in self.variables:
            return self.expand(self.variables[name], depth + 1)
        return _ENVIRONMENT.get(name, "")

    def expand(self, text: str, depth: int = 0) -> str:
        """The text with its references replaced; what nobody set is empty."""
        if depth > _DEPTH:
            return ""
        parts, position = [], 0
        while (dollar := text.find("$", position)) >= 0:
            parts.append(text[position:dollar])
            following = text[dollar + 1 : dollar + 2]
            if following in ("(", "{"):
                inside = _reference(text, dollar + 1)
                parts.append(self._reference_value(inside, depth))
                position = dollar + len(inside) + 3
            else:
                parts.append("$" if following == "$" else self._lookup(following, depth))
                position = dollar + 2
        return "".join([*parts, text[position:]])

    def _reference_value(self, inside: str, depth: int) -> str:
        function = re.match(r"([a-z-]+)\s+(.*)\Z", inside, re.DOTALL)
        if function is not None:
            return self._call(function[1], _arguments(function[2]), depth)
        substitution = re.fullmatch(r"(\w+):([^=]*)=(.*)", inside, re.DOTALL)
        if substitution is not None:
            old, new = substitution[2], substitution[3]
            if "%" not in old:
                old, new = f"%{old}", f"%{new}"
            return _patsubst(old, new, self._lookup(substitution[1], depth))
        return self._lookup(self.expand(inside, depth + 1), depth)

    def _call(self, name: str, arguments: list[str], depth: int) -> str:
        if name == "if":
            asked = re.fullmatch(r"\$[({](\w+)[)}]", arguments[0].strip())
            if asked is not None:
                self._asked_for(asked[1], "1")
            chosen = 1 if self.expand(arguments[0], depth + 1).strip() else 2
            return self.expand(arguments[chosen], depth + 1) if len(arguments) > chosen else ""
        if name == "wildcard":
            return " ".join(self._wildcard(self.expand(",".join(arguments), depth + 1).split()))
        expanded = [self.expand(argument, depth + 1) for argument in arguments]
        call = _FUNCTIONS.get(name)
        return call(expanded) if call and len(expanded) >= _NEEDED.get(name, 1) else ""

    def _wildcard(self, patterns: list[str]) -> list[str]:
        here = self.root / self.directory
        found = []
        for pattern in patterns:
            relative = PurePosixPath(pattern)
            if not relative.is_absolute() and ".." not in relative.parts:
                found += sorted(str(path.relative_to(here)) for path in here.glob(str(relative)))
        return found


def _joined(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers, those that end in a backslash with the next ones."""
    joined: list[tuple[int, str]] = []
    parts: list[str] = []
    begun = 1
    for number, line in enumerate(text.splitlines(), 1):
        if not parts:
            begun = number
        if line.endswith("\\"):
            parts.append(line[:-1] + " ")
            continue
        joined.append((begun, "".join([*parts, line])))
        parts = []
    return [*joined, (begun, "".join(parts))] if parts else joined


def _compared(text: str) -> tuple[str, str]:
    """Both sides of `(a,b)`, `"a" "b"` or `'a' 'b'`."""
    if text.startswith("("):
        arguments = _arguments(text[1:].rstrip().removesuffix(")"))
        return arguments[0].strip(), (arguments[1].strip() if len(arguments) > 1 else "")
    quoted = re.findall(r'"([^"]*)"|\'([^\']*)\'', text)
    sides = [double or single for double, single in quoted]
    return (sides[0], sides[1]) if len(sides) == 2 else (text, "")


def _reference(text: str, opening: int) -> str:
    """What stands in the brackets that open at `opening`."""
    depth, position = 0, opening
    for position in range(opening, len(text)):
        if text[position] in "({":
            depth += 1
        elif text[position] in ")}":
            depth -= 1
            if depth == 0:
                break
    return text[opening + 1 : position]


def _arguments(text: str) -> list[str]:
    parts, depth, begun = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "({") - (character in ")}")
        if character == "," and depth == 0:
            parts.append(text[begun:position])
            begun = position + 1
    return [*parts, text[begun:]]


def _patsubst(old: str, new: str, text: str) -> str:
    before, _, after = old.partition("%")
    words = []
    for word in text.split():
        matches = word.startswith(before) and word.endswith(after) and "%" in old
        stem = word[len(before) : len(word) - len(after)] if matches else ""
        words.append(new.replace("%", stem, 1) if matches else new if word == old else word)
    return " ".join(words)


def _filtered(arguments: list[str], *, keep: bool) -> str:
    patterns = [pattern.replace("%", "*") for pattern in arguments[0].split()]
    return " ".join(
        word
        for word in arguments[1].split()
        if any(fnmatch.fnmatchcase(word, pattern) for pattern in patterns) == keep
    )


_FUNCTIONS: dict[str, Callable[[list[str]], str]] = {
    "addprefix": lambda a: " ".join(a[0].strip() + word for word in a[1].split()),
    "addsuffix": lambda a: " ".join(word + a[0].strip() for word in a[1].split()),
    "patsubst": lambda a: _patsubst(a[0].strip(), a[1].strip(), a[2]),
    "subst": lambda a: a[2].replace(a[0], a[1]),
    "strip": lambda a: " ".join(a[0].split()),
    "notdir": lambda a: " ".join(word.rpartition("/")[2] for word in a[0].split()),
    "basename": lambda a: " ".join(re.sub(r"\.[^./]*\Z", "", word) for word in a[0].split()),
    "sort": lambda a: " ".join(sorted(set(a[0].split()))),
    "filter": lambda a: _filtered(a, keep=True),
    "filter-out": lambda a: _filtered(a, keep=False),
    "or": lambda a: next((each for each in a if each.strip()), ""),
    "and": lambda a: a[-1] if all(each.strip() for each in a) else "",
}
_NEEDED = {"addprefix": 2, "addsuffix": 2, "patsubst": 3, "subst": 3, "filter": 2, "filter-out": 2}
