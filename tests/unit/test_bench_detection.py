"""What `make bench` says about detection: measured from the kernel's line to the blame."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from vexrun.bench_detection import _CANARIES, FirstSight, blamed_after
from vexrun.errors import InfrastructureError
from vexrun.events import Event, Progress, TestFinished
from vexrun.results.model import Outcome, TestResult
from vexrun.selftest import load_canaries


def finished(outcome: Outcome, at: float) -> Event:
    return TestFinished(TestResult(id="mount/t.py::t", category="mount", outcome=outcome), at=at)


def test_latency_ends_with_the_first_test_that_is_blamed() -> None:
    events = [
        Progress("x", at=1.0),
        finished(Outcome.PASSED, 10.5),
        finished(Outcome.CRASHED, 12.0),
        finished(Outcome.FAILED, 13.0),
    ]
    assert blamed_after(10.0, events) == 2.0


@pytest.mark.parametrize("seen", [None, 10.0])
def test_a_canary_that_nobody_noticed_is_no_latency(seen: float | None) -> None:
    events = [finished(Outcome.PASSED if seen else Outcome.CRASHED, 11.0)]
    with pytest.raises(InfrastructureError, match="not noticed"):
        blamed_after(seen, events)


def test_a_line_is_seen_when_it_appears(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    sight = FirstSight(log, re.compile(rb"\] BUG: "))
    thread = threading.Thread(target=sight.watch, daemon=True)
    thread.start()
    log.write_bytes(b"[    1.000000] fine\n[    2.000000] BU")
    time.sleep(0.2)
    assert sight.at is None
    before = time.time()
    with log.open("ab") as stream:
        stream.write(b"G: unable to handle page fault\n")
    thread.join(10)
    assert sight.at is not None
    assert before <= sight.at <= time.time()


def test_a_watch_can_be_given_up(tmp_path: Path) -> None:
    sight = FirstSight(tmp_path / "none", re.compile(b"x"))
    thread = threading.Thread(target=sight.watch, daemon=True)
    thread.start()
    sight.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert sight.at is None


def test_its_canaries_are_in_the_table() -> None:
    rows = {row.name: row for row in load_canaries()}
    assert all("mount" in rows[name].only for name in _CANARIES)
