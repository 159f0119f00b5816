"""Keeps Molecule's state of two checkouts apart.

Molecule 26.10 puts a scenario's state into `$ANSIBLE_HOME/tmp/molecule.<4 characters of a hash of
the checkout's last path component>.<scenario>`: two checkouts called `main` overwrite each other.
Nothing in a configuration file can change that path (`.env.yml` only fills in molecule.yml, and
ansible-compat reads ANSIBLE_HOME from the environment before that). Molecule does load every
driver plugin before it computes the path, so this one sets ANSIBLE_HOME when it is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from molecule.driver.delegated import Delegated

#: A project that has these uses our scenarios; other projects are left alone.
_OURS = (".config/molecule/config.yml", "molecule/shared/library/vexrun_vm.py")
#: Whoever sets one of these has decided where the state is.
_DECIDED = ("ANSIBLE_HOME", "MOLECULE_EPHEMERAL_DIRECTORY")


def keep_checkouts_apart(project: Path) -> None:
    """Let Ansible and Molecule keep their state in `project`/.ansible, if it is ours to say."""
    if any(variable in os.environ for variable in _DECIDED):
        return
    if all((project / name).is_file() for name in _OURS):
        os.environ["ANSIBLE_HOME"] = str(project / ".ansible")


class PerCheckout(Delegated):  # type: ignore[misc]
    """No driver of its own: the scenarios use `default`. It exists to be loaded."""

    title = "Not a driver: keeps the state of two checkouts apart (vexrun)."

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._name = "custom-vexrun"
        keep_checkouts_apart(Path.cwd())
