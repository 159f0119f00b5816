"""Draws progress events: live on a terminal, plain lines everywhere else.

The only module that knows about width and colour while a run is going on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from vexrun.events import (
    Event,
    KernelEventSeen,
    Note,
    Progress,
    StageFinished,
    StageStarted,
    TestFinished,
    TestStarted,
)
from vexrun.results.model import BAD, Outcome, TestResult

#: Seconds between two plain lines of one stage's progress.
_PLAIN_INTERVAL_S = 10.0


class Display(Protocol):
    """Something that shows events, used as a context manager around a run."""

    def __enter__(self) -> Callable[[Event], None]: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def display_for(console: Console, *, console_log: Callable[[], Path | None]) -> Display:
    """The live display on a terminal, plain lines without one."""
    if console.is_terminal:
        return LiveDisplay(console, console_log)
    return PlainDisplay(console)


class PlainDisplay:
    """One line an event worth one; made for CI logs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._begun = time.monotonic()
        self._last = 0.0

    def __enter__(self) -> Callable[[Event], None]:
        return self.show

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, event: Event) -> None:
        line = self._line(event)
        if line:
            elapsed = time.monotonic() - self._begun
            self.console.print(
                f"{elapsed:7.1f}s  {line}", markup=False, highlight=False, soft_wrap=True
            )

    def _line(self, event: Event) -> str:
        match event:
            case StageStarted():
                self._last = time.monotonic()
                return f"{event.stage}: {event.detail}" if event.detail else event.stage
            case StageFinished():
                state = "done" if event.ok else "FAILED"
                return f"{event.stage} {state} in {event.duration_s:.1f} s"
            case Progress() if time.monotonic() - self._last > _PLAIN_INTERVAL_S:
                self._last = time.monotonic()
                return f"  {event.text}"
            case Note():
                return f"note: {event.text}"
            case KernelEventSeen():
                seen = event.kernel_event
                return f"KERNEL {seen.event_class}: {seen.title}"
            case TestFinished():
                return _test_line(event.result)
            case _:
                return ""


class LiveDisplay:
    """A status line that moves, and permanent lines for what must not be missed."""

    def __init__(self, console: Console, console_log: Callable[[], Path | None]) -> None:
        self.console = console
        self.console_log = console_log
        self._begun = time.monotonic()
        self._stage = ""
        self._stage_begun = self._begun
        self._detail = ""
        self._test = ""
        self._counts: Counter[Outcome] = Counter()
        # Last: it asks for the status line at once.
        self._live = Live(
            console=console, refresh_per_second=4, transient=True, get_renderable=self._status
        )

    def __enter__(self) -> Callable[[Event], None]:
        self._live.__enter__()
        return self.show

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def _status(self) -> Text:
        now = time.monotonic()
        what = self._test or " ".join(part for part in (self._stage, self._detail) if part)
        counts = " ".join(f"{count} {name}" for name, count in self._counts.items())
        line = f"{now - self._begun:6.0f}s  {what} ({now - self._stage_begun:.0f}s)  {counts}"
        return Text(line[: self.console.width - 1], style="cyan")

    def show(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._stage, self._detail = event.stage, event.detail
                self._stage_begun, self._test = time.monotonic(), ""
            case StageFinished():
                colour = "green" if event.ok else "red"
                name = escape(event.stage)
                self.console.print(f"[{colour}]•[/] {name} [dim]{event.duration_s:.1f} s[/]")
            case Progress():
                self._detail = event.text
            case Note():
                self.console.print(f"[yellow]note:[/] {escape(event.text)}")
            case TestStarted():
                self._test, self._stage_begun = event.test_id, time.monotonic()
            case KernelEventSeen():
                seen = event.kernel_event
                self.console.print(f"[bold red]kernel {seen.event_class}:[/] {escape(seen.title)}")
            case TestFinished():
                self._finish_test(event.result)
            case _:
                pass

    def _finish_test(self, result: TestResult) -> None:
        self._counts[result.outcome] += 1
        self._test = ""
        if result.outcome in BAD or result.outcome is Outcome.ERROR:
            self.console.print(f"[red]{escape(_test_line(result))}[/]")
            self._show_console_tail()

    def _show_console_tail(self, lines: int = 8) -> None:
        log = self.console_log()
        if log is None or not log.is_file():
            return
        said = log.read_bytes()[-4000:].decode(errors="replace").splitlines()[-lines:]
        for line in said:
            self.console.print(Text(f"    {line}", style="dim"))


def _test_line(result: TestResult) -> str:
    line = f"{result.outcome.value:<8} {result.id} ({result.duration_s:.1f} s)"
    if result.outcome is Outcome.PASSED or not result.message:
        return line
    return f"{line}: {result.message.splitlines()[0]}"
