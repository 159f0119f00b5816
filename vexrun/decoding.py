"""Kernel events to source lines: which line of the subject a frame of a call trace is.

The kernel prints `canaryfs_fill_super+0x1f/0xa0 [canaryfs]`. The symbol table of the .ko that was
loaded says where that is (`module_symbols`), its DWARF says which line, and which functions the
compiler inlined there: `addr2line` of the image's own binutils reads it, all addresses in one
call. The source text around each line goes into the results, because the tree will change.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vexrun.errors import BuildFailedError, InfrastructureError, VexrunError
from vexrun.image.namespace import Bind, run_in_root
from vexrun.kernel_log import frames_in
from vexrun.module_file import read_module_file
from vexrun.module_symbols import ModuleSymbols, Place, UndecodableError
from vexrun.results.model import FrameAddress, KernelEvent, Outcome, RunResults, StackFrame

#: Lines of source kept before and behind the line of a frame.
CONTEXT_LINES = 6
MAX_LINE_LENGTH = 240
#: So many times in one run source is kept, about 1 MiB; what floods says no more by then.
MAX_SNIPPETS = 1500
_MAX_SOURCE_BYTES = 8 << 20
_TIMEOUT_S = 300.0
#: Where a run directory keeps the other modules of the build.
SIBLINGS = "siblings"
_FAILED = "The kernel's call traces were not decoded to source lines"

_ADDRESS = re.compile(r"0x[0-9a-f]{16}$|0x[0-9a-f]{8}$")
_LOCATION = re.compile(r"(?P<file>.*):(?P<line>\d+|\?)(?: \(discriminator \d+\))?$")
_MANGLED = re.compile(r"_R[A-Za-z0-9]|_ZN")


@dataclass(frozen=True)
class Line:
    """A function and a source line in it; None where the DWARF does not know."""

    function: str | None
    file: str | None
    line: int | None


#: Innermost first: what was inlined, then what it was inlined into. Absent: nothing is known.
Lines = dict[Place, list[Line]]
FindLines = Callable[[Collection[Place]], Lines]


@dataclass(frozen=True)
class SubjectSource:
    """The subject's tree, and where it was built: DWARF names files by the latter."""

    tree: Path
    built_at: PurePosixPath
    module_dir: str = "."
    _texts: dict[Path, list[str]] = field(default_factory=dict)

    def relative(self, file: str) -> str | None:
        """A file of the DWARF by its path in the subject's tree; None when it is none of it."""
        path = PurePosixPath(posixpath.normpath(self.built_at / self.module_dir / file))
        if not path.is_relative_to(self.built_at):
            return None
        relative = path.relative_to(self.built_at)
        # A relative name may as well be one in the kernel's tree.
        if not file.startswith("/") and not (self.tree / relative).is_file():
            return None
        return str(relative)

    def around(self, file: str, line: int) -> tuple[int, list[str]] | None:
        """The lines around `line` of a file of the tree, and the number of the first of them."""
        text = self._text(self.tree / file)
        if not 1 <= line <= len(text):
            return None
        first = max(1, line - CONTEXT_LINES)
        shown = text[first - 1 : line + CONTEXT_LINES]
        return first, [one[:MAX_LINE_LENGTH] for one in shown]

    def _text(self, path: Path) -> list[str]:
        if path not in self._texts:
            self._texts[path] = self._read(path)
        return self._texts[path]

    def _read(self, path: Path) -> list[str]:
        """The lines of a file; none when it is made by the build, or no file of the tree."""
        try:
            inside = path.resolve(strict=True).is_relative_to(self.tree.resolve())
            if not inside or not path.is_file() or path.stat().st_size > _MAX_SOURCE_BYTES:
                return []
            text = path.read_bytes().decode(errors="replace")
        except (OSError, RuntimeError):  # not there, not readable, a loop of links
            return []
        return [line.removesuffix("\r").expandtabs(8) for line in text.split("\n")]


# ---------------------------------------------------------------- addr2line


def addr2line_of(rootfs: Path, directory: Path) -> FindLines:
    """Asks `addr2line` inside the root filesystem about the modules below `directory`.

    The module is the subject's, so the program that reads it can write nothing and has no
    capability, like its build.
    """

    def find(places: Collection[Place]) -> Lines:
        done = run_in_root(
            rootfs,
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
            + ["sh", "-c", addr2line_script(places, directory, PurePosixPath("/srv"))],
            binds=[Bind(directory, "/srv")],
            readonly=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise InfrastructureError("addr2line failed.", evidence=done.tail(4))
        return read_addr2line(done.stdout, places)

    return find


def _by_section(places: Collection[Place]) -> list[tuple[tuple[Path, str], list[Place]]]:
    sections: dict[tuple[Path, str], list[Place]] = defaultdict(list)
    for place in sorted(places):
        sections[place.ko, place.section].append(place)
    return list(sections.items())


def addr2line_script(places: Collection[Place], directory: Path, seen_at: PurePosixPath) -> str:
    """One shell script for all places; `directory` is visible as `seen_at` to it."""
    lines = ["set -e"]
    for (ko, section), inside in _by_section(places):
        argv = ["addr2line", "-a", "-f", "-i", "-C", "-j", section]
        argv += ["-e", str(seen_at / ko.relative_to(directory).as_posix())]
        lines.append(shlex.join([*argv, *(f"{place.address:#x}" for place in inside)]))
    return "\n".join(lines)


def read_addr2line(output: str, places: Collection[Place]) -> Lines:
    """What the script printed: for each address in turn itself, then pairs of lines."""
    blocks: list[list[str]] = []
    for line in output.splitlines():
        if _ADDRESS.match(line):
            blocks.append([line])
        elif blocks:
            blocks[-1].append(line)
    asked = [place for _, inside in _by_section(places) for place in inside]
    told = [int(block[0], 16) for block in blocks]
    if told != [place.address for place in asked]:
        raise InfrastructureError(
            f"addr2line answered about {len(told)} addresses and was asked about {len(asked)}.",
            evidence="\n".join(output.splitlines()[-4:]),
        )
    found = {
        place: [_line(*pair) for pair in zip(block[1::2], block[2::2], strict=False)]
        for place, block in zip(asked, blocks, strict=True)
    }
    return {place: lines for place, lines in found.items() if any(one.line for one in lines)}


def _line(function: str, location: str) -> Line:
    match = _LOCATION.match(location)
    file = match["file"] if match else "??"
    number = int(match["line"]) if match and match["line"].isdigit() else 0
    known = bool(number) and file not in ("", "??")
    return Line(
        function if function not in ("", "??") else None,
        file if known else None,
        number if known else None,
    )


# ---------------------------------------------------------------- events


def decode_run(
    results: RunResults, directory: Path, source: SubjectSource, find_lines: FindLines
) -> list[str]:
    """Decode all events of a run by the modules kept in its directory; returns notes.

    A test that hung without an event has the stacks of the blocked tasks in its details: the
    lines of those are added there. Never raises: lines are a help to the reader, and the
    findings stand without them.
    """
    events = [
        *results.kernel_events,
        *(event for test in results.tests for event in test.kernel_events),
    ]
    hung = [test for test in results.tests if test.outcome is Outcome.HUNG]
    module = results.module
    if module.file is None or not (events or hung):
        return []
    if module.loaded_srcversion is not None and not module.identity_proven:
        return [f"{_FAILED}: the loaded module is not proven to be the built file."]
    kept = [directory / module.file, *sorted((directory / SIBLINGS).glob("*.ko"))]
    try:
        names = list(_by_name(kept))
        stacks = [
            KernelEvent(event_class="hang", title="", frames=frames_in(test.details, names))
            for test in hung
        ]
        notes = decode_events([*events, *stacks], kept, source, find_lines)
        for test, stack in zip(hung, stacks, strict=True):
            test.details += _source_lines(stack.frames)
        return notes
    except VexrunError as error:
        return [" ".join(part for part in (f"{_FAILED}: {error.message}", error.evidence) if part)]
    except Exception as error:  # noqa: BLE001 - a defect here must not cost the findings
        return [f"{_FAILED}: {type(error).__name__}: {error}"]


def _source_lines(frames: list[StackFrame]) -> str:
    """What is added to stacks: the line of each frame that is known."""
    lines = [f"{frame.file}:{frame.line}  {frame.function}" for frame in frames if frame.line]
    return "\n".join(["", "Source lines of the stacks above:", *lines, ""]) if lines else ""


def decode_events(
    events: Iterable[KernelEvent],
    modules: Iterable[Path],
    source: SubjectSource,
    find_lines: FindLines,
) -> list[str]:
    """Set `frames` and `source_line` of the events; returns a note for each kind of gap.

    `modules` are the .ko files that may have been loaded. Frames that cannot be decoded keep
    what the kernel printed. Raises InfrastructureError when addr2line cannot be asked.
    """
    distinct = list({id(event): event for event in events}.values())
    _map_printed_lines(distinct, source)
    frames = [frame for event in distinct for frame in event.frames]
    if not frames:
        return []
    gaps: Counter[str] = Counter()
    places = _places(frames, list(modules), gaps)
    lines = find_lines(set(places.values())) if places else {}
    for key, place in places.items():
        if place not in lines:
            gaps[f"the DWARF of '{place.ko.name}' knows no line for {_text(key)}"] += 1
    decoder = _Decoder(source, places, lines)
    for event in distinct:
        decoder.decode(event)
    return [
        f"{_frames(count)} of the kernel's call traces could not be decoded to "
        f"source lines: {reason}."
        for reason, count in gaps.items()
    ]


_Key = tuple[str, str, str, FrameAddress]


def _key(frame: StackFrame) -> _Key:
    return (frame.module, frame.function, frame.offset, frame.address)


def _text(key: _Key) -> str:
    module, function, offset, _ = key
    return f"'{function}+{offset} [{module}]'"


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _map_printed_lines(events: Iterable[KernelEvent], source: SubjectSource) -> None:
    """The kernel prints a module's `__FILE__`, which is the path where it was built."""
    for event in events:
        if event.source_line is not None:
            file, _, line = event.source_line.rpartition(":")
            relative = source.relative(file)
            event.source_line = None if relative is None else f"{relative}:{line}"


def _places(
    frames: Iterable[StackFrame], modules: list[Path], gaps: Counter[str]
) -> dict[_Key, Place]:
    """Where each distinct frame is; what cannot be placed is counted by its reason."""
    symbols = _Symbols(modules)
    places: dict[_Key, Place] = {}
    for key in dict.fromkeys(_key(frame) for frame in frames):
        module, function, text, address = key
        offset, size = (int(number, 16) for number in text.split("/"))
        # A return address is behind its call, perhaps on the next line or in the next block.
        if address is not FrameAddress.INSTRUCTION and offset:
            offset -= 1
        try:
            places[key] = symbols.of(module).place(function, offset, size)
        except UndecodableError as reason:
            gaps[reason.message] += 1
    return places


def _by_name(files: Iterable[Path]) -> dict[str, Path]:
    """The .ko files by the names their modules have in a call trace."""
    named = {}
    for path in files:
        try:
            name = read_module_file(path).internal_name or path.stem
        except (BuildFailedError, OSError):
            continue  # a frame in it will say that its module is not there
        named[name.replace("-", "_")] = path
    return named


class _Symbols:
    """The symbols of each module, read when a frame asks for them."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = _by_name(files)
        self._read: dict[str, ModuleSymbols] = {}

    def of(self, module: str) -> ModuleSymbols:
        name = module.replace("-", "_")
        if name not in self._files:
            raise UndecodableError(f"no readable .ko of the module '{module}' was kept")
        if name not in self._read:
            self._read[name] = ModuleSymbols(self._files[name])
        symbols = self._read[name]
        if not symbols.has_lines:
            raise UndecodableError(
                f"'{symbols.ko.name}' has no DWARF (.debug_line): its build strips it, or "
                "compiles without -g"
            )
        return symbols


class _Decoder:
    """Writes what was found into the events."""

    def __init__(self, source: SubjectSource, places: dict[_Key, Place], lines: Lines) -> None:
        self._source = source
        self._places = places
        self._lines = lines
        self._snippets_left = MAX_SNIPPETS

    def decode(self, event: KernelEvent) -> None:
        if not event.frames:
            return
        certain = (f for f in event.frames if f.address is not FrameAddress.GUESS)
        first = next(certain, event.frames[0])
        decoded: list[StackFrame] = []
        for frame in event.frames:
            levels = self._levels(frame)
            decoded += levels
            if frame is first:
                event.source_line = self._line_of_the_subject(levels) or event.source_line
        event.frames = decoded

    def _line_of_the_subject(self, levels: list[StackFrame]) -> str | None:
        """The innermost line that is in the tree: not that of a kernel header's inline."""
        for level in levels:
            if level.file is not None and not level.file.startswith("/"):
                return f"{level.file}:{level.line}"
        return None

    def _levels(self, frame: StackFrame) -> list[StackFrame]:
        """The frame and before it, innermost first, what was inlined into it there."""
        place = self._places.get(_key(frame))
        lines = self._lines.get(place) if place is not None else None
        if not lines:
            return [frame]
        *inlined, outermost = lines
        function = frame.function
        if _MANGLED.match(function) and outermost.function:
            function = outermost.function
        return [
            *(self._located(frame, one, one.function or "??", inlined=True) for one in inlined),
            self._located(frame, outermost, function, inlined=False),
        ]

    def _located(self, frame: StackFrame, at: Line, function: str, *, inlined: bool) -> StackFrame:
        file, snippet = at.file, None
        if at.file is not None and at.line is not None:
            relative = self._source.relative(at.file)
            if relative is not None:
                file = relative
                snippet = self._snippet(relative, at.line)
        return frame.model_copy(
            update={
                "function": function,
                "inlined": inlined,
                "file": file,
                "line": at.line,
                "source_from": snippet[0] if snippet else None,
                "source": list(snippet[1]) if snippet else [],
            }
        )

    def _snippet(self, file: str, line: int) -> tuple[int, list[str]] | None:
        if not self._snippets_left:
            return None
        self._snippets_left -= 1
        return self._source.around(file, line)
