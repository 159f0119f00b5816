"""The table of canaries, how one is planted, and how what came out is judged."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vexrun import selftest
from vexrun.categories import CATEGORIES
from vexrun.cli import app
from vexrun.errors import ConfigError, ExitCode
from vexrun.results.model import (
    KernelEvent,
    MemoryImage,
    Outcome,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
    Verdict,
)
from vexrun.selftest import (
    Canary,
    Judged,
    choose_canaries,
    exit_code,
    load_canaries,
    plant,
    problems,
    split_names,
)
from vexrun.subject import load_subject

ROWS = load_canaries()
SOURCES = sorted((selftest.canaries_dir() / "canaryfs").glob("*.[ch]"))
#: Wherever the source asks which bug it is to have.
_PLANTED = re.compile(r"(?:ifn?def |defined\()CANARY_(\w+)")


# -- the table ----------------------------------------------------------------------------------


def test_there_are_enough_of_both_kinds() -> None:
    assert len(ROWS) >= 40
    assert sum(row.verdict is Verdict.PASS for row in ROWS) >= 8


def test_every_bug_of_the_sources_has_a_row_and_the_other_way_round() -> None:
    text = "".join(path.read_text() for path in SOURCES)
    assert set(_PLANTED.findall(text)) == {row.bug for row in ROWS if row.bug}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_asks_for_something(row: Canary, tmp_path: Path) -> None:
    """A row that expects nothing in particular could not fail."""
    assert set(row.only) <= CATEGORIES.keys()
    if row.verdict is Verdict.PASS:
        assert not (row.outcome or row.event or row.blamed or row.title)
    else:
        assert row.outcome, "what must a test have become?"
        assert row.event or row.says, "and what must be said?"
    given = plant(row, tmp_path)
    file = Path(given[1]) if given[0] == "--subject" else Path(given[0]) / "vexrun.toml"
    assert load_subject(file).module.make_vars == ({"CANARY": row.bug} if row.bug else {}) or (
        row.carrier != "canaryfs"
    )


def test_a_bug_with_a_line_stands_in_one_place() -> None:
    lines = [line for path in SOURCES for line in path.read_text().splitlines()]
    for row in ROWS:
        if row.line:
            assert lines.count(f"#ifdef CANARY_{row.bug}") == 1, row.name


def test_a_replacement_that_fits_nowhere_is_refused(tmp_path: Path) -> None:
    row = make_row(replace={"no such line": "x"})
    with pytest.raises(ConfigError, match="replaces 'no such line'"):
        plant(row, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[canary]]\nname = 1\n", "table of canaries"),
        (2 * '[[canary]]\nname="a"\nwhat="b"\nverdict="pass"\nonly=["mount"]\n', "two rows"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "canaries.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_canaries(tmp_path / "canaries.toml")


def test_no_table_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no canaries in"):
        load_canaries(tmp_path / "canaries.toml")


def test_choosing() -> None:
    assert choose_canaries(ROWS, [], True) == ROWS
    smoke = choose_canaries(ROWS, [], False)
    assert 0 < len(smoke) < len(ROWS)
    assert [row.name for row in choose_canaries(ROWS, ["loud", "panic"], False)] == [
        "panic",
        "loud",
    ]
    with pytest.raises(ConfigError, match="Did you mean 'panic'"):
        choose_canaries(ROWS, ["panik"], False)


def test_names_are_split() -> None:
    assert split_names(["a,b", " c "]) == ["a", "b", "c"]
    assert split_names(None) == []
    with pytest.raises(ConfigError, match="without a name"):
        split_names([" ,"])


# -- judging ------------------------------------------------------------------------------------


def make_row(**changed: Any) -> Canary:
    row = {"name": "oops", "what": "x", "verdict": "fail", "only": ["mount"]}
    return Canary.model_validate({**row, **changed})


OOPS = make_row(
    outcome=["crashed"], event=["oops"], title="NULL pointer", frame="demo_mount", blamed="mount/"
)
TWIN = make_row(verdict="pass")

MakeResults = Callable[..., RunResults]


@pytest.fixture
def results(tmp_path: Path) -> MakeResults:
    """Results of a run that found the oops; keywords change them."""
    for form in ("results.json", "report.html"):
        (tmp_path / form).touch()

    def make(**changed: Any) -> RunResults:
        event = KernelEvent(
            event_class="oops", title="NULL pointer in demo_mount", module_frame="demo_mount+0x1/2"
        )
        test = TestResult(
            id="mount/t.py::test_1",
            category="mount",
            outcome=Outcome.CRASHED,
            message=event.title,
            kernel_events=[event],
        )
        return RunResults(
            run_id="r",
            run_dir=str(tmp_path),
            complete=True,
            subject=SubjectInfo(name="demo", source="."),
            target=TargetInfo(kind="vm"),
        ).model_copy(
            update={
                "verdict": Verdict.FAIL,
                "exit_code": 1,
                "tests": [test],
                "kernel_events": [event],
                "reasons": ["1 test crashed."],
                **changed,
            }
        )

    for form in selftest.FORMATS.values():
        (tmp_path / form.filename).touch()
    return make


def test_what_is_called_by_its_name_is_right(results: MakeResults) -> None:
    assert problems(OOPS, results(), 1) == []


def a_test(outcome: str, category: str = "mount") -> TestResult:
    return TestResult(id=f"{category}/t.py::t", category=category, outcome=Outcome(outcome))


def an_event(**changed: Any) -> KernelEvent:
    event = {"event_class": "oops", "title": "NULL pointer", "module_frame": "demo_mount+0x1/0x2"}
    return KernelEvent(**{**event, **changed})


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"verdict": Verdict.PASS}, 1, "the verdict is pass, not fail"),
        ({}, 0, "the exit status is 0"),
        ({"exit_code": 0}, 1, "the exit status is 1"),
        ({"complete": False}, 1, "incomplete"),
        ({"tests": [a_test("failed")]}, 1, "no test is 'crashed', they are 'failed'"),
        ({"tests": [a_test("crashed", "fsops")]}, 1, "blamed is 'fsops/t.py::t', not 'mount/…'"),
        ({"kernel_events": []}, 1, "no kernel event of class 'oops'"),
        ({"kernel_events": [an_event(event_class="hang")]}, 1, "is of class 'hang'"),
        ({"kernel_events": [an_event(title="panic")]}, 1, "is called 'panic'"),
        ({"kernel_events": [an_event(module_frame=None)]}, 1, "frame in the module is 'None'"),
        ({"run_dir": "/nowhere"}, 1, "there is no"),
    ],
)
def test_everything_else_is_a_problem(
    results: MakeResults, changed: dict[str, Any], status: int, words: str
) -> None:
    found = problems(OOPS, results(**changed), status)
    assert any(words in problem for problem in found), found


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kernel_events": [an_event()]}, "said to have reported 'NULL pointer'"),
        ({"tests": [a_test("failed")]}, "there are tests that 'failed'"),
        ({"tests": [a_test("hung")]}, "there are tests that 'hung'"),
        ({"tests": [a_test("xfailed")]}, "there are tests that 'xfailed'"),
    ],
)
def test_a_twin_must_be_left_alone(
    results: MakeResults, changed: dict[str, Any], words: str
) -> None:
    clean = {"verdict": Verdict.PASS, "exit_code": 0, "kernel_events": [], "tests": []}
    assert problems(TWIN, results(**clean), 0) == []
    found = problems(TWIN, results(**{**clean, **changed}), 0)
    assert any(words in problem for problem in found), found


def test_a_memory_image_must_name_the_module_where_the_row_says_so(results: MakeResults) -> None:
    kernel = "CPU 0: 'swapper/0' (pid 0, state R) at stop_this_cpu+0x77\n    sysvec_reboot+0x4e\n"
    panicked = "CPU 1: 'mount' (pid 491, state R) at delay_tsc+0x37\n    panic+0x2d0\n"
    frame = "    canaryfs_fill_super+0x10 [canaryfs]\n"
    (row,) = (row for row in selftest.load_canaries() if row.name == "panic")
    asks = OOPS.model_copy(update={"core": row.core})

    def of(*reports: str) -> list[str]:
        images = [
            MemoryImage(
                file="core-1.kdump",
                test="mount/t.py::t",
                why="it panicked",
                size_mib=95.0,
                taken_in_s=5.0,
                read_in_s=2.0,
                report=report,
            )
            for report in reports
        ]
        return problems(asks, results(memory_images=images), 1)

    assert of(kernel + panicked + frame) == []
    assert "no memory image says" in of()[0]
    assert "(1 were kept)" in of(kernel + panicked)[0]
    assert of(kernel + frame), "on the wrong processor"


def test_what_must_be_said_may_stand_anywhere(results: MakeResults) -> None:
    row = OOPS.model_copy(update={"says": "scheduler.*busy"})
    assert any("says 'scheduler" in problem for problem in problems(row, results(), 1))
    assert problems(row, results(notes=["the scheduler is busy"]), 1) == []


@pytest.mark.parametrize(
    ("after", "right"),
    [
        (["passed", "skipped"], True),
        (["passed", "failed"], False),
        (["skipped"], False),
        ([], False),
    ],
)
def test_the_next_category_must_have_run_clean(
    results: MakeResults, after: list[str], right: bool
) -> None:
    row = OOPS.model_copy(update={"clean": "fsops"})
    tests = [*results().tests, *(a_test(outcome, "fsops") for outcome in after)]
    found = problems(row, results(tests=tests), 1)
    assert (found == []) == right, found


def test_a_wrong_accusation_weighs_more_than_a_broken_machine() -> None:
    right = Judged(OOPS, 1, "", "")
    wrong = Judged(OOPS, 1, "", "", ["x"])
    void = Judged(OOPS, 1, "", "", ["x"], void=True)
    assert exit_code([right, right]) is ExitCode.PASS
    assert exit_code([right, void]) is ExitCode.INFRASTRUCTURE
    assert exit_code([void, wrong]) is ExitCode.FAILED


# -- the command --------------------------------------------------------------------------------


@pytest.fixture
def judged_as(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Every canary that is run comes out so."""

    def prepare(*found: str, void: bool = False) -> None:
        monkeypatch.setattr(
            "vexrun.commands.selftest.run_canary",
            lambda row, suite, directory: Judged(
                row, 1.5, "/runs/1", f"on {suite}", list(found), void
            ),
        )

    return prepare


def test_the_command_lists_the_table() -> None:
    done = CliRunner().invoke(app, ["selftest", "--list"])
    assert done.exit_code == 0
    assert all(row.name in done.stdout for row in ROWS)


@pytest.mark.parametrize(
    ("found", "void", "code"), [([], False, 0), (["it was let go"], False, 1), (["x"], True, 69)]
)
def test_the_command_ends_as_the_worst_of_them(
    judged_as: Callable[..., None], found: list[str], void: bool, code: int
) -> None:
    judged_as(*found, void=void)
    done = CliRunner().invoke(app, ["selftest", "--only", "panic,loud", "--suite", "bookworm"])
    assert done.exit_code == code
    assert "on bookworm" in done.stdout
    assert f"{0 if found else 2} of 2 canaries" in done.stdout
    for problem in found:
        assert problem in done.stdout
        assert "results: /runs/1" in done.stdout


def test_the_table_holds_what_was_run_and_says_what_was_not(
    judged_as: Callable[..., None],
) -> None:
    judged_as("it was let go")
    CliRunner().invoke(app, ["selftest", "--only", "panic"])
    done = CliRunner().invoke(app, ["selftest", "--table", "--only", "panic,loud"])
    assert done.exit_code == 0
    assert "| `panic` | fail, crashed, panic, 'planted panic' | **NO**: on trixie | not run |" in (
        done.stdout
    )
    assert "| `loud` | pass | not run | not run |" in done.stdout


def test_without_names_the_subset_is_run(judged_as: Callable[..., None]) -> None:
    judged_as()
    done = CliRunner().invoke(app, ["selftest"])
    smoke = [row for row in ROWS if row.smoke]
    assert f"{len(smoke)} of {len(smoke)} canaries" in done.stdout
