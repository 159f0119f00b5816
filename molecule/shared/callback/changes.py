"""Writes down which tasks changed something, for tests that ask (`changes.jsonl`)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: changes
type: aggregate
short_description: Record changed tasks
description:
  - One JSON line for each task that changed something, with its host, role and playbook, in
    C(changes.jsonl) of Molecule's ephemeral directory.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """One line for each changed task."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "changes"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook) -> None:  # type: ignore[no-untyped-def]
        self._playbook = Path(playbook._file_name).name

    def v2_runner_on_ok(self, result) -> None:  # type: ignore[no-untyped-def]
        directory = os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY")
        if not directory or not result.is_changed():
            return
        role = result._task._role
        line = {
            "playbook": self._playbook,
            "host": result._host.get_name(),
            "role": role.get_name() if role else None,
            "task": result._task.name,
        }
        with Path(directory, "changes.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
