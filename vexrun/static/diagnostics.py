"""What compilers and checkers say about a source file, and which of it is about the subject."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from vexrun.kbuild import compiler_warnings

_LOCATED = re.compile(
    r"(?P<path>[^\s:][^:]*):(?P<line>\d+):(?:\d+:)? "
    r"(?:fatal )?(?P<severity>warning|error)(?P<code>\[[\w:]+\])?: (?P<text>.*)"
)
_ENTERING = re.compile(r"make(?:\[\d+\])?: Entering directory '(.*)'")
#: make's own remarks, such as skewed clocks.
_OF_MAKE = re.compile(r"make(?:\[\d+\])?: ")


@dataclass(frozen=True)
class Diagnostic:
    """One remark. `path` is relative to the source tree; '' when no place is named."""

    path: str
    line: int
    severity: str  # warning or error
    text: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}: " if self.path else ""
        return f"{where}{self.severity}: {self.text}"


@dataclass(frozen=True)
class Diagnostics:
    """Remarks about the subject's files, and those about others (kernel headers)."""

    ours: list[Diagnostic]
    others: list[Diagnostic]

    def of(self, severity: str) -> list[str]:
        """Those about the subject, each once, in order."""
        return list(dict.fromkeys(str(each) for each in self.ours if each.severity == severity))


def read_diagnostics(log: str, tree: PurePosixPath) -> Diagnostics:
    """Sort the remarks in a log of make or cargo; `tree` is where the copy of the source was.

    A relative path starts where make was last: in the kernel's build directory up to Linux 6.12,
    in the module's from 6.13 on. make says so with --print-directory.
    """
    ours: list[Diagnostic] = []
    others: list[Diagnostic] = []
    warnings = set(compiler_warnings(log))
    here = str(tree)
    for line in log.splitlines():
        if entering := _ENTERING.fullmatch(line):
            here = entering[1]
        elif found := _LOCATED.match(line):
            path = PurePosixPath(posixpath.normpath(posixpath.join(here, found["path"])))
            inside = path.is_relative_to(tree)
            shown = str(path.relative_to(tree)) if inside else str(path)
            (ours if inside else others).append(
                Diagnostic(shown, int(found["line"]), found["severity"], found["text"])
            )
        elif line.strip() in warnings and not _OF_MAKE.match(line):
            # modpost and objtool name a module or a function, no line.
            text = re.sub(r"(?i)^.*?\bwarning: ", "", line.strip().replace(f"{tree}/", ""))
            ours.append(Diagnostic("", 0, "warning", text))
    return Diagnostics(ours, others)
