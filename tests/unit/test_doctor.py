"""The doctor names what is wrong with a machine, and never breaks off itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexrun import doctor


@pytest.mark.parametrize("variable", ["VEXRUN_CACHE_DIR", "VEXRUN_STATE_DIR"])
@pytest.mark.parametrize("below", ["", "vexrun/deep"], ids=["it", "its parent"])
def test_a_place_that_cannot_be_written_is_named_with_the_variable(
    home: Path, ordinary_user: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    """A read-only home directory."""
    for name in ("VEXRUN_CACHE_DIR", "VEXRUN_STATE_DIR"):
        monkeypatch.setenv(name, str(ordinary_user / name))
    place = ordinary_user / "home" / below
    monkeypatch.setenv(variable, str(place))
    (ordinary_user / "home").mkdir(mode=0o555)
    finding = doctor._places()
    assert not finding.ok
    assert finding.needed
    assert finding.text == f"'{place}' cannot be written: Permission denied"
    assert finding.fix == f"set {variable} to a directory you may write"
    assert doctor._disk().ok == (variable == "VEXRUN_STATE_DIR" or not below)


def test_places_that_can_be_written_are_told(home: Path) -> None:
    finding = doctor._places()
    assert finding.ok
    assert f"cache '{home / 'cache'}'" in finding.text
    assert list((home / "cache").iterdir()) == []
