"""Foreign text made safe to show: guests print control bytes, escape sequences and broken UTF-8.

Nothing that carries meaning is dropped silently: undecodable bytes and direction overrides
stay visible as backslash escapes, only terminal control is removed.
"""

from __future__ import annotations

import re

# CSI (colours, cursor), OSC (titles, links) and the two-byte escapes, per ECMA-48.
_ESCAPE_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
)
_NEWLINE = re.compile(r"\r+\n?")
# C0 and C1 controls but tab and newline, and the two noncharacters XML 1.0 forbids.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
# Lone surrogates, and the direction overrides that make a line read as something else.
_TO_ESCAPE = re.compile(r"[\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that `surrogateescape` could not decode
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}"


def printable(text: str) -> str:
    """The text with newlines normalised, fit for a terminal, for XML 1.0 and for UTF-8."""
    text = _ESCAPE_SEQUENCE.sub("", text)
    text = _NEWLINE.sub("\n", text)
    text = _CONTROL.sub("", text)
    return _TO_ESCAPE.sub(_escaped, text)


def encodable(text: str) -> str:
    """The text with only lone surrogates escaped: everything else survives for machines."""
    return _SURROGATE.sub(_escaped, text)


def one_line(text: str, limit: int = 300) -> str:
    """The first line that says something, cut at `limit` characters."""
    lines = (line.strip() for line in printable(text).split("\n"))
    line = next((line for line in lines if line), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def paragraph(text: str, limit: int = 2000) -> str:
    """The text as one paragraph, cut at `limit` characters."""
    text = " ".join(printable(text[: 4 * limit]).split())
    return text if len(text) <= limit else text[:limit] + " [… cut, all of it in results.json]"


def shortened(text: str, head: int = 12, tail: int = 28) -> tuple[list[str], int]:
    """The lines of a long text with its middle left out, and how many lines that were.

    The head names what was tried, the tail what went wrong. A left-out middle is marked
    by a line of its own.
    """
    lines = printable(text).rstrip("\n").split("\n")
    left_out = len(lines) - head - tail
    if left_out <= 1:
        return lines, 0
    marker = f"[… {left_out} lines left out, all of them in results.json]"
    return [*lines[:head], marker, *lines[-tail:]], left_out
