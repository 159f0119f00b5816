"""Following a guest's console: every byte, wherever a read happens to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vexrun.vm.console import ConsoleFollower

LOGS = Path(__file__).parents[1] / "data" / "logs" / "captured"
BOOT, OOPS = (LOGS / "bug_on-6.12.log").read_bytes().split(b"------------[ cut here", 1)
# From the line that begins the report on: a boot banner would be a second boot.
OOPS = BOOT.rsplit(b"\n", 1)[1] + b"------------[ cut here" + OOPS


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "console.log"
    path.write_bytes(b"boot messages of the snapshot\n")
    return path


@pytest.fixture
def follower(log: Path) -> Iterator[ConsoleFollower]:
    follower = ConsoleFollower(log, log.stat().st_size, ["canaryfs"])
    yield follower
    follower.close()


def say(log: Path, data: bytes) -> None:
    with log.open("ab") as stream:
        stream.write(data)


def test_what_came_before_is_not_this_guests(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(OOPS)
    follower = ConsoleFollower(log, len(OOPS), [])
    assert follower.take_events() == []
    assert follower.tail() == ""
    follower.close()


def test_events_are_found_at_their_offset_in_the_file(log: Path, follower: ConsoleFollower) -> None:
    start = log.stat().st_size
    say(log, OOPS)
    events = follower.take_events()
    assert events
    for event in events:
        assert event.console_offset is not None
        assert event.console_offset >= start
        line = log.read_bytes()[event.console_offset :].split(b"\n")[0]
        assert event.excerpt[0].split("] ", 1)[1].encode() in line
    assert follower.position == log.stat().st_size


@pytest.mark.parametrize("size", [7, 1000])
def test_reads_that_end_anywhere_find_the_same(
    log: Path, follower: ConsoleFollower, size: int
) -> None:
    whole = ConsoleFollower(log, log.stat().st_size, ["canaryfs"])
    for start in range(0, len(OOPS), size):
        say(log, OOPS[start : start + size])
        follower.poll()
    assert follower.take_events() == whole.take_events() != []
    whole.close()


def test_an_event_is_taken_once(log: Path, follower: ConsoleFollower) -> None:
    say(log, OOPS)
    assert follower.take_events()
    assert follower.take_events() == []


def test_a_report_that_is_still_being_printed_is_trouble(
    log: Path, follower: ConsoleFollower
) -> None:
    assert not follower.trouble
    begin = OOPS.index(b"kernel BUG at")
    say(log, OOPS[: OOPS.index(b"\n", begin) + 1])
    assert follower.poll() == []
    assert follower.trouble
    assert len(follower.flush()) == 1, "however little was said"


def test_a_text_split_over_two_reads_is_seen(log: Path, follower: ConsoleFollower) -> None:
    say(log, b"[    1.000000] vexrun-ma")
    follower.poll()
    say(log, b"rk 1\n")
    assert follower.wait_for("vexrun-mark 1", 5)


def test_a_text_is_waited_for_no_longer_than_asked(follower: ConsoleFollower) -> None:
    assert not follower.wait_for("never", 0.05)


def test_the_tail_is_what_a_person_reads(log: Path, follower: ConsoleFollower) -> None:
    say(log, b"one\ntwo\n\xffthree")
    follower.poll()
    assert follower.tail(2) == "two\n\ufffdthree"


HUNG = (LOGS / "hung_task-6.12.log").read_bytes()


def test_a_report_of_a_hang_is_known_before_it_is_complete(
    log: Path, follower: ConsoleFollower
) -> None:
    begins = HUNG.index(b"INFO: task")
    line = HUNG.rindex(b"\n", 0, begins) + 1
    assert not follower.hanging
    say(log, HUNG[line : HUNG.index(b"\n", begins) + 1])
    follower.poll()
    assert follower.trouble
    assert follower.hanging
    follower.flush()
    assert follower.hanging


def test_a_hang_beside_something_worse_is_not_only_a_hang(
    log: Path, follower: ConsoleFollower
) -> None:
    say(log, HUNG[HUNG.rindex(b"\n", 0, HUNG.index(b"INFO: task")) + 1 :] + b"\n" + OOPS)
    follower.poll()
    assert follower.trouble, "the oops is not complete"
    assert not follower.hanging
