"""Settings of this machine: config.toml, overridden by VEXRUN_* environment variables."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vexrun.errors import ConfigError
from vexrun.layout import config_file
from vexrun.validation import describe_errors


class ImageSettings(BaseModel):
    """How guest images are made. `mirror` and `proxy` are URLs; None is the suite's default."""

    model_config = ConfigDict(extra="forbid")

    mirror: str | None = None
    proxy: str | None = None
    extra_packages: list[str] = Field(default_factory=list)
    disk_gib: int = Field(default=12, ge=6)


class MachineSettings(BaseModel):
    """The guest's hardware."""

    model_config = ConfigDict(extra="forbid")

    memory_mib: int = Field(default=2048, ge=512)
    cpus: int = Field(default=2, ge=1)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: ImageSettings = Field(default_factory=ImageSettings)
    machine: MachineSettings = Field(default_factory=MachineSettings)


_ENVIRONMENT = {
    "VEXRUN_MIRROR": ("image", "mirror"),
    "VEXRUN_PROXY": ("image", "proxy"),
    "VEXRUN_EXTRA_PACKAGES": ("image", "extra_packages"),
    "VEXRUN_DISK_GIB": ("image", "disk_gib"),
    "VEXRUN_MEMORY_MIB": ("machine", "memory_mib"),
    "VEXRUN_CPUS": ("machine", "cpus"),
}


def load_settings(path: Path | None = None) -> Settings:
    """Read the settings file if there is one, then the environment.

    Raises ConfigError naming the file, the key and the fix.
    """
    path = path or config_file()
    raw: dict[str, dict[str, object]] = {}
    if path.is_file():
        try:
            raw = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigError(
                f"The settings file '{path}' cannot be read: {error.strerror}."
            ) from error
        except ValueError as error:  # also a number of too many digits, or not UTF-8
            raise ConfigError(f"The settings file '{path}' is not valid TOML: {error}.") from error
    for variable, (section, key) in _ENVIRONMENT.items():
        value = os.environ.get(variable)
        if value:
            values = raw.setdefault(section, {})
            if isinstance(values, dict):  # otherwise the file is wrong, as is said below
                values[key] = value.split() if key == "extra_packages" else value
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            f"The settings (file '{path}' and VEXRUN_* variables) are not valid.",
            evidence=describe_errors(error, Settings),
            hint="The keys are described in docs/settings.md.",
        ) from error
