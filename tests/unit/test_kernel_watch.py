"""What the kernel did during one test: seen through console, log buffer and taint mask."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.process import Completed
from vexrun.target.kernel_watch import KernelWatch
from vexrun.vm.console import ConsoleFollower
from vexrun.vm.kmsg import KmsgFollower

WARNING = "WARNING: CPU: 0 PID: 7 at /b/inode.c:5 demo_mount+0x1/0x2 [demo]"
TAINT_W, TAINT_D, TAINT_P = 1 << 9, 1 << 7, 1 << 0


class FakeGuest:
    """Answers the watch's commands as a shell in a guest would. `ssh` on PATH shows its kmsg."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "ssh_config"
        self.console = directory / "console.log"
        self.buffer = directory / "guest-kmsg"
        self.console.touch()
        self.buffer.touch()
        self.taint = 0
        self.boot_id = "11111111-aaaa"
        self.uptime, self.clock = 100.5, 1_800_000_000.25
        self.canary = True
        self.deaf: set[str] = set()
        self.answer: Completed | Exception | None = None
        self._sequence = 100

    def run(self, command: str, *, timeout_s: float, check: bool = False) -> Completed:
        assert timeout_s > 0
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        if "/proc/sysrq-trigger" in command and self.canary:
            self.kernel("sysrq: HELP : loglevel(0-9) reboot(b) crash(c)")
        state = f"{self.taint}\n{self.boot_id}\n{self.uptime}\n{self.clock}\n"
        for text in re.findall(r"echo '<6>([^']*)' >/dev/kmsg", command):
            self.userspace(text)
        return Completed((command,), 0, state, "")

    def kernel(self, text: str, *, skipped: int = 0, on: str = "console kmsg") -> None:
        """The kernel says something; `skipped` records before it were overwritten."""
        self._sequence += skipped
        self._say(4, text, on)

    def userspace(self, text: str) -> None:
        """Somebody writes to /dev/kmsg: facility 1, whatever was asked for."""
        self._say(14, text, "console kmsg")

    def forge(self, text: str) -> None:
        """Somebody writes to the console itself."""
        self._say(4, text, "console")

    def _say(self, priority: int, text: str, on: str) -> None:
        self._sequence += 1
        seconds = self._sequence / 10
        if "kmsg" in on and "kmsg" not in self.deaf:
            with self.buffer.open("a") as stream:
                stream.write(f"{priority},{self._sequence},{int(seconds * 1e6)},-;{text}\n")
        else:
            self._sequence -= 1
        if "console" in on and "console" not in self.deaf:
            with self.console.open("a") as stream:
                stream.write(f"[{seconds:12.6f}] {text}\r\n")


@pytest.fixture
def guest(tmp_path: Path, programs: Any) -> FakeGuest:
    guest = FakeGuest(tmp_path)
    programs.add("ssh", f"exec tail -s 0.02 -n +1 -f {guest.buffer}")
    return guest


MakeWatch = Callable[..., KernelWatch]


@pytest.fixture
def make_watch(guest: FakeGuest, tmp_path: Path) -> Iterator[MakeWatch]:
    opened: list[Any] = []

    def make(patience: float = 30.0) -> KernelWatch:
        console = ConsoleFollower(guest.console, 0, ["demo"])
        kmsg = KmsgFollower(guest, tmp_path)
        opened.extend([console, kmsg])
        if "kmsg" not in guest.deaf:
            # The stream is there: from now on a wait measures the guest, not this machine.
            guest.kernel("booted", on="kmsg")
            assert kmsg.read_until("booted", 30)[1]
        return KernelWatch(guest, console, kmsg, ["demo"], patience / 20)

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def watch(make_watch: MakeWatch) -> KernelWatch:
    """A watch that has begun."""
    watch = make_watch()
    watch.begin()
    return watch


# -- beginning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deaf", "canary", "words"),
    [
        (set(), False, "log buffer cannot be trusted"),
        ({"kmsg"}, True, "log buffer cannot be trusted"),
        ({"console"}, True, "serial console cannot be trusted"),
    ],
    ids=["no kernel line", "deaf buffer", "deaf console"],
)
def test_a_channel_that_carries_nothing_is_infrastructure(
    guest: FakeGuest, make_watch: MakeWatch, deaf: set[str], canary: bool, words: str
) -> None:
    guest.deaf, guest.canary = deaf, canary
    with pytest.raises(InfrastructureError, match=words):
        make_watch(30.0 if not deaf else 0.5).begin()


def test_what_was_said_before_is_not_the_subjects(guest: FakeGuest, make_watch: MakeWatch) -> None:
    guest.kernel(WARNING)
    guest.taint = TAINT_W
    watch = make_watch()
    watch.begin()
    check = watch.check(10)
    assert (check.events, check.notes, check.log_lost) == ([], [], "")


# -- one test ------------------------------------------------------------------------------------


def test_a_quiet_test_is_clean(watch: KernelWatch, guest: FakeGuest) -> None:
    for _ in range(3):
        guest.kernel("demo: mounted filesystem")
        check = watch.check(10)
        assert (check.events, check.notes, check.log_lost) == ([], [], "")
        assert check.answered
    assert "demo: mounted filesystem" in watch.dmesg


def test_an_event_is_told_once_and_to_the_test_it_happened_in(
    watch: KernelWatch, guest: FakeGuest
) -> None:
    assert watch.check(10).events == []
    guest.kernel(WARNING)
    guest.taint = TAINT_W
    (event,) = watch.check(10).events
    assert event.event_class == "warning"
    assert event.source == "console"
    offset = event.console_offset
    assert offset is not None
    assert guest.console.read_bytes()[offset:].split(b"\r")[0].endswith(WARNING.encode())
    assert watch.check(10).events == []


def test_an_event_the_console_does_not_show_counts(watch: KernelWatch, guest: FakeGuest) -> None:
    """The console's log level hides it, the buffer has it."""
    guest.kernel(WARNING, on="kmsg")
    (event,) = watch.check(10).events
    assert event.console_offset is None


@pytest.mark.parametrize("how", ["forge", "userspace"])
def test_what_userspace_claims_is_a_note_and_no_event(
    watch: KernelWatch, guest: FakeGuest, how: str
) -> None:
    getattr(guest, how)(WARNING)
    check = watch.check(10)
    assert check.events == []
    assert check.log_lost == ""
    assert len(check.notes) == 1
    assert "Userspace printed" in check.notes[0]
    assert "which the kernel did not say" in check.notes[0]


def test_after_an_overflow_the_console_counts(watch: KernelWatch, guest: FakeGuest) -> None:
    guest.kernel("chatter", skipped=500)
    guest.forge(WARNING)  # nobody can tell any more that the kernel did not say so
    check = watch.check(10)
    assert len(check.events) == 1
    assert check.log_lost == "", "the console has it all"
    assert "500 records of the kernel's log buffer were overwritten" in check.notes[0]


@pytest.mark.parametrize(
    ("deaf", "words"),
    [
        ("console", "the serial console did not show the mark"),
        ("kmsg", "the kernel's log buffer did not show the mark"),
    ],
)
def test_a_mark_that_does_not_come_back_is_a_lost_log(
    watch: KernelWatch, guest: FakeGuest, deaf: str, words: str
) -> None:
    guest.deaf = {deaf}
    watch.patience_s = 0.3
    assert words in watch.check(10).log_lost


def test_a_state_that_cannot_be_read_is_not_clean(watch: KernelWatch, guest: FakeGuest) -> None:
    guest.answer = Completed(("x",), 1, "", "sh: cannot open /proc/sys/kernel/tainted\n")
    check = watch.check(10)
    assert "cannot open /proc/sys/kernel/tainted" in check.log_lost


def test_a_guest_that_does_not_answer_leaves_its_console(
    watch: KernelWatch, guest: FakeGuest
) -> None:
    guest.kernel(WARNING)
    guest.answer = TargetLostError("gone")
    check = watch.check(10)
    assert not check.answered
    assert [event.event_class for event in check.events] == ["warning"]


# -- the taint mask and the boot id --------------------------------------------------------------


def test_a_failure_the_kernel_kept_quiet_about_is_an_event(
    watch: KernelWatch, guest: FakeGuest
) -> None:
    guest.taint = TAINT_D
    (event,) = watch.check(10).events
    assert (event.event_class, event.source) == ("silent", "taint")
    assert watch.check(10).events == [], "a bit is sticky"


def test_a_taint_that_an_event_explains_is_not_told_twice(
    watch: KernelWatch, guest: FakeGuest
) -> None:
    guest.kernel(WARNING)
    guest.taint = TAINT_W
    assert [event.event_class for event in watch.check(10).events] == ["warning"]


def test_a_taint_that_is_no_failure_is_a_note(watch: KernelWatch, guest: FakeGuest) -> None:
    guest.taint = TAINT_P
    check = watch.check(10)
    assert check.events == []
    assert check.notes == ["The kernel's taint mask gained 'P' (proprietary module)."]


def test_loading_an_unsigned_out_of_tree_module_is_normal(
    watch: KernelWatch, guest: FakeGuest
) -> None:
    guest.taint = 1 << 12 | 1 << 13
    check = watch.check(10)
    assert (check.events, check.notes) == ([], [])


def test_a_reboot_is_an_event_however_quiet(watch: KernelWatch, guest: FakeGuest) -> None:
    guest.boot_id = "22222222-bbbb"
    assert [event.title for event in watch.check(10).events] == ["the guest rebooted"]


# -- the clock ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("moved", "way"), [(-3600.0, "back"), (3600.0, "forward")])
def test_a_clock_that_was_set_is_an_event(
    watch: KernelWatch, guest: FakeGuest, moved: float, way: str
) -> None:
    guest.clock += moved
    (event,) = watch.check(10).events
    assert event.title == f"the guest's clock was set {way}"
    assert "3600 s against the uptime" in event.excerpt[0]
    assert watch.check(10).events == [], "it is set once"


def test_time_that_passes_is_no_event(watch: KernelWatch, guest: FakeGuest) -> None:
    """Also when it passed all at once: this machine was asleep, and the guest with it."""
    guest.clock += 7200
    guest.uptime += 7200
    assert watch.check(10).events == []


def test_a_shell_that_knows_no_clock_tells_nothing(watch: KernelWatch, guest: FakeGuest) -> None:
    guest.clock = 0
    assert watch.check(10).events == []


# -- in the middle of a test ----------------------------------------------------------------------


def _wait_for_confirmation(watch: KernelWatch) -> bool:
    return any(watch.confirms() or time.sleep(0.05) for _ in range(100))


def test_what_the_kernel_said_is_confirmed_before_the_check(
    watch: KernelWatch, guest: FakeGuest
) -> None:
    assert not watch.confirms()
    guest.kernel(WARNING)
    assert _wait_for_confirmation(watch)
    guest.taint = TAINT_W
    assert [event.event_class for event in watch.check(10).events] == ["warning"]


@pytest.mark.parametrize("how", ["forge", "userspace"])
def test_what_a_process_said_is_not_confirmed(
    watch: KernelWatch, guest: FakeGuest, how: str
) -> None:
    getattr(guest, how)(WARNING)
    guest.kernel("a line behind it, so that it has been read")
    for _ in range(10):
        assert not watch.confirms()
        time.sleep(0.02)
    assert watch.check(10).events == []
