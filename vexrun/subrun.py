"""`vexrun test` as a process of its own, for those who plant bugs and look at what is said."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vexrun import process
from vexrun.results.model import RunResults

#: Far beyond the slowest of them; a run that takes longer will never end.
_RUN_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class SubRun:
    """How it ended. Without `results` it broke off, and `said` is why."""

    results: RunResults | None
    status: int
    seconds: float
    said: str


def run_test(arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> SubRun:
    """The whole command with our own VEXRUN_ variables and `settings` on top of them."""
    argv = [sys.executable, "-P", "-m", "vexrun.cli", "test", *arguments, "--json"]
    ours = {name: value for name, value in os.environ.items() if name.startswith("VEXRUN_")}
    begun = time.monotonic()
    done = process.run(argv, env={**ours, **(settings or {})}, timeout=_RUN_TIMEOUT_S, check=False)
    seconds = time.monotonic() - begun
    try:
        results = RunResults.model_validate_json(done.stdout)
    except ValueError:
        said = f"vexrun ended with {done.returncode} and no results: {done.tail()}"
        return SubRun(None, done.returncode, seconds, said)
    return SubRun(results, done.returncode, seconds, " ".join(results.reasons))
