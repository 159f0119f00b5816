"""Jobs in the image's root filesystem: bounded, in order, nothing left behind.

The namespaces are left out here; tests/vm/test_native_checks.py has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vexrun import sandbox
from vexrun.background import Background
from vexrun.errors import InfrastructureError
from vexrun.image.catalog import Image
from vexrun.sandbox import Ended, Job, Workplace, run_jobs

RunScripts = Callable[..., list[Ended]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunScripts:
    """Run bash scripts as jobs, without namespaces."""
    monkeypatch.setattr(sandbox, "enter_argv", lambda *_args, **_more: [])
    monkeypatch.setattr(sandbox, "_ENTER", ())
    image = cast(Image, SimpleNamespace(rootfs=tmp_path))

    def run_scripts(*scripts: str, timeout_s: float = 30.0, parallel: int = 2) -> list[Ended]:
        place = Workplace(tmp_path / "work", "demo")
        jobs = [
            Job(f"job {n}", script, place, PurePosixPath(tmp_path), timeout_s)
            for n, script in enumerate(scripts)
        ]
        return run_jobs(image, jobs, parallel)

    return run_scripts


def test_jobs_end_as_they_do_and_are_told_in_order(run: RunScripts) -> None:
    done = run("sleep 0.3; echo slow", "echo quick; exit 3", "echo out; echo err >&2", "kill -9 $$")
    assert [each.status for each in done] == [0, 3, 0, 137]
    assert [each.output for each in done[:3]] == ["slow\n", "quick\n", "out\nerr\n"]
    assert [each.ended_well for each in done] == [True, False, True, False]
    assert done[1].failure() == "it ended with exit status 3"
    assert all(each.seconds > 0 for each in done)


@pytest.mark.parametrize(("parallel", "at_least"), [(1, 0.8), (2, 0.4)])
def test_only_so_many_run_at_once(run: RunScripts, parallel: int, at_least: float) -> None:
    begun = time.monotonic()
    run("sleep 0.4", "sleep 0.4", parallel=parallel)
    assert time.monotonic() - begun >= at_least


def test_endless_output_is_cut(run: RunScripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "OUTPUT_LIMIT", 1 << 20)
    (done,) = run("yes 1 passed")
    assert done.status is None
    assert "printed more than 1 MiB" in done.failure()
    assert len(done.output) <= 1 << 20


@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM; sleep 60; sleep 60"])
def test_job_that_does_not_end_is_ended(run: RunScripts, script: str) -> None:
    begun = time.monotonic()
    (done,) = run(f"echo begun; {script}", timeout_s=0.5)
    assert time.monotonic() - begun < 20
    assert done.status is None
    assert done.output == "begun\n"
    assert "did not end within" in done.failure()


def test_what_is_left_in_the_background_is_not_waited_for(run: RunScripts) -> None:
    begun = time.monotonic()
    (done,) = run("sleep 30 & echo done")
    assert (done.status, done.output) == (0, "done\n")
    assert time.monotonic() - begun < 20


def test_nothing_of_this_machine_is_in_the_environment(
    run: RunScripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEXRUN_SECRET", "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy")
    (done,) = run("env | cut -d= -f1 | sort")
    names = set(done.output.split())
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == set(
        Workplace(Path("/x"), "demo").environment()
    )


def test_standard_input_is_empty(run: RunScripts) -> None:
    (done,) = run("cat; echo end")
    assert done.output == "end\n"


def test_entering_that_fails_is_not_the_jobs_failure(
    run: RunScripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ["sh", "-c", "echo mount: permission denied >&2; exit 32"]
    monkeypatch.setattr(sandbox, "enter_argv", lambda *_args, **_more: script)
    with pytest.raises(InfrastructureError, match="could not begin") as caught:
        run("true")
    assert "mount: permission denied" in (caught.value.evidence or "")


def test_jobs_do_not_outlive_an_exception(
    run: RunScripts, tmp_path: Path, monkeypatch: Any
) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(_running: object) -> bool:
        if (tmp_path / "pid").exists():
            raise Stop
        return True

    monkeypatch.setattr(sandbox._Running, "read", stop)
    with pytest.raises(Stop):
        run(f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; echo; exec sleep 60")
    assert _ends(int((tmp_path / "pid").read_text()))


def test_jobs_in_the_background_end_with_the_run(run: RunScripts, tmp_path: Path) -> None:
    """Ctrl-C while sparse runs beside the tests: neither it nor its directory stays in use."""
    script = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 60"
    with pytest.raises(ZeroDivisionError), Background(lambda: run(script)):
        until = time.monotonic() + 60
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        raise ZeroDivisionError
    assert _ends(int((tmp_path / "pid").read_text()))


def _ends(pid: int) -> bool:
    """A namespace takes a moment to be torn down."""
    until = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not _runs(pid)


def _runs(pid: int) -> bool:
    """A zombie that nobody reaps has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_place_holds_a_copy_without_build_products(tmp_path: Path, source_tree: Path) -> None:
    (source_tree / "demo.o").write_text("")
    (source_tree / "crate" / "target").mkdir(parents=True)
    (source_tree / "crate" / "Cargo.toml").write_text("")
    rootfs = tmp_path / "rootfs"
    (rootfs / "usr/share/cargo/registry").mkdir(parents=True)
    place = Workplace.with_copy(tmp_path / "work", "demo", source_tree, rootfs)
    copied = sorted(
        str(path.relative_to(place.tree_outside))
        for path in place.tree_outside.rglob("*")
        if path.is_file()
    )
    assert copied == ["Kbuild", "crate/Cargo.toml", "demo.c", "vexrun.toml"]
    assert str(place.tree) == "/var/lib/vexrun/build/demo/source"
    config = tmp_path / "work" / "demo" / "cargo-home" / "config.toml"
    assert 'directory = "/usr/share/cargo/registry"' in config.read_text()
