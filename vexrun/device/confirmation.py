"""A person types the serial of the disk whose content will be lost; CI gives a token."""

from __future__ import annotations

import hashlib
import hmac
import sys
from collections.abc import Callable

from vexrun.device.description import Device
from vexrun.device.guards import RefusedError

_TOKEN_LENGTH = 20


def token_of(device: Device) -> str:
    """What CI passes with --confirm. Another machine or another disk has another token."""
    assert device.disk is not None, "the guards have asked for a disk"
    parts = ("vexrun-device-1", device.device.machine_id, device.disk.by_id, device.disk.serial)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_TOKEN_LENGTH]


def _ask(text: str) -> str:
    """Whoever sits there; stdout may be for a JSON document."""
    print(text, end="", file=sys.stderr, flush=True)
    try:
        return input()
    except EOFError:
        return ""


def confirm(
    device: Device,
    given: str | None,
    *,
    ask: Callable[[str], str] = _ask,
    at_a_terminal: bool | None = None,
) -> str:
    """How the loss of the disk's content was confirmed: `token` or `typed`.

    Raises RefusedError without a confirmation, or with a wrong one.
    """
    disk = device.disk
    assert disk is not None, "the guards have asked for a disk"
    if given is not None:
        if hmac.compare_digest(given.encode(), token_of(device).encode()):
            return "token"
        raise RefusedError(
            f"The token that --confirm gives is not that of the disk '{disk.by_id}' of "
            f"'{device.name}'.",
            hint=f"vexrun device check {device.name} prints it; it names machine and disk.",
        )
    if not (sys.stdin.isatty() if at_a_terminal is None else at_a_terminal):
        raise RefusedError(
            f"Nobody has confirmed that the content of '{disk.by_id}' of '{device.name}' may be "
            "lost, and there is no terminal to ask at.",
            hint=f"In CI: --confirm TOKEN, as vexrun device check {device.name} prints it.",
        )
    said = ask(
        f"Everything on the disk '{disk.by_id}' of '{device.name}' ({device.device.address}) will "
        "be lost.\nType its serial to go on: "
    )
    if said.strip() == disk.serial:
        return "typed"
    raise RefusedError(
        f"'{said.strip()}' is not the serial of the disk. Nothing was touched.",
        hint="The serial is on the disk's label, and in the device file.",
    )
