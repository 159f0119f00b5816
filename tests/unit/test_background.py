"""Work beside the story: its value, its error, and nothing left when the story breaks off."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from vexrun import process
from vexrun.background import Background
from vexrun.errors import InfrastructureError


@pytest.mark.parametrize("beside", [True, False])
def test_the_value_comes_back(beside: bool) -> None:
    with Background(lambda: 42, beside=beside) as work:
        assert work.result() == 42


def test_beside_means_another_thread() -> None:
    with (
        Background(threading.get_ident) as beside,
        Background(threading.get_ident, beside=False) as inline,
    ):
        assert beside.result() != threading.get_ident()
        assert inline.result() == threading.get_ident()


def test_an_error_is_raised_where_the_result_is_wanted() -> None:
    with (
        Background(lambda: process.run(["false"])) as work,
        pytest.raises(InfrastructureError, match="'false' failed"),
    ):
        work.result()


def test_leaving_early_kills_what_it_waits_for_and_all_that_would_follow(tmp_path: Path) -> None:
    def work() -> None:
        process.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 1000"])

    def two() -> None:
        try:
            work()
        finally:
            process.run(["touch", str(tmp_path / "second")])

    with pytest.raises(ZeroDivisionError), Background(two):
        until = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
        raise ZeroDivisionError
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "second").exists()
