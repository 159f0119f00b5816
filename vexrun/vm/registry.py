"""The machines that are up without a run around them: `vexrun vm up|status|ssh|console|down`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vexrun.errors import ConfigError
from vexrun.image.locking import is_locked
from vexrun.vm.machine import (
    OWNER_LOCK,
    RECORD,
    MachineState,
    machines_dir,
    sweep_dead_machines,
)
from vexrun.vm.qemu_process import qemu_named


@dataclass(frozen=True)
class KnownMachine:
    """A machine that outlives its vexrun, as it described itself, and what it is to us."""

    directory: Path
    record: dict[str, Any]
    state: MachineState

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def ssh_config(self) -> Path:
        return Path(self.record["ssh_config"])

    @property
    def console_socket(self) -> Path:
        return Path(self.record["console_socket"])

    def describe(self) -> dict[str, Any]:
        """Its record, for people and for --json."""
        return {**self.record, "name": self.name, "state": self.state.value}


def known_machines() -> list[KnownMachine]:
    """Machines that outlive their vexrun and whose QEMU lives, oldest first."""
    sweep_dead_machines()
    if not machines_dir().is_dir():
        return []
    directories = sorted(machines_dir().iterdir(), key=lambda path: path.stat().st_mtime)
    found = (_look(directory) for directory in directories)
    return [machine for machine in found if machine is not None]


def _look(directory: Path) -> KnownMachine | None:
    """The machine in `directory`; None for one that dies with the run it belongs to."""
    if not is_locked(directory / "lock"):
        return None
    try:
        record = json.loads((directory / RECORD).read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # the disk was full, or somebody edited it
        record = {"name": directory.name, "pid": qemu_named(directory.name)}
    if record.get("state") == MachineState.UP:
        state = MachineState.UP
    elif is_locked(directory / OWNER_LOCK):
        state = MachineState.STARTING
    else:
        state = MachineState.LEFT_BEHIND
    return KnownMachine(directory, record, state)


def machines_in(*states: MachineState) -> list[KnownMachine]:
    return [machine for machine in known_machines() if machine.state in states]


#: Nobody's any more: they may be entered, and ended without being named.
FREE = (MachineState.LEFT_BEHIND, MachineState.UP)


def find_machine(name: str | None, *states: MachineState) -> KnownMachine:
    """The machine called `name`, or the newest in one of `states` (default: up).

    Raises ConfigError naming what there is.
    """
    machines = known_machines()
    wanted = states or (MachineState.UP,)
    matching = [
        each for each in machines if (each.state in wanted if name is None else each.name == name)
    ]
    if not matching:
        what = "No machine is up" if name is None else f"There is no machine '{name}'"
        others = ", ".join(f"'{each.name}' ({each.state.value})" for each in machines)
        raise ConfigError(
            f"{what}.",
            evidence=f"machines: {others}" if others else "",
            hint="Name one with --name." if others else "Run: vexrun vm up",
        )
    return matching[-1]


def end_machine(machine: KnownMachine) -> None:
    """End its QEMU and delete what is left."""
    end_named(machine.name)


def end_named(name: str) -> bool:
    """End the machine called `name`, also one that was never detached; False if it was gone.

    QEMU is recognised by its own command line, never by a remembered pid alone.
    """
    pid = qemu_named(name)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is None or qemu_named(name) != pid:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        until = time.monotonic() + 10
        # The lock goes last: an exiting process loses its command line before its files.
        while time.monotonic() < until and (qemu_named(name) == pid or is_locked(_lock_of(name))):
            time.sleep(0.05)
    sweep_dead_machines()
    return pid is not None


def _lock_of(name: str) -> Path:
    return machines_dir() / name / "lock"
