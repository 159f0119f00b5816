"""Where vexrun's own files are: in a checkout, or inside the installed wheel.

In a checkout roles, playbooks, inventory, scenarios and guest tests are top-level
directories; a wheel carries the same tree under `vexrun/_data` (pyproject.toml,
force-include).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from vexrun.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The directory that holds roles/, playbooks/, inventory/, molecule/ and tests/guest/."""
    packaged = PACKAGE / "_data"
    return packaged if packaged.is_dir() else PACKAGE.parent


def cache_dir() -> Path:
    """Images, snapshots and downloads; everything in it can be made again."""
    return _place("VEXRUN_CACHE_DIR", platformdirs.user_cache_path)


def state_dir() -> Path:
    """Run directories and the register of machines that are up."""
    return _place("VEXRUN_STATE_DIR", platformdirs.user_state_path)


def config_file() -> Path:
    """The user's settings (docs/settings.md)."""
    return _place("VEXRUN_CONFIG", lambda name: platformdirs.user_config_path(name) / "config.toml")


def devices_dir() -> Path:
    """Descriptions of test devices, a file each (docs/device.md)."""
    return _place(
        "VEXRUN_DEVICES_DIR", lambda name: platformdirs.user_config_path(name) / "devices"
    )


def _place(variable: str, usual: Callable[[str], Path]) -> Path:
    """The absolute path that a variable names, or else the usual one."""
    chosen = os.environ.get(variable)
    if chosen:
        return Path(chosen).absolute()
    try:
        path = usual("vexrun")
    except RuntimeError:  # platformdirs 4.3: neither HOME nor an account
        path = Path()
    if not path.is_absolute():  # older ones leave a directory called '~' in the working directory
        raise ConfigError(
            "This user has no home directory, so vexrun's files have no place.",
            hint=f"Set HOME, or {variable}.",
        )
    return path
