"""The machines that are up without a run around them: `vexrun vm up|status|ssh|console|down`."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexrun.errors import ConfigError
from vexrun.image.locking import is_locked
from vexrun.vm.machine import machines_dir, sweep_dead_machines


@dataclass(frozen=True)
class KnownMachine:
    """A detached machine, as it described itself when it was left."""

    directory: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def ssh_config(self) -> Path:
        return Path(self.record["ssh_config"])

    @property
    def console_socket(self) -> Path:
        return Path(self.record["console_socket"])


def known_machines() -> list[KnownMachine]:
    """Detached machines whose QEMU lives, oldest first."""
    sweep_dead_machines()
    if not machines_dir().is_dir():
        return []
    found = []
    for directory in sorted(machines_dir().iterdir(), key=lambda path: path.stat().st_mtime):
        note = directory / "machine.json"
        if note.is_file() and is_locked(directory / "lock"):
            found.append(KnownMachine(directory, json.loads(note.read_text())))
    return found


def find_machine(name: str | None) -> KnownMachine:
    """The machine called `name`, or the newest; ConfigError when there is none."""
    machines = known_machines()
    matching = [each for each in machines if name is None or each.name == name]
    if not matching:
        what = "No machine is up" if name is None else f"There is no machine '{name}'"
        raise ConfigError(f"{what}.", hint="Run: vexrun vm up")
    return matching[-1]


def end_machine(machine: KnownMachine) -> None:
    """End its QEMU and delete what is left. The pid is checked to be that very machine's."""
    pid = int(machine.record["pid"])
    if machine.name in _command_line(pid):
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + 10
        while is_locked(machine.directory / "lock") and time.monotonic() < until:
            time.sleep(0.05)
        if machine.name in _command_line(pid):
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
    sweep_dead_machines()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
