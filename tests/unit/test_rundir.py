"""Run directories: made, pointed at, found again, and gone when nothing was run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vexrun.errors import ConfigError, ExitCode, InfrastructureError
from vexrun.events import Note, StageStarted
from vexrun.rundir import RunDir, find_run

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def runs(home: Path) -> Path:
    return home / "state" / "runs"


def make(name: str = "demo") -> RunDir:
    run = RunDir.create(name)
    run.close()
    return run


def test_every_run_has_a_directory_of_its_own(runs: Path) -> None:
    first, second = make(), make()
    assert first.path != second.path
    assert first.path.parent == runs
    assert "-demo-" in first.run_id


def test_latest_points_at_the_newest_and_moves_with_the_directory(runs: Path) -> None:
    make()
    newest = make()
    assert (runs / "latest").readlink() == Path(newest.run_id), "relative"
    assert find_run(None) == newest.path


def test_events_are_on_disk_at_once() -> None:
    run = RunDir.create("demo")
    run.record(StageStarted("build", "native"))
    run.record(Note("sch\u00f6n\nzwei"))
    lines = (run.path / "events.jsonl").read_text().splitlines()
    run.close()
    records = [json.loads(line) for line in lines]
    assert [record["event"] for record in records] == ["StageStarted", "Note"]
    assert records[0]["stage"] == "build"
    assert records[1]["text"] == "sch\u00f6n\nzwei"


def test_a_run_that_never_began_leaves_nothing(runs: Path) -> None:
    RunDir.create("demo").discard()
    assert list(runs.iterdir()) == []


def test_after_a_discarded_run_latest_is_the_one_before(runs: Path) -> None:
    before = make()
    RunDir.create("zzz").discard()
    assert find_run(None) == before.path
    assert sorted(path.name for path in runs.iterdir()) == [before.run_id, "latest"]


def test_discarding_leaves_the_latest_of_another_run_alone() -> None:
    mine = RunDir.create("demo")
    other = make()
    mine.discard()
    assert find_run(None) == other.path


def test_where_no_directory_can_be_made_it_is_infrastructure(home: Path) -> None:
    (home / "state").write_text("a file is in the way")
    with pytest.raises(InfrastructureError, match="cannot be made: ") as caught:
        RunDir.create("demo")
    assert caught.value.exit_code is ExitCode.INFRASTRUCTURE
    assert "VEXRUN_STATE_DIR" in caught.value.hint


# -- finding -------------------------------------------------------------------------------------


def test_before_the_first_run_there_is_none() -> None:
    with pytest.raises(ConfigError, match="There is no run yet") as caught:
        find_run(None)
    assert "vexrun test" in caught.value.hint


def test_a_latest_that_points_nowhere_is_no_run(runs: Path) -> None:
    runs.mkdir(parents=True)
    (runs / "latest").symlink_to("20260101T000000-gone-0000")
    with pytest.raises(ConfigError, match="There is no run yet"):
        find_run(None)


def test_a_run_is_found_by_id_beginning_or_path() -> None:
    run = make()
    (run.path / "results.json").touch()
    for name in (run.run_id, run.run_id[:-2], str(run.path), str(run.path / "results.json")):
        assert find_run(name) == run.path


def test_an_unknown_run_lists_what_there_is(runs: Path) -> None:
    run = make()
    with pytest.raises(ConfigError, match="There is no run called 'nope'") as caught:
        find_run("nope")
    assert caught.value.evidence == f"runs: {run.run_id}"


def test_no_run_at_all_says_none() -> None:
    with pytest.raises(ConfigError) as caught:
        find_run("nope")
    assert caught.value.evidence == "runs: none"


def test_an_ambiguous_beginning_lists_the_matches(runs: Path) -> None:
    for name in ("20260101T000000-a-0000", "20260101T000000-b-0000", "20260202T000000-c-0000"):
        (runs / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match="more than one run called '20260101'") as caught:
        find_run("20260101")
    assert caught.value.evidence == "runs: 20260101T000000-a-0000, 20260101T000000-b-0000"
