"""Known failures a subject's owners have put a name to: vexrun-expectations.toml."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from vexrun.results.model import Outcome, TestResult
from vexrun.validation import read_toml, validate

FILE_NAME = "vexrun-expectations.toml"

#: A pattern of files, a test function in full, and perhaps a pattern of its parameters.
_NAMES_A_TEST = re.compile(r"\S*::test_\w+(\[.*\])?\Z")


class Expectation(BaseModel):
    """`test` is a test's id, or a pattern over files and parameters of one test function."""

    model_config = ConfigDict(extra="forbid")

    test: str
    outcome: Outcome = Outcome.FAILED
    reason: str = Field(min_length=1)
    link: str = ""

    @field_validator("test")
    @classmethod
    def _names_a_test(cls, value: str) -> str:
        if not _NAMES_A_TEST.match(value):
            raise ValueError(
                "a known failure belongs to one test function: write "
                "'CATEGORY/FILE.py::test_name', and '::test_name[*]' for all its parameters"
            )
        return value

    @field_validator("outcome")
    @classmethod
    def _only_failures(cls, value: Outcome) -> Outcome:
        if value is not Outcome.FAILED:
            raise ValueError(
                "only 'failed' can be expected: a kernel event, a hang or a lost target counts"
            )
        return value

    def covers(self, result: TestResult) -> bool:
        if result.category == "teardown":
            return False  # a module that cannot be unloaded is never a debt
        # The brackets of a parametrised test's id must not be a character class.
        return fnmatch.fnmatchcase(result.id, self.test.replace("[", "[[]"))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    expect: list[Expectation] = Field(default_factory=list)


def load_expectations(subject_file: Path) -> list[Expectation]:
    """The expectations beside a subject file; none when there is no such file."""
    path = subject_file.parent / FILE_NAME
    try:
        raw = read_toml(path, "expectations file")
    except FileNotFoundError:
        return []
    return validate(
        raw,
        _File,
        f"The expectations file '{path}' is",
        hint="The keys are described in docs/subject-file.md, 'Known failures'.",
    ).expect


def is_expected(result: TestResult, expectations: Sequence[Expectation]) -> bool:
    """Whether a recorded failure is what became of the test."""
    return result.outcome is Outcome.FAILED and any(each.covers(result) for each in expectations)


def apply_expectations(tests: list[TestResult], expectations: list[Expectation]) -> list[str]:
    """Turn expected failures into `xfailed`; returns the expectations that now pass.

    Only `failed` can be expected: a kernel event, a hang or a lost target always counts.
    """
    stale = []
    for expectation in expectations:
        covered = [test for test in tests if expectation.covers(test)]
        for test in covered:
            if test.outcome is Outcome.FAILED:
                test.outcome = Outcome.XFAILED
                test.expectation = f"{expectation.reason} {expectation.link}".strip()
        if covered and all(test.outcome is Outcome.PASSED for test in covered):
            stale.append(f"{expectation.test}: {expectation.reason}")
    return stale
