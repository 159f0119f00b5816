"""`vexrun watch`: which categories a change affects, and what is run when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vexrun import watch
from vexrun.categories import CATEGORIES, select_categories
from vexrun.config import TargetKind
from vexrun.errors import ConfigError, InterruptedRunError
from vexrun.results.model import Verdict
from vexrun.subject import Subject, load_subject
from vexrun.watch import EVERYTHING, Watch, affected, changed_paths, plan, snapshot

MakeSubject = Callable[..., Subject]
CRATE = '[[crates]]\ndir = "vexctl"\nbin = "vexctl"'
HOST, VM = TargetKind.HOST, TargetKind.VM


# -- what a change affects -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "some", "none"),
    [
        ("README.md", ["structure"], ["build", "mount"]),
        ("docs/design.rst", ["structure"], ["build", "mount"]),
        ("vexctl/src/main.rs", ["build", "static", "unit", "ioctl"], ["fsops", "mount"]),
        ("vexctl/Cargo.lock", ["build", "unit"], ["fsops"]),
        ("vexrun-tests/test_mine.py", ["structure", "own"], ["build", "fsops"]),
        ("super.c", list(EVERYTHING), []),
        ("fs/inode.h", list(EVERYTHING), []),
        ("Kbuild", list(EVERYTHING), []),
        ("vexctl/build.c", list(EVERYTHING), []),
        ("src/lib.rs", list(EVERYTHING), []),
        ("anything", list(EVERYTHING), []),
        ("vexrun-expectations.toml", list(EVERYTHING), []),
        ("/elsewhere/vexrun.toml", list(EVERYTHING), []),
    ],
)
def test_what_a_change_affects(
    make_subject: MakeSubject, path: str, some: list[str], none: list[str]
) -> None:
    names = affected([path], make_subject(CRATE))
    assert set(some) <= names
    assert not names & set(none)


def test_two_changes_affect_what_each_does(make_subject: MakeSubject) -> None:
    assert affected(["README.md", "vexrun-tests/x.py"], make_subject()) == {"structure", "own"}


def test_every_category_of_the_map_exists() -> None:
    assert set(CATEGORIES) >= watch._OF_TOOLS


def test_the_host_comes_first_and_what_the_subject_lacks_is_left_out(
    make_subject: MakeSubject, tmp_path: Path
) -> None:
    todo = plan(set(EVERYTHING), select_categories([], []), make_subject(), tmp_path)
    assert todo.host[:2] == ["structure", "build"]
    assert "unit" not in todo.host
    assert "own" not in todo.vm
    assert not any(CATEGORIES[name].needs_guest for name in todo.host)
    assert all(CATEGORIES[name].needs_guest for name in todo.vm)


# -- what is a change ----------------------------------------------------------------------------


def test_a_snapshot_sees_sources_and_no_build_products(source_tree: Path) -> None:
    before = snapshot(source_tree, [])
    assert before is not None
    (source_tree / "demo.o").write_text("x")
    (source_tree / ".git").mkdir()
    (source_tree / ".git" / "index").write_text("x")
    assert snapshot(source_tree, []) == before
    (source_tree / "demo.c").write_text("int changed;\n")
    (source_tree / "new.c").touch()
    (source_tree / "Kbuild").unlink()
    after = snapshot(source_tree, [])
    assert after is not None
    assert changed_paths(before, after) == ["Kbuild", "demo.c", "new.c"]


def test_a_tree_that_is_not_there_for_a_moment_is_no_change(tmp_path: Path) -> None:
    assert snapshot(tmp_path / "gone", []) is None


def test_a_subject_file_elsewhere_is_watched_too(source_tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.toml"
    file.touch()
    seen = snapshot(source_tree, [file, source_tree / "vexrun.toml"])
    assert seen is not None
    assert str(file) in seen
    assert "vexrun.toml" in seen
    assert str(source_tree / "vexrun.toml") not in seen


# -- the loop ------------------------------------------------------------------------------------


class Bench:
    """A watch whose runs and sleeps are a script: each sleep makes the next change."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.file = source / "vexrun.toml"
        self.verdicts: list[Verdict] = []
        self.runs: list[tuple[TargetKind, list[str]]] = []
        self.said: list[str] = []
        self.complaints: list[str] = []
        self.changes: list[Callable[[], object]] = []
        self.sleeps = 0
        self.during_run: Callable[[], object] = lambda: None

    def run(self, target: TargetKind, names: list[str]) -> Verdict:
        self.runs.append((target, names))
        self.during_run()
        return self.verdicts.pop(0) if self.verdicts else Verdict.PASS

    def sleep(self, _seconds: float) -> None:
        self.sleeps += 1
        if self.sleeps % 4 == 0:
            if not self.changes:
                raise InterruptedRunError("the end of the script")
            self.changes.pop(0)()

    def watch(self, only: list[str], **given: Any) -> None:
        with pytest.raises(InterruptedRunError):
            Watch(
                source=self.source,
                subject_file=self.file,
                chosen=select_categories(only, []),
                load=lambda: load_subject(self.file),
                run=self.run,
                say=self.said.append,
                complain=lambda error: self.complaints.append(error.message),
                sleep=self.sleep,
                **given,
            ).forever()

    def write(self, name: str, text: str = "x\n") -> Callable[[], object]:
        return lambda: (self.source / name).write_text(text)


@pytest.fixture
def bench(source_tree: Path) -> Bench:
    return Bench(source_tree)


ONLY = ["structure", "build", "mount", "fsops"]


def test_it_begins_with_everything(bench: Bench) -> None:
    bench.watch(ONLY)
    assert bench.runs == [(HOST, ["structure", "build"]), (VM, ["mount", "fsops"])]


def test_a_vm_is_asked_only_when_the_host_is_green(bench: Bench) -> None:
    bench.verdicts = [Verdict.FAIL]
    bench.watch(ONLY)
    assert bench.runs == [(HOST, ["structure", "build"])]


def test_without_a_vm_it_stays_on_the_host(bench: Bench) -> None:
    bench.watch(ONLY, vm=False)
    assert bench.runs == [(HOST, ["structure", "build"])]


def test_a_change_runs_what_it_affects(bench: Bench) -> None:
    bench.changes = [bench.write("README.md")]
    bench.watch(ONLY)
    assert bench.runs[2:] == [(HOST, ["structure"])]
    assert "changed: 'README.md'" in bench.said


def test_what_was_not_green_is_run_again_with_the_next_change(bench: Bench) -> None:
    bench.verdicts = [Verdict.PASS, Verdict.FAIL]
    bench.changes = [bench.write("README.md")]
    bench.watch(ONLY)
    assert bench.runs[2:] == [(HOST, ["structure"]), (VM, ["mount", "fsops"])]


def test_a_subject_file_in_the_tree_affects_everything(bench: Bench) -> None:
    text = bench.file.read_text() + "size_mib = 32\n"
    bench.changes = [bench.write("vexrun.toml", text)]
    bench.watch(ONLY)
    assert len(bench.runs) == 4


def test_a_broken_subject_file_is_said_and_watching_goes_on(bench: Bench) -> None:
    good = bench.file.read_text()
    bench.changes = [bench.write("vexrun.toml", "["), bench.write("vexrun.toml", good)]
    bench.watch(ONLY)
    assert len(bench.complaints) == 1
    assert "vexrun.toml" in bench.complaints[0]
    assert len(bench.runs) == 4


def test_a_change_during_a_run_is_not_lost(bench: Bench) -> None:
    runs = iter([bench.write("demo.c", "int during;\n")])
    bench.during_run = lambda: next(runs, lambda: None)()
    bench.watch(["structure", "build"])
    assert [target for target, _ in bench.runs] == [HOST, HOST]


def test_a_build_product_runs_nothing(bench: Bench) -> None:
    bench.changes = [bench.write("demo.ko"), bench.write("demo.o")]
    bench.watch(["structure", "build"])
    assert len(bench.runs) == 1


def test_an_interrupted_run_ends_the_watch(bench: Bench) -> None:
    bench.verdicts = [Verdict.INTERRUPTED]
    bench.watch(ONLY)
    assert len(bench.runs) == 1


def test_a_request_that_cannot_be_run_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ConfigError("no such thing")

    bench.during_run = refuse
    bench.watch(ONLY)
    assert bench.complaints == ["no such thing"]


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nonexistent"], "no subject file '/nonexistent/vexrun.toml'"),
        (["--only", "mout"], "no category 'mout'"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_watched(
    source_tree: Path, home: Path, arguments: list[str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vexrun.cli", "watch", *arguments],
        cwd=source_tree,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_130(source_tree: Path, home: Path, number: signal.Signals) -> None:
    """`--only unit` of a subject without suites: nothing to run, so it waits at once."""
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "vexrun.cli", "watch", "--only", "unit"],
        cwd=source_tree,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert child.stdout is not None
    try:
        assert "watching" in child.stdout.readline()
        time.sleep(0.3)
        child.send_signal(number)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "interrupted" in err
