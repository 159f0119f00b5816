"""Where vexrun's own files are: in a checkout, or inside the installed wheel.

In a checkout roles, playbooks, inventory, scenarios and guest tests are top-level
directories; a wheel carries the same tree under `vexrun/_data` (pyproject.toml,
force-include).
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The directory that holds roles/, playbooks/, inventory/, molecule/ and tests/guest/."""
    packaged = PACKAGE / "_data"
    return packaged if packaged.is_dir() else PACKAGE.parent


def cache_dir() -> Path:
    """Images, snapshots and downloads; everything in it can be made again."""
    chosen = os.environ.get("VEXRUN_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("vexrun")


def state_dir() -> Path:
    """Run directories and the register of machines that are up."""
    chosen = os.environ.get("VEXRUN_STATE_DIR")
    return Path(chosen) if chosen else platformdirs.user_state_path("vexrun")


def config_file() -> Path:
    """The user's settings (docs/settings.md)."""
    chosen = os.environ.get("VEXRUN_CONFIG")
    return Path(chosen) if chosen else platformdirs.user_config_path("vexrun") / "config.toml"
