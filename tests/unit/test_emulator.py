"""An oops that the emulator made, told from those that a module makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexrun.kernel_log import KernelLogParser
from vexrun.kernel_log.emulator import trap_that_is_not_there
from vexrun.results.model import KernelEvent

LOGS = Path(__file__).parents[1] / "data" / "logs"
#: The first boot of a guest on a busy machine, QEMU 7.2; memory has a jump there (eb 0a).
STALE = (LOGS / "emulator" / "stale_int3-6.12.log").read_text()


def event_of(text: str) -> KernelEvent:
    parser = KernelLogParser()
    return [*parser.feed(text.encode()), *parser.finish()][0]


def test_a_trap_that_memory_does_not_hold_is_the_emulators() -> None:
    event = event_of(STALE)
    assert event.event_class == "panic"
    assert trap_that_is_not_there(event) == "run_timer_softirq+0xd7/0xf0"


def test_older_kernels_say_it_without_a_word_before() -> None:
    assert trap_that_is_not_there(event_of(STALE.replace("Oops: int3", "int3")))


@pytest.mark.parametrize("trap", ["ba cc <0a>", "cd 03 <0a>"])
def test_a_trap_that_is_in_memory_is_a_finding(trap: str) -> None:
    """A wild jump into the padding between two functions."""
    assert "ca b7 00 eb <0a>" in STALE
    assert not trap_that_is_not_there(event_of(STALE.replace("00 eb <0a>", trap)))


def test_what_the_report_does_not_show_is_a_finding() -> None:
    hidden = STALE.replace("Code: 9f", "Code: Unable to access opcode bytes at 0xffffffff9f")
    assert not trap_that_is_not_there(event_of(hidden))


@pytest.mark.parametrize("log", sorted((LOGS / "captured").glob("*.log")), ids=lambda log: log.stem)
def test_no_other_event_is_laid_at_the_emulators_door(log: Path) -> None:
    parser = KernelLogParser()
    for event in [*parser.feed(log.read_bytes()), *parser.finish()]:
        assert not trap_that_is_not_there(event)
