"""Progress: plain lines without a terminal, a status line on one, nothing lost on either."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from vexrun.events import (
    Event,
    KernelEventSeen,
    Note,
    Progress,
    StageFinished,
    Stages,
    StageStarted,
    TestFinished,
    TestStarted,
)
from vexrun.progress import LiveDisplay, PlainDisplay, display_for
from vexrun.results.model import KernelEvent, Outcome, TestResult

PASSED = TestResult(id="mount/t.py::test_a", category="mount", outcome=Outcome.PASSED)
FAILED = PASSED.model_copy(update={"outcome": Outcome.FAILED, "message": "EIO [/b]\nmore"})
OOPS = KernelEvent(event_class="oops", title="NULL [deref] in demo_mount")

Show = Callable[..., str]


@pytest.fixture(params=["plain", "live"])
def show(request: pytest.FixtureRequest, tmp_path: Path) -> Show:
    """What a display writes for some events."""

    def shown(*events: Event) -> str:
        stream = StringIO()
        console = Console(file=stream, force_terminal=request.param == "live", width=200)
        log = tmp_path / "console.log"
        log.write_text("[ 1.0] last words [of] the guest\n")
        with display_for(console, console_log=lambda: log) as draw:
            for event in events:
                draw(event)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())

    return shown


def test_a_terminal_gets_the_live_display() -> None:
    plain, live = Console(file=StringIO()), Console(file=StringIO(), force_terminal=True)
    assert isinstance(display_for(plain, console_log=lambda: None), PlainDisplay)
    assert isinstance(display_for(live, console_log=lambda: None), LiveDisplay)


def test_stages_are_told_with_their_time(show: Show) -> None:
    out = show(StageStarted("build", "native"), StageFinished("build", 3.84))
    assert "build" in out
    assert "3.8 s" in out


def test_notes_and_kernel_events_are_told_word_for_word(show: Show) -> None:
    out = show(Note("TCG [because] x"), KernelEventSeen(OOPS))
    assert "TCG [because] x" in out
    assert "NULL [deref] in demo_mount" in out


def test_a_failure_is_told_with_its_first_line(show: Show) -> None:
    out = show(TestStarted(FAILED.id), TestFinished(FAILED))
    assert f"failed   {FAILED.id} (0.0 s): EIO [/b]" in out
    assert "more" not in out


def test_a_failure_on_a_terminal_shows_the_guests_last_words(tmp_path: Path) -> None:
    stream, log = StringIO(), tmp_path / "console.log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    console = Console(file=stream, force_terminal=True, width=200)
    with display_for(console, console_log=lambda: log) as draw:
        draw(TestFinished(PASSED))
        assert "line 99" not in stream.getvalue()
        draw(TestFinished(FAILED))
    assert "line 99" in stream.getvalue()
    assert "line 80" not in stream.getvalue()


def test_plain_lines_have_no_control_characters() -> None:
    stream = StringIO()
    with display_for(Console(file=stream, width=40), console_log=lambda: None) as draw:
        for event in (StageStarted("s", "x" * 100), Progress("p"), TestFinished(FAILED)):
            draw(event)
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 2, "long lines are not wrapped"


# -- stages --------------------------------------------------------------------------------------


def test_a_stage_is_timed_and_a_failed_one_says_so() -> None:
    events: list[Event] = []
    stages = Stages(events.append)
    with stages.stage("build", "native"):
        pass
    with pytest.raises(ZeroDivisionError), stages.stage("build"):
        raise ZeroDivisionError
    finished = [event for event in events if isinstance(event, StageFinished)]
    assert [event.ok for event in finished] == [True, False]
    assert list(stages.durations) == ["build"]
    assert stages.durations["build"] == pytest.approx(sum(event.duration_s for event in finished))
