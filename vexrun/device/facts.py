"""What a device says about itself: facts_in_guest.py's answer, checked at the edge."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vexrun.device import facts_in_guest
from vexrun.errors import InfrastructureError
from vexrun.vm.ssh import GuestShell

#: Its own Python, without anything of a user's; the script comes through stdin.
_COMMAND = "exec python3 -I -S - "
_TIMEOUT_S = 120.0


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Signature(_Facts):
    """What libblkid recognises; `offset` in bytes from the beginning of the device."""

    type: str
    uuid: str
    label: str
    usage: str
    offset: int

    @property
    def name(self) -> str:
        """What releases it: its UUID, or type and place where it has none."""
        return self.uuid or f"{self.type}@{self.offset:#x}"

    @property
    def sentence(self) -> str:
        label = f" labelled '{self.label}'" if self.label else ""
        return f"{self.type}{label} ({self.name})"


class Part(_Facts):
    """The disk, one of its partitions, or (`whole`) the disk that a partition is of."""

    name: str
    path: str
    dev: str
    whole: bool
    mounts: list[str]
    swap: bool
    holders: list[str]
    open_by: list[str]
    configured: list[str]
    busy: bool
    signatures: list[Signature]


class DiskFacts(_Facts):
    """The disk that the description names; sizes in bytes."""

    by_id: str
    there: bool
    is_link: bool
    path: str
    name: str
    is_block: bool
    dev: str
    size: int
    serial: str
    virtual: bool
    read_only: bool
    partition_of: str | None
    carries_system: bool
    parts: list[Part]


class ListedDisk(_Facts):
    by_id: str
    name: str
    size: int
    serial: str
    virtual: bool


class Mount(_Facts):
    dev: str
    root: str
    point: str
    type: str
    source: str


class LoggedIn(_Facts):
    user: str
    terminal: str
    program: str


class Facts(_Facts):
    """Everything that is judged. `problems` are what could not be read."""

    machine_id: str
    boot_id: str
    hostname: str
    addresses: list[str]
    release: str
    architecture: str
    uid: int
    taint: int
    uptime_s: float
    systemd: bool
    modules: list[str]
    modules_disabled: bool
    signed_modules_only: bool
    lockdown: str
    filesystems: list[str]
    mounts: list[Mount]
    swaps: list[str]
    settings: dict[str, str]
    watchdogs: list[str]
    pstore: list[str]
    memory_mib: int
    cpus: int
    free_mib: int
    logged_in: list[LoggedIn]
    graphical: list[str]
    disks: list[ListedDisk]
    disk: DiskFacts | None
    problems: list[str]


def facts_request(by_id: str | None, *, signatures: bool = True) -> dict[str, Any]:
    """What facts_in_guest.read is asked for."""
    return {"by_id": by_id, "signatures": signatures}


def read_facts(shell: GuestShell, by_id: str | None, timeout_s: float = _TIMEOUT_S) -> Facts:
    """Ask the device behind `shell`. Raises InfrastructureError when it cannot answer."""
    script = Path(facts_in_guest.__file__).read_text()
    request = json.dumps(facts_request(by_id))
    done = shell.run(_COMMAND + shlex.quote(request), timeout_s=timeout_s, input_text=script)
    if done.returncode != 0:
        raise InfrastructureError(
            "The device could not be asked what it is: its Python ended with exit status "
            f"{done.returncode}.",
            evidence=done.tail(5),
            hint="It needs python3 and util-linux. On Debian: apt-get install python3 util-linux",
        )
    try:
        return Facts.model_validate_json(done.stdout)
    except ValidationError as error:
        raise InfrastructureError(
            "What the device says about itself cannot be understood.",
            evidence=str(error).splitlines()[0] + "\n" + done.stdout[:500],
        ) from error
