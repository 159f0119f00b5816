"""Run the tests of the selected categories, and say what became of each.

What one test process says, and what its tests become, is in vexrun.conversation. A target that
broke is replaced, the rest of its category is reported as not run, and the next category starts on
a clean machine; vexrun.isolation names the other ways to keep tests apart.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from vexrun import process
from vexrun.categories import OWN_TESTS_DIR, Category
from vexrun.conversation import Conversation, outcome_of
from vexrun.errors import InterruptedRunError, VexrunError
from vexrun.events import Emit, KernelEventSeen, MemoryImageKept, Stages, TestFinished
from vexrun.guest.context import RunContext
from vexrun.guest.protocol import ANSWER_FD, CONTEXT_FILE, EVENT_FD
from vexrun.isolation import Isolation
from vexrun.layout import data_root
from vexrun.memory_image.kdump import BadImageError
from vexrun.memory_image.keeping import MemoryImages
from vexrun.results.model import (
    KernelEvent,
    Measurement,
    MemoryImage,
    Outcome,
    RestoreCost,
    TestResult,
)
from vexrun.target.base import Target
from vexrun.target.kernel_watch import KernelCheck
from vexrun.vm.ssh import HOST_ALIAS

#: Once a test of a run has hung, those behind it get so much of their time, and a minute at least
#: where they had one: the run has failed, and a filesystem that hangs does so in each category.
_PATIENCE_LEFT = 0.3
_PATIENCE_KEPT_S = 60.0


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
        be_alone: Callable[[], None] = lambda: None,
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
        #: Ends what goes on beside the tests: called before what is measured.
        self.be_alone = be_alone
        self.result = TestRunResult()
        #: Why nothing can be run on the target any more; only where it is never replaced.
        self.over = ""
        self._patient = True
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
            self._lose_patience()
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

    def run_apart(self, categories: Sequence[Category]) -> None:
        """Categories that need no target, after the others: whatever became of it."""
        if categories:
            self.target, self.context.ssh_config, self.over = None, None, ""
            self.run(categories)

    def _give_up(self, talk: Conversation, last: Category, more: bool) -> bool:
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

    def _lose_patience(self) -> None:
        """Shorter time limits after the first test that hung."""
        hung = any(test.outcome is Outcome.HUNG for test in self.result.tests)
        if hung and self._patient:
            self._patient = False
            self.context.timeouts_s = {
                name: max(_PATIENCE_LEFT * limit, min(limit, _PATIENCE_KEPT_S))
                for name, limit in self.context.timeouts_s.items()
            }

    def _on_this_machine(self, category: Category) -> list[TestResult]:
        here = self.result.tests[self._first_here :]
        return [test for test in here if test.category == category.name]

    def _failed_in(self, category: Category) -> bool:
        """A failed test may leave a stuck mount or module: what follows starts clean."""
        return category.needs_guest and any(test.is_bad for test in self._on_this_machine(category))

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
        outcome, text = outcome_of(raw, said, check)
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

    def run_process(self, categories: Sequence[Category]) -> Conversation:
        """One test process, for those tests of the categories that have no result yet."""
        if self.target is not None:
            self.context.ssh_config = self.target.ssh_config
            self.context.disks = self.target.disks()
        context_file = self.rundir / "context.json"
        context_file.write_text(self.context.model_dump_json(indent=2))
        if categories[0].measures:
            self.be_alone()
        conversation = Conversation(self, categories)
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


def not_run(categories: Sequence[Category], reason: str) -> list[TestResult]:
    """One skipped result a category, for categories that could not even begin."""
    return [
        TestResult(
            id=f"{category.name}/", category=category.name, outcome=Outcome.SKIPPED, message=reason
        )
        for category in categories
    ]
