"""Following a guest's serial console: every byte, from the first one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from vexrun.kernel_log import EventClass, KernelLogParser
from vexrun.results.model import KernelEvent

#: Bytes of recent output kept to look for marks in; more than one read, so none slips through.
_KEPT = 4 << 20


class ConsoleFollower:
    """Reads what a console log file gains and finds the kernel events in it.

    `offset` is where this guest's output begins in the file, in bytes.
    """

    def __init__(self, log: Path, offset: int, module_names: Iterable[str]) -> None:
        self.log = log
        self.position = offset
        self.events: list[KernelEvent] = []
        self._parser = KernelLogParser(module_names, offset=offset)
        self._stream = log.open("rb")
        self._stream.seek(offset)
        self._recent = b""

    def poll(self) -> list[KernelEvent]:
        """Read what is new; returns the events whose report is complete."""
        found: list[KernelEvent] = []
        while data := self._stream.read(1 << 20):
            self.position += len(data)
            self._recent = (self._recent + data)[-_KEPT:]
            found += self._parser.feed(data)
        self.events += found
        return found

    def flush(self) -> list[KernelEvent]:
        """`poll`, and also the report that is still open."""
        found = self.poll()
        late = self._parser.flush()
        self.events += late
        return found + late

    @property
    def trouble(self) -> bool:
        """Whether something bad is being printed right now."""
        return self._parser.pending

    @property
    def hanging(self) -> bool:
        """Whether all the trouble there is are tasks and processors that do not come back."""
        classes = {event.event_class for event in self.events}
        if (pending := self._parser.pending_class) is not None:
            classes.add(pending.value)
        return classes == {EventClass.HANG.value}

    def wait_for(self, text: str, timeout_s: float) -> bool:
        """Read on until `text` has been seen among the recent output."""
        wanted = text.encode()
        until = time.monotonic() + timeout_s
        while True:
            self.poll()
            if wanted in self._recent:
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.02)

    def take_events(self, before: str | None = None) -> list[KernelEvent]:
        """The events found since the last call, the open report included.

        With `before`, only those printed before that text; younger ones wait for the next call.
        """
        self.flush()
        limit = self._offset_of(before) if before is not None else None
        taken = [e for e in self.events if limit is None or (e.console_offset or 0) < limit]
        self.events = [event for event in self.events if event not in taken]
        return taken

    def _offset_of(self, text: str) -> int | None:
        """Where recently seen `text` begins in the log file, None when it was not seen."""
        index = self._recent.find(text.encode())
        return None if index < 0 else self.position - len(self._recent) + index

    def tail(self, lines: int = 40) -> str:
        """The last lines seen, for people."""
        return "\n".join(self._recent.decode(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        self._stream.close()
