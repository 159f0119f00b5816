"""The index of all runs: an SQLite file beside their directories, which can be lost at any time.

The run directories are the truth. The index is brought up to date at each reading, and made
anew when it is missing, damaged or of another version.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vexrun.errors import VexrunError
from vexrun.report.summary import elapsed_s
from vexrun.results.model import Outcome, RunResults, Verdict
from vexrun.results.readers import FILENAME
from vexrun.results.rebuild import EVENTS_FILE
from vexrun.rundir import goes_on, load_run

INDEX_FILE = "history.sqlite"
#: Raised when a record says more or something else than before.
_VERSION = 1
_TABLE = "CREATE TABLE runs (run_id TEXT PRIMARY KEY, state TEXT NOT NULL, record TEXT NOT NULL)"


@dataclass(frozen=True)
class RunRecord:
    """What the history needs of one run. `killed`: it never wrote its results."""

    run_id: str
    subject: str
    tree: str
    kernel: str
    image: str
    target: str
    accel: str
    categories: tuple[str, ...]
    verdict: Verdict
    complete: bool
    killed: bool
    started_at: str
    elapsed_s: float | None
    module_sha256: str
    durations: dict[str, float]
    outcomes: dict[str, Outcome]
    kernel_events: int

    @property
    def finished(self) -> bool:
        """Whether its verdict is one: it was neither killed nor interrupted."""
        return self.complete and not self.killed and self.verdict is not Verdict.INTERRUPTED

    @classmethod
    def of(cls, results: RunResults, *, killed: bool) -> RunRecord:
        target = results.target
        return cls(
            run_id=results.run_id,
            subject=results.subject.name,
            tree=results.subject.tree_sha256,
            kernel=target.kernel or "",
            image=target.image_sha256 or "",
            target=target.kind,
            accel=target.accel or "",
            categories=tuple(results.selected_categories),
            verdict=results.verdict,
            complete=results.complete,
            killed=killed,
            started_at=results.started_at,
            elapsed_s=elapsed_s(results),
            module_sha256=results.module.sha256 or "",
            durations=dict(results.durations),
            outcomes={test.id: test.outcome for test in results.tests},
            kernel_events=len(results.kernel_events),
        )

    def dumped(self) -> str:
        return json.dumps({**vars(self), "categories": list(self.categories)})

    @classmethod
    def loaded(cls, text: str) -> RunRecord:
        raw = json.loads(text)
        raw["categories"] = tuple(raw["categories"])
        raw["verdict"] = Verdict(raw["verdict"])
        raw["outcomes"] = {name: Outcome(each) for name, each in raw["outcomes"].items()}
        return cls(**raw)


@dataclass
class Index:
    """`runs` are in the order of their start; `skipped` says which directories hold none."""

    runs: list[RunRecord] = field(default_factory=list)
    going_on: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def read_index(directory: Path) -> Index:
    """Every run below `directory`, by way of the index where that is up to date."""
    if not directory.is_dir():
        return Index()
    try:
        return _read(directory)
    except sqlite3.DatabaseError:
        # Damaged, or locked for a long time: what it holds can be read again.
        with contextlib.suppress(OSError):
            _remove(directory)
        try:
            return _read(directory)
        except sqlite3.DatabaseError:
            return _read(directory, in_memory=True)


def _remove(directory: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        (directory / f"{INDEX_FILE}{suffix}").unlink(missing_ok=True)


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if version != _VERSION or "runs" not in names:
            connection.execute("DROP TABLE IF EXISTS runs")
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()  # rolls back what was not committed


def _read(directory: Path, *, in_memory: bool = False) -> Index:
    index = Index()
    with _opened(":memory:" if in_memory else str(directory / INDEX_FILE)) as connection:
        known = {
            run_id: (state, record)
            for run_id, state, record in connection.execute("SELECT * FROM runs")
        }
        present = sorted(path for path in directory.glob("2*") if path.is_dir())
        for path in present:
            if goes_on(path):
                index.going_on.append(path.name)
                continue
            state = _state(path)
            old = known.get(path.name)
            if old is not None and old[0] == state:
                index.runs.append(_loaded(old[1]))
                continue
            record = _record(path, index)
            if record is not None:
                index.runs.append(record)
                row = (path.name, state, record.dumped())
                connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", row)
        for gone in known.keys() - {path.name for path in present}:
            connection.execute("DELETE FROM runs WHERE run_id = ?", (gone,))
    return index


def _loaded(text: str) -> RunRecord:
    try:
        return RunRecord.loaded(text)
    except (ValueError, TypeError, KeyError) as error:
        raise sqlite3.DatabaseError(f"a record of the index is damaged: {error}") from error


def _state(path: Path) -> str:
    """Changes when the results of a run do."""
    parts = []
    for name in (FILENAME, EVENTS_FILE):
        try:
            status = (path / name).stat()
            parts.append(f"{name}:{status.st_size}:{status.st_mtime_ns}")
        except OSError:
            parts.append(f"{name}:-")
    return " ".join(parts)


def _record(path: Path, index: Index) -> RunRecord | None:
    """The run in a directory; a directory without one is passed over and named."""
    killed = not (path / FILENAME).exists()
    try:
        results = load_run(path)
    except VexrunError as error:
        index.skipped[path.name] = error.message
        return None
    except (ValueError, TypeError, KeyError, OSError) as error:  # events of another version
        index.skipped[path.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return None
    return RunRecord.of(results, killed=killed)
