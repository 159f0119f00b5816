"""The index of all runs, and what they tell together: nothing here starts a run."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vexrun.cli import app
from vexrun.errors import ConfigError
from vexrun.events import RunDescribed, StageFinished
from vexrun.history.html import to_html
from vexrun.history.index import INDEX_FILE, Index, RunRecord, read_index
from vexrun.history.statistics import LEAST_FOR_TREND, State, Target, summarise, trend
from vexrun.report import write_reports
from vexrun.results.model import (
    ModuleInfo,
    Outcome,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
    Verdict,
)
from vexrun.rundir import RunDir, runs_dir

pytestmark = pytest.mark.usefixtures("home")

ONE = "mount/test_mount.py::test_one"
MakeRun = Callable[..., str]


def results(run_id: str, **changed: Any) -> RunResults:
    """A passing run; keywords replace what it says."""
    said: dict[str, Any] = {
        "subject": "demo", "tree": "t", "image": "i", "kernel": "6.12", "target": "vm",
        "module": "m", "verdict": Verdict.PASS, "outcome": Outcome.PASSED, "minutes": 1,
        "categories": ["mount"], "durations": {"build": 4.0}, **changed,
    }  # fmt: skip
    return RunResults(
        run_id=run_id,
        started_at="2026-01-01T00:00:00+00:00",
        finished_at=f"2026-01-01T00:{said['minutes']:02}:00+00:00",
        complete=True,
        verdict=said["verdict"],
        exit_code=0,
        selected_categories=said["categories"],
        subject=SubjectInfo(name=said["subject"], source="/s", tree_sha256=said["tree"]),
        module=ModuleInfo(sha256=said["module"]),
        target=TargetInfo(kind=said["target"], kernel=said["kernel"], image_sha256=said["image"]),
        durations=said["durations"],
        tests=[TestResult(id=ONE, category="mount", outcome=said["outcome"])],
    )


@pytest.fixture
def make_run() -> MakeRun:
    """A run directory with results; returns its id."""
    count = 0

    def make(**changed: Any) -> str:
        nonlocal count
        count += 1
        path = runs_dir() / f"20260101T{count:06}-demo-0000"
        path.mkdir(parents=True)
        write_reports(results(path.name, **changed), path)
        return path.name

    return make


def records(*changes: dict[str, Any]) -> list[RunRecord]:
    return [
        RunRecord.of(results(f"r{n}", **each), killed=False) for n, each in enumerate(changes, 1)
    ]


def target(word: str, runs: list[RunRecord]) -> Target:
    (found,) = [each for each in summarise(runs).targets if word in each.name]
    return found


# -- the index -----------------------------------------------------------------------------------


def test_no_directory_is_no_run() -> None:
    assert read_index(runs_dir()) == Index()


def test_every_run_is_in_it_and_is_read_once(make_run: MakeRun) -> None:
    names = [make_run(), make_run(verdict=Verdict.FAIL)]
    first = read_index(runs_dir())
    assert [run.run_id for run in first.runs] == names
    assert first.runs[1].verdict is Verdict.FAIL
    (runs_dir() / names[0] / "results.json").chmod(0)
    assert read_index(runs_dir()) == first, "from the index, the file is not opened again"


def test_a_changed_run_is_read_again_and_a_removed_one_forgotten(make_run: MakeRun) -> None:
    kept, gone = make_run(), make_run()
    read_index(runs_dir())
    write_reports(results(kept, verdict=Verdict.FAIL, durations={}), runs_dir() / kept)
    for file in (runs_dir() / gone).iterdir():
        file.unlink()
    (runs_dir() / gone).rmdir()
    (run,) = read_index(runs_dir()).runs
    assert (run.run_id, run.verdict) == (kept, Verdict.FAIL)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"no database at all" * 100),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: _execute(file, "PRAGMA user_version = 99"),
        lambda file: _execute(file, "DROP TABLE runs"),
        lambda file: _execute(file, "UPDATE runs SET record = '{\"run_id\": 1}'"),
        lambda file: _execute(file, "UPDATE runs SET record = 'cut'"),
    ],
)
def test_a_lost_or_damaged_index_is_made_again(
    make_run: MakeRun, damage: Callable[[Path], object]
) -> None:
    make_run()
    make_run()
    before = read_index(runs_dir())
    damage(runs_dir() / INDEX_FILE)
    assert read_index(runs_dir()) == before
    assert read_index(runs_dir()) == before


def _execute(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_an_index_that_cannot_be_written_costs_time_only(make_run: MakeRun) -> None:
    make_run()
    (runs_dir() / INDEX_FILE).mkdir()
    assert len(read_index(runs_dir()).runs) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"schema_version": 99}', b'{"schema_version": 1}', b"\xff\xfe"],
)
def test_a_corrupt_run_is_left_out_and_named(make_run: MakeRun, content: bytes) -> None:
    good, bad = make_run(), make_run()
    (runs_dir() / bad / "results.json").write_bytes(content)
    index = read_index(runs_dir())
    assert [run.run_id for run in index.runs] == [good]
    assert list(index.skipped) == [bad]


@pytest.mark.parametrize("line", ['{"event": "RunDescribed"}', '{"x": 1}', "5", '{"event": 3}'])
def test_events_of_another_version_are_left_out(make_run: MakeRun, line: str) -> None:
    good = make_run()
    bad = runs_dir() / "20260102T000000-demo-0000"
    bad.mkdir()
    (bad / "events.jsonl").write_text(line + "\n")
    index = read_index(runs_dir())
    assert [run.run_id for run in index.runs] == [good]
    assert bad.name in index.skipped


def test_a_killed_run_is_rebuilt_and_not_finished() -> None:
    run = RunDir.create("demo")
    described = results(run.run_id)
    described.finished_at, described.complete = None, False
    run.record(RunDescribed(described))
    run.record(StageFinished("build", 3.0))
    assert read_index(runs_dir()).going_on == [run.run_id], "while it lives"
    run.close()
    (record,) = read_index(runs_dir()).runs
    assert (record.killed, record.finished, record.elapsed_s) == (True, False, None)
    summary = summarise([record])
    assert summary.incomplete == [record]
    assert summary.groups[0].incomplete == 1
    assert summary.groups[0].finished == []


# -- what runs tell ------------------------------------------------------------------------------


def test_runs_are_grouped_by_subject_kernel_and_target() -> None:
    runs = records({}, {"kernel": "6.1"}, {"subject": "other"}, {"target": "host"}, {})
    found = {(g.subject, g.kernel, g.target): len(g.runs) for g in summarise(runs).groups}
    assert found == {
        ("demo", "6.12", "vm"): 2,
        ("demo", "6.1", "vm"): 1,
        ("other", "6.12", "vm"): 1,
        ("demo", "6.12", "host"): 1,
    }


@pytest.mark.parametrize(
    ("changes", "tests"),
    [
        ([{}, {"outcome": Outcome.FAILED}], [ONE]),
        ([{}, {"outcome": Outcome.CRASHED}, {}], [ONE]),
        ([{}, {}], []),
        ([{}, {"outcome": Outcome.ERROR}], []),
        ([{}, {"outcome": Outcome.SKIPPED}], []),
        ([{}, {"outcome": Outcome.FAILED, "tree": "u"}], []),
        ([{}, {"outcome": Outcome.FAILED, "image": "j"}], []),
        ([{}, {"outcome": Outcome.FAILED, "subject": "other"}], []),
        ([{"tree": ""}, {"tree": "", "outcome": Outcome.FAILED}], []),
        ([{}, {"outcome": Outcome.FAILED, "verdict": Verdict.INTERRUPTED}], []),
    ],
)
def test_flaky_is_one_tree_one_image_and_two_outcomes(
    changes: list[dict[str, Any]], tests: list[str]
) -> None:
    assert [each.test for each in summarise(records(*changes)).flaky] == tests


def test_flaky_names_the_newest_run_of_each_outcome() -> None:
    (flaky,) = summarise(records({}, {"outcome": Outcome.FAILED}, {})).flaky
    assert flaky.outcomes == {Outcome.PASSED: 2, Outcome.FAILED: 1}
    assert flaky.runs == {Outcome.PASSED: "r3", Outcome.FAILED: "r2"}


@pytest.mark.parametrize(
    ("changes", "state", "found"),
    [
        ([{}], State.UNKNOWN, "no tree"),
        ([{}, {}], State.MET, "2 of 2"),
        ([{}, {"verdict": Verdict.ERROR}], State.MISSED, "1 of 2"),
        ([{}, {"verdict": Verdict.FAIL}], State.MISSED, "1 of 2"),
        ([{}] * 19 + [{"verdict": Verdict.FAIL}], State.MISSED, "19 of 20"),  # not above 95 %
        ([{}] * 20 + [{"verdict": Verdict.FAIL}], State.MET, "20 of 21"),
        ([{}, {}, {"verdict": Verdict.INTERRUPTED}], State.MET, "2 of 2"),
        ([{"verdict": Verdict.FAIL}] * 3, State.UNKNOWN, "no tree"),
        ([{}, {"tree": "u", "verdict": Verdict.FAIL}], State.UNKNOWN, "no tree"),
    ],
)
def test_success_rate(changes: list[dict[str, Any]], state: State, found: str) -> None:
    each = target("success rate", records(*changes))
    assert each.state is state
    assert found in each.found


@pytest.mark.parametrize(
    ("word", "changes", "state"),
    [
        ("verdict", [{}, {}], State.MET),
        ("verdict", [{}], State.UNKNOWN),
        ("verdict", [{}, {"verdict": Verdict.FAIL}], State.MISSED),
        ("verdict", [{}, {"verdict": Verdict.FAIL, "categories": ["mkfs"]}], State.UNKNOWN),
        ("hash", [{}, {}], State.MET),
        ("hash", [{}, {"module": "n"}], State.MISSED),
        ("hash", [{}, {"module": None}], State.UNKNOWN),
        ("hash", [{}, {"module": "n", "image": "j"}], State.UNKNOWN),
        ("hash", [{}, {"module": "n", "categories": ["mkfs"]}], State.MISSED),
    ],
)
def test_the_same_each_time(word: str, changes: list[dict[str, Any]], state: State) -> None:
    assert target(f"same {word}" if word == "verdict" else word, records(*changes)).state is state


@pytest.mark.parametrize(
    ("word", "changes", "state"),
    [
        ("host cycle", [{"target": "host", "minutes": 1}], State.MET),
        ("host cycle", [{"target": "host", "minutes": 2}], State.MISSED),
        ("host cycle", [{"minutes": 1}], State.UNKNOWN),
        ("vm cycle", [{"minutes": 9}] * 3 + [{"minutes": 50}], State.MET),  # the median
        ("vm cycle", [{"minutes": 11}], State.MISSED),
        ("vm cycle", [{"minutes": 1}, {"minutes": 11, "kernel": "6.1"}], State.MISSED),
        # a part of a cycle is none, and neither is one that an error of ours cut short
        ("vm cycle", [{"minutes": 1}] * 3 + [{"minutes": 11, "categories": ["a", "b"]}],
         State.MISSED),
        ("vm cycle", [{"minutes": 1, "verdict": Verdict.ERROR}], State.UNKNOWN),
        # the image and the snapshot are made once
        ("vm cycle", [{"minutes": 12, "durations": {"image": 100.0, "snapshot": 60.0}}], State.MET),
        ("vm cycle", [{"minutes": 12, "durations": {"build": 300.0}}], State.MISSED),
    ],
)  # fmt: skip
def test_cycle_times(word: str, changes: list[dict[str, Any]], state: State) -> None:
    assert target(word, records(*changes)).state is state


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0] * (LEAST_FOR_TREND - 1), None),
        ([1.0, 1.0, 2.0, 2.0], 1.0),
        ([9.0, 9.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0], -0.5),
        ([0.1, 0.1, 0.4, 0.4], None),
        ([0.0] * 10, None),
    ],
)
def test_trend(values: list[float], expected: float | None) -> None:
    assert trend(values) == expected


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_a_trend_is_finite(values: list[float]) -> None:
    found = trend(values)
    assert found is None or found >= -1


# -- the command ---------------------------------------------------------------------------------


def history(*options: str) -> Any:
    return CliRunner().invoke(app, ["history", *options], env={"COLUMNS": "200"})


def test_without_a_run_it_says_what_to_do() -> None:
    ended = history()
    assert isinstance(ended.exception, ConfigError)
    assert "There is no run yet" in ended.exception.message


def test_an_unknown_subject_names_those_there_are(make_run: MakeRun) -> None:
    make_run()
    error = history("--subject", "nope").exception
    assert isinstance(error, ConfigError)
    assert error.evidence == "subjects: demo"


def test_the_table_has_verdicts_targets_and_flaky_tests(make_run: MakeRun) -> None:
    make_run()
    make_run(outcome=Outcome.FAILED, verdict=Verdict.FAIL)
    ended = history()
    assert ended.exit_code == 0
    assert re.search(r"missed +success rate above 95% .*1 of 2 runs passed", ended.output)
    assert re.search(rf"{re.escape(ONE)} +demo +1 passed .*1 failed", ended.output)
    assert re.search(r"demo +6\.12 +vm +1/1/0 +0 +50 %", ended.output)


def test_a_corrupt_run_is_a_warning_and_no_failure(make_run: MakeRun) -> None:
    make_run()
    bad = make_run()
    (runs_dir() / bad / "results.json").write_text("{")
    ended = history("--json")
    assert ended.exit_code == 0
    assert bad in ended.stderr
    document = json.loads(ended.stdout)
    assert [each["run"] for each in document["skipped"]] == [bad]
    assert len(document["runs"]) == 1


def test_limit_takes_the_newest(make_run: MakeRun) -> None:
    names = [make_run() for _ in range(3)]
    document = json.loads(history("--limit", "2", "--json").stdout)
    assert [each["run_id"] for each in document["runs"]] == names[1:]


def test_the_page_is_complete_in_itself(make_run: MakeRun, tmp_path: Path) -> None:
    make_run()
    make_run(verdict=Verdict.FAIL, outcome=Outcome.FAILED)
    page = tmp_path / "history.html"
    assert history("--html", str(page)).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count('<svg viewBox="0 0 640') == 2
    assert '<circle class="fail"' in text
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!data:)', text), "nothing is fetched"


def test_names_cannot_break_the_page() -> None:
    runs = records({"kernel": "</script><b>\x1b[31m", "durations": {"<i>": 3.0}})
    text = to_html(summarise(runs), runs, Index(runs))
    assert "<i>" not in text
    assert "&lt;i&gt;" in text
    assert "<b>" not in text
    assert "\x1b" not in text
