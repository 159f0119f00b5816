"""From raw bytes to kernel lines.

A serial console mixes firmware, kernel and userspace in one byte stream. A kernel line is known
by its printk timestamp, `[   12.345678] ` with an optional caller `[  T123] `
(CONFIG_PRINTK_CALLER). `dmesg -r` puts `<priority>` before it, and a priority whose facility
(priority >> 3) is not 0 was written by userspace through /dev/kmsg or syslog(3).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

#: A row longer than this is cut. printk records are at most 1024 bytes plus prefix; only
#: userspace and garbage make longer rows.
MAX_ROW = 4096

_STAMP = re.compile(
    r"(?:<(?P<priority>\d{1,4})>)?"
    r"\[ *(?P<seconds>\d{1,10}\.\d{6})\](?:\[ *(?P<caller>[TC]\d{1,10})\])?(?: |$)"
)
# Escape sequences are removed only when complete: half a sequence must not swallow the kernel
# line behind it, hence no `[` as the final byte of a CSI and a bound on OSC strings.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]{0,32}[ -/]{0,4}[@-Z\\-~]"
    r"|\x1b\][^\x07\x1b\[]{0,256}(?:\x07|\x1b\\)"
    r"|\x1b[()#%][0-9A-Za-z]"
    r"|\x1b[=>78DEHMNOZc]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_DIRTY = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\xc2[\x80-\x9f]")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One complete row of the log.

    `offset` is the byte offset in the stream where the kernel's part of the row begins (its
    timestamp), or the row itself when there is none; `text` is the message without prefixes;
    `stamp` the timestamp as printed.
    """

    offset: int
    text: str
    stamp: str = ""
    priority: int | None = None
    caller: str | None = None
    end: int = 0  # offset just behind the row's newline

    @property
    def from_kernel(self) -> bool:
        """Whether the kernel may have written it: stamped, and no userspace facility."""
        return bool(self.stamp) and (self.priority is None or self.priority >> 3 == 0)

    @property
    def seconds(self) -> float:
        return float(self.stamp) if self.stamp else 0.0

    def __str__(self) -> str:
        return f"[{self.stamp:>12}] {self.text}" if self.stamp else self.text


class LineReader:
    """Cuts a byte stream into lines, incrementally and independently of chunk boundaries.

    Of a console only rows with a printk timestamp are returned. In `dmesg` text an unstamped row
    continues the record before it.
    """

    def __init__(self, *, offset: int = 0, console: bool = True) -> None:
        self._offset = offset  # of the first byte of the pending row
        self._pending = bytearray()
        self._skipped = 0  # bytes of an overlong pending row that were not kept
        self._console = console
        self._previous: LogLine | None = None

    def feed(self, data: bytes) -> Iterator[LogLine]:
        """The lines completed by `data`; the iterator must be run to its end."""
        rows = data.split(b"\n")
        rest = rows.pop()
        if rows:
            self._keep(rows[0])
            yield from self._complete(newline=1)
            console = self._console
            for row in itertools.islice(rows, 1, None):
                size = len(row) + 1
                if not console or b"[" in row:
                    yield from self._parse(row[:MAX_ROW], size)
                self._offset += size
        self._keep(rest)

    def finish(self) -> Iterator[LogLine]:
        """The last line, when the stream ended without a newline."""
        if self._pending:
            yield from self._complete(newline=0)

    def _complete(self, newline: int) -> Iterator[LogLine]:
        size = len(self._pending) + self._skipped + newline
        row = bytes(self._pending)
        self._pending.clear()
        self._skipped = 0
        yield from self._parse(row, size)
        self._offset += size

    def _keep(self, data: bytes) -> None:
        room = max(0, MAX_ROW - len(self._pending))
        self._pending += data[:room]
        self._skipped += max(0, len(data) - room)

    def _parse(self, row: bytes, size: int) -> Iterator[LogLine]:
        offset, end = self._offset, self._offset + size
        text = row.decode("utf-8", "replace")
        if _DIRTY.search(row):
            text = _CONTROLS.sub("", _ESCAPES.sub("", text))
        # A program that printed no newline leaves the kernel to start in the middle of its row.
        stamp = _STAMP.search(text) if self._console else _STAMP.match(text)
        if stamp is not None:
            if stamp.start():
                offset += max(row.find(stamp[0].rstrip().encode()), 0)
            self._previous = LogLine(
                offset=offset,
                text=text[stamp.end() :].rstrip(),
                stamp=stamp["seconds"],
                priority=int(stamp["priority"]) if stamp["priority"] else None,
                caller=stamp["caller"],
                end=end,
            )
            yield self._previous
        elif not self._console and self._previous is not None:
            # Whoever wrote the record wrote its further lines.
            yield replace(self._previous, offset=offset, text=text.rstrip(), end=end)
