"""Locks between vexruns, and working directories that dead ones cannot leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vexrun.errors import InterruptedRunError
from vexrun.image.locking import exclusive, is_locked, shared
from vexrun.interrupt import interruptible
from vexrun.workdir import work_directory


@contextmanager
def another_process(kind: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds `path`, until the block ends or somebody kills it."""
    code = (
        "import fcntl, sys, time; stream = open(sys.argv[1], 'a');"
        f"fcntl.flock(stream, fcntl.{kind}); print('held', flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-S", "-c", code, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def test_a_lock_is_held_for_the_block_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    assert not is_locked(path)
    assert not path.exists(), "looking makes nothing"
    with exclusive(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_users_share_a_lock_that_keeps_builders_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with shared(path), shared(path):
        assert is_locked(path)
    assert not is_locked(path)


@pytest.mark.parametrize("kind", ["LOCK_EX", "LOCK_SH"])
def test_waiting_is_announced_and_ends_when_the_holder_dies(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lock"
    with another_process(kind, path) as holder:
        assert is_locked(path)
        waited: list[bool] = []

        def tell() -> None:
            waited.append(is_locked(path))
            holder.send_signal(signal.SIGKILL)

        with exclusive(path, on_wait=tell):
            assert waited == [True]
            assert holder.wait() == -signal.SIGKILL


def test_a_free_lock_announces_nothing(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", on_wait=lambda: pytest.fail("nobody holds it")):
        pass


# -- working directories -------------------------------------------------------------------------


def test_a_work_directory_is_gone_afterwards(home: Path, no_namespaces: object) -> None:
    with pytest.raises(ZeroDivisionError), work_directory("run-1") as directory:
        (directory / "sub").mkdir()
        assert directory == home / "cache" / "work" / "run-1"
        raise ZeroDivisionError
    assert not directory.exists()


def test_those_of_dead_runs_are_swept_and_those_of_living_ones_are_not(
    home: Path, no_namespaces: object
) -> None:
    work = home / "cache" / "work"
    for name in ("killed", "alive"):
        (work / name).mkdir(parents=True)
        (work / name / "lock").touch()
    (work / "killed" / "big").write_text("x")
    with another_process("LOCK_EX", work / "alive" / "lock"), work_directory("mine"):
        assert sorted(path.name for path in work.iterdir()) == ["alive", "mine"]


# -- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_asks_to_stop_is_an_exception_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruptible():
        with pytest.raises(InterruptedRunError, match=number.name) as caught:
            os.kill(os.getpid(), number)
            time.sleep(1)
        os.kill(os.getpid(), number)  # a second one must not cut the cleaning up short
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is before
