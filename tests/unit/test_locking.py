"""Locks between vexruns, and working directories that dead ones cannot leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vexrun.errors import InterruptedRunError
from vexrun.image.locking import exclusive, is_locked, shared
from vexrun.interrupt import interruptible
from vexrun.workdir import sweep_work_directories, work_directory


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


@pytest.fixture
def work(home: Path, no_namespaces: object) -> Path:
    return home / "cache" / "work"


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_work_directory_is_gone_afterwards(work: Path) -> None:
    with pytest.raises(ZeroDivisionError), work_directory("run-1") as directory:
        (directory / "sub").mkdir()
        assert directory == work / "run-1"
        assert list(directory.iterdir()) == [directory / "sub"], "ours is all that is in it"
        raise ZeroDivisionError
    assert left(work) == []


def test_what_became_whole_is_moved_to_its_place(work: Path) -> None:
    with work_directory("image-1") as directory:
        (directory / "disk").touch()
        directory.rename(work.parent / "image-1")
        sweep_work_directories()
    assert left(work.parent / "image-1") == ["disk"]
    assert left(work) == []


def dead(work: Path, name: str) -> None:
    (work / name).mkdir(parents=True)
    (work / name / "big").write_text("x")
    (work / f"{name}.lock").touch()


def make_another(_work: Path) -> None:
    with work_directory("mine"):
        pass


@pytest.mark.parametrize(
    "sweep", [make_another, lambda _work: sweep_work_directories()], ids=["a new one", "asked"]
)
def test_those_of_dead_runs_are_swept_and_those_of_living_ones_are_not(
    work: Path, sweep: Callable[[Path], None]
) -> None:
    for name in ("alive", *(f"killed-{number}" for number in range(20))):
        dead(work, name)
    (work / "killed-before-its-lock").mkdir()
    (work / "killed-after-its-removal.lock").touch()
    with another_process("LOCK_EX", work / "alive.lock"):
        sweep(work)
        assert left(work) == ["alive", "alive.lock"]
        assert left(work / "alive") == ["big"]


def test_a_run_killed_in_the_middle_leaves_what_the_next_one_sweeps(work: Path) -> None:
    code = (
        "import os, signal; from vexrun.workdir import sweep_work_directories, work_directory\n"
        "with work_directory('image-7') as directory:\n"
        "    (directory / 'rootfs').mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert left(work) == ["image-7", "image-7.lock"]
    sweep_work_directories()
    assert left(work) == []


def test_what_a_killed_run_had_outside_of_the_cache_is_swept_too(
    work: Path, tmp_path: Path
) -> None:
    """mmdebstrap keeps a whole root filesystem in TMPDIR until it is done."""
    code = (
        "import os, signal; from vexrun.workdir import outside_directory, work_directory\n"
        "with work_directory('image-7') as work, outside_directory(work) as directory:\n"
        "    (directory / 'mmdebstrap.x').mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    (outside,) = tmp_path.glob("vexrun-outside-*")
    assert outside.stat().st_mode & 0o777 == 0o755
    sweep_work_directories()
    assert not outside.exists()
    assert left(work) == []


def test_what_a_killed_connection_had_is_swept_too(work: Path, tmp_path: Path) -> None:
    """Seen as /tmp/vexrun-dev-* after 'vexrun device check' had been killed."""
    code = (
        "import os, signal; from vexrun.device.connection import connection_directory\n"
        "with connection_directory() as directory:\n"
        "    (directory / 'ssh_config').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    (directory,) = tmp_path.glob("vexrun-dev-*")
    assert directory.stat().st_mode & 0o777 == 0o700
    sweep_work_directories()
    assert not directory.exists()
    assert left(work) == []


def test_a_torn_note_of_a_directory_outside_deletes_nothing(work: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    dead(work, "killed")
    (work / "killed" / "outside").write_text(str(tmp_path / "precious"))
    sweep_work_directories()
    assert left(work) == []
    assert (tmp_path / "precious").is_dir()


def test_without_a_cache_there_is_nothing_to_sweep(home: Path) -> None:
    sweep_work_directories()
    assert not (home / "cache").exists()


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
