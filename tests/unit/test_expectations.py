"""Expected failures: a debt with a name, and only for failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexrun.errors import ConfigError
from vexrun.expectations import (
    Expectation,
    apply_expectations,
    is_expected,
    load_expectations,
)
from vexrun.results.model import Outcome, TestResult

ID = "fsops/test_names.py::test_rename[over-a-file]"


def result(outcome: Outcome, identifier: str = ID) -> TestResult:
    return TestResult(id=identifier, category=identifier.split("/")[0], outcome=outcome)


def expectation(test: str = ID) -> Expectation:
    return Expectation(test=test, reason="rename is not atomic", link="https://bugs/7")


@pytest.mark.parametrize(
    "pattern",
    [
        ID,
        "fsops/test_names.py::test_rename[*]",
        "fsops/test_names.py::test_rename[over-?-file]",
        "fsops/*::test_rename[over-*]",
        "*::test_rename[*]",
    ],
)
def test_an_expected_failure_is_counted_apart(pattern: str) -> None:
    tests = [result(Outcome.FAILED)]
    assert apply_expectations(tests, [expectation(pattern)]) == []
    assert tests[0].outcome is Outcome.XFAILED
    assert tests[0].expectation == "rename is not atomic https://bugs/7"


@pytest.mark.parametrize(
    "pattern",
    [
        "fsops/test_names.py::test_rename",
        "fsops/test_names.py::test_rename_twice[*]",
        "fsops/test_names.py::test_rename[over-[a]-file]",
        "mount/*::test_rename[*]",
    ],
)
def test_other_tests_are_not_excused(pattern: str) -> None:
    tests = [result(Outcome.FAILED)]
    apply_expectations(tests, [expectation(pattern)])
    assert tests[0].outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "outcome", [Outcome.CRASHED, Outcome.HUNG, Outcome.ERROR, Outcome.SKIPPED, Outcome.PASSED]
)
def test_nothing_but_a_failure_is_excused(outcome: Outcome) -> None:
    tests = [result(outcome)]
    apply_expectations(tests, [expectation()])
    assert tests[0].outcome is outcome


@pytest.mark.parametrize(
    ("outcomes", "stale"),
    [
        ([Outcome.PASSED], True),
        ([Outcome.PASSED, Outcome.PASSED], True),
        ([Outcome.PASSED, Outcome.FAILED], False),
        ([Outcome.SKIPPED], False),
        ([Outcome.CRASHED], False),
        ([], False),
    ],
)
def test_an_expectation_that_now_passes_is_stale(outcomes: list[Outcome], stale: bool) -> None:
    tests = [result(outcome, f"fsops/t.py::test_x[{n}]") for n, outcome in enumerate(outcomes)]
    found = apply_expectations(tests, [expectation("fsops/t.py::test_x[*]")])
    assert found == (["fsops/t.py::test_x[*]: rename is not atomic"] if stale else [])


# -- the file ------------------------------------------------------------------------------------


def write(tmp_path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / "vexrun-expectations.toml").write_bytes(data)
    return tmp_path / "vexrun.toml"


def test_no_file_expects_nothing(tmp_path: Path) -> None:
    assert load_expectations(tmp_path / "vexrun.toml") == []


def test_the_file_is_read(tmp_path: Path) -> None:
    text = '[[expect]]\ntest = "a/b.py::test_c"\noutcome = "failed"\nreason = "r"\n'
    expected = [Expectation(test="a/b.py::test_c", reason="r")]
    assert load_expectations(write(tmp_path, text)) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "*", "**", "*/*", "fsops/*", "fsops/test_names.py", "fsops/test_names.py::*"),
        *("fsops/test_names.py::test_*", "*::test_rename*", "*test_rename*", "*::tes?_rename"),
        *("fsops/*::*[over-a-file]", "test_rename", "*::test_"),
    ],
)
def test_what_does_not_name_one_test_function_is_refused(tmp_path: Path, pattern: str) -> None:
    """An expectation that covers a category would excuse failures nobody has seen yet."""
    path = write(tmp_path, f'[[expect]]\ntest = "{pattern}"\nreason = "r"\n')
    with pytest.raises(ConfigError) as caught:
        load_expectations(path)
    assert "'expect.0.test': a known failure belongs to one test function" in caught.value.evidence
    assert f"(found '{pattern}')" in caught.value.evidence
    assert "Known failures" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[expect]]\ntest = "a"', "'expect.0.reason': this key is required"),
        ('[[expect]]\ntest = "a"\nreason = ""', "'expect.0.reason': "),
        ('[[expect]]\ntest = "a"\nreson = "r"', "did you mean 'reason'?"),
        ('[[expect]]\ntest = "a"\nreason = "r"\noutcome = "crashed"', "only 'failed' can be"),
        ('[[expected]]\ntest = "a"', "did you mean 'expect'?"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"vexrun-expectations\.toml' is not valid") as caught:
        load_expectations(write(tmp_path, text))
    assert words in caught.value.evidence


@pytest.mark.parametrize("text", [b"[[expect]", b"\xff"])
def test_what_is_not_toml_is_called_so(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_expectations(write(tmp_path, text))


def test_an_expected_failure_is_no_reason_to_stop() -> None:
    """--fail-fast goes on behind a recorded failure, and stops at a crash of the same test."""
    known = [Expectation(test="fsops/test_x.py::test_y[*]", reason="a debt")]
    result = TestResult(id="fsops/test_x.py::test_y[a]", category="fsops", outcome=Outcome.FAILED)
    assert is_expected(result, known)
    assert not is_expected(result, [])
    assert not is_expected(result.model_copy(update={"outcome": Outcome.CRASHED}), known)
    assert not is_expected(result.model_copy(update={"id": "fsops/test_x.py::test_z"}), known)
