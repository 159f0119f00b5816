"""Sampled stacks: from the text of `perf script` to folded lines, one stack a line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

#: Samples by stack, the outermost frame first; a frame is `symbol` or `symbol [module]`.
Stacks = Counter[tuple[str, ...]]

#: Where a run with --profile keeps its folded stacks, in the run directory.
SAMPLES = "perf/stacks.folded"
#: What `perf script -F comm,ip,sym,dso` prints for a frame: address, symbol, where it is from.
_FRAME = re.compile(r"^\s+[0-9a-f]+ (?P<symbol>.+?) \((?P<place>[^()]*(?:\([^()]*\))?[^()]*)\)$")
_KERNEL = ("[kernel.kallsyms]", "[guest.kernel.kallsyms]")
#: What a processor runs that has nothing to do.
_IDLE = "swapper"


def read_perf_script(text: str) -> tuple[Stacks, int]:
    """Stacks by their samples, and how many samples were taken of idle processors (left out).

    `text` is the output of `perf script -F comm,ip,sym,dso`: a line with the command, then its
    frames, innermost first, then an empty line.
    """
    stacks: Stacks = Counter()
    idle = 0
    for block in re.split(r"\n\s*\n", text.strip()):
        command, *lines = block.splitlines() or [""]
        command = command.strip()
        frames = [_frame(match) for line in lines if (match := _FRAME.match(line))]
        if not frames:
            continue
        if command == _IDLE:
            idle += 1
            continue
        stacks[(command, *reversed(frames))] += 1
    return stacks, idle


def _frame(match: re.Match[str]) -> str:
    symbol, place = re.sub(r"\+0x[0-9a-f]+$", "", match["symbol"]), match["place"]
    if place in _KERNEL:
        return symbol
    if place.startswith("[") and place.endswith("]") and place != "[unknown]":
        return f"{symbol} {place}"
    return f"{symbol} ({place.rpartition('/')[2]})"


def of_module(frame: str, module: str) -> bool:
    """Whether a frame is a function of this module."""
    return frame.endswith(f" [{module.replace('-', '_')}]")


def fold(stacks: Stacks) -> str:
    """One stack a line, frames joined by ';', then the number of samples; sorted by name."""
    return "".join(
        f"{';'.join(frame.replace(';', ':') for frame in stack)} {count}\n"
        for stack, count in sorted(stacks.items())
    )


def unfold(lines: Iterable[str]) -> Stacks:
    """The stacks `fold` wrote."""
    stacks: Stacks = Counter()
    for line in lines:
        path, _, count = line.rstrip("\n").rpartition(" ")
        if path and count.isdigit():
            stacks[tuple(path.split(";"))] += int(count)
    return stacks
