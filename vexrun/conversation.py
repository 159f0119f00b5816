"""One test process: it executes, and all that becomes of its tests is decided on this side.

Between two tests the kernel's log is read and the test before it is judged.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vexrun.categories import Category
from vexrun.errors import InfrastructureError, TargetLostError
from vexrun.events import KernelEventSeen, Measured, TestFinished, TestsCollected, TestStarted
from vexrun.guest.protocol import CONTINUE, STOP
from vexrun.isolation import Isolation
from vexrun.results.model import BAD, Measurement, Outcome, TestResult
from vexrun.target.base import Target
from vexrun.target.hang import HangReport, with_culprit
from vexrun.target.kernel_watch import KernelCheck
from vexrun.vm.ssh import HOST_ALIAS

if TYPE_CHECKING:
    from vexrun.testrun import TestRun

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


class Conversation:
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
            if self.stopped_in is None and self._measures_next():
                self.run.be_alone()
            os.write(answers, f"{STOP if self.stopped_in else CONTINUE}\n".encode())
            self._heard = time.monotonic()

    def _measures_next(self) -> bool:
        left = (each for each in self._collected if each not in self.done)
        following = next(left, None)
        return following is not None and self._category(following).measures

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
        outcome, text = outcome_of(raw, _named(message["message"], hang), check)
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
        return any(test.is_bad for test in self.run.result.tests if test.category == category.name)

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


def outcome_of(raw: str, message: str, check: KernelCheck) -> tuple[Outcome, str]:
    """What a test's own outcome becomes in the light of the kernel's log."""
    if check.events:
        title = check.events[0].title
        return Outcome.CRASHED, f"{title}\n{message}" if message else title
    if check.log_lost:
        return Outcome.ERROR, f"nothing can be said of this test: {check.log_lost}"
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
