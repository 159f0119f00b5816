"""The file in which its owner describes a test device. Documented in docs/device.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from vexrun.categories import CATEGORIES
from vexrun.errors import ConfigError
from vexrun.layout import devices_dir
from vexrun.validation import read_toml, validate

#: What a device runs unless its owner says otherwise: nothing that feeds the kernel garbage,
#: breaks media or goes on for long.
DEFAULT_CATEGORIES = ("structure", "build", "module", "mkfs", "mount", "fsops")
#: The group of machines that are no test devices, whatever else a file says.
CRITICAL = "critical"
#: Beside the descriptions: machines that matter to somebody.
CRITICAL_FILE = "critical.toml"
BY_ID = "/dev/disk/by-id/"

_MACHINE_ID = re.compile(r"[0-9a-f]{32}\Z")
_HOST_KEY = re.compile(r"(ssh|ecdsa)-[\w@.-]+ [A-Za-z0-9+/=]+\Z")
_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*\Z")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def _machine_id(value: str) -> str:
    if not _MACHINE_ID.match(value):
        raise ValueError("must be the 32 hexadecimal digits of the device's /etc/machine-id")
    return value


def _host_key(value: str) -> str:
    key = " ".join(value.split()[:2])
    if not _HOST_KEY.match(key):
        raise ValueError("must be a public ssh host key, such as 'ssh-ed25519 AAAA…'")
    return key


def _address(value: str) -> str:
    if not _ADDRESS.match(value):
        raise ValueError("must be a host name or an IP address")
    return value


def _by_id(value: str) -> str:
    name = value.removeprefix(BY_ID)
    if not value.startswith(BY_ID) or not name or "/" in name or name in (".", ".."):
        raise ValueError(
            f"must be a name in {BY_ID} (a name like /dev/sdb is another disk after the next boot)"
        )
    return value


def _category(value: str) -> str:
    if value not in CATEGORIES:
        raise ValueError(f"is no category; there are {', '.join(CATEGORIES)}")
    return value


def _interface(value: str) -> str:
    if not _PLAIN.match(value) or len(value) > 15:
        raise ValueError("must be the name of a network interface, such as 'eth0'")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(_Section):
    """How to reach it, and which machine has to answer. `slowdown` stretches time limits.

    `back_within_s` is how long it takes to boot, generously.
    """

    address: Annotated[str, AfterValidator(_address)]
    machine_id: Annotated[str, AfterValidator(_machine_id)]
    host_key: Annotated[str, AfterValidator(_host_key)]
    port: int = Field(default=22, ge=1, le=65535)
    user: str = Field(default="root", pattern=r"^[a-z_][a-z0-9_-]*$")
    key: Path | None = None
    groups: list[str] = Field(default_factory=lambda: ["device"])
    slowdown: float = Field(default=1.0, ge=1.0, le=20.0)
    back_within_s: float = Field(default=300.0, ge=10.0, le=3600.0)


class Disk(_Section):
    """The disk whose content may be lost. `released` names the one signature that it may carry."""

    by_id: Annotated[str, AfterValidator(_by_id)]
    serial: str = Field(min_length=1)
    max_gib: float = Field(gt=0)
    released: str = ""


class Allow(_Section):
    """What its owner lets vexrun do there, beyond the usual."""

    categories: list[Annotated[str, AfterValidator(_category)]] = Field(
        default_factory=lambda: list(DEFAULT_CATEGORIES), min_length=1
    )
    graphical: bool = False
    users: list[str] = Field(default_factory=list)


class Netconsole(_Section):
    """The device's kernel log over UDP: it sends from `interface` to `to`, we listen here.

    `port` 0 takes a free one; `mac` is that of the next hop, the broadcast address when empty.
    """

    interface: Annotated[str, AfterValidator(_interface)]
    to: str = Field(pattern=r"^\d+\.\d+\.\d+\.\d+$")
    listen: str = Field(default="0.0.0.0", pattern=r"^\d+\.\d+\.\d+\.\d+$")
    port: int = Field(default=0, ge=0, le=65535)
    mac: str = Field(default="", pattern=r"^(|([0-9a-f]{2}:){5}[0-9a-f]{2})$")


class Recovery(_Section):
    """How a person brings it back: a command to paste, and what to do besides. Never run by us."""

    power: str = ""
    procedure: str = ""


class Device(_Section):
    """A whole description; `name` is that of its file."""

    name: str
    device: Machine
    disk: Disk | None = None
    allow: Allow = Field(default_factory=Allow)
    netconsole: Netconsole | None = None
    recovery: Recovery = Field(default_factory=Recovery)

    @model_validator(mode="after")
    def _belongs_to_the_group(self) -> Self:
        if "device" not in self.device.groups and CRITICAL not in self.device.groups:
            raise ValueError("'device.groups' has to name the inventory group 'device'")
        return self


class CriticalMachines(_Section):
    """Machines that are never a test device: by machine-id, by address."""

    machine_ids: list[Annotated[str, AfterValidator(_machine_id)]] = Field(default_factory=list)
    addresses: list[Annotated[str, AfterValidator(str.lower)]] = Field(default_factory=list)


def device_file(name: str) -> Path:
    """Where the description of `name` is; a path is taken as it is."""
    if "/" in name or name.endswith(".toml"):
        return Path(name)
    return devices_dir() / f"{name}.toml"


def known_devices() -> list[str]:
    """Names of the devices that are described here."""
    files = devices_dir().glob("*.toml") if devices_dir().is_dir() else []
    return sorted(path.stem for path in files if path.name != CRITICAL_FILE)


def load_device(name: str) -> Device:
    """The description of a device. Raises ConfigError naming the file, the key and the fix."""
    path = device_file(name)
    if not _PLAIN.match(path.stem):
        raise ConfigError(f"'{name}' cannot be the name of a device.", hint="Use letters, digits.")
    try:
        raw = read_toml(path, "device file")
    except FileNotFoundError as error:
        known = ", ".join(known_devices()) or "none"
        raise ConfigError(
            f"There is no device '{name}': no file '{path}'.",
            evidence=f"described here: {known}",
            hint=f"Describe it: vexrun device add {path.stem} --address ADDRESS",
        ) from error
    raw.pop("name", None)
    return validate(
        {"name": path.stem, **raw},
        Device,
        f"The device file '{path}' is",
        hint="The keys are described in docs/device.md.",
    )


def load_critical() -> CriticalMachines:
    """The machines that matter, from `critical.toml` beside the descriptions; none without it."""
    path = devices_dir() / CRITICAL_FILE
    try:
        raw = read_toml(path, "list of critical machines")
    except FileNotFoundError:
        return CriticalMachines()
    return validate(raw, CriticalMachines, f"The list of critical machines '{path}' is")
