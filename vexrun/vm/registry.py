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
    """End its QEMU and delete what is left."""
    end_named(machine.name)


def end_named(name: str) -> bool:
    """End the machine called `name`, also one that was never detached; False if it was gone.

    QEMU is recognised by its own command line, never by a remembered pid alone.
    """
    pid = _qemu_of(name)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is None or _qemu_of(name) != pid:
            break
        os.kill(pid, number)
        until = time.monotonic() + 10
        # The lock goes last: an exiting process loses its command line before its files.
        while time.monotonic() < until and (_qemu_of(name) == pid or is_locked(_lock_of(name))):
            time.sleep(0.05)
    sweep_dead_machines()
    return pid is not None


def _lock_of(name: str) -> Path:
    return machines_dir() / name / "lock"


def _qemu_of(name: str) -> int | None:
    """The pid of the QEMU whose `-name` is `name`."""
    for process in Path("/proc").glob("[0-9]*"):
        words = _command_line(process)
        if "qemu" not in words[0] or "-name" not in words[:-1]:
            continue
        if words[words.index("-name") + 1].split(",")[0] == name:
            return int(process.name)
    return None


def _command_line(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return [""]
