"""Going on with a run that was interrupted or killed: what of it still counts, and when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vexrun.errors import ConfigError
from vexrun.results.model import RunResults, TestResult
from vexrun.results.rebuild import finished_categories
from vexrun.rundir import find_run, load_run


@dataclass(frozen=True)
class EarlierRun:
    """A run to go on with. Only whole categories are taken over from it."""

    results: RunResults
    finished: frozenset[str]

    @property
    def source(self) -> Path | None:
        """None: the subject file names a source package."""
        return Path(self.results.subject.source) if self._is_local else None

    @property
    def _is_local(self) -> bool:
        return Path(self.results.subject.source).is_absolute()

    @property
    def subject_file(self) -> Path:
        return Path(self.results.subject.subject_file)

    @property
    def suite(self) -> str:
        return self.results.target.suite or ""

    @property
    def categories(self) -> list[str]:
        return list(self.results.selected_categories)

    def tests(self) -> list[TestResult]:
        """What its finished categories found."""
        return [test for test in self.results.tests if test.category in self.finished]

    def refuse_another_subject(self, now: RunResults) -> None:
        """Raise ConfigError where the results of both runs would not speak of the same thing."""
        before = self.results
        pairs = {
            "source tree": (before.subject.tree_sha256, now.subject.tree_sha256),
            "guest image": (before.target.image_sha256, now.target.image_sha256),
            "guest kernel": (before.target.kernel, now.target.kernel),
            "built module": (before.module.sha256, now.module.sha256),
        }
        for what, (then, today) in pairs.items():
            if then and today and then != today:
                raise ConfigError(
                    f"The run '{before.run_id}' cannot be resumed: the {what} is not the same "
                    "any more.",
                    evidence=f"then {then}\nnow  {today}",
                    hint="Start a new run: vexrun test",
                )


def load_earlier_run(name: str) -> EarlierRun:
    """The run called `name`. Raises ConfigError when there is nothing to go on with."""
    directory = find_run(name)
    results = load_run(directory)
    if results.target.kind != "vm":
        raise ConfigError(
            f"The run '{results.run_id}' had the target '{results.target.kind}': only runs in a "
            "VM can be resumed.",
            hint="Start a new run: vexrun test",
        )
    finished = finished_categories(directory) & set(results.selected_categories)
    if results.complete or finished == set(results.selected_categories):
        raise ConfigError(
            f"The run '{results.run_id}' finished every category: there is nothing to resume.",
            hint=f"Look at it: vexrun report {results.run_id}",
        )
    return EarlierRun(results, frozenset(finished))
