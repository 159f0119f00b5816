"""`vexrun device add`: a device file from what the machine says of itself, to be completed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from vexrun.device.connection import connection
from vexrun.device.description import Device, Machine
from vexrun.device.facts import Facts, ListedDisk, read_facts
from vexrun.errors import InfrastructureError
from vexrun.process import run
from vexrun.validation import validate

_GIB = 2**30
#: What ssh-keyscan is asked for, best first.
_KINDS = ("ed25519", "ecdsa", "rsa")


def host_key_of(address: str, port: int) -> tuple[str, str]:
    """The host key that answers there, and its fingerprint for a person to compare."""
    for kind in _KINDS:
        argv = ["ssh-keyscan", "-T", "20", "-t", kind, "-p", str(port), address]
        said = run(argv, check=False, timeout=60)
        found = re.search(r"^\S+ (\S+ [A-Za-z0-9+/=]+)$", said.stdout, re.MULTILINE)
        if found:
            shown = run(["ssh-keygen", "-l", "-f", "-"], input_text=found[1] + "\n").stdout
            return found[1], shown.split()[1]
    raise InfrastructureError(
        f"No ssh server answers at '{address}', port {port}.", evidence=said.tail(3)
    )


def propose(name: str, address: str, port: int, user: str, key: Path | None, host_key: str) -> str:
    """The text of the device file. Logs in once, and reads."""
    machine = validate(
        {
            "address": address,
            "machine_id": "0" * 32,
            "host_key": host_key,
            "port": port,
            "user": user,
            "key": str(key) if key else None,
        },
        Machine,
        "What was given for the device is",
    )
    with connection(Device(name=name, device=machine)) as shell:
        facts = read_facts(shell, None)
    return render(machine, facts)


def render(machine: Machine, facts: Facts) -> str:
    """The file: what was found is filled in, what its owner has to decide is commented out."""
    key = _quoted(str(machine.key)) if machine.key else '"~/.ssh/id_ed25519"'
    lines = [
        f"# '{facts.hostname}', Linux {facts.release}, as vexrun found it.",
        "# docs/device.md says what each key means.",
        "",
        "[device]",
        f"address = {_quoted(machine.address)}",
        f"port = {machine.port}",
        f"user = {_quoted(machine.user)}",
        f"{'' if machine.key else '# '}key = {key}",
        f"host_key = {_quoted(machine.host_key)}",
        f"machine_id = {_quoted(facts.machine_id)}",
        '# groups = ["device"]             # "critical" shuts it off for good',
        "# back_within_s = 300             # how long it takes to boot, generously",
        "",
        "# ONE disk whose content may be lost: remove the # of one block, and look twice.",
    ]
    for disk in facts.disks:
        lines += _disk_lines(disk)
    if not facts.disks:
        lines += ["# (It has no name in /dev/disk/by-id at all.)"]
    lines += [
        "",
        "# [allow]",
        '# categories = ["structure", "build", "module", "mkfs", "mount", "fsops"]',
        "# users = []                      # who may be logged in meanwhile",
        "# graphical = false               # true: it may be somebody's desktop",
        "",
        "# [netconsole]                    # its kernel's last words over UDP",
        '# interface = "eth0"              # of the device',
        '# to = "192.0.2.1"                # this machine, as the device sees it',
        "# port = 6666",
        "",
        "[recovery]",
        "# How a person brings it back; printed when that is needed, never run.",
        '# power = "ipmitool -H bmc.example.org chassis power cycle"',
        '# procedure = "It stands in room 12, the left one."',
        "",
    ]
    return "\n".join(lines)


def _disk_lines(disk: ListedDisk) -> list[str]:
    if disk.virtual:
        return []
    gib = max(0.001, disk.size / _GIB)
    return [
        "#",
        f"# '{disk.name}', {gib:.3g} GiB:",
        "# [disk]",
        f"# by_id = {_quoted(disk.by_id)}",
        f"# serial = {_quoted(disk.serial)}",
        f"# max_gib = {gib * 1.01:.3g}",
    ]


def _quoted(text: str) -> str:
    """A basic string of TOML; JSON's escapes are among TOML's."""
    return json.dumps(text)
