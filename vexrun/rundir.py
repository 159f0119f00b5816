"""The directory of one run: everything it leaves, written as things happen."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path

from vexrun.errors import ConfigError, InfrastructureError
from vexrun.events import Event
from vexrun.image.locking import is_locked
from vexrun.layout import state_dir
from vexrun.results.model import RunResults
from vexrun.results.readers import FILENAME, load_results
from vexrun.results.rebuild import EVENTS_FILE, rebuild_results
from vexrun.verdict import judge


def runs_dir() -> Path:
    return state_dir() / "runs"


class RunDir:
    """`path` holds results, reports, logs, the built module and Ansible's artifacts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name
        self._events = (path / EVENTS_FILE).open("a")
        # Held as long as we live: tells a run that goes on from one that was killed.
        fcntl.flock(self._events, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def create(cls, subject_name: str) -> RunDir:
        """A fresh directory with a unique name; `latest` points at it."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        path = runs_dir() / f"{stamp}-{subject_name}-{secrets.token_hex(2)}"
        try:
            path.mkdir(parents=True)
            cls._point_latest(path)
            return cls(path)
        except OSError as error:
            raise InfrastructureError(
                f"The run directory '{path}' cannot be made: {error.strerror}.",
                hint="Free some space, or set VEXRUN_STATE_DIR to a directory you may write.",
            ) from error

    @staticmethod
    def _point_latest(path: Path) -> None:
        temporary = path.parent / f".latest-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.name)
        temporary.rename(path.parent / "latest")

    def record(self, event: Event) -> None:
        """Append one event, on disk at once."""
        self._events.write(json.dumps(event.record()) + "\n")
        self._events.flush()

    @property
    def console_log(self) -> Path:
        return self.path / "console.log"

    def close(self) -> None:
        self._events.close()

    def discard(self) -> None:
        """Remove the directory of a run that never began."""
        self.close()
        latest = self.path.parent / "latest"
        if latest.is_symlink() and str(latest.readlink()) == self.path.name:
            latest.unlink()
            older = sorted(path for path in self.path.parent.glob("2*") if path != self.path)
            if older:
                self._point_latest(older[-1])
        shutil.rmtree(self.path)


def find_run(name: str | None) -> Path:
    """A run's directory by path, id or the beginning of an id; None means the latest.

    Raises ConfigError naming what there is.
    """
    if name is None:
        latest = runs_dir() / "latest"
        if not latest.exists():
            raise ConfigError("There is no run yet.", hint="Run: vexrun test SOURCE")
        return latest.resolve()
    given = Path(name)
    if given.is_dir():
        return given.resolve()
    if given.is_file():
        return given.resolve().parent
    known = sorted(path.name for path in runs_dir().glob("2*")) if runs_dir().is_dir() else []
    matches = [run for run in known if run == name or run.startswith(name)]
    if len(matches) == 1:
        return runs_dir() / matches[0]
    problem = "more than one run" if matches else "no run"
    raise ConfigError(
        f"There is {problem} called '{name}'.",
        evidence="runs: " + (", ".join((matches or known)[-10:]) or "none"),
        hint="Name a run directory, or leave RUN out for the latest.",
    )


def goes_on(directory: Path) -> bool:
    """Whether the run that writes this directory is alive."""
    return is_locked(directory / EVENTS_FILE)


def load_run(directory: Path) -> RunResults:
    """The results of a run; those of one that never wrote them are rebuilt and say so.

    Raises ConfigError when there are none to be had.
    """
    rebuilt = None
    if not (directory / FILENAME).exists():
        rebuilt = rebuild_results(directory)
    if rebuilt is None:
        return load_results(directory)
    rebuilt.notes.append(
        "This run is still going on: these are the results so far."
        if goes_on(directory)
        else "This run was killed before it could write its results; they were rebuilt from its "
        f"events. Go on with: vexrun test --resume {rebuilt.run_id}"
    )
    judge(rebuilt, interrupted=True)
    return rebuilt
