"""Planted bugs, each through the whole of `vexrun test`: what must be said about every one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vexrun.canary_record import keep
from vexrun.selftest import Canary, load_canaries, run_canary

pytestmark = pytest.mark.vm


def parameters() -> list[Any]:
    return [
        pytest.param(canary, id=canary.name, marks=[pytest.mark.smoke] if canary.smoke else [])
        for canary in load_canaries()
    ]


@pytest.mark.parametrize("canary", parameters())
def test_canary_is_called_what_it_is(canary: Canary, tmp_path: Path, suite: str) -> None:
    judged = run_canary(canary, suite, tmp_path)
    keep(judged, suite)
    assert not judged.problems, f"{judged.got}; results: {judged.run_dir}"
