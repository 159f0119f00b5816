"""The ssh connection to a device, with its host key pinned by the device file."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from vexrun.device.description import Device
from vexrun.errors import ConfigError, InfrastructureError
from vexrun.playbook import InventoryHost
from vexrun.vm.machine import runtime_dir
from vexrun.vm.ssh import HOST_ALIAS, GuestShell, SshAddress, write_ssh_config
from vexrun.workdir import private_directory

#: A device that says nothing for so long has lost the connection; `slowdown` stretches it.
_ALIVE_S = 30
_CONNECT_S = 60.0


def address_of(device: Device) -> SshAddress:
    """Raises ConfigError when the key that the file names is not there."""
    machine = device.device
    key = machine.key.expanduser() if machine.key else None
    if key is not None and not key.is_file():
        raise ConfigError(
            f"The ssh key '{key}' of the device '{device.name}' is not there.",
            hint="Correct 'device.key' in the device file.",
        )
    return SshAddress(
        port=machine.port,
        client_key=key,
        host_public_key=machine.host_key,
        user=machine.user,
        host=machine.address,
        alive_s=int(_ALIVE_S * machine.slowdown),
    )


@contextmanager
def connection(device: Device) -> Iterator[GuestShell]:
    """A shared connection to the device; it and its files are gone with the block."""
    with connection_directory() as directory:
        shell = GuestShell(write_ssh_config(address_of(device), directory))
        try:
            connect(device, shell)
            yield shell
        finally:
            shell.disconnect()


def connection_directory() -> AbstractContextManager[Path]:
    """For the files of a connection: gone with the block, or swept when we were killed."""
    return private_directory(runtime_dir(f"vexrun-dev-{uuid.uuid4().hex[:8]}"))


def connect(device: Device, shell: GuestShell, deadline_s: float | None = None) -> None:
    """Open the shared connection. Raises InfrastructureError that names the device."""
    try:
        shell.connect(deadline_s or _CONNECT_S * device.device.slowdown, lambda: True)
    except InfrastructureError as error:
        raise InfrastructureError(
            f"The device '{device.name}' cannot be reached at {device.device.user}@"
            f"{device.device.address}, port {device.device.port}: {error.message}",
            evidence=error.evidence,
            hint=recovery(device),
        ) from error


def recovery(device: Device) -> str:
    """What its owner wrote down for the moment when it does not answer."""
    said = [device.recovery.procedure.strip()]
    if device.recovery.power:
        said.append(f"Power: {device.recovery.power}")
    text = "\n".join(part for part in said if part)
    return text or (
        f"The device file of '{device.name}' has no section [recovery]: go there, and switch it "
        "off and on."
    )


def device_inventory(device: Device, config: Path) -> InventoryHost:
    """The device as an Ansible host of the group `device`, over the shared connection."""
    variables = {
        "ansible_ssh_common_args": f"-F {config}",
        "ansible_host": HOST_ALIAS,
        "ansible_user": device.device.user,
    }
    return InventoryHost("device", device.name, variables)
