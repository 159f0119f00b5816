"""Settings of this machine: config.toml, overridden by VEXRUN_* environment variables."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vexrun.errors import ConfigError
from vexrun.layout import config_file
from vexrun.validation import read_toml, validate


class RustOrigin(StrEnum):
    """Where an image's Rust comes from: never what happens to answer while it is built."""

    DISTRO = "distro"
    RUSTUP = "rustup"


class ImageSettings(BaseModel):
    """How guest images are made. `mirror` and `proxy` are URLs; None is the suite's default.

    `accept_expired` takes package lists whose Valid-Until has passed: those of a snapshot or of
    a mirror that stands still. Their signatures are checked all the same.
    """

    model_config = ConfigDict(extra="forbid")

    mirror: str | None = None
    proxy: str | None = None
    accept_expired: bool = False
    extra_packages: list[str] = Field(default_factory=list)
    disk_gib: int = Field(default=12, ge=6)
    rust: RustOrigin = RustOrigin.DISTRO


class MachineSettings(BaseModel):
    """The guest's hardware."""

    model_config = ConfigDict(extra="forbid")

    memory_mib: int = Field(default=2048, ge=512)
    cpus: int = Field(default=2, ge=1)


class CoreSettings(BaseModel):
    """Memory images of guests whose kernel died. `vmlinux` has a kernel's debug symbols."""

    model_config = ConfigDict(extra="forbid")

    limit_mib: int = Field(default=512, ge=1)
    limit_s: float = Field(default=60.0, gt=0)
    vmlinux: Path | None = None


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: ImageSettings = Field(default_factory=ImageSettings)
    machine: MachineSettings = Field(default_factory=MachineSettings)
    core: CoreSettings = Field(default_factory=CoreSettings)


_ENVIRONMENT = {
    "VEXRUN_MIRROR": ("image", "mirror"),
    "VEXRUN_PROXY": ("image", "proxy"),
    "VEXRUN_ACCEPT_EXPIRED": ("image", "accept_expired"),
    "VEXRUN_EXTRA_PACKAGES": ("image", "extra_packages"),
    "VEXRUN_DISK_GIB": ("image", "disk_gib"),
    "VEXRUN_RUST": ("image", "rust"),
    "VEXRUN_MEMORY_MIB": ("machine", "memory_mib"),
    "VEXRUN_CPUS": ("machine", "cpus"),
    "VEXRUN_CORE_LIMIT_MIB": ("core", "limit_mib"),
    "VEXRUN_CORE_LIMIT_S": ("core", "limit_s"),
    "VEXRUN_VMLINUX": ("core", "vmlinux"),
}


def load_settings(path: Path | None = None) -> Settings:
    """Read the settings file if there is one, then the environment.

    Raises ConfigError naming the file, the key and the fix; also when VEXRUN_CONFIG names a file
    that is not there.
    """
    path = path or config_file()
    raw = _read(path)
    for variable, (section, key) in _ENVIRONMENT.items():
        value = os.environ.get(variable)
        if value:
            values = raw.setdefault(section, {})
            if isinstance(values, dict):  # otherwise the file is wrong, as is said below
                values[key] = value.split() if key == "extra_packages" else value
    return validate(
        raw,
        Settings,
        f"The settings (file '{path}' and VEXRUN_* variables) are",
        hint="The keys are described in docs/settings.md.",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path, "settings file")
    except FileNotFoundError as error:
        if os.environ.get("VEXRUN_CONFIG"):
            raise ConfigError(
                f"There is no settings file '{path}', which VEXRUN_CONFIG names.",
                hint="Correct VEXRUN_CONFIG, or unset it: nothing needs to be set.",
            ) from error
        return {}
