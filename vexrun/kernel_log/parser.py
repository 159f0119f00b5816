"""Kernel log in, kernel events out, incrementally.

`feed` may be called with any chunks: the events depend only on the bytes. An event is returned
when its report has ended, which the kernel does not always mark; a caller who wants an event
while the log is quiet calls `flush()` (a report may then be cut in two), and everybody calls
`finish()` at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from vexrun.kernel_log.classes import BANNER, CUT_HERE, EventClass, classify, concluded_classes
from vexrun.kernel_log.lines import LineReader, LogLine
from vexrun.kernel_log.report import MAX_GAP_S, Report
from vexrun.results.model import KernelEvent

#: Of one key this many events are returned, and this many in all; the rest is counted.
MAX_PER_KEY = 5
MAX_EVENTS = 500
#: Lines of the first boot remembered to tell a second boot from a replay of the log.
_FINGERPRINT = 48
_REPLAY_LOOK = 16


class KernelLogParser:
    """Finds kernel events in a console (or dmesg) byte stream.

    `module_names` are the subject's modules (`-` and `_` are the same); without any, every
    module's frames count as the subject's. `offset` is the position in the console log of the
    first byte that will be fed: offsets of events are absolute, and with an offset above 0 the
    guest is known to have booted already. Start a new parser after a snapshot restore.

    `suppressed` counts events not returned, by key: repetitions beyond MAX_PER_KEY.
    """

    def __init__(
        self,
        module_names: Iterable[str] = (),
        source: str = "console",
        *,
        offset: int = 0,
    ) -> None:
        self.suppressed: Counter[str] = Counter()
        self.kernel_lines = 0
        self._modules: Collection[str] = frozenset(name.replace("-", "_") for name in module_names)
        self._source = source
        self._reader = LineReader(offset=offset, console=source == "console")
        self._open: Report | None = None
        self._cut: Report | None = None  # a `cut here` inside `_open`, not yet understood
        self._seen: Counter[str] = Counter()
        self._returned = 0
        self._stamps: set[tuple[str, str]] = set()
        self._boot = _BootWatch(already_booted=offset > 0)

    # -- the interface

    def feed(self, data: bytes) -> list[KernelEvent]:
        """Events whose report ended within the bytes so far."""
        events: list[KernelEvent] = []
        for line in self._reader.feed(data):
            if line.from_kernel:
                self._take(line, events)
        return events

    def flush(self) -> list[KernelEvent]:
        """The open report as it stands; call when the log has been quiet for a while."""
        events: list[KernelEvent] = []
        self._close(events)
        return events

    def finish(self) -> list[KernelEvent]:
        """What is left when no more bytes will come."""
        events: list[KernelEvent] = []
        for line in self._reader.finish():
            if line.from_kernel:
                self._take(line, events)
        self._close(events)
        if banner := self._boot.finish():
            self._emit_reboot(banner, events)
        return events

    @property
    def pending(self) -> bool:
        """Whether a report is open: something bad was seen that feed() has not returned yet."""
        return self._open is not None

    @property
    def pending_class(self) -> EventClass | None:
        """Of which class the open report is so far; None when there is none."""
        return None if self._open is None else self._open.event_class

    # -- one kernel line

    def _take(self, line: LogLine, events: list[KernelEvent]) -> None:
        self.kernel_lines += 1
        if self._source == "console":
            self._watch_boot(line, events)
        if line.text.startswith("-") and CUT_HERE.match(line.text):
            self._begin_cut(line, events)
            return
        found = classify(line.text)
        if found is None:
            self._continue(line, events)
            return
        signature, match = found
        groups = match.groupdict()
        report = self._open
        if signature.name == "panic" and report and self._concludes(line, report):
            self._settle_cut()
            report.conclude_with_panic(line)
            return
        if self._cut is not None and report is not None:
            if self._belongs(signature.continues, signature.event_class, report):
                self._settle_cut()
                self._continue_with(line, report)
                return
            cut, self._cut = self._cut, None
            self._close(events)
            self._open = report = cut
        if report is not None:
            if report.signature is None:
                report.add(line)
                report.define(signature, groups)
                return
            if self._belongs(signature.continues, signature.event_class, report):
                self._continue_with(line, report)
                return
            self._close(events)
        self._open = Report(line, self._modules, self._source)
        self._open.define(signature, groups)
        self._open.add(line)
        if signature.single:
            self._close(events)

    def _belongs(self, continues: frozenset[str], event_class: EventClass, report: Report) -> bool:
        """Whether a signature line is a further line of the open report."""
        if report.signature is None or report.terminal:
            return False
        if report.signature.name not in continues:
            return False
        if event_class in (EventClass.OOPS, EventClass.WARNING):
            return not report.ended
        return True

    def _concludes(self, panic: LogLine, report: Report) -> bool:
        """Whether the machine panicked because of the open report."""
        return (
            report.root_class in concluded_classes(panic.text)
            and panic.seconds - report.last.seconds <= MAX_GAP_S
            and not report.terminal
        )

    def _continue_with(self, line: LogLine, report: Report) -> None:
        report.add(line)
        report.ended = False

    def _begin_cut(self, line: LogLine, events: list[KernelEvent]) -> None:
        report = self._open
        if report is None or report.signature is None or self._cut is not None:
            self._close(events)
            self._open = Report(line, self._modules, self._source)
            self._open.add(line)
            return
        self._cut = Report(line, self._modules, self._source)
        self._cut.add(line)

    def _settle_cut(self) -> None:
        if self._cut is not None and self._open is not None:
            self._open.absorb(self._cut)
            self._cut = None

    def _continue(self, line: LogLine, events: list[KernelEvent]) -> None:
        if self._cut is not None:
            if not self._cut.offer(line):
                self._close(events)
        elif self._open is not None and not self._open.offer(line):
            self._close(events)

    # -- finished reports

    def _close(self, events: list[KernelEvent]) -> None:
        reports = [report for report in (self._open, self._cut) if report is not None]
        self._open = self._cut = None
        for report in reports:
            self._emit(report, events)

    def _emit(self, report: Report, events: list[KernelEvent]) -> None:
        key = report.key
        # The same stamp and key: the log was printed again (`dmesg` on the console).
        identity = (report.first.stamp, key)
        if identity in self._stamps:
            return
        if self._seen[key] >= MAX_PER_KEY or self._returned >= MAX_EVENTS:
            self.suppressed[key if len(self.suppressed) < MAX_EVENTS else ""] += 1
            return
        self._seen[key] += 1
        self._stamps.add(identity)
        self._returned += 1
        events.append(report.event())

    def _watch_boot(self, line: LogLine, events: list[KernelEvent]) -> None:
        banner = self._boot.take(line)
        if banner is not None:
            self._close(events)
            self._stamps.clear()
            self._emit_reboot(banner, events)

    def _emit_reboot(self, banner: LogLine, events: list[KernelEvent]) -> None:
        report = Report(banner, self._modules, self._source)
        report.add(banner)
        event = report.event()
        event.event_class = EventClass.SILENT.value
        event.title = "guest rebooted"
        event.key = "rebooted"
        events.append(event)


class _BootWatch:
    """Notices a second boot by its banner, and does not fall for a replayed log.

    `dmesg >/dev/console` prints the old banner again, followed by lines with the very timestamps
    seen before; a new boot has new ones.
    """

    def __init__(self, *, already_booted: bool) -> None:
        self._booted = already_booted
        self._known: set[tuple[str, str]] = set()
        self._banner: LogLine | None = None
        self._looked = 0

    def take(self, line: LogLine) -> LogLine | None:
        """The banner of a second boot, once it is certain."""
        if line.stamp == "0.000000":
            if BANNER.match(line.text):
                if self._booted and self._banner is None:
                    self._banner, self._looked = line, 0
                self._booted = True
            return None
        identity = (line.stamp, line.text)
        if self._banner is None:
            if len(self._known) < _FINGERPRINT:
                self._known.add(identity)
            return None
        if identity in self._known:
            self._banner = None
            return None
        self._looked += 1
        if self._looked < _REPLAY_LOOK:
            return None
        return self.finish()

    def finish(self) -> LogLine | None:
        banner, self._banner = self._banner, None
        if banner is not None:
            self._known.clear()
        return banner


def events_in_dmesg(text: str | bytes, module_names: Iterable[str] = ()) -> list[KernelEvent]:
    """Events in `dmesg -r` output. Records of userspace facilities are ignored.

    The events have no console offset and `source="dmesg"`. An empty or cleared log has no
    events either: ask `dmesg_covers_from` whether this was a log at all.
    """
    parser = KernelLogParser(module_names, source="dmesg")
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return [*parser.feed(data), *parser.finish()]
