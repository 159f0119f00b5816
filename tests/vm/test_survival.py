"""vexrun is killed, interrupted, starved: nothing leaks and the next run is not spoilt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKOUT, SUBJECTS, Run, qemus_of

pytestmark = pytest.mark.vm

MINIX = ["--subject", str(SUBJECTS / "minix.toml")]


def start(state: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A run with a state directory of its own, so that its files can be told apart."""
    return subprocess.Popen(
        [sys.executable, "-m", "vexrun.cli", "test", *MINIX, *arguments],
        env={**os.environ, "VEXRUN_STATE_DIR": str(state)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)


def first_test_passed(state: Path) -> bool:
    logs = list(state.glob("runs/2*/events.jsonl"))
    return any(
        json.loads(line)["event"] == "TestFinished"
        for log in logs
        for line in log.read_text().splitlines(keepends=True)
        if line.endswith("\n")  # the last one may be half written
    )


def test_kill_9_leaves_no_machine_and_does_not_spoil_the_next_run(
    tmp_path: Path, vexrun_test: Callable[..., Run]
) -> None:
    vexrun = start(tmp_path, "--only", "module,mount")
    wait_until(lambda: first_test_passed(tmp_path), 1800)
    assert qemus_of(str(tmp_path))
    vexrun.kill()
    vexrun.wait()
    wait_until(lambda: not qemus_of(str(tmp_path)), 20)

    again = vexrun_test(*MINIX, "--only", "module")
    assert (again.status, again.results["verdict"]) == (0, "pass"), again.results["reasons"]


def test_qemu_killed_from_outside_is_nobodys_failure(tmp_path: Path) -> None:
    vexrun = start(tmp_path, "--only", "fsops")
    wait_until(lambda: first_test_passed(tmp_path), 1800)
    (qemu,) = qemus_of(str(tmp_path))
    os.kill(qemu, signal.SIGKILL)
    assert vexrun.wait(600) == 69
    results = json.loads((tmp_path / "runs" / "latest" / "results.json").read_text())
    assert results["verdict"] == "error", results["reasons"]
    assert results["kernel_events"] == []
    assert (tmp_path / "runs" / "latest" / "console.log").stat().st_size > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_is_reported_and_leaves_no_machine(
    number: signal.Signals, tmp_path: Path
) -> None:
    vexrun = start(tmp_path, "--only", "fsops")
    wait_until(lambda: first_test_passed(tmp_path), 1800)
    vexrun.send_signal(number)
    assert vexrun.wait(120) == 130
    assert not qemus_of(str(tmp_path))
    results = json.loads((tmp_path / "runs" / "latest" / "results.json").read_text())
    assert results["verdict"] == "interrupted"
    assert results["exit_code"] == 130
    assert results["complete"] is False
    assert results["tests"], "the results so far are kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_full_disk_is_named_and_leaves_nothing_running(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    command = [sys.executable, "-m", "vexrun.cli", "test", *MINIX, "--only", "module"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"']
        + [str(state), *command],
        env={**os.environ, "VEXRUN_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69, done.stdout + done.stderr
    assert "No space left on device" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not qemus_of(str(state))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to hide a program")
def test_missing_qemu_is_named(tmp_path: Path) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    assert qemu is not None
    command = [sys.executable, "-m", "vexrun.cli", "test", *MINIX, "--only", "module"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null "$0" && exec "$@"', qemu]
        + command,
        env={**os.environ, "VEXRUN_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69, done.stdout + done.stderr
    assert "'qemu-system-x86_64' is not installed" in done.stdout + done.stderr
    assert "vexrun doctor" in done.stdout + done.stderr


@pytest.mark.slow
def test_two_runs_at_once(tmp_path: Path) -> None:
    runs = [start(tmp_path / str(number), "--only", "module") for number in range(2)]
    assert [run.wait(1800) for run in runs] == [0, 0]
    assert not qemus_of(str(tmp_path))


def test_wheel_works_outside_the_checkout(tmp_path: Path, suite: str) -> None:
    """Roles, playbooks, guest tests and scripts travel with the wheel."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, CHECKOUT],
        check=True,
        capture_output=True,
    )
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = tmp_path.glob("*.whl")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    # The dependencies of this environment, without this checkout (a .pth is not read twice).
    packages = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (own,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (own / "dependencies.pth").write_text(f"{packages}\n")
    env = {**os.environ, "VEXRUN_STATE_DIR": str(tmp_path / "state")}
    env.pop("PYTHONPATH", None)
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    where = subprocess.run(
        [python, "-c", "import vexrun; print(vexrun.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    ).stdout
    assert where.startswith(str(own)), where
    subject = own / "vexrun" / "_data" / "examples" / "subjects" / "minix.toml"
    done = subprocess.run(
        [python, "-m", "vexrun.cli", "test", "--subject", subject]
        + ["--only", "structure,build,module", "--suite", suite],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
