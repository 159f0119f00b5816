"""The subject's own pytest files: run among ours, and nothing about them goes unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vexrun.categories import CATEGORIES, OWN_TESTS_DIR
from vexrun.errors import InfrastructureError
from vexrun.events import Stages, ignore
from vexrun.guest.context import RunContext
from vexrun.results.model import Outcome, TestResult
from vexrun.subject import Subject
from vexrun.testrun import TestRun

MakeSubject = Callable[..., Subject]
RunOwn = Callable[..., dict[str, TestResult]]


@pytest.fixture
def run_own(tmp_path: Path, make_subject: MakeSubject) -> RunOwn:
    """Run a real test process over `vexrun-tests/` with these files; no target is needed."""

    def run(done: Sequence[str] = (), **files: str) -> dict[str, TestResult]:
        source = tmp_path / "a source"
        for name, text in files.items():
            path = source / OWN_TESTS_DIR / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        rundir = tmp_path / "run"
        rundir.mkdir()
        context = RunContext(
            subject=make_subject(), source=source, timeouts_s={"own": 60.0}, done=list(done)
        )
        made = TestRun(context, None, rundir, ignore, Stages(ignore))
        made.run([CATEGORIES["own"]])
        assert not list(source.rglob("__pycache__")), "bytecode was written into the user's tree"
        results = {test.id.removeprefix("own/"): test for test in made.result.tests}
        results.pop("test_scripts.py::test_script[none]", None)
        return results

    return run


GOOD = "def test_good():\n    assert True\n"


def test_passing_and_failing_tests_are_reported(run_own: RunOwn) -> None:
    results = run_own(test_a=GOOD + "def test_bad():\n    assert False, 'it is wrong'\n")
    assert {name: test.outcome for name, test in results.items()} == {
        "vexrun-tests/test_a.py::test_good": Outcome.PASSED,
        "vexrun-tests/test_a.py::test_bad": Outcome.FAILED,
    }
    bad = results["vexrun-tests/test_a.py::test_bad"]
    assert bad.category == "own"
    assert bad.message == "it is wrong"


def test_what_an_earlier_process_has_run_is_not_run_again(run_own: RunOwn) -> None:
    done = ["own/vexrun-tests/test_a.py::test_bad"]
    results = run_own(done, test_a=GOOD + "def test_bad():\n    assert False\n", test_b="")
    assert {name: test.outcome for name, test in results.items()} == {
        "vexrun-tests/test_a.py::test_good": Outcome.PASSED,
        "vexrun-tests/test_b.py::tests": Outcome.FAILED,
    }


@pytest.mark.parametrize("name", ["test_mount", "test_scripts", "names_test", "deeper__test_names"])
def test_files_may_be_called_as_ours_are(name: str, run_own: RunOwn) -> None:
    results = run_own(**{name: GOOD})
    assert [test.outcome for test in results.values()] == [Outcome.PASSED]


def test_helpers_beside_the_tests_can_be_imported(run_own: RunOwn) -> None:
    results = run_own(
        test_a="from helper_in_guest import ONE\ndef test_one():\n    assert ONE == 1\n",
        helper_in_guest="ONE = 1\n",
    )
    assert [test.outcome for test in results.values()] == [Outcome.PASSED]


def test_our_fixtures_are_there(run_own: RunOwn) -> None:
    text = "def test_it(subject, context):\n    assert subject.name == context.subject.name\n"
    assert [test.outcome for test in run_own(test_a=text).values()] == [Outcome.PASSED]


def test_survives_has_its_phases_here_too(run_own: RunOwn) -> None:
    """It needs a machine, which is what it fails of; the phase must be there before that."""
    results = run_own(test_a="def test_it(survives):\n    pass\n")
    (name, result), *more = results.items()
    assert not more
    assert name == "vexrun-tests/test_a.py::test_it[remounted]"
    assert "the run has none" in result.message


def test_warnings_of_the_subjects_code_are_its_own(run_own: RunOwn) -> None:
    text = "import warnings\nwarnings.warn('old', DeprecationWarning)\n" + GOOD
    assert [test.outcome for test in run_own(test_a=text).values()] == [Outcome.PASSED]


#: What is in the file, and what its failed test says; the good file beside it still runs.
BROKEN = {
    "import error": ("import no_such_thing\n" + GOOD, "No module named 'no_such_thing'"),
    "syntax error": ("def test_it(:\n", "invalid syntax"),
    "no test": ("def tset_it():\n    pass\n", "'vexrun-tests/test_b.py' has no test"),
    "empty class": ("class TestIt:\n    pass\n", "'vexrun-tests/test_b.py' has no test"),
    "empty": ("", "'vexrun-tests/test_b.py' has no test"),
    "leaves": ("import sys\nsys.exit(0)\n", "ends Python when it is imported"),
    "bad marker": ("import pytest\n@pytest.mark.nonsense\n" + GOOD, "'nonsense' not found"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_a_failed_test_and_named(case: str, run_own: RunOwn) -> None:
    text, says = BROKEN[case]
    results = run_own(test_a=GOOD, test_b=text)
    assert results.pop("vexrun-tests/test_a.py::test_good").outcome is Outcome.PASSED
    (result,) = results.values()
    assert result.outcome is Outcome.FAILED
    assert result.id.startswith("own/vexrun-tests/test_b.py::")
    assert says in result.message
    assert "'vexrun-tests/test_b.py'" in result.message


def test_file_that_skips_itself_is_skipped_with_its_reason(run_own: RunOwn) -> None:
    text = "import pytest\npytest.skip('not on Mondays', allow_module_level=True)\n"
    (result,) = run_own(test_b=text).values()
    assert (result.outcome, result.message) == (Outcome.SKIPPED, "not on Mondays")


def test_directory_without_a_test_file_is_a_failure(run_own: RunOwn) -> None:
    (result,) = run_own(mytests="def test_it():\n    pass\n").values()
    assert result.outcome is Outcome.FAILED
    assert "no file test_*.py" in result.message


def test_broken_conftest_is_a_failed_test_and_named(run_own: RunOwn) -> None:
    (result,) = run_own(test_a=GOOD, conftest="import no_such_thing\n").values()
    assert result.outcome is Outcome.FAILED
    assert result.id == "own/vexrun-tests/conftest.py"
    assert "No module named 'no_such_thing'" in result.message


def test_process_that_is_ended_in_a_test_is_no_pass(run_own: RunOwn) -> None:
    (result,) = run_own(test_a="import os\ndef test_it():\n    os._exit(0)\n").values()
    assert result.outcome is Outcome.ERROR


def test_nothing_at_all_is_a_failure_when_it_was_asked_for(
    tmp_path: Path, make_subject: MakeSubject
) -> None:
    rundir, source = tmp_path / "run", tmp_path / "source"
    rundir.mkdir()
    source.mkdir()
    run = TestRun(
        RunContext(subject=make_subject(), source=source), None, rundir, ignore, Stages(ignore)
    )
    (result,) = run.run([CATEGORIES["own"]]).tests
    assert result.outcome is Outcome.FAILED
    assert "neither [[scripts]]" in result.message
    assert InfrastructureError  # nothing of ours broke
