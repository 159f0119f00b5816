"""What `molecule create` recorded about the machine and its subject."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vexrun.subject import Subject, load_subject

EPHEMERAL_DIRECTORY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])


@dataclass(frozen=True)
class Created:
    """The machine, and the variables its roles were given."""

    console_log: Path
    variables: dict[str, Any]

    @property
    def subject(self) -> Subject:
        return load_subject(Path(self.variables["molecule_subject_file"]))

    @property
    def module(self) -> str:
        return str(self.variables["module_load_name"])

    @property
    def ko(self) -> str:
        return str(self.variables["module_load_ko"])


@pytest.fixture(scope="session")
def created() -> Created:
    noted = json.loads((EPHEMERAL_DIRECTORY / "vexrun_machines.json").read_text())
    (machine,) = noted["machines"]
    return Created(Path(machine["console_log"]), machine["variables"])


@pytest.fixture(scope="session")
def changed_tasks() -> list[dict[str, str]]:
    """Every task that changed something since `create`: playbook, host, role, task."""
    path = EPHEMERAL_DIRECTORY / "changes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]
