"""What each canary was last called, and the table of it in docs/canaries.md.

Every canary that is run leaves one entry here, whoever ran it. An entry counts as long as the
canary's row is what it was; one of a machine that broke off is not kept, because nothing was
judged.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from vexrun.errors import ConfigError
from vexrun.image.locking import exclusive
from vexrun.image.suites import DEFAULT_SUITE
from vexrun.layout import state_dir
from vexrun.selftest import Canary, Judged

SCHEMA_VERSION = 1
#: In the table in any case, run or not.
_SUITES = (DEFAULT_SUITE, "bookworm")


class Shown(BaseModel):
    """One canary that was run on one suite."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    got: str
    kernel: str
    seconds: float
    finished_at: float
    problems: list[str] = Field(default_factory=list)


class Record(BaseModel):
    """All that was shown, by suite and canary."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    suites: dict[str, dict[str, Shown]] = Field(default_factory=dict)

    def of(self, row: Canary, suite: str) -> Shown | None:
        """What is known of the row as it is now."""
        shown = self.suites.get(suite, {}).get(row.name)
        return shown if shown is not None and shown.row == key_of(row) else None


def record_file() -> Path:
    return state_dir() / "selftest.json"


def key_of(row: Canary) -> str:
    """Of all that a row plants and expects."""
    return hashlib.sha256(row.model_dump_json(exclude={"smoke"}).encode()).hexdigest()[:16]


def load_record(file: Path | None = None) -> Record:
    """The record as it stands. Raises ConfigError for a file that is none."""
    file = file or record_file()
    try:
        return Record.model_validate_json(file.read_text())
    except FileNotFoundError:
        return Record()
    except ValueError as error:
        raise ConfigError(f"'{file}' is no record of canaries.", hint="Remove it.") from error


def keep(judged: Judged, suite: str, file: Path | None = None) -> None:
    """Add one canary that was run, in place of what was known of it."""
    if judged.void:
        return
    file = file or record_file()
    shown = Shown(
        row=key_of(judged.canary),
        got=judged.got,
        kernel=judged.kernel,
        seconds=round(judged.seconds, 1),
        finished_at=round(time.time(), 1),
        problems=judged.problems,
    )
    with exclusive(file.with_suffix(".lock")):  # another one may run others meanwhile
        record = load_record(file)
        record.suites.setdefault(suite, {})[judged.canary.name] = shown
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(record.model_dump(mode="json"), indent=2) + "\n")
        fresh.rename(file)


# -- the table --------------------------------------------------------------------------------


def table(rows: Sequence[Canary], record: Record) -> str:
    """Every row with what each suite called it, and a summary, in Markdown."""
    suites = [*_SUITES, *sorted(record.suites.keys() - set(_SUITES))]
    lines = [
        f"| canary | expected | {' | '.join(suites)} |",
        f"|---|---|{'---|' * len(suites)}",
    ]
    for row in rows:
        cells = [f"`{row.name}`", row.expected]
        cells += [_cell(record.of(row, suite)) for suite in suites]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, "", *(_summary(rows, record, suite) for suite in suites), ""])


def _cell(shown: Shown | None) -> str:
    if shown is None:
        return "not run"
    if shown.problems:
        return f"**NO**: {shown.got}"
    return f"ok, {shown.seconds:.0f} s"


def _summary(rows: Sequence[Canary], record: Record, suite: str) -> str:
    found = [shown for row in rows if (shown := record.of(row, suite)) is not None]
    if not found:
        return f"- {suite}: none of {len(rows)} was run."
    wrong = sum(bool(shown.problems) for shown in found)
    kernels = ", ".join(sorted({shown.kernel for shown in found}))
    days = sorted({_day(shown.finished_at) for shown in found})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    left = len(rows) - len(found)
    return (
        f"- {suite} ({kernels}; {when}): {len(found) - wrong} of {len(rows)} were called what "
        f"they are, {wrong} were not, {left} were not run."
    )


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
