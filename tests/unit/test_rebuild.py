"""A run that was killed: its results from its events, and what a resumed run takes over."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vexrun.cli import app
from vexrun.errors import ConfigError
from vexrun.events import (
    KernelEventSeen,
    MemoryImageKept,
    Note,
    RunDescribed,
    StageFinished,
    TestFinished,
    TestsCollected,
)
from vexrun.report import write_reports
from vexrun.results.model import (
    KernelEvent,
    MemoryImage,
    ModuleInfo,
    Outcome,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
    Verdict,
)
from vexrun.results.readers import load_results
from vexrun.results.rebuild import finished_categories, rebuild_results
from vexrun.resume import load_earlier_run
from vexrun.rundir import RunDir, find_run, load_run
from vexrun.verdict import judge

pytestmark = pytest.mark.usefixtures("home")

MOUNT = [f"mount/test_mount.py::test_{name}" for name in ("one", "two")]
MKFS = "mkfs/test_mkfs.py::test_one"
IMAGE = MemoryImage(
    file="core-1.kdump",
    test=MOUNT[0],
    why="the guest kernel panicked (pvpanic)",
    size_mib=95.1,
    taken_in_s=4.8,
    read_in_s=1.9,
    report="CPU 0: 'mount' (pid 503, state R) at demo_mount+0x1c [demo]",
)


def results(run_id: str = "r", **fields: object) -> RunResults:
    return RunResults(
        run_id=run_id,
        selected_categories=["mkfs", "mount"],
        subject=SubjectInfo(name="demo", source="/src", tree_sha256="t", subject_file="/src/v"),
        target=TargetInfo(kind="vm", suite="trixie", image_sha256="i", kernel="6.12"),
        module=ModuleInfo(sha256="m"),
        **fields,  # type: ignore[arg-type]
    )


def result(identifier: str, outcome: Outcome = Outcome.PASSED) -> TestResult:
    return TestResult(id=identifier, category=identifier.split("/")[0], outcome=outcome)


def killed_run() -> RunDir:
    """A run killed in `mount`, in the middle of writing an event."""
    rundir = RunDir.create("demo")
    rundir.record(RunDescribed(results(rundir.run_id)))
    rundir.record(StageFinished("build", 2.5))
    rundir.record(TestsCollected([MKFS, *MOUNT]))
    rundir.record(TestFinished(result(MKFS)))
    event = KernelEvent(event_class="oops", title="NULL in demo_mount")
    rundir.record(KernelEventSeen(event))
    rundir.record(TestFinished(result(MOUNT[0], Outcome.CRASHED)))
    rundir.record(MemoryImageKept(IMAGE))
    rundir.record(Note("seen"))
    with (rundir.path / "events.jsonl").open("a") as stream:
        stream.write('{"event": "TestFinished", "resu')
    rundir.close()
    return rundir


def test_a_killed_run_is_rebuilt_from_its_events() -> None:
    rebuilt = load_run(killed_run().path)
    assert [test.id for test in rebuilt.tests] == [MKFS, MOUNT[0]]
    assert rebuilt.durations == {"build": 2.5}
    assert [event.title for event in rebuilt.kernel_events] == ["NULL in demo_mount"]
    assert rebuilt.memory_images == [IMAGE]
    assert not rebuilt.complete
    assert rebuilt.verdict is Verdict.INTERRUPTED
    assert "seen" in rebuilt.notes
    assert any("was killed" in note for note in rebuilt.notes)


def test_every_report_can_be_written_of_a_killed_run(tmp_path: Path) -> None:
    write_reports(load_run(killed_run().path), tmp_path, "")
    assert "incomplete" in (tmp_path / "report.txt").read_text().lower()
    for name in ("report.txt", "report.md", "report.html"):
        text = html.unescape((tmp_path / name).read_text())
        assert "core-1.kdump: 95 MiB, the guest kernel panicked" in " ".join(text.split()), name
        assert "at demo_mount+0x1c [demo]" in text, name


def test_a_run_that_goes_on_is_not_called_killed() -> None:
    rundir = RunDir.create("demo")
    rundir.record(RunDescribed(results(rundir.run_id)))
    notes = load_run(rundir.path).notes
    rundir.close()
    assert any("still going on" in note for note in notes)


def test_the_events_of_a_finished_run_are_its_results() -> None:
    rundir = RunDir.create("demo")
    rundir.record(RunDescribed(results(rundir.run_id)))
    rundir.record(TestFinished(result(MKFS, Outcome.FAILED)))
    final = results(rundir.run_id, tests=[result(MKFS, Outcome.XFAILED)], complete=True)
    judge(final)
    rundir.record(RunDescribed(final))
    write_reports(final, rundir.path, "")
    rundir.close()
    rebuilt = rebuild_results(rundir.path)
    assert rebuilt is not None
    assert json.loads(rebuilt.model_dump_json()) == json.loads(
        load_results(rundir.path).model_dump_json()
    )


def test_a_run_killed_before_it_described_itself_has_no_results() -> None:
    rundir = RunDir.create("demo")
    rundir.close()
    with pytest.raises(ConfigError, match="has no 'results\\.json'"):
        load_run(rundir.path)


def test_only_whole_categories_are_taken_over() -> None:
    rundir = killed_run()
    assert finished_categories(rundir.path) == {"mkfs"}
    earlier = load_earlier_run(rundir.run_id)
    assert [test.id for test in earlier.tests()] == [MKFS]
    assert earlier.source == Path("/src")
    assert earlier.categories == ["mkfs", "mount"]


def test_a_category_skipped_after_a_crash_is_finished() -> None:
    rundir = RunDir.create("demo")
    rundir.record(TestsCollected(MOUNT))
    rundir.record(TestFinished(result(MOUNT[0], Outcome.CRASHED)))
    rundir.record(TestFinished(result(MOUNT[1], Outcome.SKIPPED)))
    rundir.close()
    assert finished_categories(rundir.path) == {"mount"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subject": {"tree_sha256": "other"}}, "the source tree is not the same"),
        ({"target": {"image_sha256": "other"}}, "the guest image is not the same"),
        ({"module": {"sha256": "other"}}, "the built module is not the same"),
    ],
)
def test_another_subject_cannot_be_resumed(change: dict[str, dict[str, str]], words: str) -> None:
    earlier = load_earlier_run(killed_run().run_id)
    now = results()
    for section, fields in change.items():
        for name, value in fields.items():
            setattr(getattr(now, section), name, value)
    with pytest.raises(ConfigError, match=words):
        earlier.refuse_another_subject(now)


def test_the_same_subject_can() -> None:
    load_earlier_run(killed_run().run_id).refuse_another_subject(results())


def test_a_finished_run_has_nothing_to_resume() -> None:
    rundir = RunDir.create("demo")
    final = results(rundir.run_id, complete=True)
    write_reports(final, rundir.path, "")
    rundir.close()
    with pytest.raises(ConfigError, match="nothing to resume"):
        load_earlier_run(rundir.run_id)
    assert find_run(rundir.run_id) == rundir.path


def test_the_report_command_writes_the_reports_of_a_killed_run() -> None:
    rundir = killed_run()
    done = CliRunner().invoke(app, ["report", rundir.run_id])
    assert done.exit_code == 0, done.output
    assert "was killed" in " ".join(done.output.split())
    assert {"results.json", "report.html", "junit.xml"} <= {p.name for p in rundir.path.iterdir()}
    assert load_earlier_run(rundir.run_id).finished == {"mkfs"}


def test_the_report_of_a_run_that_goes_on_writes_nothing() -> None:
    rundir = RunDir.create("demo")
    rundir.record(RunDescribed(results(rundir.run_id)))
    done = CliRunner().invoke(app, ["report", rundir.run_id])
    assert done.exit_code == 0, done.output
    assert not (rundir.path / "results.json").exists()
    rundir.close()


@pytest.mark.parametrize("more", [["/src"], ["--only", "mount"], ["--subject", "v.toml"]])
def test_what_is_resumed_cannot_be_chosen_again(more: list[str]) -> None:
    done = CliRunner().invoke(app, ["test", "--resume", "r", *more])
    assert isinstance(done.exception, ConfigError)
    assert "cannot be given with --resume" in done.exception.message
