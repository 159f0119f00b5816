"""The criteria of the gates, read from criteria.toml."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from vexrun.image.manifest import sha256_of

FILE = Path(__file__).with_name("criteria.toml")


class Gate(StrEnum):
    """Where the module wants to go."""

    DEVICE = "device"
    PRODUCTION = "production"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GateRules(_Row):
    """The figures of one gate. `next` is the place behind it."""

    next: str
    max_age_days: float = Field(gt=0)
    soak_runs: int = Field(ge=1)
    expected_failures: bool
    needs_commit: bool


class Criterion(_Row):
    """One line of the checklist; `check` is a name in the table of vexrun.gate.checks."""

    id: str
    title: str
    check: str
    gates: list[Gate] = Field(default_factory=lambda: list(Gate))
    tests: list[str] = Field(default_factory=list)
    categories: list[str] = Field(default_factory=list)
    items: list[str] = Field(default_factory=list)


class Criteria(_Row):
    gates: dict[Gate, GateRules]
    criterion: list[Criterion]

    def of(self, gate: Gate) -> list[Criterion]:
        return [row for row in self.criterion if gate in row.gates]


def load_criteria() -> Criteria:
    """The criteria this vexrun was shipped with; there is no other set and no way round one."""
    return Criteria.model_validate(tomllib.loads(FILE.read_text()))


def criteria_sha256() -> str:
    return sha256_of(FILE)
