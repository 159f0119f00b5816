"""Several runs of one request: what they have in common, and what they end with together."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vexrun.errors import ExitCode
from vexrun.report.json import to_json
from vexrun.report.summary import counted, duration, elapsed_s
from vexrun.results.model import RunResults, Verdict

#: Version of the JSON document that wraps the runs.
SCHEMA_VERSION = 1
#: A finding about the subject outweighs trouble of ours, as within one run.
_WORST_FIRST = (Verdict.INTERRUPTED, Verdict.FAIL, Verdict.ERROR, Verdict.PASS)
_EXIT_CODES = {
    Verdict.PASS: ExitCode.PASS,
    Verdict.FAIL: ExitCode.FAILED,
    Verdict.ERROR: ExitCode.INFRASTRUCTURE,
    Verdict.INTERRUPTED: ExitCode.INTERRUPTED,
}


@dataclass
class Series:
    """`wanted` runs of one request; those that were made, in order."""

    wanted: int
    runs: list[RunResults] = field(default_factory=list)
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        """The worst of all; a series that was cut short is an interrupted one."""
        found = {run.verdict for run in self.runs}
        if self.interrupted or not found:
            return Verdict.INTERRUPTED
        return next(verdict for verdict in _WORST_FIRST if verdict in found)

    @property
    def exit_code(self) -> int:
        return int(_EXIT_CODES[self.verdict])

    @property
    def verdicts(self) -> dict[str, int]:
        return dict(Counter(run.verdict.value for run in self.runs))

    @property
    def modules(self) -> dict[str, int]:
        """How many runs built which module, by its sha256; those without one as ''.

        A run that was interrupted may not have come so far, and does not count.
        """
        whole = [run for run in self.runs if run.verdict is not Verdict.INTERRUPTED]
        return dict(Counter(run.module.sha256 or "" for run in whole))

    def line(self, number: int) -> str:
        """What one run is in the series: `2/5 pass …`."""
        run = self.runs[number - 1]
        seconds = elapsed_s(run)
        took = "" if seconds is None else f", {duration(seconds)}"
        module = f", module {run.module.sha256[:12]}" if run.module.sha256 else ", no module"
        return f"run {number}/{self.wanted}: {run.verdict.value} ({run.run_id}{took}{module})"

    def summary(self) -> list[str]:
        """The end of a series, in sentences."""
        made = len(self.runs)
        cut = f" of {self.wanted}" if made < self.wanted else ""
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.verdicts.items())
        lines = [f"{counted(made, 'run')}{cut}: {counts or 'none was finished'}."]
        modules = self.modules
        if sum(modules.values()) < 2:
            return lines
        if len(modules) == 1 and "" not in modules:
            lines.append(f"The module was the same file each time: {next(iter(modules))}.")
        else:
            each = ", ".join(f"{sha[:12] or 'none'} in {n}" for sha, n in modules.items())
            lines.append(f"The module was NOT the same file each time: {each}.")
        differing = sorted(self._differing_tests())
        if differing:
            shown = ", ".join(f"'{name}'" for name in differing[:5])
            lines.append(f"{counted(len(differing), 'test')} had different outcomes: {shown}.")
        return lines

    def _differing_tests(self) -> set[str]:
        outcomes: dict[str, set[str]] = {}
        for run in self.runs:
            for test in run.tests:
                outcomes.setdefault(test.id, set()).add(test.outcome.value)
        return {name for name, found in outcomes.items() if len(found) > 1}

    def to_document(self) -> dict[str, Any]:
        """All runs as one JSON-ready object; each is what its results.json holds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "wanted": self.wanted,
            "verdict": self.verdict.value,
            "exit_code": self.exit_code,
            "verdicts": self.verdicts,
            "modules": self.modules,
            "tests_that_differ": sorted(self._differing_tests()),
            "runs": [json.loads(to_json(run)) for run in self.runs],
        }
