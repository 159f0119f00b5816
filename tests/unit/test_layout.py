"""Where files of ours are, whatever the environment says."""

from __future__ import annotations

import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from vexrun.errors import ConfigError
from vexrun.layout import cache_dir, config_file, state_dir

PLACES = [
    pytest.param(cache_dir, "VEXRUN_CACHE_DIR", "XDG_CACHE_HOME", id="cache"),
    pytest.param(state_dir, "VEXRUN_STATE_DIR", "XDG_STATE_HOME", id="state"),
    pytest.param(config_file, "VEXRUN_CONFIG", "XDG_CONFIG_HOME", id="settings"),
]
Place = Callable[[], Path]


@pytest.mark.parametrize(("place", "variable", "xdg"), PLACES)
def test_our_variable_goes_before_the_xdg_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: Place, variable: str, xdg: str
) -> None:
    monkeypatch.setenv(xdg, str(home / "with blank, é"))
    monkeypatch.setenv(variable, str(home / "ours"))
    assert place() == home / "ours"
    monkeypatch.setenv(variable, "")
    assert place().is_relative_to(home / "with blank, é" / "vexrun")


@pytest.mark.parametrize(("place", "variable", "xdg"), PLACES)
def test_a_relative_place_does_not_move_with_the_working_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: Place, variable: str, xdg: str
) -> None:
    """QEMU's overlays name the file below them by its path."""
    monkeypatch.chdir(home)
    monkeypatch.setenv(variable, "here")
    assert place() == home / "here"


@pytest.mark.parametrize(("place", "variable", "xdg"), PLACES)
def test_without_a_home_nothing_is_put_into_a_directory_called_tilde(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: Place, variable: str, xdg: str
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", dict[int, None]().__getitem__)
    for name in (variable, xdg, "HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="no home directory") as caught:
        place()
    assert caught.value.hint == f"Set HOME, or {variable}."
