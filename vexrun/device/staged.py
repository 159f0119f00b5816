"""The tests of a run on a device: stage after stage, and nothing after the first failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vexrun.categories import Category
from vexrun.device.stages import Step, steps
from vexrun.events import TestFinished
from vexrun.results.model import Outcome, TestResult
from vexrun.testrun import TestRun, TestRunResult

if TYPE_CHECKING:
    from vexrun.target.device import DeviceTarget


class StagedTestRun(TestRun):
    """As TestRun, on a target that cannot be replaced (None: no test needs it)."""

    def run(self, categories: Sequence[Category]) -> TestRunResult:
        self.on_device = True
        remaining = steps(categories)
        device: DeviceTarget | None = self.target  # type: ignore[assignment]
        while remaining:
            step = remaining.pop(0)
            self.context.selection = step.selection
            self.context.claim = device.claim() if device is not None else None
            talk = self.run_process(step.categories)
            bad = self._bad()
            if talk.stopped_in is not None or bad is not None:
                self._leave_out(remaining, bad)
                break
        if device is not None and device.ended() is None:
            self.tear_down([category for category in categories if category.needs_guest])
        if device is not None and self._bad() is not None:
            device.keep_disk = True
        return self.result

    def _bad(self) -> TestResult | None:
        """The test that ends the run: one that failed unexpectedly, or lost the device."""
        if self.stopped_at is not None:
            return self.stopped_at
        ends = (Outcome.CRASHED, Outcome.HUNG, Outcome.ERROR)
        return next((test for test in self.result.tests if test.outcome in ends), None)

    def _leave_out(self, rest: Sequence[Step], bad: TestResult | None) -> None:
        """One result for each category of each stage that does not come any more."""
        for step in rest:
            for category in step.categories:
                result = TestResult(
                    id=f"{category.name}/[{step.stage.name}]",
                    category=category.name,
                    outcome=Outcome.SKIPPED,
                    message=f"not run: the stage '{step.stage.name}' ({step.stage.title}) comes "
                    f"after '{bad.id if bad else '?'}', which did not pass",
                )
                self.result.tests.append(result)
                self.emit(TestFinished(result))
