"""`vexrun test --repeat N`: the same run again and again, each in a directory of its own."""

from __future__ import annotations

import json

from rich.console import Console

from vexrun.config import RunConfig
from vexrun.errors import ConfigError, InterruptedRunError
from vexrun.interrupt import interruptible
from vexrun.output import say, stderr, stdout
from vexrun.progress import display_for
from vexrun.repeat import Series
from vexrun.results.model import RunResults, Verdict
from vexrun.rundir import find_run
from vexrun.session import run_session


def run_series(config: RunConfig, wanted: int, *, as_json: bool) -> int:
    """Make the runs, tell of each and of all; returns the exit code."""
    if config.keep or config.earlier is not None:
        option = "--keep" if config.keep else "--resume"
        raise ConfigError(
            f"{option} cannot be given with --repeat: it is about one run.",
            hint=f"Leave out {option} or --repeat.",
        )
    series = Series(wanted)
    screen = stderr if as_json else stdout
    try:
        with interruptible():
            for number in range(1, wanted + 1):
                series.runs.append(_run(config, screen))
                say(series.line(number), screen)
                if series.runs[-1].verdict is Verdict.INTERRUPTED:
                    series.interrupted = True
                    break
    except InterruptedRunError:  # between two runs
        series.interrupted = True
    for sentence in series.summary():
        say(sentence, screen)
    if as_json:
        print(json.dumps(series.to_document(), indent=2))
    else:
        _tell_the_bad(series)
        say(f"verdict: {series.verdict.value}")
    return series.exit_code


def _run(config: RunConfig, screen: Console) -> RunResults:
    with display_for(screen, console_log=lambda: find_run(None) / "console.log") as show:
        return run_session(config, show)


def _tell_the_bad(series: Series) -> None:
    for run in series.runs:
        if run.verdict is not Verdict.PASS:
            say(f"  {run.verdict.value}: {'; '.join(run.reasons)}")
            say(f"    vexrun report {run.run_id}")
