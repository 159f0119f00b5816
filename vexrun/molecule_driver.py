"""The Molecule driver `molecule-vexrun`: our machines for the scenarios of other repositories.

It is Molecule's default driver with our create, cleanup and destroy playbooks and our ssh_config;
a playbook of that name in the scenario itself wins. docs/molecule.md shows such a scenario.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import molecule.data
from molecule.driver.delegated import Delegated

from vexrun.layout import data_root

NAME = "molecule-vexrun"
_PLAYBOOKS = ("create", "cleanup", "destroy")


class VexrunDriver(Delegated):  # type: ignore[misc]
    """`driver: {name: molecule-vexrun}`."""

    title = "Virtual machines of vexrun, by QEMU or by Vagrant."

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._name = NAME

    def schema_file(self) -> str:
        """The default driver's allows only its own two names; Molecule's general one has ours."""
        return str(Path(molecule.data.__file__).with_name("molecule.json"))

    def get_playbook(self, step: str) -> str | None:
        """Molecule's hook for a driver that brings playbooks of its own."""
        if step not in _PLAYBOOKS:
            return None
        return str(data_root() / "molecule" / "shared" / f"{step}.yml")

    @property
    def default_ssh_connection_options(self) -> list[str]:
        """The file that `create` writes: host keys pinned, one shared connection."""
        return [f"-F {self._config.scenario.ephemeral_directory}/ssh_config"]
