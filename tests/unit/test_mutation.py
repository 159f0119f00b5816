"""Mutants: their table, planting them, and what the runs of one come to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vexrun import mutation
from vexrun.cli import app
from vexrun.commands import mutate as command
from vexrun.errors import ConfigError, ExitCode
from vexrun.mutation import (
    MUTANTS_FILE,
    RESULTS_FILE,
    UNCHANGED,
    Fate,
    Laboratory,
    Mutant,
    Trial,
    check_mutants,
    choose_mutants,
    exit_code,
    judge,
    load_mutants,
    summary,
    table,
)
from vexrun.results.model import (
    KernelEvent,
    Outcome,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
    Verdict,
)
from vexrun.subrun import SubRun

ROOT = Path(__file__).parents[2]
REF = ROOT / "examples" / "vexfs-ref"
ROWS = load_mutants(REF / MUTANTS_FILE)


def make_row(**changed: str) -> Mutant:
    ordinary = {
        "name": "lost",
        "what": "it loses the data",
        "file": "file.c",
        "old": "keep(data);",
        "new": "drop(data);",
        "category": "fsops",
    }
    return Mutant.model_validate({**ordinary, **changed})


# -- the table of vexfs-ref ---------------------------------------------------------------------


def test_vexfs_ref_has_enough_of_them() -> None:
    assert len(ROWS) >= 28
    assert {row.file.rsplit(".", 1)[-1] for row in ROWS} == {"c", "h", "rs"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_still_fits_the_source(row: Mutant) -> None:
    check_mutants([row], REF)


def test_the_documented_results_are_those_of_the_table() -> None:
    """A mutant that was added, or changed its name, is not in the documentation by itself."""
    text = (ROOT / "docs/mutations.md").read_text().partition("## vexfs-ref\n")[2]
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.M)
    assert documented == [row.name for row in ROWS]


# -- tables -------------------------------------------------------------------------------------


ROW = """
[[mutant]]
name = "a"
what = "b"
file = "f.c"
old = "x"
new = "y"
category = "fsops"
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ROW + ROW, "two rows called 'a'"),
        (ROW.replace('"a"', '"unchanged"'), "two rows called 'unchanged'"),
        (ROW.replace("fsops", "fsop"), "the category 'fsop', which is none"),
        (ROW.replace("what", "why"), "is not valid"),
        (ROW.replace('"a"', '"A b"'), "is not valid"),
        ("[[mutant", "not valid TOML"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / MUTANTS_FILE).write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_mutants(tmp_path / MUTANTS_FILE)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no table of mutants"):
        load_mutants(tmp_path / MUTANTS_FILE)


def test_choosing() -> None:
    rows = [make_row(name="one"), make_row(name="two")]
    assert choose_mutants(rows, []) == rows
    assert choose_mutants(rows, ["two"]) == rows[1:]
    with pytest.raises(ConfigError, match="Did you mean 'two'"):
        choose_mutants(rows, ["twoo"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nothing here", "is not in 'file.c'"),
        ("keep(data); keep(data);", "is 2 times in 'file.c'"),
        (None, "cannot be read"),
    ],
)
def test_a_mutant_fits_one_place_or_is_refused(
    tmp_path: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "file.c").write_text(content)
    with pytest.raises(ConfigError, match=words):
        check_mutants([make_row()], tmp_path)


def test_one_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.c").write_text("keep(data);")
    with pytest.raises(ConfigError, match="changes nothing"):
        check_mutants([make_row(new="keep(data);")], tmp_path)


# -- what a run of one comes to -----------------------------------------------------------------


def run_of(
    verdict: Verdict,
    tests: list[TestResult] | None = None,
    *,
    build_failure: str | None = None,
) -> SubRun:
    events = [event for test in tests or [] for event in test.kernel_events]
    results = RunResults(
        run_id="20261122T000000-demo-0000",
        verdict=verdict,
        subject=SubjectInfo(name="demo", source="x"),
        target=TargetInfo(kind="vm"),
        tests=tests or [],
        kernel_events=events,
        build_failure=build_failure,
        reasons=["because"],
    )
    return SubRun(results, 0, 12.0, "because")


def a_test(outcome: Outcome, message: str = "", event: KernelEvent | None = None) -> TestResult:
    return TestResult(
        id="fsops/test_x.py::test_y",
        category="fsops",
        outcome=outcome,
        message=message,
        kernel_events=[event] if event else [],
    )


def test_a_failed_test_has_caught_it() -> None:
    run = run_of(Verdict.FAIL, [a_test(Outcome.PASSED), a_test(Outcome.FAILED, "\nwrong\nmore")])
    assert judge(run) == (Fate.CAUGHT, "fsops", "fsops/test_x.py::test_y", "wrong")


def test_a_crash_has_caught_it_and_names_the_line() -> None:
    event = KernelEvent(event_class="oops", title="NULL pointer", source_line="file.c:7")
    run = run_of(Verdict.FAIL, [a_test(Outcome.CRASHED, "NULL pointer", event)])
    assert judge(run)[3] == "NULL pointer (at file.c:7)"


@pytest.mark.parametrize(
    "run",
    [
        SubRun(None, 69, 1.0, "no QEMU"),
        run_of(Verdict.FAIL, [], build_failure="it does not compile"),
        run_of(Verdict.FAIL, [a_test(Outcome.SKIPPED)]),
        run_of(Verdict.ERROR, [a_test(Outcome.ERROR)]),
        run_of(Verdict.INTERRUPTED, [a_test(Outcome.FAILED)]),
    ],
    ids=["broke-off", "does-not-build", "nothing-ran", "machine-lost", "interrupted"],
)
def test_what_proves_nothing_is_void(run: SubRun) -> None:
    assert judge(run)[0] is Fate.VOID


def test_a_pass_is_a_survivor() -> None:
    assert judge(run_of(Verdict.PASS, [a_test(Outcome.PASSED)]))[0] is Fate.SURVIVED


# -- the laboratory -----------------------------------------------------------------------------


class Runs:
    """Stands for `vexrun test`: notes what it was given, answers what it was told to."""

    def __init__(self) -> None:
        self.answers: list[SubRun] = []
        self.given: list[list[str]] = []
        self.content: list[str] = []
        self.had_table: list[bool] = []

    def __call__(self, arguments: list[str], settings: dict[str, str]) -> SubRun:
        tree = Path(arguments[0])
        self.given.append(arguments[1:])
        self.content.append((tree / "file.c").read_text())
        self.had_table.append((tree / MUTANTS_FILE).exists())
        assert Path(settings["VEXRUN_STATE_DIR"]).is_absolute()
        return self.answers.pop(0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(mutation, "run_test", made)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file.c").write_text("first(); keep(data); last();")
    (tree / MUTANTS_FILE).write_text("")
    return tree


@pytest.fixture
def laboratory(source: Path, tmp_path: Path) -> Callable[[], Laboratory]:
    def make() -> Laboratory:
        return Laboratory(
            source, source / "vexrun.toml", "demo", "trixie", ["perf"], tmp_path / "kept"
        )

    return make


BAD = run_of(Verdict.FAIL, [a_test(Outcome.FAILED, "wrong")])
GOOD = run_of(Verdict.PASS, [a_test(Outcome.PASSED)])


def work(path: Path, name: str) -> Path:
    directory = path / name
    directory.mkdir()
    return directory


def test_a_mutant_is_planted_in_a_copy(
    laboratory: Callable[[], Laboratory], runs: Runs, source: Path, tmp_path: Path
) -> None:
    runs.answers = [BAD]
    trial = laboratory().first_trial(make_row(), work(tmp_path, "w"))
    assert (trial.fate, trial.category, trial.said) == (Fate.CAUGHT, "fsops", "wrong")
    assert runs.content == ["first(); drop(data); last();"]
    assert "keep(data);" in (source / "file.c").read_text()
    assert runs.had_table == [False]
    assert runs.given == [["--suite", "trixie", "--fail-fast", "--no-core", "--only", "fsops"]]


def test_what_its_category_does_not_see_the_others_may(
    laboratory: Callable[[], Laboratory], runs: Runs, tmp_path: Path
) -> None:
    runs.answers = [GOOD, BAD]
    found = laboratory()
    trial = found.first_trial(make_row(category="mount"), work(tmp_path, "w1"))
    assert trial.fate is Fate.OPEN
    trial = found.further_trial(make_row(category="mount"), trial, work(tmp_path, "w2"))
    assert (trial.fate, trial.category, trial.seconds) == (Fate.CAUGHT, "fsops", 24.0)
    assert runs.given[1][-2:] == ["--skip", "perf,mount"]


def test_what_was_found_is_kept_and_believed_until_the_file_changes(
    laboratory: Callable[[], Laboratory], runs: Runs, source: Path, tmp_path: Path
) -> None:
    runs.answers = [BAD]
    laboratory().first_trial(make_row(), work(tmp_path, "w"))
    again = laboratory()
    known = again.what_is_known(make_row(what="said otherwise"))
    assert known is not None
    assert known.fate is Fate.CAUGHT
    assert again.what_is_known(make_row(new="lose(data);")) is None
    (source / "file.c").write_text("first(); keep(data); very_last();")
    assert again.what_is_known(make_row()) is None


def test_a_void_trial_is_made_again(
    laboratory: Callable[[], Laboratory], runs: Runs, tmp_path: Path
) -> None:
    runs.answers = [SubRun(None, 69, 1.0, "no QEMU")]
    found = laboratory()
    assert found.first_trial(make_row(), work(tmp_path, "w")).fate is Fate.VOID
    assert found.what_is_known(make_row()) is None


def test_the_source_itself_is_tried_once_for_each_state(
    laboratory: Callable[[], Laboratory], runs: Runs, source: Path, tmp_path: Path
) -> None:
    runs.answers = [GOOD]
    found = laboratory()
    assert not found.source_is_known_good(work(tmp_path, "w1"))
    assert found.trial_of_the_source(work(tmp_path, "w2")).fate is Fate.SURVIVED
    (source / MUTANTS_FILE).write_text("# another row\n")
    assert laboratory().source_is_known_good(work(tmp_path, "w3"))
    (source / "file.c").write_text("else();")
    assert not laboratory().source_is_known_good(work(tmp_path, "w4"))


def test_results_of_another_subject_are_not_mixed(
    laboratory: Callable[[], Laboratory], tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    file = tmp_path / "kept" / RESULTS_FILE
    file.write_text(json.dumps({"subject": "other", "suite": "trixie"}))
    with pytest.raises(ConfigError, match="about 'other' on trixie"):
        laboratory()
    file.write_text("[]")
    with pytest.raises(ConfigError, match="holds no trials"):
        laboratory()


# -- what came of all ---------------------------------------------------------------------------


def trial_of(name: str, fate: Fate, **more: Any) -> Trial:
    return Trial(name=name, key="k", fate=fate, **more)


CAUGHT = {"category": "fsops", "test": "fsops/test_x.py::test_y", "seconds": 61.4}


@pytest.mark.parametrize(
    ("fate", "survives", "code"),
    [
        (Fate.CAUGHT, "", ExitCode.PASS),
        (Fate.CAUGHT, "it cannot be seen", ExitCode.PASS),
        (Fate.SURVIVED, "", ExitCode.FAILED),
        (Fate.SURVIVED, "it cannot be seen", ExitCode.PASS),
        (Fate.OPEN, "", ExitCode.INFRASTRUCTURE),
        (Fate.VOID, "", ExitCode.INFRASTRUCTURE),
        (None, "", ExitCode.INFRASTRUCTURE),
    ],
)
def test_the_exit_status_says_whether_all_are_accounted_for(
    fate: Fate | None, survives: str, code: ExitCode
) -> None:
    rows = [make_row(name="one"), make_row(name="two", survives=survives)]
    trials = {"one": trial_of("one", Fate.CAUGHT, **CAUGHT)}
    if fate is not None:
        trials["two"] = trial_of("two", fate)
    assert exit_code(rows, trials) is code


def test_the_table_has_a_line_for_each() -> None:
    rows = [
        make_row(name="one", what="a|b"),
        make_row(name="two", survives="nobody can know"),
        make_row(name="three"),
    ]
    trials = {
        "one": trial_of("one", Fate.CAUGHT, **CAUGHT),
        "two": trial_of("two", Fate.SURVIVED, seconds=300.0),
    }
    text = table(rows, trials)
    assert r"| `one` | `file.c` | a\|b | fsops | `test_x.py::test_y` | 61 |" in text
    assert "| `two` | `file.c` | it loses the data | **survived** | nobody can know | 300 |" in text
    assert "| `three` | `file.c` | it loses the data | not tried |  |  |" in text
    assert text.endswith(
        "1 of 3 mutants were caught (fsops 1).\n1 survived: two.\n1 were not tried yet.\n"
    )


def test_an_explanation_that_is_wrong_is_told() -> None:
    rows = [make_row(name="one", survives="nobody can know")]
    said = summary(rows, {"one": trial_of("one", Fate.CAUGHT, **CAUGHT)})
    assert said[-1] == "'one' was caught, though its row says that it survives."


# -- the command --------------------------------------------------------------------------------


@pytest.fixture
def invoke(source: Path, tmp_path: Path, subject_text: Callable[..., str]) -> Callable[..., Any]:
    (source / "vexrun.toml").write_text(subject_text())
    (source / MUTANTS_FILE).write_text(
        "".join(
            f'[[mutant]]\nname = "{name}"\nwhat = "w"\nfile = "file.c"\n'
            f'old = "{old}"\nnew = "bug();"\ncategory = "fsops"\n'
            for name, old in (("one", "first();"), ("two", "last();"))
        )
    )

    def call(*arguments: str) -> Any:
        given = ["mutate", str(source), "--output", str(tmp_path / "kept"), *arguments]
        return CliRunner().invoke(app, given)

    return call


def test_quick_trials_come_before_long_ones(invoke: Callable[..., Any], runs: Runs) -> None:
    runs.answers = [GOOD, GOOD, BAD, BAD]
    done = invoke()
    assert done.exit_code == 0, done.output
    assert "2 of 2 mutants were caught" in done.output
    assert [given[2:] for given in runs.given] == [
        ["--fail-fast", "--no-core", "--skip", "perf"],
        ["--fail-fast", "--no-core", "--only", "fsops"],
        ["--fail-fast", "--no-core", "--only", "fsops"],
        ["--fail-fast", "--no-core", "--skip", "perf,fsops"],
    ]
    # All is known now: nothing is run again, unless it is named.
    assert invoke().exit_code == 0
    runs.answers = [BAD]
    assert invoke("--only", "two").exit_code == 0
    assert len(runs.given) == 5


def test_a_source_that_fails_by_itself_stops_it(invoke: Callable[..., Any], runs: Runs) -> None:
    runs.answers = [BAD]
    done = invoke()
    assert done.exit_code == 1
    assert "without any bug of ours" in done.output


def test_when_the_time_is_over_the_rest_is_left(
    invoke: Callable[..., Any], runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 1.0, 1e6, 1e6, 1e6])
    monkeypatch.setattr(command.time, "monotonic", lambda: next(times))
    runs.answers = [GOOD, BAD]
    done = invoke("--minutes", "5")
    assert done.exit_code == ExitCode.INFRASTRUCTURE
    assert "1 were not tried yet." in done.output


def test_the_list_runs_nothing(invoke: Callable[..., Any], runs: Runs) -> None:
    done = invoke("--list")
    assert done.exit_code == 0
    assert "one (file.c, not tried): w" in done.output
    assert runs.given == []


def test_a_source_package_cannot_be_changed(invoke: Callable[..., Any], source: Path) -> None:
    file = source / "vexrun.toml"
    file.write_text(file.read_text() + '\n[subject.source]\napt = "linux-source-6.12"\n')
    done = invoke("--list")
    assert isinstance(done.exception, ConfigError)
    assert "Debian package" in str(done.exception)


def test_the_unchanged_source_is_no_mutant() -> None:
    assert UNCHANGED not in [row.name for row in ROWS]
