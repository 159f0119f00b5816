"""Run the tests of the selected categories in a test process, and say what became of each.

The test process executes; every decision is made here. Between two tests the kernel's log is
read and the test before it is judged. A target that broke is replaced, the rest of its category
is reported as not run, and the next category starts on a clean machine; vexrun.isolation names the
other ways to keep tests apart.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from vexrun import process
from vexrun.categories import OWN_TESTS_DIR, Category
from vexrun.errors import (
    InfrastructureError,
    InterruptedRunError,
    TargetLostError,
    VexrunError,
)
from vexrun.events import (
    Emit,
    KernelEventSeen,
    Measured,
    MemoryImageKept,
    Stages,
    TestFinished,
    TestsCollected,
    TestStarted,
)
from vexrun.guest.context import RunContext
from vexrun.guest.protocol import ANSWER_FD, CONTEXT_FILE, CONTINUE, EVENT_FD, STOP
from vexrun.isolation import Isolation
from vexrun.layout import data_root
from vexrun.memory_image.kdump import BadImageError
from vexrun.memory_image.keeping import MemoryImages
from vexrun.results.model import (
    BAD,
    KernelEvent,
    Measurement,
    MemoryImage,
    Outcome,
    RestoreCost,
    TestResult,
)
from vexrun.target.base import Target
from vexrun.target.hang import HangReport, with_culprit
from vexrun.target.kernel_watch import KernelCheck
from vexrun.vm.ssh import HOST_ALIAS

#: After the kernel said something bad a test may finish by itself for so long, at KVM speed,
_GRACE_AFTER_EVENT_S = 4.0
#: but never for longer than this: a task in an oops or a lockup does not come back.
_MAX_GRACE_S = 30.0
#: Where the kernel says that a task hangs it has waited a minute itself, and the test has crashed
#: whether it still ends or not: what is left is time for the report to be printed.
_GRACE_AFTER_HANG_S = 6.0
#: For the kernel check; of a guest that answers nothing any more; and of one that is given up,
#: where the console has what matters.
_CHECK_S = 60.0
_MUTE_CHECK_S = 10.0
_LAST_CHECK_S = 30.0
#: Collecting takes a second; a test process that is mute for so long is stuck.
_MUTE_S = 300.0
#: Commands time out first and name themselves; the session's own deadline is the backstop.
_BACKSTOP = 2.5


@dataclass
class TestRunResult:
    """Everything the tests found. `module_identity` is what the kernel said it had loaded."""

    __test__ = False

    tests: list[TestResult] = field(default_factory=list)
    kernel_events: list[KernelEvent] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    memory_images: list[MemoryImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    module_identity: dict[str, str | None] | None = None
    restores: RestoreCost = field(default_factory=RestoreCost)


class TestRun:
    """One pass over the categories, on one target (None: tests that need no kernel).

    After a test that `stop_at` names nothing more is run.
    """

    __test__ = False

    def __init__(
        self,
        context: RunContext,
        target: Target | None,
        rundir: Path,
        emit: Emit,
        stages: Stages,
        stop_at: Callable[[TestResult], bool] = lambda _result: False,
        isolation: Isolation = Isolation.GROUP,
        images: MemoryImages | None = None,
    ) -> None:
        self.context = context
        self.target = target
        self.rundir = rundir
        self.emit = emit
        self.stages = stages
        self.stop_at = stop_at
        self.stopped_at: TestResult | None = None
        self.isolation = isolation
        self.images = images
        self.result = TestRunResult()
        #: Why nothing can be run on the target any more; only where it is never replaced.
        self.over = ""
        self._first_here = 0  # of result.tests, on the machine of now
        #: Whether no machine comes after this one: what breaks it, or stops it, ends all.
        self.on_device = False

    def run(self, categories: Sequence[Category]) -> TestRunResult:
        """Run the categories in order. Results so far survive any exception in `self.result`."""
        remaining = list(categories)
        given_up = False
        while remaining:
            together = _in_one_process(remaining)
            talk = self.run_process(together)
            last = talk.stopped_in or together[-1]
            remaining = remaining[remaining.index(last) + (0 if talk.left_in(last) else 1) :]
            if self.over:
                self._skip([row for row in remaining if row not in together])
                return self.result
            if self.stopped_at is not None:
                self._look_again(last)
                reason = f"not run: --fail-fast, and '{self.stopped_at.id}' failed"
                self.result.tests += not_run(remaining, reason)
                given_up = talk.stopped_in is not None
                break
            given_up = self._give_up(talk, last, any(row.needs_guest for row in remaining))
        if not given_up:
            self.tear_down([category for category in categories if category.needs_guest])
        return self.result

    def _give_up(self, talk: _Conversation, last: Category, more: bool) -> bool:
        """After a test process: replace the machine, if that is due and there is `more` for it.

        Returns whether it was given up: there is nothing to be left in order.
        """
        if self.isolation is Isolation.NONE:
            # What the kernel says once it broke is the same event's doing.
            return bool(self.result.kernel_events)
        if talk.stopped_in is None and not self._failed_in(last):
            return False
        if not talk.sound:
            self._look_again(last)
        elif more:
            self._tear_down_after_test()
        else:
            return False
        if more:
            self._replace_target()
        return talk.stopped_in is not None

    def _on_this_machine(self, category: Category) -> list[TestResult]:
        here = self.result.tests[self._first_here :]
        return [test for test in here if test.category == category.name]

    def _failed_in(self, category: Category) -> bool:
        """A failed test may leave a stuck mount or module: what follows starts clean."""
        return category.needs_guest and any_bad(self._on_this_machine(category))

    def _look_again(self, category: Category) -> None:
        """What the kernel said after the last test of a category whose machine is given up.

        Only where that is no crash: what follows an event is the same event's doing.
        """
        target = self.target
        if target is None or not category.needs_guest or target.ended() is not None:
            return
        broke = (Outcome.CRASHED, Outcome.HUNG, Outcome.ERROR)
        if any(test.outcome in broke for test in self._on_this_machine(category)):
            return
        check = target.check_kernel(8.0 * target.slowdown)
        if not check.events:
            return
        result = TestResult(
            id=f"teardown/after_{category.name}",
            category="teardown",
            outcome=Outcome.CRASHED,
            message=check.events[0].title,
            kernel_events=check.events,
        )
        self._keep(result, check)

    def _keep(self, result: TestResult, check: KernelCheck) -> None:
        for event in check.events:
            event.test = result.id
            self.emit(KernelEventSeen(event))
        self.result.tests.append(result)
        self.result.kernel_events += check.events
        self.result.notes += [note for note in check.notes if note not in self.result.notes]
        self.emit(TestFinished(result))
        self.keep_memory(result)

    def keep_memory(self, result: TestResult) -> None:
        """The memory of a guest whose kernel died, after its test was judged and told."""
        dead = self.target.dead_machine() if self.target and self.images else None
        if dead is None or self.images is None:
            return
        machine, why = dead
        try:
            with self.stages.stage("memory image", why):
                image = self.images.take(machine, why, result.id)
        except (VexrunError, BadImageError, OSError) as error:
            if isinstance(error, InterruptedRunError):
                raise
            self.result.notes.append(f"No memory image was kept after '{result.id}': {error}.")
            return
        self.result.memory_images.append(image)
        self.emit(MemoryImageKept(image))

    def tear_down(self, ran: Sequence[Category]) -> None:
        """Unmount, unload, and look at the kernel a last time, as a result of its own.

        What breaks only now (a work item that runs late, a reference never dropped) would
        otherwise go unseen when the last test left the filesystem mounted.
        """
        if self.target is not None and ran:
            # A category of its own: it must not stand in for a selected one that ran nothing.
            self._keep(*self._torn_down("teardown/umount_and_unload"))

    def _tear_down_after_test(self) -> None:
        """The same for a test with a machine of its own; only what went wrong is a result."""
        if self.target is None:
            return
        result, check = self._torn_down(f"teardown/after_{self.result.tests[-1].id}")
        if result.outcome is not Outcome.PASSED:
            self._keep(result, check)

    def _torn_down(self, identifier: str) -> tuple[TestResult, KernelCheck]:
        assert self.target is not None, "there is a machine to tear down"
        begun = time.monotonic()
        raw, said = self.target.umount_and_unload()
        check = self.target.check_kernel(8.0 * self.target.slowdown)
        outcome, text = _outcome_of(raw, said, check)
        result = TestResult(
            id=identifier,
            category="teardown",
            outcome=outcome,
            duration_s=round(time.monotonic() - begun, 3),
            message=text,
            kernel_events=check.events,
        )
        return result, check

    def _replace_target(self) -> None:
        self._first_here = len(self.result.tests)
        if self.target is None:
            return
        begun = time.monotonic()
        with self.stages.stage("restore machine", "a clean one from the snapshot"):
            self.target.restore()
        self.result.restores.add(time.monotonic() - begun)

    def _skip(self, categories: Sequence[Category]) -> None:
        """Of categories whose test process was not even started."""
        for result in not_run(categories, self.over):
            self.result.tests.append(result)
            self.emit(TestFinished(result))

    def run_process(self, categories: Sequence[Category]) -> _Conversation:
        """One test process, for those tests of the categories that have no result yet."""
        if self.target is not None:
            self.context.ssh_config = self.target.ssh_config
            self.context.disks = self.target.disks()
        context_file = self.rundir / "context.json"
        context_file.write_text(self.context.model_dump_json(indent=2))
        conversation = _Conversation(self, categories)
        event_read, event_write = os.pipe()
        answer_read, answer_write = os.pipe()
        environment = {
            EVENT_FD: str(event_write),
            ANSWER_FD: str(answer_read),
            CONTEXT_FILE: str(context_file),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with (
            (self.rundir / "pytest.log").open("ab") as log,
            process.running(
                self._pytest_argv(categories),
                cwd=self.rundir,
                env=environment,
                stdout=log,
                pass_fds=(event_write, answer_read),
            ) as child,
        ):
            os.close(event_write)
            os.close(answer_read)
            with (
                os.fdopen(event_read, "rb", buffering=0) as events,
                os.fdopen(answer_write, "wb", buffering=0) as answers,
            ):
                conversation.hold(events.fileno(), answers.fileno(), child.pid)
        conversation.close()
        self.context.done += conversation.done
        return conversation

    def _pytest_argv(self, categories: Sequence[Category]) -> list[str]:
        root = data_root() / "tests" / "guest"
        # -P: modules of the current directory (the user's source tree) must not be imported.
        argv = [sys.executable, "-P", "-m", "pytest", "-c", str(root / "pytest.ini")]
        argv += [f"--rootdir={root}", "-q", "-p", "no:cacheprovider"]
        argv += ["-p", "testinfra.plugin", "-p", "vexrun.guest.plugin"]
        if self.context.ssh_config is not None:
            argv += [f"--hosts=ssh://{HOST_ALIAS}", f"--ssh-config={self.context.ssh_config}"]
        argv += [str(root / category.name) for category in categories]
        own = self.context.source / OWN_TESTS_DIR
        if categories[0].own_process and own.is_dir():
            # The subject's files may be called as ours are, and warn as they like.
            places = shlex.join([".", categories[0].name, str(own)])
            argv += ["--import-mode=importlib", "-o", f"pythonpath={places}"]
            argv += ["-o", "python_files=test_*.py *_test.py", "-o", "filterwarnings=", str(own)]
        return argv


def _in_one_process(categories: Sequence[Category]) -> list[Category]:
    """The categories that the next test process takes."""
    if categories[0].own_process:
        return [categories[0]]
    return list(takewhile(lambda row: not row.own_process, categories))


class _Conversation:
    """The session's side of one test process."""

    def __init__(self, run: TestRun, categories: Sequence[Category]) -> None:
        self.run = run
        self.categories = {category.name: category for category in categories}
        #: The category in which the process was stopped, None when it ran to its end.
        self.stopped_in: Category | None = None
        #: It was stopped because the next test gets another machine, and for nothing else.
        self.sound = False
        self._collected: list[str] = []
        self.done: list[str] = []
        self._current: str | None = None
        self._begun = 0.0
        self._heard = 0.0
        self._boundary = time.monotonic()
        self._trouble_since: float | None = None
        self._hang: HangReport | None = None

    # -- the loop ---------------------------------------------------------------------------

    def hold(self, events: int, answers: int, child: int) -> None:
        """Serve the test process until it ends or its target breaks."""
        buffered = b""
        self._heard = time.monotonic()
        while self.stopped_in is None:
            readable, _, _ = select.select([events], [], [], 0.2)
            if readable:
                data = os.read(events, 1 << 16)
                if not data:
                    return
                self._heard = time.monotonic()
                buffered += data
                *lines, buffered = buffered.split(b"\n")
                for line in lines:
                    self._take(json.loads(line), answers)
            elif self._current is not None and (reason := self._gone_wrong()):
                # The test cannot end by itself: its process goes first, then its target.
                os.killpg(child, signal.SIGKILL)
                self._conclude_abandoned(reason)
            elif self._current is None and time.monotonic() - self._heard > _MUTE_S:
                raise InfrastructureError(
                    f"The test process has said nothing for {_MUTE_S:.0f} s, outside any test.",
                    evidence=_tail(self.run.rundir / "pytest.log"),
                )

    def _take(self, message: dict[str, Any], answers: int) -> None:
        kind = message["event"]
        if kind == "collected":
            self._collected = message["ids"]
            self.run.emit(TestsCollected([_plain_id(each) for each in self._collected]))
        elif kind == "collection_failed":
            raise InfrastructureError(
                f"The guest tests in '{message['where']}' cannot be collected.",
                evidence=message["text"][-3000:],
            )
        elif kind == "module_loaded":
            self.run.result.module_identity = {
                "srcversion": message["srcversion"],
                "build_id": message["build_id"],
            }
        elif kind == "note":
            if message["text"] not in self.run.result.notes:
                self.run.result.notes.append(message["text"])
        elif kind == "measured":
            del message["event"]
            measurement = Measurement.model_validate(message)
            self.run.result.measurements.append(measurement)
            self.run.emit(Measured(measurement))
        elif kind == "started":
            self._current, self._begun = message["id"], time.monotonic()
            self._trouble_since = self._hang = None
            if self.run.target is not None:
                self.run.target.begin_test()
            self.run.emit(TestStarted(_plain_id(message["id"])))
        elif kind == "finished":
            self._conclude(message)
            os.write(answers, f"{STOP if self.stopped_in else CONTINUE}\n".encode())
            self._heard = time.monotonic()

    # -- noticing ---------------------------------------------------------------------------

    def _gone_wrong(self) -> str | None:
        """Why the running test must be abandoned now, None when it need not."""
        target = self.run.target
        waited = time.monotonic() - self._begun
        if target is not None:
            target.console.poll()
            ended = target.ended()
            if ended is not None:
                return ended
            if self._trouble_since is None and target.believes_trouble():
                self._trouble_since = time.monotonic()
            if self._trouble_since is not None:
                if time.monotonic() - self._trouble_since > _grace_s(target):
                    return "the test did not end after the kernel event"
            elif (hang := target.notice_hang(self._begun, self._limit())) is not None:
                self._hang = hang
                return f"after {time.monotonic() - self._begun:.0f} s"
        if waited > self._deadline():
            return f"the test did not end within {self._deadline():.0f} s"
        return None

    def _limit(self) -> float:
        """Seconds one command of the running test may take."""
        category = self._category(self._current or "")
        return self.run.context.timeouts_s.get(category.name, 600.0)

    def _deadline(self) -> float:
        return self._limit() * _BACKSTOP

    # -- judging one test -------------------------------------------------------------------

    def _conclude(self, message: dict[str, Any]) -> None:
        """A test reported its own end: add what the kernel did meanwhile."""
        raw = message["outcome"]
        hang = HangReport("")
        if raw == "hung" and self.run.target is not None:
            hang = self.run.target.explain_hang()
        check = self._check_kernel(message["id"], _MUTE_CHECK_S if hang.mute else None, hang)
        outcome, text = _outcome_of(raw, _named(message["message"], hang), check)
        result = TestResult(
            id=_plain_id(message["id"]),
            category=self._category(message["id"]).name,
            outcome=outcome,
            duration_s=round(message["duration_s"], 3),
            message=text,
            details="\n".join(part for part in (message["details"], hang.details) if part),
            kernel_events=check.events,
        )
        self._record(message["id"], result, check)
        if self.run.stop_at(result):
            self.run.stopped_at = result
        if self.run.target is not None and self._is_lost(result, raw, check):
            self._break(message["id"], result)
        elif self.run.on_device and self.run.stopped_at is not None:
            self._break(message["id"], result, "the first failure ends a run on a device")
        elif self.run.stopped_at is not None:
            self.stopped_in = self._category(message["id"])
            self._skip_rest(self.stopped_in, "not run: --fail-fast, and a test before it failed")
        elif self._gets_another_machine(message["id"]):
            self.stopped_in = self._category(message["id"])
            self.sound = outcome not in BAD
        elif self._leaves_doubt(message["id"]):
            # A failed test may leave a stuck mount or module: the next category starts clean.
            self.stopped_in = self._category(message["id"])

    def _is_lost(self, result: TestResult, raw: str, check: KernelCheck) -> bool:
        """Whether no other test is to run on this target."""
        if self.run.isolation is Isolation.NONE:
            # Only what cannot be used any more: a task that hangs there takes its time each time.
            return result.outcome is Outcome.HUNG or raw in ("hung", "lost") or not check.answered
        broke = result.outcome in (Outcome.CRASHED, Outcome.HUNG, Outcome.ERROR)
        return broke or not check.answered

    def _gets_another_machine(self, identifier: str) -> bool:
        isolated = self.run.isolation is Isolation.TEST and self.run.target is not None
        return isolated and self._category(identifier).needs_guest

    def _leaves_doubt(self, identifier: str) -> bool:
        """Whether this was the last test of a category on the target that had failures."""
        category = self._category(identifier)
        shared = self.run.isolation is Isolation.GROUP and self.run.target is not None
        if not shared or not category.needs_guest:
            return False
        left = [each for each in self._collected if each not in self.done]
        if not left or self.left_in(category):
            return False
        return any_bad([t for t in self.run.result.tests if t.category == category.name])

    def _conclude_abandoned(self, reason: str, otherwise: Outcome = Outcome.HUNG) -> None:
        """The running test was killed: its target broke, or it never ended.

        `otherwise` is its outcome when the kernel has nothing to do with it.
        """
        identifier = self._current or "?"
        target = self.run.target
        hang = self._hang or HangReport("")
        if self._hang is None and target is not None and target.ended() is None:
            hang = target.explain_hang()
        patience_s = _MUTE_CHECK_S if hang.mute else _LAST_CHECK_S
        check = self._check_kernel(identifier, patience_s, hang)
        if check.events:
            outcome, text = Outcome.CRASHED, f"{check.events[0].title} ({reason})"
        elif check.log_lost:
            outcome, text = Outcome.ERROR, f"{check.log_lost} ({reason})"
        else:
            outcome, text = otherwise, _named(reason, hang)
        result = TestResult(
            id=_plain_id(identifier),
            category=self._category(identifier).name,
            outcome=outcome,
            duration_s=round(time.monotonic() - self._begun, 3),
            message=text,
            details=hang.details,
            kernel_events=check.events,
        )
        self._record(identifier, result, check)
        if self.run.stop_at(result):
            self.run.stopped_at = result
        self._break(identifier, result)

    def _check_kernel(
        self, identifier: str, patience_s: float | None, hang: HangReport
    ) -> KernelCheck:
        if self.run.target is None:
            return KernelCheck()
        slow = 8.0 * self.run.target.slowdown
        timeout = max(_CHECK_S, slow) if patience_s is None else patience_s
        try:
            check = self.run.target.check_kernel(timeout)
        except TargetLostError as error:
            return KernelCheck(answered=False, log_lost=error.message)
        check = replace(check, events=with_culprit(check.events, hang.culprit))
        for event in check.events:
            event.test = _plain_id(identifier)
        return check

    def _record(self, identifier: str, result: TestResult, check: KernelCheck) -> None:
        self._current = None
        self.done.append(identifier)
        self._account(result.category)
        found = self.run.result
        found.tests.append(result)
        found.kernel_events += check.events
        found.notes += [note for note in check.notes if note not in found.notes]
        for event in check.events:
            self.run.emit(KernelEventSeen(event))
        self.run.emit(TestFinished(result))

    def _account(self, category: str) -> None:
        """Add the time since the last boundary to the category's stage."""
        now = time.monotonic()
        stage = f"tests: {category}"
        durations = self.run.stages.durations
        durations[stage] = durations.get(stage, 0.0) + now - self._boundary
        self._boundary = now

    def _break(self, identifier: str, cause: TestResult, because: str = "") -> None:
        """The target cannot be used any more: the rest of the category is not run.

        `because` is the reason where the target itself is not broken.
        """
        category = self._category(identifier)
        self.stopped_in = category
        self.run.keep_memory(cause)
        why = (cause.message or cause.outcome.value).splitlines()[0]
        reason = f"not run: the machine broke in '{cause.id}' ({why})"
        if because:
            reason = f"not run: '{cause.id}' {cause.outcome.value}, and {because}"
        if self.run.on_device:
            for each in self.categories.values():
                self._skip_rest(each, reason)
        elif self.run.isolation is Isolation.NONE and category.needs_guest:
            self.run.over = f"{reason}, and with --isolation none there is no other"
            for each in self.categories.values():
                if each.needs_guest:
                    self._skip_rest(each, self.run.over)
        elif self.run.isolation is not Isolation.TEST or self.run.stopped_at is not None:
            self._skip_rest(category, reason)

    def left_in(self, category: Category) -> list[str]:
        """Tests that have no result yet."""
        return [
            identifier
            for identifier in self._collected
            if identifier not in self.done and self._category(identifier) is category
        ]

    def _skip_rest(self, category: Category, reason: str) -> None:
        for identifier in self.left_in(category):
            self.done.append(identifier)
            result = TestResult(
                id=_plain_id(identifier),
                category=category.name,
                outcome=Outcome.SKIPPED,
                message=reason,
            )
            self.run.result.tests.append(result)
            self.run.emit(TestFinished(result))

    def close(self) -> None:
        """The process ended. A test it was running, or never began, must not be forgotten."""
        if self.stopped_in is not None:
            return
        if self._current is not None:
            reason = "the test process ended in the middle of the test"
            self._conclude_abandoned(reason, Outcome.ERROR)
        left = [each for each in self._collected if each not in self.done]
        if left and self.stopped_in is None:
            raise InfrastructureError(
                f"The test process ended with {len(left)} tests not run.",
                evidence=_tail(self.run.rundir / "pytest.log"),
            )
        if not self._collected and self._own_code_is_broken():
            return
        if not self._collected:
            raise InfrastructureError(
                "The test process ran no test at all.",
                evidence=_tail(self.run.rundir / "pytest.log"),
            )

    def _own_code_is_broken(self) -> bool:
        """A conftest.py of the subject's own that does not work stops pytest: a failed test."""
        category = next(iter(self.categories.values()))
        said = _tail(self.run.rundir / "pytest.log")
        found = re.search(r"while loading conftest '([^']*)'", said)
        if not category.own_process or found is None:
            return False
        own = f"{self.run.context.source}/"
        cause = next((line for line in reversed(said.splitlines()) if line[:2] == "E "), "")
        result = TestResult(
            id=f"{category.name}/{found[1].removeprefix(own)}",
            category=category.name,
            outcome=Outcome.FAILED,
            message=f"'{found[1].removeprefix(own)}' cannot be imported: {cause[1:].strip()}",
            details=said,
        )
        self.run.result.tests.append(result)
        self.run.emit(TestFinished(result))
        return True

    def _category(self, identifier: str) -> Category:
        return self.categories[identifier.split("/", 1)[0]]


def _grace_s(target: Target) -> float:
    """How long a test may go on after the kernel said something bad."""
    usual = min(_MAX_GRACE_S, _GRACE_AFTER_EVENT_S * target.slowdown)
    return min(usual, _GRACE_AFTER_HANG_S) if target.console.hanging else usual


def _outcome_of(raw: str, message: str, check: KernelCheck) -> tuple[Outcome, str]:
    """What a test's own outcome becomes in the light of the kernel's log."""
    if check.events:
        title = check.events[0].title
        return Outcome.CRASHED, f"{title}\n{message}" if message else title
    if check.log_lost:
        return Outcome.ERROR, f"the kernel log of this test was lost: {check.log_lost}"
    if raw == "hung":
        return Outcome.HUNG, message
    if raw == "lost":
        return Outcome.ERROR, f"the target was lost: {message}"
    return Outcome(raw), message


def _named(message: str, hang: HangReport) -> str:
    """A hang by its name first, when it has one."""
    return f"{hang.name} ({message})" if hang.name else message


def _plain_id(identifier: str) -> str:
    """Without testinfra's host parameter, which says nothing to a reader."""
    host = f"ssh://{HOST_ALIAS}"
    return identifier.replace(f"[{host}]", "").replace(f"[{host}-", "[").replace(f"-{host}]", "]")


def _tail(path: Path, lines: int = 40) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def not_run(categories: Sequence[Category], reason: str) -> list[TestResult]:
    """One skipped result a category, for categories that could not even begin."""
    return [
        TestResult(
            id=f"{category.name}/", category=category.name, outcome=Outcome.SKIPPED, message=reason
        )
        for category in categories
    ]


def any_bad(tests: Sequence[TestResult]) -> bool:
    return any(test.outcome in BAD for test in tests)
