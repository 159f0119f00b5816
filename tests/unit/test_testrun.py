"""The session's side of a test process: what becomes of each test, however its process behaves."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun import conversation
from vexrun.categories import CATEGORIES, Category
from vexrun.device.staged import StagedTestRun
from vexrun.errors import InfrastructureError, InterruptedRunError, TargetLostError
from vexrun.events import (
    Event,
    KernelEventSeen,
    MemoryImageKept,
    Stages,
    TestFinished,
    TestsCollected,
    TestStarted,
)
from vexrun.guest.context import RunContext
from vexrun.isolation import Isolation
from vexrun.memory_image.kdump import BadImageError
from vexrun.results.model import BAD, KernelEvent, MemoryImage, Outcome, TestResult
from vexrun.target.hang import HangReport
from vexrun.target.kernel_watch import KernelCheck
from vexrun.testrun import TestRun, not_run

MOUNT, FSOPS, BUILD = CATEGORIES["mount"], CATEGORIES["fsops"], CATEGORIES["build"]
PERF = CATEGORIES["perf"]

#: Speaks the protocol of vexrun.guest.protocol: does the steps it is given, notes the answers.
PROCESS = """
import json, os, signal, sys, time
events = os.fdopen(int(os.environ["VEXRUN_EVENT_FD"]), "w")
answers = os.fdopen(int(os.environ["VEXRUN_ANSWER_FD"]))
steps, heard = json.loads(sys.argv[1]), sys.argv[2]
for step in steps:
    if "event" in step:
        if step["event"] == "finished":
            # A process that is stopped is also ended at once: note the answer first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        events.write(json.dumps(step) + "\\n"); events.flush()
        if step["event"] == "finished":
            answer = answers.readline().strip()
            open(heard, "a").write(f"{step['id']} {answer}\\n")
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if answer != "continue":
                sys.exit(0)
    elif "print" in step:
        print(step["print"], flush=True)
    elif "sleep" in step:
        time.sleep(step["sleep"])
    else:
        os.kill(os.getpid(), step["die"])
"""

Step = dict[str, Any]


def collected(*identifiers: str) -> Step:
    return {"event": "collected", "ids": list(identifiers)}


def started(identifier: str) -> Step:
    return {"event": "started", "id": identifier}


def finished(identifier: str, outcome: str = "passed", message: str = "") -> Step:
    return {
        "event": "finished",
        "id": identifier,
        "outcome": outcome,
        "message": message,
        "details": f"details of {identifier}" if outcome == "failed" else "",
        "duration_s": 0.5,
    }


def whole(identifier: str, outcome: str = "passed", message: str = "") -> list[Step]:
    return [started(identifier), finished(identifier, outcome, message)]


M1, M2, M3 = "mount/t.py::test_1", "mount/t.py::test_2", "mount/t.py::test_3"
F1, B1 = "fsops/t.py::test_1", "build/t.py::test_1"
P1, P2 = "perf/t.py::test_1", "perf/t.py::test_2"

TEARDOWN = "teardown/umount_and_unload"

OOPS = KernelEvent(event_class="oops", title="NULL pointer in demo_mount")


class FakeConsole:
    def __init__(self) -> None:
        self.events: list[KernelEvent] = []
        self.trouble = False
        self.hanging = False

    def poll(self) -> None:
        """Nothing more to read."""


class FakeTarget:
    """A machine whose kernel says what the test wants, when its turn comes."""

    slowdown = 1.0

    def __init__(self, directory: Path) -> None:
        self.console = FakeConsole()
        self.ssh_config = directory / "ssh_config"
        self.restores = 0
        self.end: str | None = None
        self.patience: list[float] = []
        #: What the kernel check after each test says; clean once they are used up.
        self.checks: list[KernelCheck | Exception] = []
        #: What the kernel answers when it is asked about a hang, and what is noticed by itself.
        self.hang_name, self.mute = "", False
        self.noticed: HangReport | None = None
        #: Whether the kernel's own buffer has what the console shows.
        self.believes = True
        #: The machine whose memory can be had, and why.
        self.dead: tuple[Any, str] | None = None
        #: What unmounting and unloading at the very end comes to.
        self.teardown = ("passed", "")

    def disks(self) -> dict[str, str]:
        return {"vexrun-scratch0": "/dev/disk/by-id/virtio-vexrun-scratch0"}

    def ended(self) -> str | None:
        return self.end

    def dead_machine(self) -> tuple[Any, str] | None:
        return self.dead

    def explain_hang(self) -> HangReport:
        return HangReport(self.hang_name, "sysrq: Show Blocked State", self.mute)

    def begin_test(self) -> None:
        """Nothing to note."""

    def believes_trouble(self) -> bool:
        return self.believes and bool(self.console.events or self.console.trouble)

    def notice_hang(self, begun: float, limit_s: float) -> HangReport | None:
        assert begun <= time.monotonic()
        assert limit_s > 0
        return self.noticed

    def check_kernel(self, timeout_s: float) -> KernelCheck:
        assert timeout_s > 0
        self.patience.append(timeout_s)
        check = self.checks.pop(0) if self.checks else KernelCheck()
        if isinstance(check, Exception):
            raise check
        return check

    def umount_and_unload(self) -> tuple[str, str]:
        return self.teardown

    def restore(self) -> None:
        self.restores += 1
        self.end = None
        self.console = FakeConsole()


class Run:
    """A TestRun whose test processes do what `plans` says for the first category of each.

    Processes after the first one of a category do what `later` says, one after the other.
    """

    def __init__(self, directory: Path, context: RunContext, target: FakeTarget | None) -> None:
        self.directory = directory
        self.target = target
        self.plans: dict[str, list[Step]] = {}
        self.later: dict[str, list[list[Step]]] = {}
        self.told_done: list[list[str]] = []  # RunContext.done, by process
        self.events: list[Event] = []
        self.teardown: TestResult | None = None
        self.stages = Stages(self.events.append)
        self.run = TestRun(context, target, directory, self.events.append, self.stages)
        self.run._pytest_argv = self._argv

    def _argv(self, categories: Any) -> list[str]:
        name = categories[0].name
        context = RunContext.model_validate_json((self.directory / "context.json").read_text())
        self.told_done.append(context.done)
        steps = json.dumps(self.plans.pop(name) if name in self.plans else self.later[name].pop(0))
        return [sys.executable, "-I", "-S", "-c", PROCESS, steps, str(self.directory / "heard")]

    def __call__(self, *categories: Category) -> dict[str, TestResult]:
        found = self.run.run(categories)
        tests = {test.id: test for test in found.tests}
        self.teardown = tests.pop(TEARDOWN, None)
        return tests

    @property
    def heard(self) -> list[str]:
        return (self.directory / "heard").read_text().splitlines()


@pytest.fixture
def without_target(tmp_path: Path, make_subject: Callable[..., Any]) -> Run:
    context = RunContext(subject=make_subject(), source=tmp_path, timeouts_s={"build": 0.2})
    return Run(tmp_path, context, None)


@pytest.fixture
def run(tmp_path: Path, make_subject: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(conversation, "_GRACE_AFTER_EVENT_S", 0.2)
    limits = {"mount": 60.0, "fsops": 60.0}
    context = RunContext(subject=make_subject(), source=tmp_path, timeouts_s=limits)
    return Run(tmp_path, context, FakeTarget(tmp_path))


def outcomes(tests: dict[str, TestResult]) -> dict[str, str]:
    return {identifier: test.outcome.value for identifier, test in tests.items()}


@pytest.fixture
def hasty(run: Run) -> Run:
    """As `vexrun test --fail-fast`: any failure is the last thing that happens."""
    run.run.stop_at = lambda result: result.outcome in BAD
    return run


# -- tests that end by themselves ----------------------------------------------------------------


def test_each_test_is_told_as_it_went(run: Run) -> None:
    run.plans["mount"] = [
        collected(M1, M2, M3),
        *whole(M1),
        *whole(M2, "failed", "data differs"),
        *whole(M3, "skipped", "lacks symlinks"),
    ]
    tests = run(MOUNT)
    assert outcomes(tests) == {M1: "passed", M2: "failed", M3: "skipped"}
    assert tests[M2].message == "data differs"
    assert tests[M2].details == f"details of {M2}"
    assert tests[M3].message == "lacks symlinks"
    assert [test.duration_s for test in tests.values()] == [0.5] * 3
    assert [test.category for test in tests.values()] == ["mount"] * 3
    assert run.heard == [f"{each} continue" for each in (M1, M2, M3)]
    assert run.target is not None
    assert run.target.restores == 0
    kinds = [type(event) for event in run.events]
    assert kinds[:7] == [TestsCollected] + [TestStarted, TestFinished] * 3
    assert run.stages.durations["tests: mount"] > 0


def test_the_test_process_is_told_about_the_run(run: Run) -> None:
    run.plans["mount"] = [collected(M1), *whole(M1)]
    run(MOUNT)
    context = RunContext.model_validate_json((run.directory / "context.json").read_text())
    assert context.subject.name == "demo"
    assert context.ssh_config == run.directory / "ssh_config"
    assert list(context.disks) == ["vexrun-scratch0"]


def test_what_the_kernel_loaded_is_remembered(run: Run) -> None:
    loaded = {"event": "module_loaded", "srcversion": "ABC", "build_id": None}
    run.plans["mount"] = [collected(M1), loaded, *whole(M1)]
    run(MOUNT)
    assert run.run.result.module_identity == {"srcversion": "ABC", "build_id": None}


@pytest.mark.parametrize(
    ("told", "plain"),
    [
        ("mount/t.py::test_1[ssh://vexrun-vm]", "mount/t.py::test_1"),
        ("mount/t.py::test_1[ssh://vexrun-vm-rw]", "mount/t.py::test_1[rw]"),
        ("mount/t.py::test_1[rw-ssh://vexrun-vm]", "mount/t.py::test_1[rw]"),
    ],
)
def test_ids_are_without_the_host(run: Run, told: str, plain: str) -> None:
    run.plans["mount"] = [collected(told), *whole(told)]
    assert list(run(MOUNT)) == [plain]


def test_once_a_test_has_hung_the_others_get_less_time(run: Run) -> None:
    """A mount that sleeps took 400 s in each category of an emulated machine."""
    run.run.context.timeouts_s = {"mount": 400.0, "fsops": 400.0, "own": 120.0, "errors": 30.0}
    run.plans["mount"] = [collected(M1), *whole(M1, "hung", "no answer within 400 s")]
    run.plans["fsops"] = [collected(F1), *whole(F1, "hung", "no answer within 120 s")]
    run.plans["perf"] = [collected(P1), *whole(P1)]
    run(MOUNT, FSOPS, PERF)
    limits = {"mount": 120.0, "fsops": 120.0, "own": 60.0, "errors": 30.0}
    assert run.run.context.timeouts_s == limits, "once, not again and again"


# -- beside the tests ----------------------------------------------------------------------------


def test_nothing_goes_on_beside_what_is_measured(run: Run) -> None:
    alone: list[list[str]] = []
    run.run.be_alone = lambda: alone.append([test.id for test in run.run.result.tests])
    run.plans["mount"] = [collected(M1, P1, P2), *whole(M1), *whole(P1), *whole(P2)]
    assert set(run(MOUNT, PERF)) == {M1, P1, P2}
    assert alone[0] == [M1]


def test_a_process_that_begins_with_measuring_waits_as_well(run: Run) -> None:
    alone: list[bool] = []
    run.run.be_alone = lambda: alone.append("perf" in run.plans)
    run.plans["perf"] = [collected(P1), *whole(P1)]
    run(PERF)
    assert alone == [True]


@pytest.mark.parametrize("end", [None, "the machine ended"])
def test_tests_without_a_target_can_come_last_whatever_became_of_it(
    run: Run, end: str | None
) -> None:
    assert run.target is not None
    run.plans["mount"] = [collected(M1), *whole(M1)]
    run(MOUNT)
    run.target.end = end
    run.target.checks = [KernelCheck([OOPS.model_copy()])]
    run.plans["build"] = [collected(B1), *whole(B1)]
    run.run.run_apart([BUILD])
    assert {test.id: test.outcome.value for test in run.run.result.tests} == {
        M1: "passed",
        TEARDOWN: "passed",
        B1: "passed",
    }
    context = RunContext.model_validate_json((run.directory / "context.json").read_text())
    assert context.ssh_config is None


# -- what the kernel did meanwhile ---------------------------------------------------------------


@pytest.mark.parametrize(("outcome", "message"), [("passed", ""), ("failed", "mount: EIO")])
def test_a_kernel_event_makes_it_a_crash_whatever_the_test_says(
    run: Run, outcome: str, message: str
) -> None:
    assert run.target is not None
    run.target.checks = [KernelCheck([OOPS.model_copy()])]
    run.plans["mount"] = [collected(M1), *whole(M1, outcome, message)]
    test = run(MOUNT)[M1]
    assert test.outcome is Outcome.CRASHED
    assert test.message.splitlines() == [OOPS.title, *([message] if message else [])]
    assert [event.test for event in test.kernel_events] == [M1]
    assert run.run.result.kernel_events == test.kernel_events
    assert any(isinstance(event, KernelEventSeen) for event in run.events)


def test_after_a_crash_the_rest_is_not_run_and_the_next_category_begins_clean(run: Run) -> None:
    assert run.target is not None
    run.target.checks = [KernelCheck(), KernelCheck([OOPS.model_copy()])]
    run.plans["mount"] = [
        collected(M1, M2, M3, F1),
        *whole(M1),
        *whole(M2),
        *whole(M3),  # it must never come to this
    ]
    run.plans["fsops"] = [collected(F1), *whole(F1)]
    tests = run(MOUNT, FSOPS)
    assert outcomes(tests) == {M1: "passed", M2: "crashed", M3: "skipped", F1: "passed"}
    assert tests[M3].message == f"not run: the machine broke in '{M2}' ({OOPS.title})"
    assert run.heard == [f"{M1} continue", f"{M2} stop", f"{F1} continue"]
    assert run.target.restores == 1


def test_after_a_crash_in_the_last_category_no_machine_is_started(run: Run) -> None:
    assert run.target is not None
    run.target.checks = [KernelCheck([OOPS.model_copy()])]
    run.plans["mount"] = [collected(M1), *whole(M1)]
    run(MOUNT)
    assert run.target.restores == 0


@pytest.mark.parametrize(
    "check",
    [KernelCheck(log_lost="the mark is gone"), TargetLostError("the mark is gone")],
    ids=["log lost", "target lost"],
)
def test_a_log_that_was_lost_is_never_a_pass(run: Run, check: Any) -> None:
    assert run.target is not None
    run.target.checks = [check]
    run.plans["mount"] = [collected(M1, M2), *whole(M1)]
    tests = run(MOUNT)
    assert outcomes(tests) == {M1: "error", M2: "skipped"}
    assert tests[M1].message == "nothing can be said of this test: the mark is gone"


def test_a_machine_that_did_not_answer_is_replaced_even_after_a_pass(run: Run) -> None:
    assert run.target is not None
    run.target.checks = [KernelCheck(answered=False)]
    run.plans["mount"] = [collected(M1, M2), *whole(M1)]
    assert outcomes(run(MOUNT)) == {M1: "passed", M2: "skipped"}


def test_a_test_may_add_a_note(run: Run) -> None:
    said = {"event": "note", "text": "stress-ng left out a stressor."}
    steps = [collected(M1), started(M1), said, said, finished(M1)]
    run.plans = {"mount": steps}
    run(MOUNT)
    assert run.run.result.notes == ["stress-ng left out a stressor."]


def test_notes_are_kept_once(run: Run) -> None:
    assert run.target is not None
    run.target.checks = [KernelCheck(notes=["taint P"]), KernelCheck(notes=["taint P"])]
    run.plans["mount"] = [collected(M1, M2), *whole(M1), *whole(M2)]
    run(MOUNT)
    assert run.run.result.notes == ["taint P"]


# -- tests that do not end well ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "outcome", "message"),
    [
        ("hung", Outcome.HUNG, "umount took 20 s"),
        ("lost", Outcome.ERROR, "the target was lost: umount took 20 s"),
    ],
)
def test_a_hang_is_not_a_lost_target(run: Run, raw: str, outcome: Outcome, message: str) -> None:
    run.plans["mount"] = [collected(M1, M2, F1), *whole(M1, raw, "umount took 20 s")]
    run.plans["fsops"] = [collected(F1), *whole(F1)]
    tests = run(MOUNT, FSOPS)
    assert (tests[M1].outcome, tests[M1].message) == (outcome, message)
    assert outcomes(tests)[M2] == "skipped"
    assert outcomes(tests)[F1] == "passed"
    assert ("Blocked State" in tests[M1].details) == (raw == "hung")
    assert run.target is not None
    assert run.target.restores == 1


def test_a_test_that_never_ends_is_ended(run: Run) -> None:
    run.run.context.timeouts_s["mount"] = 0.1
    run.plans["mount"] = [collected(M1, M2), started(M1), {"sleep": 60}]
    begun = time.monotonic()
    tests = run(MOUNT)
    assert time.monotonic() - begun < 30
    assert outcomes(tests) == {M1: "hung", M2: "skipped"}
    assert tests[M1].message == "the test did not end within 0 s"
    assert "Blocked State" in tests[M1].details


def test_a_test_without_a_machine_that_never_ends_is_ended(without_target: Run) -> None:
    without_target.plans["build"] = [collected(B1), started(B1), {"sleep": 60}]
    assert outcomes(without_target(BUILD)) == {B1: "hung"}


@pytest.mark.parametrize("sign", ["events", "trouble"])
def test_after_a_kernel_event_a_test_has_little_time_left(run: Run, sign: str) -> None:
    target = run.target
    assert target is not None
    setattr(target.console, sign, [OOPS] if sign == "events" else True)
    target.checks = [KernelCheck([OOPS.model_copy()])]
    run.plans["mount"] = [collected(M1), started(M1), {"sleep": 60}]
    test = run(MOUNT)[M1]
    assert test.outcome is Outcome.CRASHED
    assert test.message == f"{OOPS.title} (the test did not end after the kernel event)"


def test_what_only_a_process_wrote_on_the_console_ends_no_test(run: Run) -> None:
    target = run.target
    assert target is not None
    target.console.events, target.believes = [OOPS], False
    run.plans["mount"] = [collected(M1), started(M1), {"sleep": 1.0}, finished(M1)]
    assert outcomes(run(MOUNT)) == {M1: "passed"}


def test_a_hang_that_is_noticed_is_not_waited_for(run: Run) -> None:
    target = run.target
    assert target is not None
    target.noticed = HangReport("livelock: CPU 1 runs in demo_mount", "stacks")
    run.plans["mount"] = [collected(M1, M2), started(M1), {"sleep": 60}]
    tests = run(MOUNT)
    assert outcomes(tests) == {M1: "hung", M2: "skipped"}
    assert tests[M1].message == "livelock: CPU 1 runs in demo_mount (after 0 s)"
    assert tests[M1].details == "stacks"


def test_a_hang_is_called_by_its_name(run: Run) -> None:
    assert run.target is not None
    run.target.hang_name = "asleep: 'mount' waits in demo_mount"
    run.plans["mount"] = [collected(M1), *whole(M1, "hung", "no answer within 20 s")]
    message = run(MOUNT)[M1].message
    assert message == "asleep: 'mount' waits in demo_mount (no answer within 20 s)"


@pytest.mark.parametrize("mute", [False, True])
def test_a_mute_guest_is_not_waited_for_again(run: Run, mute: bool) -> None:
    assert run.target is not None
    run.target.mute = mute
    run.plans["mount"] = [collected(M1), *whole(M1, "hung", "no answer within 20 s")]
    run(MOUNT)
    assert run.target.patience[0] == (conversation._MUTE_CHECK_S if mute else 60.0)


def test_what_the_kernel_says_after_a_failed_category_is_not_lost(run: Run) -> None:
    assert run.target is not None
    run.target.checks = [KernelCheck(), KernelCheck(), KernelCheck([OOPS.model_copy()])]
    run.plans["mount"] = [collected(M1, M2, F1), *whole(M1, "failed", "x"), *whole(M2)]
    run.plans["fsops"] = [collected(F1), *whole(F1)]
    tests = run(MOUNT, FSOPS)
    late = tests["teardown/after_mount"]
    assert (late.outcome, late.message) == (Outcome.CRASHED, OOPS.title)
    assert [event.test for event in run.run.result.kernel_events] == [late.id]


def test_a_panic_in_the_middle_of_a_test_ends_it(run: Run) -> None:
    assert run.target is not None
    run.target.end = "the guest kernel panicked (pvpanic)"
    run.target.checks = [KernelCheck([OOPS.model_copy()], answered=False)]
    run.plans["mount"] = [collected(M1, M2, F1), started(M1), {"sleep": 60}]
    run.plans["fsops"] = [collected(F1), *whole(F1)]
    tests = run(MOUNT, FSOPS)
    assert outcomes(tests) == {M1: "crashed", M2: "skipped", F1: "passed"}
    assert "panicked (pvpanic)" in tests[M1].message
    assert tests[M1].details == "", "a dead kernel explains no hang"


def test_a_test_process_that_dies_is_nobodys_failure(run: Run) -> None:
    run.plans["mount"] = [collected(M1, M2, F1), *whole(M1), started(M2), {"die": 9}]
    run.plans["fsops"] = [collected(F1), *whole(F1)]
    tests = run(MOUNT, FSOPS)
    assert outcomes(tests) == {M1: "passed", M2: "error", F1: "passed"}
    assert "test process ended in the middle" in tests[M2].message


def test_a_test_process_that_dies_with_the_kernel_is_the_kernels_crash(run: Run) -> None:
    assert run.target is not None
    run.target.checks = [KernelCheck([OOPS.model_copy()])]
    run.plans["mount"] = [collected(M1), started(M1), {"die": 9}]
    assert run(MOUNT)[M1].outcome is Outcome.CRASHED


# -- the memory of a kernel that died --------------------------------------------------------------


class FakeImages:
    """Takes images, or fails as it is told."""

    def __init__(self, run: Run, error: Exception | None = None) -> None:
        self.run, self.error = run, error
        self.told_before: list[str] = []

    def take(self, machine: object, why: str, test: str) -> MemoryImage:
        assert machine == "the machine"
        self.told_before = [e.result.id for e in self.run.events if isinstance(e, TestFinished)]
        if self.error is not None:
            raise self.error
        return MemoryImage(
            file="core-1.kdump",
            test=test,
            why=why,
            size_mib=95.0,
            taken_in_s=5.0,
            read_in_s=2.0,
            report="CPU 0",
        )


def panics(run: Run, error: Exception | None = None) -> FakeImages:
    assert run.target is not None
    images = FakeImages(run, error)
    run.run.images = images  # type: ignore[assignment]
    run.target.end = "the guest kernel panicked (pvpanic)"
    run.target.dead = ("the machine", "the guest kernel panicked (pvpanic)")
    run.target.checks = [KernelCheck([OOPS.model_copy()], answered=False)]
    run.plans["mount"] = [collected(M1, M2), started(M1), {"sleep": 60}]
    return images


def test_a_dead_kernels_memory_is_kept_when_its_test_has_been_judged(run: Run) -> None:
    images = panics(run)
    assert outcomes(run(MOUNT)) == {M1: "crashed", M2: "skipped"}
    assert images.told_before == [M1]
    (kept,) = run.run.result.memory_images
    assert (kept.test, kept.why) == (M1, "the guest kernel panicked (pvpanic)")
    assert [e.image for e in run.events if isinstance(e, MemoryImageKept)] == [kept]
    assert run.stages.durations["memory image"] >= 0


@pytest.mark.parametrize(
    "error",
    [
        InfrastructureError("QEMU had not written it after 60 s"),
        TargetLostError("QEMU did not answer"),
        BadImageError("the file QEMU wrote ends in the middle"),
        OSError(28, "No space left on device"),
    ],
)
def test_an_image_that_cannot_be_had_is_a_note(run: Run, error: Exception) -> None:
    panics(run, error)
    assert outcomes(run(MOUNT)) == {M1: "crashed", M2: "skipped"}
    assert run.run.result.memory_images == []
    assert run.run.result.notes == [f"No memory image was kept after '{M1}': {error}."]


def test_an_interrupt_is_none_of_its_failures(run: Run) -> None:
    panics(run, InterruptedRunError("SIGINT"))
    with pytest.raises(InterruptedRunError):
        run(MOUNT)
    assert [test.id for test in run.run.result.tests] == [M1], "what was found is kept"


def test_a_kernel_that_dies_at_the_very_end_leaves_its_memory_too(run: Run) -> None:
    assert run.target is not None
    images = FakeImages(run)
    run.run.images = images  # type: ignore[assignment]
    run.target.dead = ("the machine", "the guest is mute")
    run.target.checks = [KernelCheck(), KernelCheck([OOPS])]
    run.plans["mount"] = [collected(M1), *whole(M1)]
    run(MOUNT)
    assert [kept.test for kept in run.run.result.memory_images] == [TEARDOWN]


def test_without_images_nobody_asks_for_the_machine(run: Run) -> None:
    panics(run)
    run.run.images = None
    run(MOUNT)
    assert run.run.result.memory_images == []


# -- a clean machine for each test, or only one ---------------------------------------------------


@pytest.fixture
def isolated(run: Run) -> Run:
    run.run.isolation = Isolation.TEST
    return run


def test_each_test_may_have_a_machine_of_its_own(isolated: Run) -> None:
    isolated.plans["build"] = [collected(B1, M1, M2, F1), *whole(B1), *whole(M1), *whole(M2)]
    isolated.later["mount"] = [[collected(M2, F1), *whole(M2), *whole(F1)]]
    isolated.plans["fsops"] = [collected(F1), *whole(F1)]
    assert outcomes(isolated(BUILD, MOUNT, FSOPS)) == dict.fromkeys((B1, M1, M2, F1), "passed")
    # What needs no machine goes on in one process; the last one is torn down as always.
    assert isolated.heard == [f"{B1} continue", *(f"{each} stop" for each in (M1, M2, F1))]
    assert isolated.told_done == [[], [B1, M1], [B1, M1, M2]]
    assert isolated.target is not None
    assert isolated.target.restores == 2
    assert isolated.run.result.restores.count == 2
    assert isolated.teardown is not None
    assert isolated.teardown.outcome is Outcome.PASSED


def test_a_crash_costs_one_test_where_each_has_its_machine(isolated: Run) -> None:
    assert isolated.target is not None
    isolated.target.checks = [KernelCheck([OOPS.model_copy()])]
    isolated.plans["mount"] = [collected(M1, M2, M3), *whole(M1)]
    isolated.later["mount"] = [
        [collected(M2, M3), started(M2), {"die": 9}],
        [collected(M3), *whole(M3, "hung", "20 s")],
    ]
    assert outcomes(isolated(MOUNT)) == {M1: "crashed", M2: "error", M3: "hung"}
    assert isolated.target.restores == 2
    assert isolated.teardown is None


def test_what_a_test_leaves_behind_is_its_own_where_each_has_its_machine(isolated: Run) -> None:
    assert isolated.target is not None
    isolated.target.checks = [KernelCheck(), KernelCheck([OOPS.model_copy()])]
    isolated.plans["mount"] = [collected(M1, M2), *whole(M1)]
    isolated.later["mount"] = [[collected(M2), *whole(M2)]]
    tests = isolated(MOUNT)
    late = tests.pop(f"teardown/after_{M1}")
    assert (late.outcome, late.category) == (Outcome.CRASHED, "teardown")
    assert outcomes(tests) == {M1: "passed", M2: "passed"}


@pytest.fixture
def on_one_machine(run: Run) -> Run:
    run.run.isolation = Isolation.NONE
    return run


def test_a_machine_may_be_kept_whatever_happens_to_its_kernel(on_one_machine: Run) -> None:
    run = on_one_machine
    assert run.target is not None
    run.target.checks = [KernelCheck([OOPS.model_copy()])]
    run.plans["mount"] = [
        collected(M1, M2, F1),
        *whole(M1),
        *whole(M2, "failed", "x"),
        *whole(F1),
    ]
    assert outcomes(run(MOUNT, FSOPS)) == {M1: "crashed", M2: "failed", F1: "passed"}
    assert run.target.restores == 0
    assert run.teardown is None, "what a broken kernel says last is the same event's doing"


def test_a_machine_that_is_kept_is_torn_down(on_one_machine: Run) -> None:
    on_one_machine.plans["mount"] = [collected(M1, M2), *whole(M1, "failed", "x"), *whole(M2)]
    on_one_machine(MOUNT)
    assert on_one_machine.teardown is not None


@pytest.mark.parametrize("how", ["dead", "hung", "lost", "abandoned"])
def test_without_another_machine_nothing_is_run_after_it_is_lost(
    on_one_machine: Run, how: str
) -> None:
    run = on_one_machine
    assert run.target is not None
    if how == "dead":
        run.target.checks = [KernelCheck([OOPS.model_copy()], answered=False)]
        steps = whole(M1)
    elif how == "abandoned":
        run.target.noticed = HangReport("livelock: CPU 1 runs in demo_mount")
        steps = [started(M1), {"sleep": 60}]
    else:
        steps = whole(M1, how, "20 s")
    run.plans["mount"] = [collected(M1, M2, F1), *steps]
    tests = run(MOUNT, FSOPS, CATEGORIES["own"])
    assert [test.outcome.value for test in tests.values()][1:] == ["skipped"] * 3
    assert list(tests) == [M1, M2, F1, "own/"]
    for skipped in (M2, F1, "own/"):
        assert tests[skipped].message.startswith(f"not run: the machine broke in '{M1}' (")
        assert tests[skipped].message.endswith("with --isolation none there is no other")
    assert run.target.restores == 0
    assert run.teardown is None


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("outcome", ["failed", "hung"])
def test_a_hasty_run_is_as_hasty_whatever_the_isolation(
    run: Run, isolation: Isolation, outcome: str
) -> None:
    run.run.isolation = isolation
    run.run.stop_at = lambda result: result.outcome in BAD
    run.plans["mount"] = [collected(M1, M2, F1), *whole(M1, outcome, "x")]
    tests = run(MOUNT, FSOPS)
    lost = isolation is Isolation.NONE and outcome == "hung"
    assert list(tests) == [M1, M2, F1 if lost else "fsops/"]
    assert [test.outcome.value for test in tests.values()] == [outcome, "skipped", "skipped"]
    assert run.target is not None
    assert run.target.restores == 0


def test_a_test_without_a_machine_ends_no_machine(on_one_machine: Run) -> None:
    run = on_one_machine
    run.run.context.timeouts_s["build"] = 0.1
    run.plans["build"] = [collected(B1, M1), started(B1), {"sleep": 60}]
    run.plans["mount"] = [collected(M1), *whole(M1)]
    assert outcomes(run(BUILD, MOUNT)) == {B1: "hung", M1: "passed"}


# -- a clean machine for the next category -------------------------------------------------------


def test_a_category_that_failed_leaves_no_mess_to_the_next(run: Run) -> None:
    run.plans["mount"] = [
        collected(M1, M2, F1),
        *whole(M1, "failed", "x"),
        *whole(M2),
        *whole(F1),  # not on this machine
    ]
    run.plans["fsops"] = [collected(F1), *whole(F1)]
    assert outcomes(run(MOUNT, FSOPS)) == {M1: "failed", M2: "passed", F1: "passed"}
    assert run.heard == [f"{M1} continue", f"{M2} stop", f"{F1} continue"]
    assert run.target is not None
    assert run.target.restores == 1


def test_a_category_that_passed_hands_its_machine_on(run: Run) -> None:
    run.plans["mount"] = [collected(M1, F1), *whole(M1), *whole(F1)]
    run(MOUNT, FSOPS)
    assert run.target is not None
    assert run.target.restores == 0


def test_a_failure_without_a_machine_restarts_nothing(run: Run) -> None:
    run.plans["build"] = [collected(B1, M1), *whole(B1, "failed", "x"), *whole(M1)]
    assert outcomes(run(BUILD, MOUNT)) == {B1: "failed", M1: "passed"}
    assert run.target is not None
    assert run.target.restores == 0


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "check", "outcome", "message"),
    [
        (("passed", ""), KernelCheck(), Outcome.PASSED, ""),
        (("failed", "rmmod: in use"), KernelCheck(), Outcome.FAILED, "rmmod: in use"),
        (("passed", ""), KernelCheck([OOPS]), Outcome.CRASHED, OOPS.title),
        (("hung", "20 s"), KernelCheck(), Outcome.HUNG, "20 s"),
        (("lost", "gone"), KernelCheck(), Outcome.ERROR, "the target was lost: gone"),
    ],
    ids=["clean", "still in use", "late oops", "hangs", "lost"],
)
def test_unmounting_and_unloading_at_the_end_is_judged_too(
    run: Run, ended: tuple[str, str], check: KernelCheck, outcome: Outcome, message: str
) -> None:
    assert run.target is not None
    run.target.teardown = ended
    run.target.checks = [KernelCheck(), check]
    run.plans["mount"] = [collected(M1), *whole(M1)]
    assert outcomes(run(MOUNT)) == {M1: "passed"}
    assert run.teardown is not None
    assert (run.teardown.outcome, run.teardown.message) == (outcome, message)
    assert run.teardown.category == "teardown", "no selected category may live on it"
    assert [event.title for event in run.run.result.kernel_events] == [
        event.title for event in check.events
    ]


def test_without_a_guest_there_is_nothing_to_tear_down(run: Run, without_target: Run) -> None:
    for each in (run, without_target):
        each.plans["build"] = [collected(B1), *whole(B1)]
        each(BUILD)
        assert each.teardown is None


def test_a_machine_that_broke_is_not_torn_down(run: Run) -> None:
    assert run.target is not None
    run.target.checks = [KernelCheck([OOPS.model_copy()])]
    run.plans["mount"] = [collected(M1), *whole(M1)]
    run(MOUNT)
    assert run.teardown is None


# -- a process that tells too little -------------------------------------------------------------


@pytest.mark.parametrize("steps", [[], [collected()]], ids=["nothing said", "none collected"])
def test_no_test_at_all_is_an_error_with_what_pytest_said(run: Run, steps: list[Step]) -> None:
    run.plans["mount"] = [{"print": "ERROR: file not found"}, *steps]
    with pytest.raises(InfrastructureError, match="ran no test at all") as caught:
        run(MOUNT)
    assert "ERROR: file not found" in caught.value.evidence


def test_tests_that_were_collected_and_forgotten_are_an_error(run: Run) -> None:
    run.plans["mount"] = [collected(M1, M2, M3), *whole(M1), {"print": "INTERNALERROR"}]
    with pytest.raises(InfrastructureError, match="with 2 tests not run") as caught:
        run(MOUNT)
    assert "INTERNALERROR" in caught.value.evidence
    assert [test.id for test in run.run.result.tests] == [M1], "what was found is kept"


def test_a_collection_that_fails_is_an_error_with_its_text(run: Run) -> None:
    failed = {"event": "collection_failed", "where": "mount/t.py", "text": "SyntaxError: x"}
    run.plans["mount"] = [failed, {"sleep": 60}]
    with pytest.raises(InfrastructureError, match=r"'mount/t\.py' cannot be collected") as caught:
        run(MOUNT)
    assert caught.value.evidence == "SyntaxError: x"


# -- categories that never began -----------------------------------------------------------------


def test_categories_that_could_not_begin_are_skipped_with_the_reason() -> None:
    tests = not_run([MOUNT, FSOPS], "the module did not build")
    assert [test.category for test in tests] == ["mount", "fsops"]
    assert {test.outcome for test in tests} == {Outcome.SKIPPED}
    assert {test.message for test in tests} == {"the module did not build"}


# -- --fail-fast ---------------------------------------------------------------------------------


def test_nothing_is_run_after_the_first_failure(hasty: Run) -> None:
    hasty.plans["mount"] = [collected(M1, M2, M3, F1), *whole(M1), *whole(M2, "failed"), *whole(M3)]
    tests = hasty(MOUNT, FSOPS)
    assert outcomes(tests) == {M1: "passed", M2: "failed", M3: "skipped", "fsops/": "skipped"}
    assert hasty.heard == [f"{M1} continue", f"{M2} stop"]
    assert M2 in tests["fsops/"].message
    assert hasty.teardown is None
    assert hasty.target is not None
    assert hasty.target.restores == 0, "a clean machine for nothing"


def test_a_crash_is_a_first_failure_too(hasty: Run) -> None:
    assert hasty.target is not None
    hasty.plans["mount"] = [collected(M1, M2, F1), *whole(M1), *whole(M2)]
    hasty.target.checks = [KernelCheck(events=[OOPS])]
    assert outcomes(hasty(MOUNT, FSOPS)) == {M1: "crashed", M2: "skipped", "fsops/": "skipped"}
    assert hasty.target.restores == 0


def test_without_a_failure_haste_changes_nothing(hasty: Run) -> None:
    hasty.plans["mount"] = [collected(M1, M2), *whole(M1), *whole(M2, "skipped", "lacks it")]
    assert outcomes(hasty(MOUNT)) == {M1: "passed", M2: "skipped"}
    assert hasty.teardown is not None
    assert hasty.teardown.outcome is Outcome.PASSED


# -- on a device -----------------------------------------------------------------------------------


class FakeDevice(FakeTarget):
    keep_disk = False

    def claim(self) -> None:
        """Nothing to claim."""


@pytest.fixture
def staged(tmp_path: Path, make_subject: Callable[..., Any]) -> Run:
    limits = {"mount": 60.0, "fsops": 60.0}
    context = RunContext(subject=make_subject(), source=tmp_path, timeouts_s=limits)
    target = FakeDevice(tmp_path)
    made = Run(tmp_path, context, target)
    made.run = StagedTestRun(
        context, target, tmp_path, made.events.append, made.stages, lambda test: test.outcome in BAD
    )

    def argv(categories: Any) -> list[str]:
        assert context.selection is not None
        name = "read-only" if context.selection.tests else categories[0].name
        steps = json.dumps(made.plans[name])
        return [sys.executable, "-I", "-S", "-c", PROCESS, steps, str(tmp_path / "heard")]

    made.run._pytest_argv = argv  # type: ignore[method-assign]
    return made


def test_stages_come_one_after_the_other(staged: Run) -> None:
    staged.plans = {
        "read-only": [collected(M1), *whole(M1)],
        "mount": [collected(M2), *whole(M2)],
        "fsops": [collected(F1), *whole(F1)],
    }
    assert list(staged(MOUNT, FSOPS)) == [M1, M2, F1]
    assert staged.teardown is not None and staged.teardown.outcome is Outcome.PASSED
    assert not staged.target.keep_disk  # type: ignore[union-attr]


def test_the_first_failure_on_a_device_ends_everything(staged: Run) -> None:
    staged.plans = {"read-only": [collected(M1, M2), *whole(M1, "failed", "not read-only")]}
    tests = staged(MOUNT, FSOPS)
    assert outcomes(tests) == {
        M1: "failed",
        M2: "skipped",
        "mount/[read-write]": "skipped",
        "fsops/[files]": "skipped",
    }
    assert "first failure ends a run on a device" in tests[M2].message
    assert f"after '{M1}'" in tests["fsops/[files]"].message
    assert staged.heard == [f"{M1} stop"]
    assert staged.teardown is not None, "the module is taken out all the same"
    assert staged.target is not None and staged.target.restores == 0
    assert staged.target.keep_disk  # type: ignore[attr-defined]


def test_a_device_that_is_gone_is_not_asked_to_unload(staged: Run) -> None:
    assert staged.target is not None
    staged.target.checks = [KernelCheck([OOPS], answered=False)]
    staged.plans = {"read-only": [collected(M1), *whole(M1, "lost", "ssh is gone")]}
    staged.target.end = "the device was booted again"
    tests = staged(MOUNT)
    assert tests[M1].outcome is Outcome.CRASHED
    assert staged.teardown is None


@pytest.mark.parametrize(("hanging", "seconds"), [(False, 30.0), (True, 6.0)])
def test_of_a_task_that_hangs_no_more_is_expected(
    tmp_path: Path, hanging: bool, seconds: float
) -> None:
    target = FakeTarget(tmp_path)
    target.slowdown = 10.0
    target.console.hanging = hanging
    assert conversation._grace_s(target) == seconds  # type: ignore[arg-type]
