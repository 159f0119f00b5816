"""The stream side: chunks, garbage, floods, forgeries, reboots."""

from __future__ import annotations

import itertools
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vexrun.kernel_log import KernelLogParser, confirm, dmesg_covers_from, events_in_dmesg
from vexrun.kernel_log.lines import MAX_ROW, LineReader
from vexrun.results.model import KernelEvent

LOGS = Path(__file__).parent.parent / "data" / "logs"
ALL_LOGS = sorted(LOGS.glob("*/*.log"))
DMESG_LOGS = sorted(LOGS.glob("*/*.dmesg"))
OOPS = b"[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000000\n"


def parse(data: bytes, *modules: str, offset: int = 0) -> list[KernelEvent]:
    parser = KernelLogParser(modules, offset=offset)
    return [*parser.feed(data), *parser.finish()]


fragments = st.sampled_from(
    [
        b"[    1.000001] ",
        b"<4>[    2.000000] ",
        b"<12>",
        b"[   T12] ",
        b"\n",
        b"\r\n",
        b"\0",
        b"\x1b[0m",
        b"\x1b[",
        b"\x1b]0;",
        b"------------[ cut here ]------------",
        b"WARNING: CPU: 0 PID: 1 at fs/a.c:1 f+0x1/0x2 [m]",
        b"BUG: kernel NULL pointer dereference",
        b"Oops: 0002 [#1]",
        b"Kernel panic - not syncing: Fatal exception",
        b"---[ end trace 0 ]---",
        b" f+0x1/0x2 [m]",
        b"RIP: 0010:g+0x1/0x2",
        b"BUG m_cache (Not tainted): Objects remaining in x",
        b"Linux version 6.12",
        b"[    0.000000] ",
        b"\xff\xfe",
        b"\xc2\x9b",
    ]
)
log_like = st.lists(st.one_of(fragments, st.binary(max_size=12)), max_size=60).map(b"".join)


@given(st.one_of(st.binary(max_size=3000), log_like), st.sampled_from(["console", "dmesg"]))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_never_crash_it(data: bytes, source: str) -> None:
    parser = KernelLogParser(["m"], source)
    for event in [*parser.feed(data), *parser.finish()]:
        assert len(event.excerpt) <= 60
        if event.console_offset is not None:
            assert 0 <= event.console_offset < max(len(data), 1)


@given(log_like, st.lists(st.integers(0, 900), max_size=6), st.sampled_from(["console", "dmesg"]))
@settings(max_examples=300, deadline=None)
def test_chunks_do_not_matter(data: bytes, cuts: list[int], source: str) -> None:
    whole = KernelLogParser(["m"], source)
    expected = [*whole.feed(data), *whole.finish()]
    parser = KernelLogParser(["m"], source)
    events: list[KernelEvent] = []
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for start, end in itertools.pairwise(bounds):
        events += parser.feed(data[start:end])
    events += parser.finish()
    assert events == expected
    assert parser.suppressed == whole.suppressed


@cache
def content(log: Path) -> bytes:
    return log.read_bytes()


def module_of(log: Path) -> str:
    return log.stem.rpartition("-")[0]


@cache
def told(log: Path) -> list[KernelEvent]:
    return parse(content(log), module_of(log), "minix")


@given(st.sampled_from(ALL_LOGS), st.data())
@settings(max_examples=120, deadline=None)
def test_a_log_cut_at_any_bytes_gives_the_same_events(log: Path, data: st.DataObject) -> None:
    log_bytes = content(log)
    cuts = data.draw(st.lists(st.integers(0, len(log_bytes)), min_size=1, max_size=4).map(sorted))
    parser = KernelLogParser([module_of(log), "minix"])
    events: list[KernelEvent] = []
    for start, end in itertools.pairwise([0, *cuts, len(log_bytes)]):
        events += parser.feed(log_bytes[start:end])
    assert [*events, *parser.finish()] == told(log)


def edited(data: st.DataObject, log: bytes) -> bytes:
    """The log as a bad line may deliver it: bytes lost, repeated, changed, put in between."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(log)))
        end = at + data.draw(st.integers(0, 300))
        match data.draw(st.sampled_from(["lost", "repeated", "changed", "between", "turned"])):
            case "lost":
                log = log[:at] + log[end:]
            case "repeated":
                log = log[:end] + log[at:]
            case "changed":
                log = log[:at] + data.draw(st.binary(max_size=8)) + log[at + 1 :]
            case "between":
                log = log[:at] + data.draw(fragments) + log[at:]
            case "turned":
                log = log[at:] + log[:at]
    return log


@given(
    st.sampled_from([*ALL_LOGS, *DMESG_LOGS]),
    st.sampled_from(["console", "dmesg"]),
    st.data(),
)
@settings(max_examples=120, deadline=None)
def test_a_damaged_log_never_crashes_it(log: Path, source: str, data: st.DataObject) -> None:
    damaged = edited(data, content(log))
    parser = KernelLogParser([module_of(log)], source)
    for event in [*parser.feed(damaged), *parser.finish()]:
        assert event.title
        assert event.key
        assert 0 < len(event.excerpt) <= 60
        assert len(event.frames) <= 32
        assert bool(event.frames) >= bool(event.module_frame and "__pfx_" not in event.module_frame)
        if event.console_offset is not None:
            row = damaged[event.console_offset :].partition(b"\n")[0]
            assert row.lstrip(b"<0123456789>").startswith(b"[")
        KernelEvent.model_validate_json(event.model_dump_json(by_alias=True))


@given(st.sampled_from(ALL_LOGS), st.data())
@settings(max_examples=80, deadline=None)
def test_what_userspace_prints_between_kernel_lines_changes_nothing(
    log: Path, data: st.DataObject
) -> None:
    rows = content(log).splitlines(keepends=True)
    said = st.sampled_from(
        [
            b"Kernel panic - not syncing: said a program\n",
            b"BUG: kernel NULL pointer dereference\n",
            b"------------[ cut here ]------------\n",
            b"---[ end trace 0000000000000000 ]---\n",
            b" f+0x1/0x2 [minix]\n",
            b"thread 'main' panicked at src/main.rs:1:2:\n",
            b"\n",
        ]
    )
    for _ in range(data.draw(st.integers(1, 8))):
        rows.insert(data.draw(st.integers(0, len(rows))), data.draw(said))
    found = parse(b"".join(rows), module_of(log), "minix")
    assert [event.model_copy(update={"console_offset": 0}) for event in found] == [
        event.model_copy(update={"console_offset": 0}) for event in told(log)
    ]


@given(st.sampled_from(ALL_LOGS), st.sampled_from(ALL_LOGS), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_confirmation_loses_no_event(
    console: Path, dmesg: Path, answered: bool, data: st.DataObject
) -> None:
    said = parse(edited(data, content(console)), module_of(console))
    known = events_in_dmesg(edited(data, content(dmesg)), [module_of(dmesg)])
    merged = confirm(said, known, answered)
    both = len(said) + len(known) - len(merged.events) - len(merged.unconfirmed)
    assert 0 <= both <= min(len(said), len(known))
    for event in known:  # perhaps in the words of the console's copy
        assert any(
            event.key == other.key
            or event.excerpt[0] in other.excerpt
            or other.excerpt[0] in event.excerpt
            for other in merged.events
        )
    if not answered:
        assert merged.unconfirmed == []


@pytest.mark.parametrize("log", ALL_LOGS, ids=lambda log: log.stem)
def test_byte_by_byte_gives_the_same(log: Path) -> None:
    data = log.read_bytes()[:20_000]
    parser = KernelLogParser(["minix"])
    events = [event for i in range(len(data)) for event in parser.feed(data[i : i + 1])]
    assert [*events, *parser.finish()] == parse(data, "minix")


@pytest.mark.parametrize(
    "unit",
    [
        b"[   12.345678] EXT4-fs error (device vda): ext4_lookup:1855: inode #2: bad\n",
        b"[   12.345678] WARNING: CPU: 1 PID: 2 at a.c:1 f+0x1/0x2\n[   12.3] x\n",
        b"[   12.345678] ------------[ cut here ]------------\n",
        b"no newline ever ",
        b"\n",
        b"[    1.000000]" * 500 + b"\n",
        b"[" + b" " * 4000 + b"\n",
        b"\x1b]" * 2000 + b"\n",
    ],
)
def test_a_flood_takes_linear_time_and_bounded_memory(unit: bytes) -> None:
    def cost(size: int) -> float:
        data = unit * (size // len(unit))
        parser = KernelLogParser(["m"])
        started = time.process_time()
        returned = 0
        for at in range(0, len(data), 65536):
            returned += len(parser.feed(data[at : at + 65536]))
        returned += len(parser.finish())
        assert returned <= 5
        return time.process_time() - started

    small, large = cost(250_000), cost(1_000_000)
    assert large < 12 * small + 0.3


def test_an_endless_row_is_cut_and_offsets_stay_right() -> None:
    data = b"x" * (3 * MAX_ROW) + b"\n" + OOPS
    (event,) = parse(data)
    assert event.console_offset == 3 * MAX_ROW + 1


def test_a_kernel_line_behind_an_unfinished_row_of_userspace() -> None:
    (event,) = parse(b"login: \x1b[32mok\x1b[0m " + OOPS)
    assert event.console_offset == len(b"login: \x1b[32mok\x1b[0m ")


@pytest.mark.parametrize("junk", [b"\x1b[", b"\x1b]0;title", b"\0\0", b"\r", b"\x1b"])
def test_broken_escapes_do_not_hide_the_kernel_line(junk: bytes) -> None:
    (event,) = parse(junk + OOPS)
    assert event.event_class == "oops"


def test_offsets_are_absolute_when_started_in_the_middle() -> None:
    (event,) = parse(b"rest of a row\n" + OOPS, offset=1000)
    assert event.console_offset == 1014


def test_an_event_at_the_end_without_newline_is_reported() -> None:
    parser = KernelLogParser()
    assert parser.feed(OOPS.rstrip()) == []
    (event,) = parser.finish()
    assert event.title == "NULL pointer dereference"


def test_pending_and_flush_give_an_event_while_the_log_is_quiet() -> None:
    parser = KernelLogParser()
    assert parser.feed(OOPS) == []
    assert parser.pending
    assert len(parser.flush()) == 1
    assert not parser.pending
    assert parser.finish() == []


def test_repetitions_are_kept_but_bounded() -> None:
    parser = KernelLogParser()
    lines = b"".join(
        b"[%5d.000000] watchdog: BUG: soft lockup - CPU#1 stuck for %ds! [x:1]\n" % (at, at)
        for at in range(30, 3000, 30)
    )
    events = [*parser.feed(lines), *parser.finish()]
    assert len(events) == 5
    assert parser.suppressed == {events[0].key: 94}


# -- who wrote it


@pytest.mark.parametrize(
    "line",
    [
        b"Kernel panic - not syncing: no timestamp\n",
        b"<12>[    6.432124] Kernel panic - not syncing: user facility\n",
        b"[    6.432124] DEBUG: BUG: kernel NULL pointer dereference\n",
        b"[    6.432124] bash: Kernel panic - not syncing: quoted\n",
    ],
)
def test_lines_of_userspace_are_no_events(line: bytes) -> None:
    assert parse(line) == []
    assert events_in_dmesg(line) == []


def test_dmesg_continuation_lines_belong_to_their_writer() -> None:
    user = "<12>[    6.4] x\n<12>[    6.432124] first\nKernel panic - not syncing: second row\n"
    assert events_in_dmesg(user) == []
    kernel = "<0>[    6.432124] Kernel panic - not syncing: real\n Call Trace:\n"
    assert len(events_in_dmesg(kernel)) == 1


REAL = b"[   10.000001] WARNING: CPU: 0 PID: 1 at fs/a.c:1 f+0x1/0x2 [m]\n"
FORGED = b"[   11.000001] Kernel panic - not syncing: forged\n"
BANNER = b"[    0.000000] Linux version 6.12.1 (x)\n"
DMESG = b"<5>" + BANNER + b"<4>" + REAL


def test_a_forged_timestamp_is_unconfirmed_while_the_guest_answers() -> None:
    merged = confirm(parse(REAL + FORGED, "m"), events_in_dmesg(DMESG, ["m"]), True)
    assert [event.title for event in merged.events] == ["WARNING at fs/a.c:1 f"]
    assert merged.events[0].console_offset == 0
    assert [event.title for event in merged.unconfirmed] == ["panic: forged"]


def test_without_the_guest_the_console_stands_alone() -> None:
    merged = confirm(parse(REAL + FORGED, "m"), [], False)
    assert len(merged.events) == 2
    assert merged.unconfirmed == []


def test_an_event_only_in_dmesg_counts() -> None:
    merged = confirm([], events_in_dmesg(DMESG, ["m"]), True)
    assert [event.source for event in merged.events] == ["dmesg"]
    assert merged.events[0].console_offset is None


def test_what_the_ring_buffer_has_lost_cannot_be_refuted() -> None:
    wrapped = b"<6>[   20.000000] something later\n"
    assert dmesg_covers_from(wrapped) == 20.0
    assert dmesg_covers_from(DMESG) == 0.0
    console = parse(REAL, "m")
    merged = confirm(console, [], True, covered_from=dmesg_covers_from(wrapped))
    assert merged.events == console
    assert dmesg_covers_from(b"") == float("inf")
    assert dmesg_covers_from(b"<12>[    1.000000] user only\n") == float("inf")


def test_what_came_after_dmesg_was_read_cannot_be_refuted() -> None:
    console = parse(REAL + FORGED, "m")
    merged = confirm(console, events_in_dmesg(DMESG, ["m"]), True, console_read_to=len(REAL))
    assert len(merged.events) == 2


def test_an_event_printed_again_on_the_console_counts_once() -> None:
    assert len(parse(REAL + b"$ dmesg\n" + REAL, "m")) == 1


# -- boots

BOOT = BANNER + b"".join(b"[    0.%06d] line %d\n" % (n * 37, n) for n in range(1, 40))
BOOT_AGAIN = BANNER + b"".join(b"[    0.%06d] line %d\n" % (n * 41, n) for n in range(1, 40))


def test_a_second_banner_is_a_reboot() -> None:
    (event,) = parse(BOOT + BOOT_AGAIN)
    assert (event.event_class, event.title) == ("silent", "guest rebooted")
    assert event.console_offset == len(BOOT)


def test_a_reboot_at_the_very_end_is_noticed() -> None:
    (event,) = parse(BOOT + BANNER)
    assert event.title == "guest rebooted"


def test_the_first_banner_is_a_reboot_when_started_later() -> None:
    (event,) = parse(BOOT, offset=500)
    assert event.title == "guest rebooted"
    assert event.console_offset == 500


def test_a_log_replayed_on_the_console_is_no_reboot() -> None:
    assert parse(BOOT + b"$ dmesg\n" + BOOT) == []


def test_a_reboot_and_what_came_before_it_stand_against_the_new_dmesg() -> None:
    console = parse(BOOT + REAL + BOOT_AGAIN, "m")
    assert len(console) == 2
    merged = confirm(console, [], True)
    assert merged.events == console


def test_line_reader_reports_prefixes() -> None:
    (line,) = LineReader().feed(b"<6>[   12.345678][   T99] hello \r\n")
    assert (line.text, line.stamp, line.priority, line.caller) == ("hello", "12.345678", 6, "T99")
    assert line.from_kernel
    assert line.seconds == 12.345678


def test_a_panic_is_not_blamed_on_an_unrelated_warning() -> None:
    events = parse(REAL + b"[   11.000000] Kernel panic - not syncing: Attempted to kill init!\n")
    assert [event.title for event in events] == [
        "WARNING at fs/a.c:1 f",
        "panic: Attempted to kill init!",
    ]
