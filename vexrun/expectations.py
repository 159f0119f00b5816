"""Known failures a subject's owners have put a name to: vexrun-expectations.toml."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vexrun.errors import ConfigError
from vexrun.results.model import Outcome, TestResult
from vexrun.validation import describe_errors

FILE_NAME = "vexrun-expectations.toml"


class Expectation(BaseModel):
    """`test` is a test id or a glob over ids; `reason` is for people and is required."""

    model_config = ConfigDict(extra="forbid")

    test: str
    outcome: Outcome = Outcome.FAILED
    reason: str = Field(min_length=1)
    link: str = ""

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
        # The brackets of a parametrised test's id would be a character class.
        return result.id == self.test or fnmatch.fnmatchcase(result.id, self.test)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    expect: list[Expectation] = Field(default_factory=list)


def load_expectations(subject_file: Path) -> list[Expectation]:
    """The expectations beside a subject file; none when there is no such file."""
    path = subject_file.parent / FILE_NAME
    if not path.is_file():
        return []
    try:
        return _File.model_validate(tomllib.loads(path.read_text())).expect
    except ValidationError as error:
        raise ConfigError(
            f"The expectations file '{path}' is not valid.", evidence=describe_errors(error, _File)
        ) from error
    except OSError as error:
        raise ConfigError(
            f"The expectations file '{path}' cannot be read: {error.strerror}."
        ) from error
    except ValueError as error:  # also a number of too many digits, or not UTF-8
        raise ConfigError(f"The expectations file '{path}' is not valid TOML: {error}.") from error


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
