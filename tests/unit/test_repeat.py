"""`vexrun test --repeat N`: several runs of one request, and what they end with together."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from vexrun.cli import app
from vexrun.commands import repeat
from vexrun.errors import ConfigError, InterruptedRunError
from vexrun.repeat import Series
from vexrun.results.model import (
    ModuleInfo,
    Outcome,
    RunResults,
    SubjectInfo,
    TargetInfo,
    TestResult,
    Verdict,
)

pytestmark = pytest.mark.usefixtures("home")

PASS, FAIL, ERROR, INTERRUPTED = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.INTERRUPTED


def results(verdict: Verdict, module: str | None = "a" * 64, number: int = 1) -> RunResults:
    outcome = Outcome.PASSED if verdict is PASS else Outcome.FAILED
    return RunResults(
        run_id=f"run-{number}",
        verdict=verdict,
        reasons=["because"],
        subject=SubjectInfo(name="demo", source="/s"),
        target=TargetInfo(kind="vm"),
        module=ModuleInfo(sha256=module),
        tests=[TestResult(id="a/test_b.py::test_c", category="a", outcome=outcome)],
    )


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([PASS, PASS], 0),
        ([PASS, FAIL], 1),
        ([FAIL, PASS], 1),
        ([PASS, ERROR], 69),
        ([ERROR, FAIL, PASS], 1),
        ([FAIL, INTERRUPTED], 130),
        ([], 130),
    ],
)
def test_the_worst_run_decides(verdicts: list[Verdict], code: int) -> None:
    assert Series(len(verdicts), [results(each) for each in verdicts]).exit_code == code


def test_the_summary_says_whether_it_was_the_same_module_each_time() -> None:
    same = Series(2, [results(PASS), results(PASS)])
    assert same.summary() == [
        "2 runs: 2 pass.",
        f"The module was the same file each time: {'a' * 64}.",
    ]
    other = Series(2, [results(PASS), results(FAIL, "b" * 64)]).summary()
    assert "NOT the same file each time: aaaaaaaaaaaa in 1, bbbbbbbbbbbb in 1." in other[1]
    assert "'a/test_b.py::test_c'" in other[2]
    none = Series(2, [results(FAIL, None), results(FAIL, None)]).summary()
    assert "none in 2" in none[1], "no module is nothing to be proud of"


# -- the command ---------------------------------------------------------------------------------

Script = Callable[..., Any]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, source_tree: Any) -> Script:
    """`vexrun test --repeat`, where the runs end as told."""

    def run(*endings: Verdict | Exception, options: tuple[str, ...] = (), wanted: int = 3) -> Any:
        count = itertools.count(1)
        script = iter(endings)

        def session(_config: object, _show: object) -> RunResults:
            ending = next(script)
            if isinstance(ending, Exception):
                raise ending
            return results(ending, number=next(count))

        monkeypatch.setattr(repeat, "run_session", session)
        arguments = ["test", str(source_tree), "--target", "host", "--repeat", str(wanted)]
        return CliRunner().invoke(app, [*arguments, *options])

    return run


def test_a_line_for_each_run_and_a_summary(play: Script) -> None:
    ended = play(PASS, FAIL, PASS)
    assert ended.exit_code == 1
    for words in ("run 1/3: pass", "run 2/3: fail", "run 3/3: pass", "3 runs: 2 pass, 1 fail."):
        assert words in ended.output
    assert "vexrun report run-2" in ended.output
    assert ended.output.rstrip().endswith("verdict: fail")


def test_json_is_one_document_on_stdout(play: Script) -> None:
    ended = play(PASS, PASS, PASS, options=("--json",))
    document = json.loads(ended.stdout)
    assert (document["verdict"], document["exit_code"], document["wanted"]) == ("pass", 0, 3)
    assert [each["run_id"] for each in document["runs"]] == ["run-1", "run-2", "run-3"]
    assert document["modules"] == {"a" * 64: 3}
    assert "run 3/3: pass" in ended.stderr


@pytest.mark.parametrize("ending", [INTERRUPTED, InterruptedRunError("SIGINT")])
def test_an_interruption_ends_the_series(play: Script, ending: Verdict | Exception) -> None:
    ended = play(PASS, ending)
    assert ended.exit_code == 130
    assert "of 3: 1 pass" in ended.output
    assert "same file" not in ended.output, "one whole run cannot differ from itself"
    assert "run 3/3" not in ended.output


@pytest.mark.parametrize("option", [("--keep",)])
def test_what_is_about_one_run_is_refused(play: Script, option: tuple[str, ...]) -> None:
    ended = play(PASS, PASS, PASS, options=option)
    assert isinstance(ended.exception, ConfigError)
    assert option[0] in ended.exception.message


def test_nothing_is_not_a_number_of_runs(play: Script) -> None:
    assert play(wanted=0).exit_code == 2
